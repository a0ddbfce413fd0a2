"""Checkpoints of a pretraining: what is in them, saving, resuming, and finding the right one.

A checkpoint `<out>/checkpoints/step_XXXXXXXX` holds the weights that step X begins with: `engine/` (student and
optimizer), `teacher.safetensors`, `position.json` and `config.json`.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..platform.core.config import from_json, to_json
from ..platform.core.errors import CheckpointError
from ..platform.core.files import atomic_write
from ..platform.models.backbone import Backbone, random_backbone
from ..platform.training import checkpoint
from ..platform.training.cluster import WorkerContext
from .bad_steps import BadSteps
from .config import FeatureDistillationConfig, PretrainConfig, TrainingConfig
from .distillation.engine import Engine
from .mixture import Mixture
from .objective import Objective
from .run_storage import CHECKPOINTS, RunStorage, run_folder
from .watch.alarms import Alarms

TEACHER = "teacher.safetensors"
"""In a checkpoint: what the objective keeps beside the engine's part, such as the EMA teacher and its centers."""

POSITION = "position.json"
"""In a checkpoint: its step, and what a training remembers besides tensors."""


IMAGES = ("mean", "std", "positions")
"""What a training takes over from the card of the backbone that it starts from."""


@dataclass(slots=True)
class LoopState:
    """What a training remembers from step to step besides tensors."""

    alarms: Alarms
    bad_steps: BadSteps
    rewinds: int = 0
    auroc: float | None = None
    """The probe's newest AUROC."""


class Checkpoints:
    """Saves and loads the state of one training; all workers call its methods together."""

    def __init__(
        self,
        config: TrainingConfig,
        worker: WorkerContext,
        mixture: Mixture,
        distiller: Objective,
        engine: Engine,
        state: LoopState,
    ) -> None:
        self.config, self.worker, self.root = config, worker, checkpoints_folder(config)
        self.mixture = mixture
        self.storage = RunStorage(config)
        self.distiller, self.engine, self.state = distiller, engine, state
        self.seconds: float | None = None
        """How long the newest checkpoint took, from its snapshot to its upload; on the first worker."""

    def save(self, step: int) -> None:
        """Begin to write a checkpoint from a snapshot; it appears once all of it is written."""
        self.engine.wait()
        began = time.monotonic()
        if self.worker.rank == 0:
            draft = checkpoint.begin(self.root, step)
            atomic_write(draft / "config.json", to_json(self.config))
            atomic_write(draft / POSITION, self._position(step))
            self.storage.begin_checkpoint(step)
        self.worker.barrier()
        self.storage.clear_drafts(step)
        send = self.storage.sender(step)
        teacher = self.distiller.saved_state()

        def publish() -> None:
            checkpoint.publish(self.root, step)
            checkpoint.prune(self.root, self.config.keep, best_step(self.root))
            self.storage.push_record()
            self.storage.push_checkpoints()
            self.seconds = time.monotonic() - began

        self.engine.save(
            checkpoint.draft_of(self.root, step),
            {TEACHER: teacher},
            publish,
            collect=partial(self.storage.collect, step),
            send=send,
        )

    def load(self, folder: Path) -> int:
        """Load a checkpoint; returns the step to continue with."""
        from safetensors.torch import load_file

        check_resumable(self.config, folder, self.mixture)
        self.distiller.load_state_dict(load_file(folder / TEACHER), strict=False)
        self.engine.load(folder)
        position = json.loads((folder / POSITION).read_text())
        if position.get("teacher", "") != self.distiller.identity:
            raise CheckpointError(
                f"{folder}: was trained with other weights of its teacher; resume with those, or choose another --out"
            )
        self.state.alarms.load(position["alarms"])
        self.state.bad_steps.load(position["bad"])
        self.state.rewinds, self.state.auroc = position["rewinds"], position["auroc"]
        return checkpoint.step_of(folder)

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps."""
        if self.worker.rank == 0:
            for folder in self.root.glob("step_*"):
                if checkpoint.step_of(folder) > step:
                    checkpoint.remove(folder)
            self.storage.push_checkpoints()

    def _position(self, step: int) -> str:
        state = self.state
        return json.dumps(
            {
                "step": step,
                "workers": self.worker.world_size,
                "manifest": self.mixture.digest,
                "head_warmup": self.engine.frozen_steps,
                "alarms": state.alarms.state(),
                "bad": state.bad_steps.state(),
                "rewinds": state.rewinds,
                "auroc": state.auroc,
                "images": {name: getattr(self.distiller.network(()).card, name) for name in IMAGES},
                "teacher": self.distiller.identity,
            }
        )


def checkpoints_folder(config: TrainingConfig) -> Path:
    """Where a training keeps its checkpoints."""
    return run_folder(config) / CHECKPOINTS


C = TypeVar("C", bound=TrainingConfig)


def trained_config(folder: Path, kind: type[C]) -> C:
    """The settings of the training that a checkpoint, or a training's folder, is of.

    Raises CheckpointError where they are missing or those of a training of another kind.
    """
    file = folder / "config.json"
    try:
        text = file.read_text()
        if is_distillation(text) != (kind is FeatureDistillationConfig):
            what, command = (
                ("distillation", "distill") if is_distillation(text) else ("pretraining", "pretrain")
            )
            raise CheckpointError(
                f"{folder}: is of a {what}, which `vetdino {command}` continues; to start from what it learned, give "
                "its backbone folder"
            )
        return from_json(kind, text, source=str(file))
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error.strerror}); copy the checkpoint again"
        ) from None


def is_distillation(config: str) -> bool:
    """Whether settings, as JSON, are those of a distillation."""
    try:
        return "student" in json.loads(config)
    except (ValueError, TypeError):
        return False


def image_settings(folder: Path) -> dict[str, Any]:
    """How the training of a checkpoint prepares images, by names of `Card`; empty for older ones, which
    all do alike."""
    return json.loads((folder / POSITION).read_text()).get("images", {})


def checkpoint_backbone(config: PretrainConfig, folder: Path) -> Backbone:
    """A backbone to load a checkpoint's weights into, which prepares images as its training does."""
    backbone = random_backbone(config.backbone, config.seed)
    backbone.card = replace(backbone.card, **image_settings(folder))
    return backbone


