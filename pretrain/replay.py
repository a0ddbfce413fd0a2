"""Steps whose loss or gradient was no finite number: their batches are written aside and looked at again.

A step is told by how many were done before it, as in the order of the data: step 0 is the first. The checkpoint
`step_00000120` holds the weights that step 120 begins with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..platform.core.config import digest, from_json
from ..platform.core.errors import CheckpointError, ConfigError, TrainingError
from ..platform.core.files import atomic_write
from ..platform.models.backbone import random_backbone
from ..platform.training import checkpoint
from .batches.batch import CropBatch
from .batches.crops import seed_of
from .distillation.distiller import LOSS_NAMES, Distiller
from .distillation.engine import read_student
from .recipes import PretrainConfig
from .start import TEACHER, start_of

MOST = 10
"""Batches kept of one training; of later bad steps only the names of the studies are written."""


class BadSteps:
    """Counts bad steps in a row from the flags of the steps between two records.

    >>> bad = BadSteps(limit=2)
    >>> bad.note(10, [0.0, 1.0, 0.0]), bad.too_many
    ([11], False)
    >>> bad.note(13, [1.0]), bad.note(14, [1.0, 0.0]), bad.too_many, bad.total
    ([13], [14], True, 3)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = self.in_a_row = self.longest = 0

    def note(self, first: int, flags: Sequence[float]) -> list[int]:
        """Those of the steps first, first + 1, … whose flag is up."""
        for flag in flags:
            self.in_a_row = self.in_a_row + 1 if flag else 0
            self.longest = max(self.longest, self.in_a_row)
        bad = [step for step, flag in enumerate(flags, start=first) if flag]
        self.total += len(bad)
        return bad

    @property
    def too_many(self) -> bool:
        """Whether `limit` steps in a row were bad: such a training will not mend by itself."""
        return self.longest >= self.limit

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps, as JSON types."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load(self, state: Mapping[str, int]) -> None:
        """Back to what `state` told; a training that is resumed is given its chance again."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]
        self.longest = self.in_a_row


def too_many_bad(config: PretrainConfig, step: int, limit: int) -> TrainingError:
    """What a person is told when a training stops after `limit` bad steps, the last of which was `step`."""
    return TrainingError(
        f"step {step}: the loss or a gradient was no finite number for {limit} steps in a row; "
        f"`{_command(config, step)}` says where it begins; lower optim.lr or optim.clip, then --resume goes on "
        "from the newest checkpoint"
    )


def save_bad(config: PretrainConfig, step: int, parts: Sequence[CropBatch]) -> Path:
    """Write the batch of a bad step aside; the file that tells of it, `<out>/bad/step_XXXXXXXX.json`.

    parts: the batch as it was looked at, in the order of workers and of their parts, which a worker can make
    anew: a batch is a function of configuration, data, seed and step. Beside the JSON lie the crops as
    safetensors, unless there are ten already. No image is named by more than its study's key.
    """
    stem = _stem(config, step)
    kept = len(list(stem.parent.glob("*.safetensors"))) < MOST
    if kept:
        from safetensors.torch import save

        atomic_write(stem.with_suffix(".safetensors"), save(_tensors(parts)))
    before = newest_by(config, step)
    told = {
        "step": step,
        "studies": [list(part.keys) for part in parts],
        "pairs": [list(part.is_pair) for part in parts],
        "crops": kept,
        "config": digest(config),
        "checkpoint": before.name if before else None,
        "replay": _command(config, step),
    }
    atomic_write(stem.with_suffix(".json"), json.dumps(told, indent=1) + "\n")
    return stem.with_suffix(".json")


def load_bad(config: PretrainConfig, step: int) -> list[CropBatch]:
    """The parts that `save_bad` wrote. Raises TrainingError where they were not written or are damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    stem = _stem(config, step)
    try:
        told = json.loads(stem.with_suffix(".json").read_text())
        tensors = load_file(stem.with_suffix(".safetensors"))
    except FileNotFoundError:
        there = sorted(int(path.stem.removeprefix("step_")) for path in stem.parent.glob("*.safetensors"))
        offer = f"there are {', '.join(map(str, there))}" if there else "no bad batch was kept"
        raise TrainingError(f"{stem.parent}: holds no batch of step {step}; {offer}") from None
    except (ValueError, SafetensorError) as error:
        raise TrainingError(f"{stem}: is damaged ({type(error).__name__}); choose another step") from None
    return [
        CropBatch(
            **{name: tensors[f"{number}.{name}"] for name in _TENSORS}, keys=tuple(keys), is_pair=tuple(pairs)
        )
        for number, (keys, pairs) in enumerate(zip(told["studies"], told["pairs"], strict=True))
    ]


