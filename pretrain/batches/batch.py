"""Crops of many studies become tensors: uint8 until they reach the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .crops import StudyCrops

# B studies, G global and L local crops over both views, T of the teacher's view, S and s sides, N patches.


@dataclass(frozen=True, slots=True, eq=False)
class CropBatch:
    """The crops of B studies; along the first axis the teacher's view comes first."""

    globals_GB1SS: Tensor
    """uint8."""
    locals_LB1SS: Tensor
    """uint8; L may be 0."""
    hidden_TBN: Tensor
    """bool: the patches of the teacher's view that the student does not see."""
    keys: tuple[str, ...]
    is_pair: tuple[bool, ...]
    """Whether each study gave two different views."""

    @property
    def pairs(self) -> int:
        """How many did."""
        return sum(self.is_pair)

    def to(self, device: torch.device | str) -> CropBatch:
        """The same batch on a device."""
        move = lambda tensor: tensor.to(device, non_blocking=True)
        return CropBatch(
            move(self.globals_GB1SS), move(self.locals_LB1SS), move(self.hidden_TBN), self.keys, self.is_pair
        )

    def pin_memory(self) -> CropBatch:
        """The same batch where a GPU can fetch it by itself; a DataLoader calls this."""
        pinned = (
            self.globals_GB1SS.pin_memory(),
            self.locals_LB1SS.pin_memory(),
            self.hidden_TBN.pin_memory(),
        )
        return CropBatch(*pinned, self.keys, self.is_pair)

    def parts(self, count: int) -> list[CropBatch]:
        """The same studies in `count` parts of one size, in order."""
        size = len(self.keys) // count
        assert size * count == len(self.keys)
        cut = lambda tensor: tensor.split(size, dim=1)
        tensors = zip(cut(self.globals_GB1SS), cut(self.locals_LB1SS), cut(self.hidden_TBN), strict=True)
        told = (
            (self.keys[start:][:size], self.is_pair[start:][:size]) for start in range(0, count * size, size)
        )
        return [CropBatch(*part, *names) for part, names in zip(tensors, told, strict=True)]

    def __repr__(self) -> str:
        return f"CropBatch({len(self.keys)} studies, {self.pairs} pairs)"


def batch_of(studies: Sequence[StudyCrops], hidden: Sequence[np.ndarray]) -> CropBatch:
    """Stack studies; hidden holds one (T, N) bool array a study."""

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
