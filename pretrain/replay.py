"""Replay: compute a bad step again on the CPU and name the first module that is not finite.

A step is named by how many were done before it: step 0 is the first. The checkpoint `step_00000120` holds the weights
that step 120 begins with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..platform.core.config import from_json
from ..platform.core.errors import CheckpointError, ConfigError
from ..platform.core.location import Location
from ..platform.training import checkpoint
from .bad_batches import load_bad_batch
from .batches.batch import CropBatch
from .batches.seeds import derived_seed
from .checkpoints import TEACHER, checkpoint_backbone, is_distillation, newest_checkpoint_at
from .config import FeatureDistillationConfig, PretrainConfig, TrainingConfig
from .distillation.distiller import Distiller
from .distillation.engine_state import read_student
from .feature_distillation.distiller import FeatureDistiller
from .feature_distillation.networks import load_teacher, student_network
from .objective import StepLosses
from .start import starting_point


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replayed step shows; names of modules and parameters are empty if everything was finite."""

    step: int
    weights_step: int
    """Step of the checkpoint whose weights were used; 0 for those that the training began with."""
    studies: int
    losses: Mapping[str, float]
    weights: tuple[str, ...]
    """Non-finite weights of student and teacher."""
    output: str
    """First module with a non-finite output."""
    gradient: str
    """First module, from the loss backward, with a non-finite gradient at its output."""
    parameters: tuple[str, ...]
    """Parameters with a non-finite gradient, in the network's order."""

    @property
    def healthy(self) -> bool:
        """Whether everything was finite this time."""
        faults = (self.weights, self.output, self.gradient, self.parameters)
        return not any(faults) and all(map(math.isfinite, self.losses.values()))

    def __str__(self) -> str:
        behind = self.step - self.weights_step
        age = f"the weights of step {self.weights_step}, {behind} before it" if behind else "its own weights"
        lines = [
            f"step {self.step}, {self.studies} studies, with {age}",
            "losses: " + ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items()),
        ]
        if self.weights:
            lines.append(f"non-finite weights: {_first_three(self.weights)}")
        if self.output:
            lines.append(f"first non-finite output: {self.output}")
        if self.gradient:
            lines.append(f"first non-finite gradient: at the output of {self.gradient}")
        if self.parameters:
            lines.append(f"parameters with a non-finite gradient: {_first_three(self.parameters)}")
        return "\n".join([*lines, self._advice(behind)])

    def _advice(self, behind: int) -> str:
        if not self.healthy:
            return "lower optim.lr or optim.clip, or train with optim.precision float32, then --resume"
        if behind:
            return (
                f"all is finite: not the batch is to blame, but what the {behind} steps before it did to the "
                "weights; lower optim.lr or optim.clip, then --resume"
            )
        return "all is finite on this machine: check the device, or optim.precision"


def replay_run(run: Path, step: int) -> ReplayReport:
    """Replay a bad step of the training in a folder; raises as `replay`, ConfigError if there is no training."""
    file = run / "config.json"
    if not file.is_file():
        raise ConfigError(
            f"{run}: holds no training (config.json is missing); name the folder given as --out"
        )
    text = file.read_text()
    if is_distillation(text):
        distillation = from_json(FeatureDistillationConfig, text, source=str(file))
        return replay(replace(distillation, out=Location(run)), step)
    config = replace(from_json(PretrainConfig, text, source=str(file)), out=Location(run))
    initial = None
    if newest_checkpoint_at(config, step) is None:
        start = starting_point(config)
        initial = Distiller(start.backbone, config.distill)
        start.load_heads_into(initial)
    return replay(config, step, initial)