def newest_by(config: PretrainConfig, step: int) -> Path | None:
    """The newest whole checkpoint that a step can begin from, its own or an older one; None without any."""
    for folder in sorted((config.out / "checkpoints").glob("step_*"), reverse=True):
        if checkpoint.step_of(folder) <= step:
            try:
                checkpoint.verify(folder)
            except CheckpointError:
                continue
            return folder
    return None


@dataclass(frozen=True, slots=True)
class Report:
    """What a replayed step shows."""

    step: int
    weights_of: int
    """Step of the checkpoint whose weights were used; 0 are those that the training began with."""
    studies: int
    losses: Mapping[str, float]
    weights: tuple[str, ...]
    """Weights of student and teacher that are no finite numbers."""
    output: str
    """The first module whose output is none; empty where all are finite."""
    gradient: str
    """The first module, from the loss backwards, the gradient at whose output is none."""
    parameters: tuple[str, ...]
    """Parameters whose gradient is none, in the network's order."""

    @property
    def healthy(self) -> bool:
        """Whether all was finite this time."""
        lost = (self.weights, self.output, self.gradient, self.parameters)
        return not any(lost) and all(map(math.isfinite, self.losses.values()))

    def __str__(self) -> str:
        behind = self.step - self.weights_of
        age = (
            "its own weights" if not behind else f"the weights of step {self.weights_of}, {behind} before it"
        )
        lines = [
            f"step {self.step}, {self.studies} studies, with {age}",
            "losses: " + ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items()),
        ]
        if self.weights:
            lines.append(f"weights that are no finite numbers: {_some(self.weights)}")
        if self.output:
            lines.append(f"first output that is none: {self.output}")
        if self.gradient:
            lines.append(f"first gradient that is none: at the output of {self.gradient}")
        if self.parameters:
            lines.append(f"parameters whose gradient is none: {_some(self.parameters)}")
        return "\n".join([*lines, self._advice(behind)])

    def _advice(self, behind: int) -> str:
        if not self.healthy:
            return "lower optim.lr or optim.clip, or train with optim.precision float32, then --resume"
        if behind:
            return (
                f"all is finite: the batch is not to blame, but what the {behind} steps before it did to the "
                "weights; lower optim.lr or optim.clip, then --resume"
            )
        return "all is finite on this machine: look at the device, or at optim.precision"


def replay(config: PretrainConfig, step: int, beginning: Distiller | None = None) -> Report:
    """Look at a bad step again on the CPU, with the newest checkpoint that it can begin from.

    Losses, then gradients, of the whole batch, part by part. beginning: student and teacher before the first
    step, for steps before the first checkpoint. Raises TrainingError where the batch was not kept,
    CheckpointError where there are no weights to begin with.
    """
    parts = load_bad(config, step)
    folder = newest_by(config, step)
    if folder is not None:
        distiller = Distiller(random_backbone(config.backbone, config.seed), config.distill)
        _load(distiller, folder)
    elif beginning is not None:
        distiller = beginning
    else:
        raise CheckpointError(
            f"{config.out}: holds no whole checkpoint of step {step} or before; lower checkpoint_every, train anew"
        )
    weights_of = checkpoint.step_of(folder) if folder else 0
    seeds = [seed_of(config.seed, step, f"part {number}") for number in range(len(parts))]
    temperature = config.distill.teacher_temperature.at(step, config.steps)
    with _Witness(distiller) as seen:
        losses = _pass(config, distiller, parts, seeds, temperature)
    finite = lambda value: value is None or bool(value.isfinite().all())
    return Report(
        step=step,
        weights_of=weights_of,
        studies=sum(len(part.keys) for part in parts),
        losses=losses,
        weights=tuple(name for name, value in distiller.state_dict().items() if not finite(value)),
        output=seen.output,
        gradient=seen.gradient,
        parameters=tuple(
            name for name, value in distiller.student.named_parameters() if not finite(value.grad)
        ),
    )


