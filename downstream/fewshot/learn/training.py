"""Training of encoders on superpixel episodes, resumable at any step.

Ouyang et al., arXiv 2007.09886, sections 3.2 and 4.1; Ayzenberg et al., arXiv 2403.03273, section 4.

    OUT/encoders.json       which encoder is for which fold and organs, and the scans it was trained on
    OUT/NAME/               trained weights of one encoder, and the state to resume its training from
    OUT/training.json       digests of settings, scans and backbone: the same command again resumes the training
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.scheduler import StepLRScheduler

from ....platform.core.config import digest, flat, to_json
from ....platform.core.device import resolve_device
from ....platform.core.errors import CheckpointError, DataError, TrainingError
from ....platform.core.files import atomic_path, atomic_write
from ....platform.core.progress import Progress
from ....platform.core.runs import Run, open_run
from .config import TrainConfig
from .encoder import TrainableEncoder
from .episodes import Episodes, EpisodeScans
from .jobs import EncoderJob, encoder_jobs
from .losses import episode_losses
from .trained import ENCODERS, save_encoder_index

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone
    from ...volumes.volume import Volumes

EXPERIMENT = "vetdino/fewshot"
"""MLflow experiment of these runs."""

TRAINING, STATE = "training.json", "state.safetensors"


def train(volumes: Volumes, backbone: Backbone, config: TrainConfig, out: Path | str) -> Path:
    """Trains all encoders of `encoder_jobs` and returns `out`; finished ones there are not trained again.

    Stopped at any moment and run again, it ends with the same weights, bit for bit on the same machine. Raises
    DataError if `out` holds something else, ConfigError for folds, groups or a device that do not exist, TrainingError
    for a non-finite loss.
    """
    out = Path(out)
    jobs = encoder_jobs(volumes, config)
    device = resolve_device(config.device)
    _claim_folder(out, volumes, backbone, config)
    scans = EpisodeScans(volumes, config.episodes)
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
        run.log_dataset(volumes.folder.name, volumes.digest, "training", {"scans": len(volumes)})
        rows = []
        for number, job in enumerate(jobs):
            training = EncoderTraining(job, number, scans, backbone, config, out / job.name, device)
            training.run(run, progress)
            rows.append(training.summary(volumes))
        run.log_table("encoders", rows)
        save_encoder_index(out, jobs, volumes, backbone, config)
        run.log_artifact(out / ENCODERS)
    print(f"MLflow: {run.view_hint}")
    return out


@dataclass(slots=True)
class TrainingProgress:
    """How far one encoder is: steps done, seconds they took, first and last logged mean loss."""

    step: int = 0
    seconds: float = 0.0
    first: float = math.nan
    last: float = math.nan


class EncoderTraining:
    """One encoder, trained from its start or from its saved state to the last step."""

    def __init__(
        self,
        job: EncoderJob,
        number: int,
        scans: EpisodeScans,
        backbone: Backbone,
        config: TrainConfig,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.job, self.config, self.folder = job, config, folder
        seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
        self.encoder = TrainableEncoder(backbone, config.learn, config.slices, seed).to(device)
        self.parameters = dict(
            zip(self.encoder.trained_state(), self.encoder.trainable_parameters(), strict=True)
        )
        self.optimizer = torch.optim.SGD(
            self.parameters.values(), config.lr, config.momentum, weight_decay=config.weight_decay
        )
        self.schedule = StepLRScheduler(self.optimizer, config.decay_every, config.decay, t_in_epochs=False)
        self.episodes = Episodes(
            scans, job.scans, (config.seed, number), job.excluded, config.learn.neighbours
        )
        self.progress = TrainingProgress()

    def run(self, run: Run, progress: Progress) -> None:
        """All remaining steps, with logging and saved states; at the end saves the encoder."""
        self._load_state()
        if self.progress.step:
            progress.advance(self.progress.step)
        start, losses = time.monotonic(), []
        for number in range(self.progress.step, self.config.steps):
            losses.append(self._step(number))
            progress.advance(encoder=self.job.name, loss=sum(losses[-1]))
            if (number + 1) % self.config.record_every == 0 or number + 1 == self.config.steps:
                seconds = time.monotonic() - start
                self._log(number + 1, np.mean(losses, axis=0), seconds, run)
                self._save_state()
                start, losses = time.monotonic(), []
        self.encoder.save(self.folder)

    def _step(self, number: int) -> tuple[float, float]:
        """One optimizer step; (segmentation, alignment) loss. Raises TrainingError for a non-finite loss."""
        self.schedule.step_update(number)
        episode = self.episodes[number]
        try:
            losses = episode_losses(self.encoder, episode.support, episode.query, self.config.prototypes)
            values = losses.segmentation.item(), losses.alignment.item()
            if not math.isfinite(sum(values)):
                raise DataError(f"a non-finite loss, {values[0]:g} + {values[1]:g}")
        except DataError as reason:
            raise TrainingError(
                f"{self.job.name}, step {number}, scan {episode.scan}, slice {episode.slice}: {reason}; "
                "lower --lr and give another --out"
            ) from None
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()
        return values

    def _log(self, step: int, mean_losses_2: np.ndarray, seconds: float, run: Run) -> None:
        """Logs the mean losses since the last entry; before the state is saved, so that a kill loses no entry."""
        segmentation, alignment = map(float, mean_losses_2)
        self.progress.seconds += seconds
        metrics = {
            "loss": segmentation + alignment,
            "segmentation": segmentation,
            "alignment": alignment,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds a step": seconds / (step - self.progress.step),
        }
        run.log_metrics(step, {f"{self.job.name}/{name}": value for name, value in metrics.items()})
        if math.isnan(self.progress.first):
            self.progress.first = metrics["loss"]
        self.progress.last, self.progress.step = metrics["loss"], step

    def _save_state(self) -> None:
        """Trained weights, momentum and progress in one file, written atomically."""
        from safetensors.torch import save_file

        tensors = {f"learnt {name}": value for name, value in self.encoder.trained_state().items()}
        for name, parameter in self.parameters.items():
            # Blocks beyond `slices.layers` have no gradient and so no momentum.
            if "momentum_buffer" in self.optimizer.state[parameter]:
                tensors[f"momentum {name}"] = self.optimizer.state[parameter]["momentum_buffer"].cpu()
        with atomic_path(self.folder / STATE) as temporary:
            save_file(tensors, temporary, {"told": json.dumps(asdict(self.progress))})

    def _load_state(self) -> None:
        """Resumes from the saved state if there is one. Raises CheckpointError if it is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / STATE
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                self.progress = TrainingProgress(**json.loads(file.metadata()["told"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.encoder.load_trained_state({name: tensors[f"learnt {name}"] for name in self.parameters})
            for name, parameter in self.parameters.items():
                if f"momentum {name}" in tensors:
                    momentum = tensors[f"momentum {name}"].to(parameter)
                    self.optimizer.state[parameter]["momentum_buffer"] = momentum
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path}: damaged; remove it, and this encoder starts anew") from None

    def summary(self, volumes: Volumes) -> dict[str, Any]:
        """Row of encoders.csv."""
        return {
            "encoder": self.job.name,
            "fold": self.job.fold,
            "organs": ", ".join(volumes.classes[number] for number in self.job.organs),
            "scans": len({name for name, _ in self.episodes.slices}),
            "slices": len(self.episodes),
            "steps": self.progress.step,
            "loss_first": self.progress.first,
            "loss_last": self.progress.last,
            "seconds": round(self.progress.seconds, 1),
        }


def _claim_folder(out: Path, volumes: Volumes, backbone: Backbone, config: TrainConfig) -> None:
    """Marks the folder as this training's. Raises DataError if it is another training's, or holds something else."""
    digests = {"settings": digest(config), "scans": volumes.digest, "backbone": backbone.card.digest}
    path = out / TRAINING
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder to write to")
    if path.is_file():
        saved = json.loads(path.read_text())
        differing = [name for name in digests if saved.get(name) != digests[name]]
        if differing:
            raise DataError(
                f"{out}: holds a training with other {' and '.join(differing)}; give another --out, or remove it"
            )
        return
    entries = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if entries:
        raise DataError(f"{out} holds {entries[0]}, which is not from a training; give another folder")
    atomic_write(out / "config.json", to_json(config))
    atomic_write(path, json.dumps(digests, indent=1) + "\n")
