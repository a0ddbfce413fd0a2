"""Export: the trained network as a folder of its own with a card, and the models in MLflow."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..platform.core.config import digest, flat
from ..platform.core.errors import ConfigError
from ..platform.core.revision import git_revision
from ..platform.core.runs import Run, open_run
from ..platform.models.backbone import Backbone, resized
from ..platform.models.card import Card
from ..platform.models.convnet import ConvNet, of_side, save_convnet
from ..platform.models.saving import save_backbone
from ..platform.training import checkpoint
from .checkpoints import checkpoints_folder
from .config import FeatureDistillationConfig, PretrainConfig, TrainingConfig
from .data_warnings import no_pairs
from .mixture import Mixture
from .records import STATUS
from .run_storage import BACKBONE, run_folder


def purpose(config: TrainingConfig) -> str:
    """What a training uses its data for, as MLflow shows it."""
    return "distillation" if isinstance(config, FeatureDistillationConfig) else "pretraining"


def open_training_run(config: TrainingConfig, mixture: Mixture, resumed_after: int) -> Run:
    """The run folder and MLflow run of a training. resumed_after: step of the checkpoint that it begins with, or 0."""
    tags = {
        "manifest": mixture.digest,
        "config": digest(config),
        "seed": config.seed,
    }
    experiment, name = "vetdino/distill", f"distill-{config.seed}"
    if isinstance(config, PretrainConfig):
        tags["views"] = view_mode(config, mixture)
        experiment, name = "vetdino/pretrain", f"{config.recipe or 'custom'}-{config.seed}"
    return open_run(
        run_folder(config),
        experiment=experiment,
        name=name,
        params=flat(config),
        tags=tags,
        resumed_after=resumed_after,
    )


def export_network(config: TrainingConfig, network: Backbone | ConvNet, mixture: Mixture) -> Card:
    """Write what a training is for to `<out>/backbone`, at `embed_side`; returns its card."""
    if isinstance(config, FeatureDistillationConfig):
        return export_student(config, network, mixture)
    assert isinstance(config, PretrainConfig)
    assert isinstance(network, Backbone)
    return export_backbone(config, network, mixture)


def export_student(config: FeatureDistillationConfig, student: Backbone | ConvNet, mixture: Mixture) -> Card:
    """Write a distilled student to `<out>/backbone`; returns its card."""
    side = student_side(config, student)
    exported = of_side(student, side) if isinstance(student, ConvNet) else resized(student, side)
    presentations = config.steps * config.batch
    exported.card = replace(
        exported.card,
        label=f"{short_name(config.student)} distilled from {short_name(config.teacher)}, {presentations:,} study "
        f"presentations, seed {config.seed}",
        origin={
            "teacher": short_name(config.teacher),
            "student": short_name(config.student),
            **_origin(config, mixture),
        },
        metrics=_probe_metrics(config),
    )

    def save(folder: Path) -> Card:
        if isinstance(exported, ConvNet):
            return save_convnet(folder, exported, config.dtype)
        return save_backbone(folder, exported, config.dtype)

    return _replace_folder(config, save)


def student_side(config: FeatureDistillationConfig, student: Backbone | ConvNet) -> int:
    """Image side of the exported student. Raises ConfigError for half a patch."""
    wanted = config.embed_side or 3 * config.crops.global_side // 2
    if isinstance(student, ConvNet):
        return wanted
    side = max(1, round(wanted / student.patch)) * student.patch
    if config.embed_side and side != wanted:
        raise ConfigError(
            f"embed_side {wanted} is not a multiple of the student's patch, {student.patch}; nearest is {side}"
        )
    return side


def short_name(source: str) -> str:
    """A source without the folders above it: they are of one machine."""
    return source.rstrip("/").rpartition("/")[2] or source


def export_backbone(config: PretrainConfig, backbone: Backbone, mixture: Mixture) -> Card:
    """Write the teacher's backbone to `<out>/backbone`, at `embed_side`; returns its card."""
    exported = resized(backbone, config.embed_side or config.backbone.side)
    exported.card = replace(
        exported.card,
        label=f"{config.recipe or 'custom'}, {config.steps * config.batch:,} study presentations, seed {config.seed}",
        origin={
            "recipe": config.recipe,
            "start": short_name(config.start) or "random",
            **_origin(config, mixture),
            "views": view_mode(config, mixture),
        },
        metrics=_probe_metrics(config),
    )
    return _replace_folder(config, lambda folder: save_backbone(folder, exported))


def _origin(config: TrainingConfig, mixture: Mixture) -> dict[str, str]:
    return {
        "manifest": mixture.digest,
        "config": digest(config),
        "revision": git_revision(),
        "step": str(config.steps),
        "seed": str(config.seed),
    }


def _probe_metrics(config: TrainingConfig) -> dict[str, float]:
    """The finite values of the last probe, by their logged names."""
    status = json.loads((run_folder(config) / STATUS).read_text())
    return {
        name: value for name, value in status.items() if name.startswith("probe/") and math.isfinite(value)
    }


def _replace_folder(config: TrainingConfig, save: Callable[[Path], Card]) -> Card:
    """Write the exported folder beside an older one, and put it in its place."""
    folder = run_folder(config)
    draft = folder / ".backbone"
    shutil.rmtree(draft, ignore_errors=True)
    card = save(draft)
    shutil.rmtree(folder / BACKBONE, ignore_errors=True)
    draft.rename(folder / BACKBONE)
    return card


def log_models(config: TrainingConfig, run: Run, card: Card) -> None:
    """Log the kept checkpoints and the backbone as models of the run, and the best AUROC of the probe."""
    for folder in sorted(checkpoints_folder(config).glob("step_*")):
        seal = hashlib.sha256((folder / checkpoint.SEAL).read_bytes()).hexdigest()
        run.log_trained_model(f"checkpoint {folder.name}", seal, checkpoint.step_of(folder))
    run.log_trained_model(card.label, card.digest, config.steps, card.origin)
    run.log_best("probe/auroc_macro")


def view_mode(config: PretrainConfig, mixture: Mixture) -> str:
    """`multi` where the training sees pairs of views, else `single`."""
    return "multi" if config.crops.p_multiview > 0 and not no_pairs(config, mixture) else "single"
