"""`vetdino doctor`: is this machine, or a Ray cluster, ready?"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Self

from ...platform.core.config import subconfig
from ..doctor.config import DoctorConfig
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class Doctor(DoctorConfig, Command):
    """Look at GPUs, memory, disks, limits, Ray, ports, clock and versions: a line for each finding, with its mend."""

    basic: ClassVar = ("out", "shards", "cluster")

    def prepared(self, action: str) -> AbstractContextManager[Self]:
        """As it is: nothing stays written, and nothing is copied."""
        return nullcontext(self)

    def run(self) -> None:
        from ...platform.core.errors import VetdinoError
        from ..doctor.examine import examine

        counts: Counter[str] = Counter()
        for finding in examine(subconfig(DoctorConfig, self)):
            print(finding, flush=True)
            counts[finding.state] += 1
        warnings = f"{counts['warning']} warning{'s' * (counts['warning'] != 1)}"
        if problems := counts["problem"]:
            raise VetdinoError(
                f"not ready: {problems} problem{'s' * (problems > 1)}, {warnings}; mend them, then run it again"
            )
        print(f"ready, {warnings}")
