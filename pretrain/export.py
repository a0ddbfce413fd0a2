"""Export: the teacher's backbone as a folder of its own with a card, and the models in MLflow."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace

from ..platform.core.config import digest, flat
from ..platform.core.revision import git_revision
from ..platform.core.runs import Run, open_run
from ..platform.models.backbone import Backbone, resized
from ..platform.models.card import Card
from ..platform.models.saving import save_backbone
from ..platform.training import checkpoint
from .checkpoints import checkpoints_folder
from .config import PretrainConfig
from .data_warnings import no_pairs
from .mixture import Mixture
from .records import STATUS
from .run_storage import BACKBONE, run_folder


def open_pretrain_run(config: PretrainConfig, mixture: Mixture) -> Run:
    """The run folder and MLflow run of a training."""
    tags = {
        "manifest": mixture.digest,
        "config": digest(config),
        "seed": config.seed,
        "views": view_mode(config, mixture),
    }
    name = f"{config.recipe or 'custom'}-{config.seed}"
    return open_run(
        run_folder(config), experiment="vetdino/pretrain", name=name, params=flat(config), tags=tags
    )


def export_backbone(config: PretrainConfig, backbone: Backbone, mixture: Mixture) -> Card:
    """Write the teacher's backbone to `<out>/backbone`, at `embed_side`; returns its card."""
    exported = resized(backbone, config.embed_side or config.backbone.side)
    folder = run_folder(config)
    status = json.loads((folder / STATUS).read_text())
    exported.card = replace(
        exported.card,
        label=f"{config.recipe or 'custom'}, {config.steps * config.batch:,} study presentations, seed {config.seed}",
        origin={
            "recipe": config.recipe,
            "start": config.start.rstrip("/").rpartition("/")[2] or "random",
            "manifest": mixture.digest,
            "config": digest(config),
            "revision": git_revision(),
            "step": str(config.steps),
            "seed": str(config.seed),
            "views": view_mode(config, mixture),
        },
        metrics={
            name: value
            for name, value in status.items()
            if name.startswith("probe/") and math.isfinite(value)
        },
    )
    draft = folder / ".backbone"
    shutil.rmtree(draft, ignore_errors=True)
    card = save_backbone(draft, exported)
    shutil.rmtree(folder / BACKBONE, ignore_errors=True)
    draft.rename(folder / BACKBONE)
    return card


def log_models(config: PretrainConfig, run: Run, card: Card) -> None:
    """Log the kept checkpoints and the backbone as models of the run, and the best AUROC of the probe."""
    for folder in sorted(checkpoints_folder(config).glob("step_*")):
        seal = hashlib.sha256((folder / checkpoint.SEAL).read_bytes()).hexdigest()
        run.log_trained_model(f"checkpoint {folder.name}", seal, checkpoint.step_of(folder))
    run.log_trained_model(card.label, card.digest, config.steps, card.origin)
    run.log_best("probe/auroc_macro")


def view_mode(config: PretrainConfig, mixture: Mixture) -> str:
    """`multi` where the training sees pairs of views, else `single`."""
    return "multi" if config.crops.p_multiview > 0 and not no_pairs(config, mixture) else "single"
