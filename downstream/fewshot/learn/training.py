"""Training a backbone's additions on superpixel episodes: one encoder for each fold and each group of test organs.

Ouyang et al., arXiv 2007.09886, sections 3.2 and 4.1; Ayzenberg et al., arXiv 2403.03273, section 4. An encoder never
sees the scans that its fold asks about, nor the one that supports them; in Setting II it sees no slice with an organ
of its group either.

    OUT/encoders.json       which encoder answers for which fold and organs, and what it was trained on
    OUT/NAME/               what each of them learnt
    OUT/training.json       whose training it is: run again with the same, it goes on where it stopped
"""

# C channels, h, w grid of features, K a slice with its neighbours, S, T its sides as a network sees it, H, W pixels.

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from timm.scheduler import StepLRScheduler
from torch import Tensor

from ....platform.core.config import digest, flat, nearest, to_json
from ....platform.core.device import resolve_device
from ....platform.core.errors import CheckpointError, ConfigError, DataError, TrainingError
from ....platform.core.files import atomic_path, atomic_write
from ....platform.core.progress import Progress
from ....platform.core.runs import Run, open_run
from ..method.config import PrototypeConfig, SliceConfig
from ..method.protocol import folds_of
from ..method.prototypes import alignment_loss, predict, segmentation_loss
from .config import TrainConfig
from .episodes import Episodes, Look, Shelf
from .learnable import Learnable, learnable_from

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone
    from ...volumes.volume import Volumes

EXPERIMENT = "vetdino/fewshot"
"""Where MLflow keeps these runs."""


ENCODERS, TRAINING, STATE = "encoders.json", "training.json", "state.safetensors"


# One step ----------------------------------------------------------------------------------------


class Losses(NamedTuple):
    """Of one episode, scalars under autograd."""

    segmentation: Tensor
    alignment: Tensor

    @property
    def total(self) -> Tensor:
        return self.segmentation + self.alignment


def losses_of(learnable: Learnable, support: Look, query: Look, prototypes: PrototypeConfig) -> Losses:
    """How far the query's mask is from what the support teaches, and the support's from what that teaches in turn.

    Windows are those of training. Raises DataError where features are not finite.
    """
    images_2KST = learnable.sees(np.stack([support.image, query.image]))
    support_Chw, query_Chw = learnable.tokens(images_2KST)
    masks_1HW = torch.from_numpy(support.mask)[None]
    logits_2hw = predict(query_Chw, support_Chw[None], masks_1HW, prototypes, training=True).logits
    return Losses(
        segmentation_loss(logits_2hw, torch.from_numpy(query.mask), prototypes),
        alignment_loss(query_Chw, support_Chw[None], masks_1HW, logits_2hw, prototypes),
    )


def step(learnable: Learnable, support: Look, query: Look, prototypes: PrototypeConfig) -> Tensor:
    """The loss of one episode, a scalar to call backward of; training and test-time training share it."""
    return losses_of(learnable, support, query, prototypes).total


# Which encoders ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One encoder. organs: class numbers that it will be asked for; never: those whose slices it must not see."""

    name: str
    fold: int
    organs: tuple[int, ...]
    never: tuple[int, ...]
    scans: tuple[str, ...]
    """What it is trained on."""


def jobs_of(volumes: Volumes, config: TrainConfig) -> tuple[Job, ...]:
    """An encoder for each fold, in Setting II for each fold and group; the folds are those of `evaluate`.

    Held out are a fold's queries and, as in the published code, the scan that supports them with one shot; scans that
    nobody labelled are trained on. Raises ConfigError for folds or groups that do not fit.
    """
    labelled = [name for name in volumes.names if volumes.cards[name]["labelled"]]
    groups = groups_of(volumes.classes, config.groups) if config.setting == "II" else [tuple(volumes.classes)]
    jobs = []
    for fold in folds_of(labelled, config.folds):
        held = {*fold.queries, *fold.supports}
        scans = tuple(name for name in volumes.names if name not in held)
        if not scans:
            raise ConfigError(
                f"{len(labelled)} scans in {config.folds} folds leave none to train on; add scans"
            )
        for organs in groups:
            two = config.setting == "II"
            name = f"fold_{fold.number}" + ("_organs_" + "_".join(map(str, organs)) if two else "")
            jobs.append(Job(name, fold.number, organs, organs if two else (), scans))
    return tuple(jobs)


