"""The engine's part of a checkpoint: each worker writes the slices that it optimizes; anyone can read them as one.

Nothing is pickled, and neither the number of workers nor the ZeRO stage need be the same when reading.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...platform.core.errors import CheckpointError

FOLDER = "engine"
"""Folder in a checkpoint with one safetensors file a worker; keys `KIND NAME START`, and `step`."""


@dataclass(frozen=True, slots=True, eq=False)
class ParameterSlice:
    """Consecutive numbers of one flattened parameter with their optimizer state."""

    name: str
    size: int
    """Numbers in the whole parameter."""
    start: int
    """Index of the slice's first number."""
    values: Mapping[str, Tensor]
    """`weight` and AdamW's `exp_avg` and `exp_avg_sq`: one-dimensional views, float32."""


def worker_file(folder: Path, rank: int) -> Path:
    """The file of one worker in a checkpoint folder."""
    return folder / FOLDER / f"worker{rank:04d}.safetensors"


def slice_tensors(slices: Iterable[ParameterSlice], step: Tensor) -> dict[str, Tensor]:
    """The contents of a worker's file; step: AdamW's count of steps."""
    named = {f"{kind} {one.name} {one.start}": value for one in slices for kind, value in one.values.items()}
    return {"step": step} | named


class EngineState:
    """The files that all workers of a checkpoint wrote, read as one."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self.folder = folder
        files = [safe_open(path, "pt") for path in sorted((folder / FOLDER).glob("*.safetensors"))]
        if not files:
            raise CheckpointError(
                f"{folder}: holds no engine state; take a checkpoint that `vetdino pretrain` wrote"
            )
        self.step = float(files[0].get_tensor("step"))
        # (kind, name) -> (first number, file, key) of each slice
        self._slices: dict[tuple[str, str], list[tuple[int, Any, str]]] = {}
        for file in files:
            for key in sorted(set(file.keys()) - {"step"}):
                kind, name, start = key.split(" ")
                self._slices.setdefault((kind, name), []).append((int(start), file, key))

    def read_into(self, wanted: ParameterSlice) -> None:
        """Fill a slice. Raises CheckpointError if the parameter is missing or of another size."""
        for kind, row in wanted.values.items():
            stored = self._slices.get((kind, wanted.name), [])
            slices = [(first, file.get_slice(key)) for first, file, key in stored]
            lengths = [part.get_shape()[0] for _, part in slices]
            if sum(lengths) != wanted.size:
                raise CheckpointError(
                    f"{self.folder}: {wanted.name} has {sum(lengths)} numbers, here it has {wanted.size}; set "
                    "--backbone.* and --distill.head.* to those of its config.json"
                )
            for (first, part), length in zip(slices, lengths, strict=True):
                lower, upper = max(first, wanted.start), min(first + length, wanted.start + len(row))
                if lower < upper:
                    row[lower - wanted.start : upper - wanted.start] = part[lower - first : upper - first]


@torch.no_grad()
def read_student(folder: Path, student: nn.Module) -> None:
    """Give a student, whole on one machine, the weights of a checkpoint. Raises as `EngineState` does."""
    state = EngineState(folder)
    for name, parameter in student.named_parameters():
        state.read_into(ParameterSlice(name, parameter.numel(), 0, {"weight": parameter.view(-1)}))


def wait_for_files(files: Iterable[Path], seconds: float = 1800.0) -> None:
    """Wait until other workers' files have their names. Raises TimeoutError (an OSError) if one does not come."""
    deadline = time.monotonic() + seconds
    for path in files:
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} of another worker did not come in {seconds / 60:.0f} minutes")
            time.sleep(0.05)
