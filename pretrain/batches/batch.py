"""A batch of crops: uint8 tensors until they reach the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .crops import StudyCrops

# B studies, G global and L local crops over both views, T of the teacher's view, S and s sides, N patches.


@dataclass(frozen=True, slots=True, eq=False)
class CropBatch:
    """The crops of B studies; the crops of the teacher's view come first along the first axis."""

    globals_GB1SS: Tensor
    """uint8."""
    locals_LB1SS: Tensor
    """uint8; L may be 0."""
    hidden_TBN: Tensor
    """bool: patches of the teacher's view that are hidden from the student."""
    keys: tuple[str, ...]
    is_pair: tuple[bool, ...]
    """For each study: whether its crops come from two different views."""

    @property
    def pairs(self) -> int:
        """How many studies gave two different views."""
        return sum(self.is_pair)

    def to(self, device: torch.device | str) -> CropBatch:
        """The same batch on a device; the copy does not block."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> CropBatch:
        """The same batch in page-locked memory; a DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def split(self, count: int) -> list[CropBatch]:
        """The same studies in `count` micro-batches of equal size, in order."""
        size = len(self.keys) // count
        assert size * count == len(self.keys)
        return [self._studies(slice(start, start + size)) for start in range(0, count * size, size)]

    def _studies(self, some: slice) -> CropBatch:
        part = self._map(lambda tensor: tensor[:, some])
        return replace(part, keys=self.keys[some], is_pair=self.is_pair[some])

    def _map(self, change: Callable[[Tensor], Tensor]) -> CropBatch:
        """The same studies with each tensor changed."""
        names = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **changed)

    def __repr__(self) -> str:
        return f"CropBatch({len(self.keys)} studies, {self.pairs} pairs)"


def collate_crops(studies: Sequence[StudyCrops], hidden: Sequence[np.ndarray]) -> CropBatch:
    """Stack studies into a batch; hidden: one (T, N) bool array a study."""

    def stacked(arrays: list[np.ndarray]) -> Tensor:
        """B arrays (V, C, S, S) -> (V * C, B, 1, S, S), view by view."""
        tall = np.stack(arrays, axis=2)
        return torch.from_numpy(tall.reshape(-1, *tall.shape[2:])[:, :, None])

    return CropBatch(
        globals_GB1SS=stacked([study.globals_VGSS for study in studies]),
        locals_LB1SS=stacked([study.locals_VLSS for study in studies]),
        hidden_TBN=torch.from_numpy(np.stack(hidden, axis=1)),
        keys=tuple(study.key for study in studies),
        is_pair=tuple(study.is_pair for study in studies),
    )
