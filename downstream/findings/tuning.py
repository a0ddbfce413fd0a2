"""One worker's fine-tuning: train an epoch, keep the best weights on validation, save the state, predict test.

N studies of a split, B studies of a batch, F findings.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...platform.core.errors import CheckpointError, TrainingError
from ...platform.core.files import atomic_path, atomic_write
from ...platform.measure.features import Features
from ...platform.measure.metrics import auroc, macro
from ...platform.models.loading import load
from ...platform.training.cluster import WorkerContext
from ...platform.training.parameter_groups import parameter_groups
from ...platform.training.schedules import warmup_cosine
from .batches import FinetuneBatch, StudyLoader, epoch_steps
from .config import FinetuneConfig
from .network import FinetuneNetwork, known_label_loss, positive_weights
from .protocol import TaskSplits

RESULT = "result.json"
"""In a fine-tuning's folder: facts, history and test scores, once it is finished."""

STATE = "state.safetensors"
"""In a fine-tuning's folder: weights, best weights and optimizer after the newest epoch."""

START = "start"
"""In a fine-tuning's folder: the backbone that it starts from."""

ReportProgress = Callable[[int, Mapping[str, float]], None]
"""Called by the first worker with the studies processed since it started, and the newest metrics."""


@dataclass(frozen=True, slots=True, eq=False)
class FinetuneJob:
    """What every worker needs: the shards, the folder of this fine-tuning, its settings and its studies."""

    shards: str
    folder: Path
    config: FinetuneConfig
    splits: TaskSplits
    chosen_on: str = "val"
    """Which studies choose the epoch, in words."""

    @property
    def batch(self) -> int:
        """Studies in a step, over all workers."""
        return min(self.config.batch, len(self.splits.train))

    def studies_left(self, epochs_done: int = 0) -> int:
        """Studies that the network still processes, if nothing stops it early."""
        per_epoch = len(self.splits.train) // self.batch * self.batch + len(self.splits.val)
        return (self.config.epochs - epochs_done) * per_epoch + len(self.splits.test)


def train(
    job: FinetuneJob, place: WorkerContext, report: ReportProgress = lambda studies, metrics: None
) -> None:
    """Train from the newest epoch in the job's folder, or from the start, and write the result there.

    With more than one worker, their process group exists already. Raises TrainingError for a non-finite loss or
    score, CheckpointError for a damaged state, ShardError for damaged shards.
    """
    trainer = FinetuneTrainer(job, place, report)
    trainer.resume()
    while not trainer.finished:
        trainer.train_epoch()
        trainer.keep_best()
        trainer.save()
    trainer.predict_test()


