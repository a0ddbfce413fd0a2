"""Batches of bad steps, saved so that `vetdino replay` can compute them again: `<out>/bad/step_XXXXXXXX.*`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..platform.core.config import digest
from ..platform.core.errors import TrainingError
from ..platform.core.files import atomic_write
from ..platform.training import checkpoint
from .bad_steps import replay_command
from .batches.batch import CropBatch
from .checkpoints import newest_checkpoint_at
from .config import TrainingConfig
from .run_storage import run_folder

MOST = 10
"""Batches kept of one training; of later bad steps only the names of the studies are written."""

_TENSORS = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")


def save_bad_batch(config: TrainingConfig, step: int, micro_batches: Sequence[CropBatch]) -> Path:
    """Save the batch of a bad step; returns the JSON file that describes it.

    micro_batches: in the order of workers and, within a worker, of computation; a worker can make them again, as a
    batch is a function of configuration, data, seed and step. Beside the JSON are the crops as safetensors, unless
    there are MOST already. Studies are named by their keys only.
    """
    stem = _stem(config, step)
    keep_crops = len(list(stem.parent.glob("*.safetensors"))) < MOST
    if keep_crops:
        from safetensors.torch import save

        atomic_write(stem.with_suffix(".safetensors"), save(_tensors(micro_batches)))
    before = newest_checkpoint_at(config, step)
    description = {
        "step": step,
        "studies": [list(batch.keys) for batch in micro_batches],
        "pairs": [list(batch.is_pair) for batch in micro_batches],
        "crops": keep_crops,
        "config": digest(config),
        "checkpoint": before.name if before else None,
        "replay": replay_command(config, step),
    }
    atomic_write(stem.with_suffix(".json"), json.dumps(description, indent=1) + "\n")
    return stem.with_suffix(".json")


def load_bad_batch(config: TrainingConfig, step: int) -> list[CropBatch]:
    """The micro-batches that `save_bad_batch` wrote. Raises TrainingError if they are missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    stem = _stem(config, step)
    try:
        description = json.loads(stem.with_suffix(".json").read_text())
        tensors = load_file(stem.with_suffix(".safetensors"))
    except FileNotFoundError:
        kept = sorted(int(path.stem.removeprefix("step_")) for path in stem.parent.glob("*.safetensors"))
        offer = f"there are {', '.join(map(str, kept))}" if kept else "no bad batch was kept"
        raise TrainingError(f"{stem.parent}: holds no batch of step {step}; {offer}") from None
    except (ValueError, SafetensorError) as error:
        raise TrainingError(f"{stem}: is damaged ({type(error).__name__}); choose another step") from None
    studies = zip(description["studies"], description["pairs"], strict=True)
    return [
        CropBatch(
            **{name: tensors[f"{number}.{name}"] for name in _TENSORS}, keys=tuple(keys), is_pair=tuple(pairs)
        )
        for number, (keys, pairs) in enumerate(studies)
    ]


def _tensors(micro_batches: Sequence[CropBatch]) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": getattr(batch, name).cpu().contiguous()
        for number, batch in enumerate(micro_batches)
        for name in _TENSORS
    }


def _stem(config: TrainingConfig, step: int) -> Path:
    return checkpoint.folder_of(run_folder(config) / "bad", step)
