"""What the few-shot commands read before the work: the prepared folder and the encoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ....platform.core.device import DeviceChoice
from ....platform.core.errors import ConfigError

if TYPE_CHECKING:
    from ....downstream.volumes.volume import Volumes
    from ....platform.models.backbone import Backbone


def volumes_for(out: Path, folder: Path) -> Volumes:
    """The prepared folder, read after `out` has been checked: a folder of somebody else is refused before the work."""
    from ....downstream.common.record import check_ours
    from ....downstream.volumes.volume import load_volumes

    check_ours(out)
    return load_volumes(folder)


def one_encoder(source: str, device: DeviceChoice) -> dict[str, Backbone | None]:
    """The only encoder of a table, under its name there; None stands for pixels."""
    from ....downstream.fewshot.sources import PIXELS, load_source

    return {PIXELS if source == PIXELS else "encoder": load_source(source, device)}


def network(source: str, purpose: str, device: DeviceChoice) -> Backbone:
    """A backbone that can be trained. Raises ConfigError for `pixels`, which have no network.

    purpose: what trains it, as the start of the message.
    """
    from ....downstream.fewshot.sources import load_source

    backbone = load_source(source, device)
    if backbone is None:
        raise ConfigError(f"{purpose} trains a network and `pixels` have none; give --backbone a backbone")
    return backbone
