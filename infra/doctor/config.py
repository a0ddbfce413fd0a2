"""What `vetdino doctor` looks at."""

from __future__ import annotations

from dataclasses import dataclass

from ...platform.core.location import Location


@dataclass(frozen=True, kw_only=True)  # no slots: a command has it as its second base
class DoctorConfig:
    """Which folders are tried, and whether the nodes of a cluster are looked at."""

    out: Location | None = None
    """Folder that a command shall write to: a small file is written there, or in the nearest folder above that exists,
    and removed."""
    shards: tuple[Location, ...] = ()
    """Folders of shards that a command shall read."""
    cluster: bool = False
    """Ask every node of the Ray that runs (RAY_ADDRESS, or inside a Ray job), too."""
