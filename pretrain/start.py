"""Initial weights of a training: random, a backbone from elsewhere, or a training of ours with its heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from ..platform.core.errors import CheckpointError, ConfigError, VetdinoError
from ..platform.core.storage import listing, localized
from ..platform.models.architecture import create_vit, hidden_settings
from ..platform.models.backbone import Backbone, random_backbone
from ..platform.models.card import Card
from ..platform.models.loading import SourceWeights, source_weights
from ..platform.models.source import SourceOptions, parse_source, split_source
from ..platform.models.transfer import copy_weights
from ..platform.training import checkpoint
from ..platform.training.schedules import share_of_steps
from .checkpoints import TEACHER, image_settings, trained_config
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
      ours: a backbone, shown images as its card says
    * a training's folder (its newest whole checkpoint) or one checkpoint: the teacher's backbone, heads and centers,
      for both student and teacher

    Position embeddings are resampled as in the code that the weights come from. Raises ConfigError if there is no such
    source or its heads have another size, CheckpointError if it is damaged, cannot be downloaded or is of another
    architecture, attention heads and epsilon included.
    """
    if not config.start:
        return StartingPoint(random_backbone(config.backbone, config.seed))
    folder = _checkpoint_in(config.start)
    state = _teacher_state(folder) if folder else {}
    weights = _checkpoint_weights(folder, state) if folder else _source_weights(config.start)
    heads = _reused_heads(config, state)
    complete = all(f"{name}.prototypes_KW" in heads for name in _head_names(config))
    return StartingPoint(
        backbone=_initial_backbone(config, weights),
        heads=heads,
        centers={name: value for name, value in state.items() if not name.startswith("teacher.")},
        frozen_steps=0 if complete else share_of_steps(config.head_warmup, config.steps),
    )


def _checkpoint_in(start: str) -> Path | None:
    """The checkpoint that a path names: itself, or the newest whole one of a training's folder; None if neither.

    What lies at a URL is copied to this machine.
    """
    source = Path(start)
    if "://" in start:
        url, options = split_source(start)
        if options != SourceOptions():
            return None
        names = listing(url)
        if TEACHER not in names and not any(name.startswith("checkpoints/") for name in names):
            return None
        source = localized(url)
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


def _initial_backbone(config: PretrainConfig, weights: SourceWeights) -> Backbone:
    """The configured backbone with the weights of the source, which is shown images as the source was."""
    card = weights.card
    backbone = random_backbone(config.backbone, config.seed)
    # A kernel for color is folded for our default mean and std; one for gray keeps those that it was trained with.
    kept = backbone.card if weights.normalization else card
    backbone.card = replace(backbone.card, positions=card.positions, mean=kept.mean, std=kept.std)
    try:
        copy_weights(backbone, weights.state, weights.normalization)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{config.start}: holds another architecture than backbone {config.backbone.name}, "
            f"width {backbone.width}, {len(backbone.vit.blocks)} blocks ({error}); set --backbone.* to match it"
        ) from None
    _check_hidden_settings(config, backbone, card)
    return backbone


def _check_hidden_settings(config: PretrainConfig, backbone: Backbone, card: Card) -> None:
    """Raises CheckpointError where a network differs from the source's in what the shapes of tensors do not tell."""
    with torch.device("meta"):
        there = hidden_settings(create_vit(card.config))
    for name, here in hidden_settings(backbone.vit).items():
        if here != there[name]:
            setting = f"--backbone.{name}" if name in ("heads", "eps") else "--backbone.name"
            raise CheckpointError(
                f"{config.start}: its {name} is {there[name]}, that of backbone {config.backbone.name} is {here}; "
                f"set {setting} to match it"
            )


def _source_weights(start: str) -> SourceWeights:
    """Weights and card of a backbone folder, a weights file or a name. Raises as `starting_point`."""
    try:
        side = parse_source(start).options.side
    except VetdinoError as error:
        raise type(error)(f"start: {error}; a training's folder or checkpoint will do, too") from None
    if side:
        raise ConfigError(
            f"start: {start}: side is that of a backbone in use; a training's is --backbone.side"
        )
    return source_weights(start)


def _checkpoint_weights(folder: Path, state: Mapping[str, Tensor]) -> SourceWeights:
    """The backbone of a checkpoint's teacher, with the architecture and the preparation of images of its training."""
    tensors = _with_prefix(state, "teacher.backbone.")
    card = Card(
        label=str(folder), config=trained_config(folder, PretrainConfig).backbone, **image_settings(folder)
    )
    return SourceWeights(card, {name.removeprefix("vit."): value for name, value in tensors.items()}, None)


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