def newest_checkpoint_at(config: TrainingConfig, step: int) -> Path | None:
    """The newest whole checkpoint of a step or of one before it; None if there is none."""
    for folder in sorted(checkpoints_folder(config).glob("step_*"), reverse=True):
        if checkpoint.step_of(folder) <= step:
            try:
                checkpoint.verify(folder)
            except CheckpointError:
                continue
            return folder
    return None


def best_step(root: Path) -> int | None:
    """The step of the checkpoint with the probe's highest AUROC at its time; None if none was evaluated."""
    evaluated = []
    for folder in root.glob("step_*"):
        auroc = json.loads((folder / POSITION).read_text())["auroc"]
        if auroc is not None and math.isfinite(auroc):
            evaluated.append((auroc, checkpoint.step_of(folder)))
    return max(evaluated)[1] if evaluated else None


def check_resumable(config: TrainingConfig, folder: Path, mixture: Mixture) -> None:
    """Raises CheckpointError if a training with these settings and shards cannot continue from a checkpoint."""
    began = trained_config(folder, type(config))
    for name in config.fixed:
        if getattr(began, name) != getattr(config, name):
            raise CheckpointError(
                f"{folder}: {name} differs from the settings that this training began with; resume with those "
                "of its config.json, or choose another --out"
            )
    if json.loads((folder / POSITION).read_text())["manifest"] != mixture.digest:
        raise CheckpointError(
            f"{folder}: was trained on other shards than {', '.join(map(str, config.shards))}; "
            "resume with those (where the archive has grown, with its earlier manifest), or choose another --out"
        )
    if checkpoint.step_of(folder) > config.steps:
        raise CheckpointError(
            f"{folder}: this training is beyond --steps {config.steps} already; give {checkpoint.step_of(folder)} or "
            "more, or choose another --out"
        )
