"""What a training has left in its folder, in a form that can be compared with another's."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from vetdino.platform.core.run_folder import history


def record(run: Path) -> list[dict[str, float]]:
    """The record but for time and speed."""
    unlike = ("time", "speed/studies_per_second")
    return [{key: value for key, value in line.items() if key not in unlike} for line in history(run)]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Teacher and student of a checkpoint, the student's weights and moments as rows of numbers."""
    checkpoint = run / "checkpoints" / f"step_{step:08d}"
    pieces: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for path in (checkpoint / "engine").iterdir():
        for key, value in load_file(path).items():
            if key != "step":
                kind, name, start = key.split(" ")
                pieces.setdefault(f"student.{kind}.{name}", []).append((int(start), value))
    rows = {
        name: torch.cat([v for _, v in sorted(some, key=lambda p: p[0])]) for name, some in pieces.items()
    }
    return load_file(checkpoint / "teacher.safetensors") | rows