def load_progress(folder: Path) -> dict[str, Any]:
    """Epochs done, best epoch, seconds and history of a fine-tuning. Raises CheckpointError for a damaged state."""
    from safetensors import SafetensorError, safe_open

    path = folder / STATE
    if not path.exists():
        return {"epochs": 0, "best_epoch": 0, "seconds": 0.0, "history": []}
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["told"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: damaged; remove it, and the fine-tuning starts anew") from None


class FinetuneTrainer:
    """The steps of a fine-tuning on one worker, and the state between epochs."""

    def __init__(self, job: FinetuneJob, place: WorkerContext, report: ReportProgress) -> None:
        self.job, self.place, self.report = job, place, report
        config, train_split = job.config, job.splits.train
        backbone = load(job.folder / START)
        self.network = FinetuneNetwork(backbone, len(train_split.findings), config).to(place.device)
        self.module: nn.Module = self.network
        if place.world_size > 1:
            self.module = DistributedDataParallel(self.network)
        groups = parameter_groups(self.network, config.layer_decay)
        for group in groups:
            group["weight_decay"] = config.weight_decay if group["rule"].decays else 0.0
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.loader = StudyLoader(job.shards, config, backbone.side, len(backbone.vit.blocks))
        weight_F = positive_weights(train_split.labels, config.balance)
        self.weight_F = torch.tensor(weight_F, dtype=torch.float32, device=place.device)
        self.best = self._weights()
        self.progress = load_progress(job.folder)
        self.processed = 0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none was better for as long as the patience."""
        done, config = self.progress["epochs"], self.job.config
        return done >= config.epochs or done - self.progress["best_epoch"] >= config.patience

    def train_epoch(self) -> None:
        """One pass over the training studies. Raises TrainingError for a non-finite loss."""
        began, config, split = time.monotonic(), self.job.config, self.job.splits.train
        epoch, world = self.progress["epochs"], self.place.world_size
        steps = epoch_steps(len(split), self.job.batch, config.seed, epoch)
        local_steps = [step[self.place.rank :: world] for step in steps]
        batches = self.loader.batches(([split.keys[row] for row in rows] for rows in local_steps), epoch)
        self._set_mode(training=True)
        total = torch.zeros((), device=self.place.device)
        for number, batch in enumerate(batches):
            self._set_learning_rate(epoch * len(steps) + number, config.epochs * len(steps))
            known = max(1, int((~np.isnan(split.labels[steps[number]])).sum()))
            logits_BF = self.module(*self._inputs(batch))
            labels_BF = torch.from_numpy(split.labels[local_steps[number]]).to(logits_BF.device)
            loss = known_label_loss(logits_BF, labels_BF, self.weight_F) / known
            self.optimizer.zero_grad()
            (loss * world).backward()  # gradients are averaged over workers, but the loss is a sum over them
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
            self.optimizer.step()
            total += loss.detach()
            self._advance(self.job.batch)
        if world > 1:
            dist.all_reduce(total)
        mean = total.item() / len(steps)
        if not math.isfinite(mean):
            raise TrainingError(
                f"epoch {epoch + 1}: non-finite loss; lower finetune.lr ({config.lr:g}) and run again"
            )
        self.progress["epochs"] = epoch + 1
        self.progress["seconds"] += time.monotonic() - began
        self.progress["history"].append({"epoch": epoch + 1, "loss": mean})

    def keep_best(self) -> None:
        """Keep the weights if their validation AUROC is the highest so far, or where AUROC is undefined."""
        began, split = time.monotonic(), self.job.splits.val
        value = macro(auroc(split.labels, self._scores(split))) if len(split) else math.nan
        earlier = [line["val_auroc"] for line in self.progress["history"][:-1]]  # all known, or none
        if math.isnan(value) or not earlier or value > max(earlier):
            self.progress["best_epoch"] = self.progress["epochs"]
            self.best = self._weights()
        self.progress["history"][-1]["val_auroc"] = None if math.isnan(value) else value
        self.progress["seconds"] += time.monotonic() - began

    def predict_test(self) -> None:
        """Score the test split with the best weights; the first worker writes the result."""
        self.network.load_state_dict(self.best)
        scores_NF = self._scores(self.job.splits.test)
        if self.place.rank:
            return
        history, best = self.progress["history"], self.progress["best_epoch"]
        val_auroc = history[best - 1]["val_auroc"]
        facts = {
            "epochs": self.progress["epochs"],
            "best_epoch": best,
            "chosen": "the last epoch, as validation has no finding with both classes",
            **self.job.splits.facts,
            "trainable": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            "workers": max(1, self.place.world_size),
            "seconds": round(self.progress["seconds"], 1),
        }
        if val_auroc is not None:
            facts |= {
                "chosen": f"best macro AUROC on {self.job.chosen_on}",
                "val_auroc": round(val_auroc, 4),
            }
        result = {"facts": facts, "history": history, "scores": scores_NF.tolist()}
        atomic_write(self.job.folder / RESULT, json.dumps(result) + "\n")

    def save(self) -> None:
        """Write the state after an epoch, atomically, from the first worker."""
        if self.place.rank:
            return
        from safetensors.torch import save_file

        tensors = {f"now.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        with atomic_path(self.job.folder / STATE) as temporary:
            save_file(tensors, temporary, metadata={"told": json.dumps(self.progress)})

    def resume(self) -> None:
        """Load the state after the newest epoch, where there is one."""
        from safetensors.torch import load_file

        if not self.progress["epochs"]:
            return
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "adam": {}}
        for name, value in load_file(self.job.folder / STATE).items():
            part, _, name_within = name.partition(".")
            parts[part][name_within] = value
        self.network.load_state_dict(parts["now"])
        self.best = {name: value.to(self.place.device) for name, value in parts["best"].items()}
        state = self.optimizer.state_dict()
        for name, value in parts["adam"].items():
            number, _, kind = name.partition(".")
            state["state"].setdefault(int(number), {})[kind] = value
        self.optimizer.load_state_dict(state)

    @torch.no_grad()
    def _scores(self, split: Features) -> np.ndarray:
        """Logits of all studies of a split, (N, F) float32, the same on every worker."""
        self._set_mode(training=False)
        local = np.arange(self.place.rank, len(split), self.place.world_size)
        steps = [local[first : first + self.job.batch] for first in range(0, len(local), self.job.batch)]
        scores_NF = torch.zeros(split.labels.shape, device=self.place.device)
        batches = self.loader.batches([split.keys[row] for row in rows] for rows in steps)
        for rows, batch in zip(steps, batches, strict=True):
            scores_NF[torch.from_numpy(rows).to(scores_NF.device)] = self.network(*self._inputs(batch))
            self._advance(min(len(rows) * self.place.world_size, len(split) - int(rows[0])))
        if self.place.world_size > 1:
            dist.all_reduce(scores_NF)
        if not scores_NF.isfinite().all():
            raise TrainingError(f"non-finite scores of {split.splits[0]}; lower finetune.lr and run again")
        return scores_NF.cpu().numpy()

    def _inputs(self, batch: FinetuneBatch) -> tuple[Tensor, ...]:
        """A batch on the device, as the arguments of the network."""
        arrays = [batch.images, batch.counts]
        if batch.drop_draws is not None and self.job.config.drop_path:
            arrays.append(batch.drop_draws)
        return tuple(torch.from_numpy(array).to(self.place.device) for array in arrays)

    def _set_mode(self, *, training: bool) -> None:
        self.network.train(training)
        blocks: Any = self.network.backbone.vit.blocks  # timm's, whose attributes are not typed
        for block in blocks:
            # With gradients, plain products are faster than the fused kernel on a CPU.
            block.attn.fused_attn = self.place.device.type == "cuda" or not training

    def _set_learning_rate(self, step: int, steps: int) -> None:
        rate = warmup_cosine(step, steps, peak=self.job.config.lr, warmup=self.job.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rule"].lr_factor

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def _advance(self, studies: int) -> None:
        """Report that all workers together have processed so many studies more."""
        self.processed += studies
        if self.place.rank == 0:
            newest = self.progress["history"][-1] if self.progress["history"] else {}
            metrics = {name: value for name, value in newest.items() if value is not None}
            self.report(self.processed, metrics)