def replay(config: TrainingConfig, step: int, initial: Distiller | None = None) -> ReplayReport:
    """Replay a bad step on the CPU: losses, then gradients, of the whole batch, with the newest weights before it.

    initial: student and teacher before the first step, for steps before the first checkpoint. Raises TrainingError
    if the batch was not kept, CheckpointError if there are no weights to begin with.
    """
    micro_batches = load_bad_batch(config, step)
    folder = newest_checkpoint_at(config, step)
    distiller: Distiller | FeatureDistiller
    if folder is not None:
        distiller = _distiller(config, folder)
        _load_weights(distiller, folder)
    elif initial is not None:
        distiller = initial
    else:
        raise CheckpointError(
            f"{config.out}: holds no whole checkpoint of step {step} or before; lower checkpoint_every and train again"
        )
    with _NonFiniteFinder(distiller) as first:
        losses = _forward_backward(config, distiller, step, micro_batches)
    student = distiller.student.named_parameters()
    return ReplayReport(
        step=step,
        weights_step=checkpoint.step_of(folder) if folder else 0,
        studies=sum(len(batch.keys) for batch in micro_batches),
        losses=losses,
        weights=tuple(name for name, value in distiller.state_dict().items() if not _is_finite(value)),
        output=first.output,
        gradient=first.gradient,
        parameters=tuple(name for name, value in student if not _is_finite(value.grad)),
    )


def _distiller(config: TrainingConfig, folder: Path) -> Distiller | FeatureDistiller:
    """Student and teacher of a training, to load a checkpoint into."""
    if isinstance(config, FeatureDistillationConfig):
        side = config.crops.global_side
        teacher, teacher_side = load_teacher(config.teacher, side, config.teacher_side)
        student = student_network(config.student, config.backbone, side, config.seed)
        return FeatureDistiller(student, teacher, config.loss, crop_side=side, teacher_side=teacher_side)
    assert isinstance(config, PretrainConfig)
    return Distiller(checkpoint_backbone(config, folder), config.distill)


def _forward_backward(
    config: TrainingConfig,
    distiller: Distiller | FeatureDistiller,
    step: int,
    micro_batches: Sequence[CropBatch],
) -> dict[str, float]:
    """Forward and backward of all micro-batches; the mean of each term of the loss."""
    vit: Any = getattr(distiller.student.backbone, "vit", None)
    for block in vit.blocks if vit is not None else ():
        attention = block.attn
        attention.fused_attn = False  # so that its parts are modules with names
    count = len(micro_batches)
    seeds = [derived_seed(config.seed, step, f"part {index}") for index in range(count)]
    settings = distiller.settings_at(step, config.steps)
    values = []
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.optim.precision == "bfloat16"):
        all_targets: Sequence[Any] = distiller.step_targets(micro_batches, settings, seeds)
        for batch, targets in zip(micro_batches, all_targets, strict=True):
            losses: StepLosses = distiller.losses(distiller.student, batch, targets)
            (losses.total / count).backward()
            values.append(losses.values())
    return dict(zip(distiller.loss_names, torch.stack(values).mean(0).tolist(), strict=True))


def _load_weights(distiller: Distiller | FeatureDistiller, folder: Path) -> None:
    """Load student, teacher and centers of a checkpoint."""
    from safetensors.torch import load_file

    distiller.load_state_dict(load_file(folder / TEACHER), strict=False)
    read_student(folder, distiller.student)


class _NonFiniteFinder:
    """Watches every module's output and the gradient that comes back to it; remembers the first non-finite ones."""

    def __init__(self, distiller: Distiller | FeatureDistiller) -> None:
        self.output = self.gradient = ""
        self._learners: dict[str, nn.Module] = {"student": distiller.student, "teacher": distiller.teacher}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _NonFiniteFinder:
        for whose, learner in self._learners.items():
            for name, module in learner.named_modules():
                hook = self._forward_hook(f"{whose}.{name}".rstrip("."))
                self._handles.append(module.register_forward_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _forward_hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def check_gradient(gradient: Tensor) -> None:
            if not self.gradient and not gradient.isfinite().all():
                self.gradient = name

        def check_output(module: nn.Module, inputs: object, output: object) -> None:
            for value in _float_tensors(output):
                # Infinity counts, too: nothing here masks with it.
                if not self.output and not value.isfinite().all():
                    self.output = name
                if value.requires_grad:
                    value.register_hook(check_gradient)

        return check_output


def _float_tensors(output: object) -> Iterator[Tensor]:
    """The floating point tensors of a module's output: a tensor, a dataclass or a sequence of these."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif is_dataclass(output):
        for field in fields(output):
            yield from _float_tensors(getattr(output, field.name))
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _float_tensors(value)


def _is_finite(value: Tensor | None) -> bool:
    return value is None or bool(value.isfinite().all())


def _first_three(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
