"""Fine-tuning: all weights of a backbone learn the findings of the training studies, under a linear head.

The settings follow the end-to-end fine-tuning of MAE (arXiv 2111.06377, appendix A.1, table 9): AdamW, a learning
rate that decays layer by layer (after BEiT, arXiv 2106.08254), warm-up and cosine, stochastic depth. The epoch
with the highest macro AUROC on the validation split answers for the test split, which is asked once.

N studies of a split, F findings.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...platform.core.config import atomic_write, digest
from ...platform.core.errors import ConfigError
from ...platform.core.progress import Progress
from ...platform.data.shards import load_manifest, read
from ...platform.data.study import SPLITS
from ...platform.measure.features import Features, Pool
from ...platform.measure.metrics import Answers
from ...platform.training.cluster import Crew, Place, run_on_ray, watched
from .protocol import Parts, folds_of, parts_of

if TYPE_CHECKING:
    from ..common.sources import Source

Report = Callable[[int, Mapping[str, float]], None]
"""Told by the first worker how many studies the network was shown since it was started, and the newest figures."""

RESULT, STATE, START, STATUS = "result.json", "state.safetensors", "start", "status.json"
"""In a fine-tuning's folder: facts, history and test scores; the state after an epoch; the backbone that it began
with; what it tells on the way."""

RESTARTS = 3
"""How often lost workers are started anew; they go on from the newest epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """How a backbone is fine-tuned, and where."""

    epochs: int = 30
    """Most passes over the training studies; the learning rate falls towards the last."""
    patience: int = 8
    """Epochs without a higher macro AUROC on the validation split after which it stops."""
    batch: int = 32
    """Studies a step, over all workers; at most as many as there are."""
    lr: float = 5e-4
    """Learning rate of the head and the last norm after the warm-up, whatever the batch."""
    layer_decay: float = 0.75
    """Factor on the learning rate from each block to the one before it; 1 lets all learn alike."""
    weight_decay: float = 0.05
    """Of matrices; biases, norms, tokens and position embeddings have none."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    drop_path: float = 0.1
    """Rate of stochastic depth in the last block, rising linearly from 0 in the first."""
    pool: Pool = "cls"
    """What a view says: its CLS token, or that and the mean of its patch tokens."""
    balance: float = 10.0
    """A present finding weighs as much more as it is rarer than its absence in training, up to this; 1 at most
    leaves all alike."""
    crop: float = 0.85
    """Smallest side of a random crop, as a share of the picture's; 1 crops nothing."""
    rotation: float = 10.0
    """Largest turn of a picture to either side, in degrees."""
    flip: float = 0.5
    """How often a picture is mirrored, left to right."""
    intensity: float = 0.2
    """Largest change of a picture's gain and of the logarithm of its gamma."""
    fraction: float = 1.0
    """Share of the training patients that it learns from; those of a smaller share are among those of a
    larger one. Validation and test stay whole."""
    seed: int = 0
    """Draws patients, order, augmentations and stochastic depth."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the backbone's products; weights, head and loss are float32."""
    workers: int = 1
    """Ray workers, each with a GPU where `device` is cuda; 0 trains in this process, without Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains; auto takes CUDA where there is a GPU."""
    threads: int = 2
    """Threads of a worker that decode and augment views."""

    def check(self) -> None:
        """Raises ConfigError where a setting cannot be obeyed."""
        for name in ("epochs", "patience", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must be at least 1")
        for name in ("lr", "layer_decay", "clip", "crop", "fraction"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must be above 0")
        for name in ("layer_decay", "crop", "fraction", "flip", "warmup", "drop_path", "intensity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must lie between 0 and 1")
        if self.drop_path == 1:
            raise ConfigError("finetune.drop_path 1 would leave nothing of the last block; 0.1 is usual")
        for name in ("weight_decay", "balance", "rotation", "seed", "workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"finetune.{name} {getattr(self, name)} must not be below 0")
        if self.batch < self.workers:
            raise ConfigError(
                f"finetune.batch {self.batch} leaves some of finetune.workers {self.workers} without a study"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What all workers are told: where the shards and the folder are, how to train, and on whom."""

    shards: str
    folder: Path
    config: FinetuneConfig
    parts: Parts
    chooser: str = "val"
    """Who chooses the epoch, in words."""

    @property
    def batch(self) -> int:
        """Studies a step, over all workers."""
        return min(self.config.batch, len(self.parts.train))

    @property
    def per_epoch(self) -> int:
        """Studies an epoch."""
        return len(self.parts.train) // self.batch * self.batch

    def shown(self, done: int = 0) -> int:
        """Studies that the network is yet shown after so many epochs, where nothing stops it early."""
        left = self.config.epochs - done
        return left * (self.per_epoch + len(self.parts.val)) + len(self.parts.test)


def finetune(source: Source, shards: str | Path, config: FinetuneConfig, out: Path) -> Answers:
    """The test split's scores (logits) by the source's backbone after fine-tuning on the training split.

    Works in `out`/finetune, in a folder for each (settings, backbone, shards): stopped on the way it goes on
    from the epoch before, and once finished it answers at once. Findings without both classes in train and in
    test are named in `left_out`. Without a validation split, a fifth of the training patients chooses the epoch.

    Raises ConfigError for a source without a backbone or settings that cannot be obeyed, FeaturesError where
    train or test is empty or shares a patient with another split, TrainingError where the loss becomes no number
    or workers are lost.
    """
    config.check()
    if source.backbone is None:
        raise ConfigError(f"{source.name} has no backbone to fine-tune; leave it out of the task finetune")
    parts = labels_of(shards, config)
    if not parts.test.findings:
        return Answers((), parts.test.patients, parts.test.labels, parts.test.labels, parts.left_out)
    folder = Path(out).resolve() / "finetune" / _name_of(source, parts, config)
    if not (folder / RESULT).exists():
        _trained(source, shards, folder, config, parts)
    told = json.loads((folder / RESULT).read_text())
    return Answers(
        findings=parts.test.findings,
        patients=parts.test.patients,
        truth=parts.test.labels,
        scores=np.array(told["scores"], np.float32),
        left_out=parts.left_out,
        facts=told["facts"],
    )


def _trained(source: Source, shards: str | Path, folder: Path, config: FinetuneConfig, parts: Parts) -> None:
    """Leaves the result in the folder, and nothing else of what was needed for it."""
    from ...platform.models.backbone import save_backbone
    from .tuning import told_of

    # Ray's workers stand in another folder.
    place = str(shards) if "://" in str(shards) else str(Path(shards).resolve())
    chooser = "val" if load_manifest(shards).studies("val") else "a fifth of the training patients"
    task = Task(place, folder, config, parts, chooser)
    if task.batch < config.workers:
        raise ConfigError(
            f"finetune.workers {config.workers} are more than the {task.batch} training studies; lower them"
        )
    save_backbone(folder / START, source.backbone)
    with Progress(f"finetune {source.name}", total=task.shown(told_of(folder)["epochs"])) as progress:

        def report(shown: int, told: Mapping[str, float]) -> None:
            progress.advance(max(0, shown - progress.done), **told)

        (_on_ray if config.workers else _here)(task, report)
        progress.total = progress.done  # stopped early, it is finished all the same
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != RESULT:
            path.unlink()


def _name_of(source: Source, parts: Parts, config: FinetuneConfig) -> str:
    """Of the folder: equal where the answer would be, so where it trains does not count."""
    told = replace(config, workers=1, device="auto", threads=1)
    whole = f"{source.digest} {parts.test.manifest} {digest(told)}"
    return blake2b(whole.encode(), digest_size=8).hexdigest()


def labels_of(shards: str | Path, config: FinetuneConfig) -> Parts:
    """Who teaches, who chooses the epoch and who is asked: tables of labels, without vectors.

    Training studies of which nothing is known are left out, as they teach nothing. Raises FeaturesError as
    `parts_of` does.
    """
    manifest = load_manifest(shards)
    studies = [replace(study, views=()) for split in SPLITS for study in read(shards, split)]
    labels = [[study.labels.get(name, math.nan) for name in manifest.findings] for study in studies]
    whole = Features(
        keys=tuple(study.key for study in studies),
        patients=tuple(study.patient for study in studies),
        splits=tuple(study.split for study in studies),
        views=("",) * len(studies),
        vectors=np.empty((len(studies), 0), np.float32),
        findings=manifest.findings,
        labels=np.array(labels, np.float32).reshape(len(studies), len(manifest.findings)),
        backbone="",
        manifest=manifest.digest,
    )
    if not manifest.studies("val"):
        whole = _with_val(whole, config.seed)
    parts = parts_of(whole, config.fraction, config.seed)
    taught = np.flatnonzero(~np.isnan(parts.train.labels).all(axis=1))
    return replace(parts, train=parts.train.rows(taught.tolist()))


def _with_val(whole: Features, seed: int) -> Features:
    """A fifth of the training patients become the validation split, where there are two at least."""
    patients = whole.of("train").patients
    if len(set(patients)) < 2:
        return whole
    fold_of = dict(zip(patients, folds_of(patients, 5, seed), strict=True))
    splits = [
        "val" if split == "train" and fold_of[patient] == 0 else split
        for split, patient in zip(whole.splits, whole.patients, strict=True)
    ]
    return replace(whole, splits=tuple(splits))


def _here(task: Task, report: Report) -> None:
    """Train in this process."""
    import torch

    from .tuning import train

    cuda = task.config.device == "cuda" or (task.config.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ConfigError("finetune.device cuda needs a GPU, here is none; set finetune.device cpu")
    train(task, Place(0, 1, torch.device("cuda" if cuda else "cpu")), report)


def _on_ray(task: Task, report: Report) -> None:
    """Train on Ray's workers."""
    status = task.folder / STATUS
    status.unlink(missing_ok=True)

    def tell(told: Mapping[str, float]) -> None:
        if told:
            report(int(told["shown"]), {name: value for name, value in told.items() if name != "shown"})

    crew = Crew(workers=task.config.workers, device=task.config.device, restarts=RESTARTS)
    with watched(status, tell):
        run_on_ray(_work, task, crew, task.folder, lambda: "run the same command again to go on")


def _work(task: Task, place: Place) -> None:
    """What each Ray worker runs."""
    from .tuning import train

    spoke = 0.0

    def report(shown: int, newest: Mapping[str, float]) -> None:
        nonlocal spoke
        if time.monotonic() - spoke > 0.5:
            atomic_write(task.folder / STATUS, json.dumps({"shown": shown, **newest}))
            spoke = time.monotonic()

    train(task, place, report)