def groups_of(classes: Mapping[int, str], groups: Sequence[str] = ()) -> list[tuple[int, ...]]:
    """Class numbers of each group; see `TrainConfig.groups`. Raises ConfigError for an organ unknown or named twice.

    >>> groups_of({1: "liver", 2: "right kidney", 3: "left kidney"})
    [(1,), (2, 3)]
    >>> groups_of({1: "liver", 2: "spleen", 3: "aorta"}, ["spleen+1"])
    [(1, 2)]
    """
    if not groups:
        kinds: dict[str, list[int]] = defaultdict(list)
        for number, name in classes.items():
            kinds[" ".join(word for word in name.lower().split() if word not in ("left", "right"))].append(
                number
            )
        return [tuple(numbers) for numbers in kinds.values()]
    known = {name.lower(): number for number, name in classes.items()} | {str(n): n for n in classes}
    found: list[tuple[int, ...]] = []
    for group in groups:
        words = [word.strip().lower() for word in group.split("+")]
        for word in words:
            if word not in known:
                raise ConfigError(f"groups: no organ '{word}'; {nearest(word, known)}")
        found.append(tuple(sorted({known[word] for word in words})))
    every = [number for numbers in found for number in numbers]
    if twice := [number for number in every if every.count(number) > 1]:
        raise ConfigError(f"groups: {classes[twice[0]]} is in two of them; each organ has one encoder a fold")
    return found


# The training ------------------------------------------------------------------------------------


def train(volumes: Volumes, backbone: Backbone, config: TrainConfig, out: Path | str) -> Path:
    """Trains all encoders and leaves them in `out`, which it gives back; what is there already is not done again.

    Broken off at any moment and run again, it ends with the same weights, bit for bit on the same machine. Raises
    DataError where `out` holds something else, ConfigError for folds, groups or a device that there are not,
    TrainingError for a loss that is no number.
    """
    out = Path(out)
    jobs = jobs_of(volumes, config)
    device = resolve_device(config.device)
    _claim(out, volumes, backbone, config)
    shelf = Shelf(volumes, config.episodes)
    tags = {
        "backbone": backbone.card.digest,
        "backbone_label": backbone.card.label,
        "manifest": volumes.digest,
        "config": digest(config),
        "seed": config.seed,
        "experiment": "train",
    }
    name = f"train, {backbone.card.label}, {volumes.folder.name}, Setting {config.setting}"
    with (
        open_run(out, experiment=EXPERIMENT, name=name, params=flat(config), tags=tags) as run,
        Progress("episodes", len(jobs) * config.steps, "steps") as progress,
    ):
        run.dataset(volumes.folder.name, volumes.digest, "training", {"scans": len(volumes)})
        lines = []
        for number, job in enumerate(jobs):
            training = _Training(job, number, shelf, backbone, config, out / job.name, device)
            training.go(run, progress)
            lines.append(training.line(volumes))
        run.table("encoders", lines)
        atomic_write(out / ENCODERS, json.dumps(_told(jobs, volumes, backbone, config), indent=1) + "\n")
        run.artifact(out / ENCODERS)
    print(f"MLflow: {run.told}")
    return out


