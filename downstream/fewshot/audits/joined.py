"""A prepared folder in which several classes count as one organ, such as both kidneys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from ....platform.core.errors import ConfigError
from ...volumes.volume import Volume, Volumes
from ..learn.jobs import organ_groups


@dataclass(frozen=True, slots=True)
class JoinedVolumes:
    """A prepared folder whose `groups` of classes are one class each, the first; has the interface of `Volumes`."""

    volumes: Volumes
    groups: tuple[tuple[int, ...], ...]
    classes: Mapping[int, str] = field(init=False)

    def __post_init__(self) -> None:
        joined = {number for group in self.groups for number in group[1:]}
        names = {number: name for number, name in self.volumes.classes.items() if number not in joined}
        for group in self.groups:
            names[group[0]] = " + ".join(self.volumes.classes[number] for number in group)
        object.__setattr__(self, "classes", names)

    @property
    def folder(self) -> Path:
        return self.volumes.folder

    @property
    def names(self) -> tuple[str, ...]:
        return self.volumes.names

    @property
    def cards(self) -> Mapping[str, Mapping[str, Any]]:
        return self.volumes.cards

    def load(self, name: str) -> Volume:
        """One scan with joined labels."""
        volume = self.volumes.load(name)
        if volume.labels_ZHW is None:
            return volume
        labels_ZHW = volume.labels_ZHW.copy()
        for first, *others in self.groups:
            labels_ZHW[np.isin(labels_ZHW, others)] = first
        return replace(volume, labels_ZHW=labels_ZHW)


def join_classes(volumes: Volumes, together: Sequence[str]) -> Volumes:
    """The folder with the classes of each `A+B` as one organ. Raises ConfigError for fewer than two classes."""
    if not together:
        return volumes
    groups = organ_groups(volumes.classes, together)
    for words, group in zip(together, groups, strict=True):
        if len(group) < 2:
            raise ConfigError(f"together '{words}' has no two classes; write two or more, such as 2+3")
    return cast(Volumes, JoinedVolumes(volumes, tuple(groups)))
