"""Teacher and student as a person names them: loaded, or drawn at random, and fitted to the crops."""

from __future__ import annotations

from pathlib import Path

from ...platform.core.config import from_json, nearest
from ...platform.core.errors import ConfigError, VetdinoError
from ...platform.core.storage import localized
from ...platform.models.backbone import Backbone, random_backbone, resized
from ...platform.models.card import CARD, WEIGHTS, Card
from ...platform.models.config import BackboneConfig
from ...platform.models.convnet import (
    ConvNet,
    load_convnet,
    of_side,
    published_convnet,
    random_convnet,
    timm_patch,
)
from ...platform.models.loading import load
from ...platform.models.source import RANDOM, TIMM, split_source
from .config import StudentConfig


def load_teacher(source: str, crop_side: int, side: int | None) -> tuple[Backbone, int]:
    """A teacher on the CPU, and the side in pixels of the crops as it is shown them.

    Raises as `load`, and ConfigError where `side` is no multiple of its patch.
    """
    try:
        teacher = load(source)
    except VetdinoError as error:
        raise type(error)(f"teacher: {error}") from None
    patch = teacher.patch
    near = max(1, round((side or crop_side) / patch)) * patch
    if side and near != side:
        raise ConfigError(
            f"teacher_side {side} is not a multiple of the teacher's patch, {patch}; nearest is {near}"
        )
    return teacher, near


def student_network(source: str, config: StudentConfig, crop_side: int, seed: int) -> Backbone | ConvNet:
    """The student before the first step, for crops of a side in pixels.

    source: a timm name, for random weights; `timm:NAME` for published ones; a folder or weights file as `load` takes
    it, or the folder of a CNN that a distillation wrote. Raises ConfigError where `config` changes a network that has
    its weights already, or crops are no whole number of patches; else as `load`.
    """
    try:
        student = _network(source, config, crop_side, seed)
    except VetdinoError as error:
        raise type(error)(f"student: {error}") from None
    if isinstance(student, ConvNet):
        return of_side(student, crop_side)
    if crop_side % student.patch:
        raise ConfigError(_no_multiple(crop_side, student.patch))
    if student.card.config.side == crop_side and not student.card.input_side:
        return student
    return resized(student, crop_side)


def _network(source: str, config: StudentConfig, crop_side: int, seed: int) -> Backbone | ConvNet:
    if not (source.startswith((TIMM, RANDOM)) or "/" in source or "#" in source or Path(source).exists()):
        return _random_network(source, config, crop_side, seed)
    if config.changes:
        changed = next(iter(config.changes))
        raise ConfigError(
            f"{source} has its weights and architecture; --backbone.{changed} is for a bare timm name, which gives "
            "random weights"
        )
    name = source.removeprefix(TIMM)
    if source.startswith(TIMM) and timm_patch(split_source(name)[0]) is None:
        return published_convnet(BackboneConfig(name=name, side=crop_side))
    if (folder := _convnet_folder(source)) is not None:
        return load_convnet(folder)
    return load(source)


def _random_network(name: str, config: StudentConfig, crop_side: int, seed: int) -> Backbone | ConvNet:
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"{name} is no path and no timm model; {nearest(name, timm.list_models())}")
    patch = timm_patch(name)
    if patch is None:
        if config.changes:
            changed = next(iter(config.changes))
            raise ConfigError(f"{name} is no Vision Transformer; leave out --backbone.{changed}")
        return random_convnet(BackboneConfig(name=name, side=crop_side), seed)
    patch = config.patch or patch
    if crop_side % patch:
        raise ConfigError(_no_multiple(crop_side, patch))
    return random_backbone(BackboneConfig(name=name, side=crop_side, **config.changes), seed)  # type: ignore[arg-type]


def _no_multiple(crop_side: int, patch: int) -> str:
    near = max(1, round(crop_side / patch)) * patch
    return (
        f"crops.global_side {crop_side} is not a multiple of the student's patch, {patch}; nearest is {near}"
    )


def _convnet_folder(source: str) -> Path | None:
    """The folder that a source names where it holds a CNN; None for everything else."""
    path = localized(source) if "://" in source else Path(source)
    folder = path.parent if path.name == WEIGHTS else path
    if not (folder / CARD).is_file():
        return None
    card = from_json(Card, (folder / CARD).read_text(), source=str(folder / CARD))
    return folder if timm_patch(card.config.name) is None else None