class _Training:
    """One encoder from its start, or from where it was left, to its last step."""

    def __init__(
        self,
        job: Job,
        number: int,
        shelf: Shelf,
        backbone: Backbone,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.job, self.config, self.folder = job, config, folder
        seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
        self.learnable = Learnable(backbone, config.learn, config.slices, seed).to(device)
        self.names = list(self.learnable.learnt())
        self.sgd = torch.optim.SGD(
            self.learnable.trainable(), config.lr, config.momentum, weight_decay=config.weight_decay
        )
        self.rates = StepLRScheduler(self.sgd, config.decay_every, config.decay, t_in_epochs=False)
        self.episodes = Episodes(shelf, job.scans, (config.seed, number), job.never, config.learn.neighbours)
        self.told = {"step": 0, "seconds": 0.0, "first": math.nan, "last": math.nan}

    def go(self, run: Run, progress: Progress) -> None:
        """All steps that are missing; the record, the state and in the end the encoder."""
        self._take_up()
        if self.told["step"]:
            progress.advance(self.told["step"])
        began, window = time.monotonic(), []
        for number in range(self.told["step"], self.config.steps):
            window.append(self._step(number))
            progress.advance(encoder=self.job.name, loss=sum(window[-1]))
            if (number + 1) % self.config.record_every == 0 or number + 1 == self.config.steps:
                seconds = time.monotonic() - began
                self._record(number + 1, np.mean(window, axis=0), seconds, run)
                self._leave()
                began, window = time.monotonic(), []
        self.learnable.save(self.folder)

    def _step(self, number: int) -> tuple[float, float]:
        """One episode, one step; its losses. Raises TrainingError where they are no numbers."""
        self.rates.step_update(number)
        episode = self.episodes[number]
        try:
            losses = losses_of(self.learnable, episode.support, episode.query, self.config.prototypes)
            values = losses.segmentation.item(), losses.alignment.item()
            if not math.isfinite(sum(values)):
                raise DataError(f"a loss of {values[0]:g} + {values[1]:g}")
        except DataError as reason:
            raise TrainingError(
                f"{self.job.name}, step {number}, scan {episode.scan}, slice {episode.slice}: {reason}; "
                "lower --lr and give another --out"
            ) from None
        self.sgd.zero_grad()
        losses.total.backward()
        self.sgd.step()
        return values

    def _record(self, done: int, means_2: np.ndarray, seconds: float, run: Run) -> None:
        """The mean losses since the last record, before the state: a record told twice is better than none."""
        segmentation, alignment = map(float, means_2)
        self.told["seconds"] += seconds
        steps = done - self.told["step"]
        values = {"loss": segmentation + alignment, "segmentation": segmentation, "alignment": alignment}
        values |= {"lr": self.sgd.param_groups[0]["lr"], "seconds a step": seconds / steps}
        run.metrics(done, {f"{self.job.name}/{name}": value for name, value in values.items()})
        if math.isnan(self.told["first"]):
            self.told["first"] = values["loss"]
        self.told |= {"last": values["loss"], "step": done}

    def _leave(self) -> None:
        """The state after a step, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"learnt {name}": value for name, value in self.learnable.learnt().items()}
        for name, parameter in zip(self.names, self.learnable.trainable(), strict=True):
            tensors[f"momentum {name}"] = self.sgd.state[parameter]["momentum_buffer"].cpu()
        with atomic_path(self.folder / STATE) as temporary:
            save_file(tensors, temporary, {"told": json.dumps(self.told)})

    def _take_up(self) -> None:
        """The newest state, where there is one. Raises CheckpointError where it is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / STATE
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                self.told = json.loads(file.metadata()["told"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.learnable.relearn({name: tensors[f"learnt {name}"] for name in self.names})
            for name, parameter in zip(self.names, self.learnable.trainable(), strict=True):
                momentum = tensors[f"momentum {name}"].to(parameter)
                self.sgd.state[parameter]["momentum_buffer"] = momentum
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path}: damaged; remove it, and this encoder starts anew") from None

    def line(self, volumes: Volumes) -> dict[str, Any]:
        """Of encoders.csv."""
        return {
            "encoder": self.job.name,
            "fold": self.job.fold,
            "organs": ", ".join(volumes.classes[number] for number in self.job.organs),
            "scans": len({name for name, _ in self.episodes.places}),
            "slices": len(self.episodes),
            "steps": self.told["step"],
            "loss_first": self.told["first"],
            "loss_last": self.told["last"],
            "seconds": round(self.told["seconds"], 1),
        }


def _claim(out: Path, volumes: Volumes, backbone: Backbone, config: TrainConfig) -> None:
    """Marks the folder as this training's. Raises DataError where it is another's, or holds something else."""
    mine = {"settings": digest(config), "scans": volumes.digest, "backbone": backbone.card.digest}
    path = out / TRAINING
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder to write to")
    if path.is_file():
        theirs = json.loads(path.read_text())
        differs = [name for name in mine if theirs.get(name) != mine[name]]
        if differs:
            raise DataError(
                f"{out}: a training with other {' and '.join(differs)} is there; give another --out, or remove it"
            )
        return
    held = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if held:
        raise DataError(f"{out} holds {held[0]}, which no training left there; give another folder")
    atomic_write(out / "config.json", to_json(config))
    atomic_write(path, json.dumps(mine, indent=1) + "\n")


# What it leaves ----------------------------------------------------------------------------------


def _told(jobs: Sequence[Job], volumes: Volumes, backbone: Backbone, config: TrainConfig) -> dict[str, Any]:
    """What encoders.json says."""
    return {
        "data": volumes.digest,
        "backbone": {"digest": backbone.card.digest, "label": backbone.card.label},
        "setting": config.setting,
        "folds": config.folds,
        "encoders": [
            {"fold": job.fold, "organs": job.organs, "folder": job.name, "scans": job.scans} for job in jobs
        ],
    }


def trained_of(
    out: Path | str,
    backbone: Backbone,
    slices: SliceConfig | None = None,
    *,
    volumes: Volumes | None = None,
    folds: int | None = None,
    device: torch.device | None = None,
) -> dict[tuple[int, int], Learnable]:
    """(fold, class number) -> encoder, of all that `train` left; those of one group are one and the same.

    volumes, folds: what they will be asked about; where given, they must be those of the training, so that no scan
    is asked about by an encoder that has seen it. device: where they go; None: where the backbone is. Raises
    CheckpointError where the training is not finished, damaged or of another backbone, DataError for other scans or
    folds, ConfigError for other features.
    """
    out = Path(out)
    try:
        told = json.loads((out / ENCODERS).read_text())
        encoders = [(one["fold"], one["organs"], out / one["folder"]) for one in told["encoders"]]
        data, trained_folds = told["data"], told["folds"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{out}: no {ENCODERS} here; `vetdino fewshot train` leaves it when all encoders are done, run it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{out / ENCODERS}: damaged; run `vetdino fewshot train` again") from None
    if volumes is not None and volumes.digest != data:
        raise DataError(f"{out}: trained on other scans than {volumes.folder}; train on these")
    if folds is not None and folds != trained_folds:
        raise DataError(
            f"{out}: trained for {trained_folds} folds, {folds} are asked for; give --folds {trained_folds}"
        )
    found: dict[tuple[int, int], Learnable] = {}
    for fold, organs, folder in encoders:
        learnable = learnable_from(backbone, folder, slices).to(device)
        found |= {(fold, organ): learnable for organ in organs}
    return found