def _pass(
    config: PretrainConfig,
    distiller: Distiller,
    parts: Sequence[CropBatch],
    seeds: Sequence[int],
    temperature: float,
) -> dict[str, float]:
    """Forward and backward of all parts; the mean of each term of the loss."""
    for block in distiller.student.backbone.vit.blocks:
        block.attn.fused_attn = False  # its parts become modules that can be named
    half = config.optim.precision == "bfloat16"
    told = []
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        questions = distiller.questions(parts, temperature, seeds)
        for part, question in zip(parts, questions, strict=True):
            losses = distiller.losses(distiller.student, part, question)
            (losses.total / len(parts)).backward()
            told.append(torch.stack([losses.named()[name].float() for name in LOSS_NAMES]))
    return dict(zip(LOSS_NAMES, torch.stack(told).mean(0).tolist(), strict=True))


def replay_of(run: Path, step: int) -> Report:
    """Look at a bad step of the training in a folder; raises as `replay`, ConfigError where there is no training."""
    told = run / "config.json"
    if not told.is_file():
        raise ConfigError(
            f"{run}: holds no training (config.json is missing); name the folder given as --out"
        )
    config = replace(from_json(PretrainConfig, told.read_text(), source=str(told)), out=run)
    beginning = None
    if newest_by(config, step) is None:
        start = start_of(config)
        beginning = Distiller(start.backbone, config.distill)
        start.give(beginning)
    return replay(config, step, beginning)


def _load(distiller: Distiller, folder: Path) -> None:
    """Student, teacher and centres of a checkpoint."""
    from safetensors.torch import load_file

    distiller.load_state_dict(load_file(folder / TEACHER), strict=False)
    read_student(folder, distiller.student)


class _Witness:
    """Looks at every module's output, and at the gradient that comes back to it; remembers the first bad ones."""

    def __init__(self, distiller: Distiller) -> None:
        self.output = self.gradient = ""
        self._modules = {"student": distiller.student, "teacher": distiller.teacher}
        self._handles: list[Any] = []

    def __enter__(self) -> _Witness:
        for whose, whole in self._modules.items():
            for name, module in whole.named_modules():
                full = f"{whose}.{name}".rstrip(".")
                self._handles.append(module.register_forward_hook(self._looking_at(full)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _looking_at(self, name: str) -> Any:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            for value in _floats(output):
                # Infinite scores are allowed to nobody: nothing here masks with infinity.
                if not self.output and not value.isfinite().all():
                    self.output = name
                if value.requires_grad:
                    value.register_hook(lambda gradient: self._came_back(name, gradient))

        return look

    def _came_back(self, name: str, gradient: Tensor) -> None:
        if not self.gradient and not gradient.isfinite().all():
            self.gradient = name


def _floats(output: object) -> Iterator[Tensor]:
    """The floating tensors of a module's answer: a tensor, a dataclass or a sequence of such."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif is_dataclass(output):
        for field in fields(output):
            yield from _floats(getattr(output, field.name))
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _floats(value)


_TENSORS = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")


def _tensors(parts: Sequence[CropBatch]) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": getattr(part, name).cpu().contiguous()
        for number, part in enumerate(parts)
        for name in _TENSORS
    }


def _stem(config: PretrainConfig, step: int) -> Path:
    return checkpoint.folder_of(config.out / "bad", step)


def _command(config: PretrainConfig, step: int) -> str:
    return f"vetdino replay {config.out} --step {step}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
