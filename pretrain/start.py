"""Initial weights of a training: random, a backbone from elsewhere, or a training of ours with its heads."""

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
from .checkpoints import TEACHER
from .config import PretrainConfig
from .distillation.config import HeadConfig
from .distillation.distiller import Distiller
from .distillation.heads import Head


@dataclass(frozen=True, slots=True, eq=False)
class StartingPoint:
    """The student's backbone before the first step, and what came with it."""

    backbone: Backbone
    heads: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors of the heads that this training uses, named as in `Learner`."""
    centers: Mapping[str, Tensor] = field(default_factory=dict)
    """The centers of the targets, named as in `Distiller`."""
    frozen_steps: int = 0
    """Steps during which the backbone is frozen: 0 unless it is trained and heads are new."""

    @property
    def has_heads(self) -> bool:
        """Whether heads came with the backbone."""
        return bool(self.heads)

    def load_heads_into(self, distiller: Distiller) -> None:
        """Load heads and centers into student and teacher of a distiller that was made with this backbone.

        A head or a center that did not come stays as it is.
        """
        for learner in (distiller.student, distiller.teacher):
            learner.load_state_dict(self.heads, strict=False)
        distiller.load_state_dict(self.centers, strict=False)

    def __repr__(self) -> str:
        heads = f"{len(self.heads)} head tensors" if self.heads else "no heads"
        return f"StartingPoint({self.backbone.card.label}, {heads}, backbone frozen for {self.frozen_steps} steps)"


def starting_point(config: PretrainConfig) -> StartingPoint:
    """What `config.start` names, fitted to `config.backbone` and `config.distill.head`.

    * nothing: random weights by the seed
    * `timm:NAME`: published weights by timm's name; `random:NAME`: random weights as `load` makes them
    * a weights file of DINO, DINOv2 or timm (.pth, read with weights_only, or .safetensors), or a backbone folder of
      ours: a backbone
    * a training's folder (its newest whole checkpoint) or one checkpoint: the teacher's backbone, heads and centers,
      for both student and teacher

    Raises ConfigError if there is no such source or its heads have another size, CheckpointError if it is damaged,
    cannot be downloaded or is of another architecture.
    """
    if not config.start:
        return StartingPoint(random_backbone(config.backbone, config.seed))
    folder = _checkpoint_in(Path(config.start))
    state = _teacher_state(folder) if folder else {}
    heads = _reused_heads(config, state)
    complete = all(f"{name}.prototypes_KW" in heads for name in _head_names(config))
    return StartingPoint(
        backbone=_initial_backbone(config, state),
        heads=heads,
        centers={name: value for name, value in state.items() if not name.startswith("teacher.")},
        frozen_steps=0 if complete else round(config.head_warmup * config.steps),
    )


def _checkpoint_in(source: Path) -> Path | None:
    """The checkpoint that a path names: itself, or the newest whole one of a training's folder; None if neither."""
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


def _teacher_state(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(folder / TEACHER)
    except Exception as error:
        raise CheckpointError(
            f"{folder / TEACHER}: cannot be read ({type(error).__name__}); start from another checkpoint"
        ) from error


def _initial_backbone(config: PretrainConfig, teacher: Mapping[str, Tensor]) -> Backbone:
    """The configured backbone with the weights of the source."""
    backbone = random_backbone(config.backbone, config.seed)
    normalization = None
    if teacher:
        tensors = _with_prefix(teacher, "teacher.backbone.")
        state = {name.removeprefix("vit."): value for name, value in tensors.items()}
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


def _reused_heads(config: PretrainConfig, teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's heads that this training uses, by their names in `Learner`."""
    heads: dict[str, Tensor] = {}
    for name in _head_names(config):
        head = _with_prefix(teacher, f"teacher.{name}.")
        if head:
            _check_head_size(config, name, head)
            heads |= {f"{name}.{key}": value for key, value in head.items()}
    return heads


def _head_names(config: PretrainConfig) -> tuple[str, ...]:
    return ("head", "patch_head") if config.distill.patch_weight > 0 else ("head",)


def _with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _check_head_size(config: PretrainConfig, name: str, head: Mapping[str, Tensor]) -> None:
    """Raises ConfigError if a head has another size than the settings; the message names both."""
    try:
        prototypes, bottleneck = head["prototypes_KW"].shape
        hidden, width = head["mlp.0.weight"].shape
        size = HeadConfig(prototypes=prototypes, hidden=hidden, bottleneck=bottleneck)
        with torch.device("meta"):
            expected = {key: value.shape for key, value in Head(width, size).state_dict().items()}
    except (KeyError, ValueError):
        expected = {}
    if {key: value.shape for key, value in head.items()} != expected:
        raise CheckpointError(
            f"{config.start}: its {name} is not a head of ours; start from a backbone folder instead"
        )
    for setting in fields(HeadConfig):
        there, here = getattr(size, setting.name), getattr(config.distill.head, setting.name)
        if there != here:
            raise ConfigError(
                f"start {config.start!r}: its {name} has {setting.name} {there:,}, distill.head.{setting.name} is "
                f"{here:,}; set --distill.head.{setting.name} {there}, or start from its backbone folder"
            )
