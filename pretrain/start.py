"""Where a training starts: random weights, a backbone from elsewhere, or a training of ours with its heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from ..platform.core.errors import CheckpointError, ConfigError, VetdinoError
from ..platform.models.backbone import Backbone, random_backbone
from ..platform.models.loading import load, parse_source
from ..platform.models.transfer import copy_weights, timm_state
from ..platform.models.weights import (
    IMAGENET,
    file_state,
    published_normalization,
    published_state,
)
from ..platform.training import checkpoint
from .config import PretrainConfig
from .distillation.config import HeadConfig
from .distillation.distiller import Distiller
from .distillation.heads import Head

TEACHER = "teacher.safetensors"
"""In a checkpoint: the distiller's state but for the student's part."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """The student's backbone before the first step, and what came with it."""

    backbone: Backbone
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors of the heads, named as in `Learner`: those that this training has a place for."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """The centres, named as in `Distiller`."""
    warmup: int = 0
    """Steps during which the backbone stays as it is: 0 unless it is trained and heads are new."""

    @property
    def has_heads(self) -> bool:
        """Whether heads came with the backbone."""
        return bool(self.heads)

    def give(self, distiller: Distiller) -> None:
        """Put heads and centres into a distiller that was made of this backbone: into student and teacher.

        A head or a centre that did not come stays as it was made.
        """
        for learner in (distiller.student, distiller.teacher):
            learner.load_state_dict(self.heads, strict=False)
        distiller.load_state_dict(self.memory, strict=False)

    def __repr__(self) -> str:
        came = f"{len(self.heads)} head tensors" if self.heads else "no heads"
        return f"Start({self.backbone.card.label}, {came}, {self.warmup} steps of head warm-up)"


def start_of(config: PretrainConfig) -> Start:
    """What `config.start` names, fitted to `config.backbone` and `config.distill.head`.

    Nothing: random weights by the seed. `timm:NAME`: published weights by timm's name. `random:NAME`: random weights
    as `load` gives them. A weights file (.pth read
    with weights_only, .safetensors) of DINO, DINOv2 or timm, or a backbone folder of ours: a backbone. A
    training's folder (its newest whole checkpoint) or one checkpoint: the teacher's backbone, heads and centres,
    from which student and teacher both go on.

    Raises ConfigError where there is no such source or its heads have another size, CheckpointError where it is
    damaged, cannot be fetched or is of another architecture.
    """
    if not config.start:
        return Start(random_backbone(config.backbone, config.seed))
    folder = _checkpoint_in(Path(config.start))
    state = _teacher_of(folder) if folder else {}
    heads = _heads_of(config, state)
    complete = all(f"{name}.prototypes_KW" in heads for name in _head_names(config))
    return Start(
        backbone=_backbone_of(config, state),
        heads=heads,
        memory={name: value for name, value in state.items() if not name.startswith("teacher.")},
        warmup=0 if complete else round(config.head_warmup * config.steps),
    )


def _checkpoint_in(source: Path) -> Path | None:
    """The checkpoint that a path names: itself, or the newest whole one of a training's folder."""
    if (source / TEACHER).is_file():
        checkpoint.verify(source)
        return source
    root = source / "checkpoints"
    if not any(root.glob("step_*")):
        return None
    newest = checkpoint.newest(root)
    if newest is None:
        raise CheckpointError(
            f"{source}: none of its checkpoints is whole; start from a copy or from its backbone folder"
        )
    return newest


def _teacher_of(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(folder / TEACHER)
    except Exception as error:
        raise CheckpointError(
            f"{folder / TEACHER}: cannot be read ({type(error).__name__}); start from another checkpoint"
        ) from error


def _backbone_of(config: PretrainConfig, teacher: Mapping[str, Tensor]) -> Backbone:
    """The configured backbone with the weights of the source."""
    backbone = random_backbone(config.backbone, config.seed)
    normalization = None
    if teacher:
        prefix = "teacher.backbone."
        inner = {name: value for name, value in teacher.items() if name.startswith(prefix)}
        state = {name.removeprefix(prefix).removeprefix("vit."): value for name, value in inner.items()}
    else:
        try:
            source = parse_source(config.start)
        except VetdinoError as error:
            raise type(error)(f"start: {error}; a training's folder or checkpoint will do, too") from None
        match source.kind:
            case "timm":
                state, normalization = published_state(source.place), published_normalization(source.place)
            case "file":
                state, normalization = file_state(Path(source.place), source.sha256), IMAGENET
            case _:
                state = timm_state(load(config.start))
    try:
        copy_weights(backbone, state, normalization)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{config.start}: holds another architecture than backbone {config.backbone.name}, "
            f"width {backbone.width}, {len(backbone.vit.blocks)} blocks ({error}); set --backbone.* to match it"
        ) from None
    return backbone


def _heads_of(config: PretrainConfig, teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's heads that this training has a place for, by their names in `Learner`."""
    heads = {}
    for name in _head_names(config):
        prefix = f"teacher.{name}."
        own = {key.removeprefix(prefix): value for key, value in teacher.items() if key.startswith(prefix)}
        if own:
            _check_size(config, name, own)
            heads |= {f"{name}.{key}": value for key, value in own.items()}
    return heads


def _head_names(config: PretrainConfig) -> tuple[str, ...]:
    return ("head", "patch_head") if config.distill.patch_weight > 0 else ("head",)


def _check_size(config: PretrainConfig, name: str, own: Mapping[str, Tensor]) -> None:
    """Raises ConfigError where a head is of another size than the settings ask for; the message names both."""
    try:
        prototypes, bottleneck = own["prototypes_KW"].shape
        hidden, width = own["mlp.0.weight"].shape
        found = HeadConfig(prototypes=prototypes, hidden=hidden, bottleneck=bottleneck)
        with torch.device("meta"):
            made = Head(width, found).state_dict()
    except (KeyError, ValueError):
        made = {}
    if {key: value.shape for key, value in own.items()} != {key: value.shape for key, value in made.items()}:
        raise CheckpointError(
            f"{config.start}: its {name} is none of ours; start from a backbone folder instead"
        )
    for setting in fields(HeadConfig):
        there, here = getattr(found, setting.name), getattr(config.distill.head, setting.name)
        if there != here:
            raise ConfigError(
                f"start {config.start!r}: its {name} has {setting.name} {there:,}, distill.head.{setting.name} is "
                f"{here:,}; set --distill.head.{setting.name} {there}, or start from its backbone folder"
            )
