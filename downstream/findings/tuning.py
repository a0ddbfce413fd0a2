"""One worker's part of a fine-tuning: its share of each batch, the network, the epochs, the answer.

What a step sees follows from (seed, epoch, study) alone, so that neither the number of workers nor a stop on
the way changes the answer.

N studies of a split, B studies of a batch, V their views, S side of an image, D width of a study's vector,
L blocks, F findings.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...platform.core.config import atomic_path, atomic_write
from ...platform.core.errors import CheckpointError, ShardError, TrainingError
from ...platform.data.shards import StudyIndex
from ...platform.data.study import SPLITS, Study
from ...platform.measure.features import Features
from ...platform.measure.metrics import auroc, macro
from ...platform.models.backbone import Backbone, letterboxed, load
from ...platform.training.cluster import Place
from .finetune import RESULT, START, STATE, FinetuneConfig, Report, Task

AHEAD = 3
"""Batches that are decoded while one is learnt from."""


def train(task: Task, place: Place, report: Report = lambda shown, told: None) -> None:
    """Train from the newest epoch in the task's folder, or its start, and leave the result there.

    Where there is more than one worker, their process group exists already. Raises TrainingError where the loss
    is no finite number, CheckpointError for a state that cannot be read, ShardError for damaged shards.
    """
    training = _Training(task, place, report)
    training.resume()
    while not training.over:
        training.learn()
        training.choose()
        training.save()
    training.answer()


def order_of(studies: int, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The steps of an epoch: which of the training studies are looked at together, by all workers.

    A permutation cut into batches; the few that are left over wait for another epoch's.

    >>> [len(step) for step in order_of(10, batch=4, seed=0, epoch=0)]
    [4, 4]
    """
    shuffled_N = np.random.default_rng([seed, epoch]).permutation(studies)
    return [shuffled_N[first : first + batch] for first in range(0, studies - batch + 1, batch)]


def augmented(
    pixels_HW: np.ndarray, side: int, config: FinetuneConfig, random: np.random.Generator
) -> np.ndarray:
    """A view as an epoch sees it: (S, S) uint8, letterboxed, cropped, turned, mirrored, its greys changed.

    Black stays black, as the letterbox is.
    """
    part, angle, *shift = random.uniform((config.crop, -1, -1, -1), 1)
    mirrored, gain, gamma = random.uniform((0, -1, -1), 1)
    # Larger than needed, so that the crop is shrunk a little and never blown up.
    large = letterboxed(pixels_HW, round(side / config.crop))
    scale, angle = part * len(large) / side, np.deg2rad(angle * config.rotation)
    turned = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turned @ np.diag([-1.0 if mirrored < config.flip else 1.0, 1.0])
    middle = (len(large) - 1) / 2 + np.array(shift) * (1 - part) * len(large) / 2
    offset = middle - linear.sum(axis=1) * (side - 1) / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(large, np.column_stack([linear, offset]), (side, side), flags=flags)
    grey = np.linspace(0, 1, 256) ** np.exp(gamma * config.intensity) * (1 + gain * config.intensity)
    return cv2.LUT(crop, np.clip(grey * 255 + 0.5, 0, 255).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one worker looks at in one step.

    images: (V, S, S) uint8. counts: (B,) views of each study, which lie side by side. chances: (V, L, 2) in
    0..1, one for each branch of each block, which stochastic depth compares with its rate; None: nothing drops.
    """

    images: np.ndarray
    counts: np.ndarray
    chances: np.ndarray | None

    def __repr__(self) -> str:
        return f"Batch({len(self.counts)} studies, {len(self.images)} views)"


class Reader:
    """Gives studies as batches, decoded in threads ahead of their use. depth: blocks of the network."""

    def __init__(self, shards: str, config: FinetuneConfig, side: int, depth: int) -> None:
        self.config, self.side, self.depth = config, side, depth
        self.where: dict[str, tuple[StudyIndex, int]] = {}
        for split in SPLITS:
            index = StudyIndex(shards, split)
            self.where |= {key: (index, row) for row, key in enumerate(index.keys())}

    def batches(self, steps: Iterable[Sequence[str]], epoch: int | None = None) -> Iterator[Batch]:
        """A batch for each step's keys. epoch: augmented as for that one; None: as they are."""
        with ThreadPoolExecutor(self.config.threads) as pool:
            waiting: deque[list[Future[Any]]] = deque()
            for keys in steps:
                # An index has one place in one open file: what threads do begins after the read.
                studies = [index.load(row) for index, row in (self.where[key] for key in keys)]
                waiting.append([pool.submit(self._made, study, epoch) for study in studies])
                if len(waiting) > AHEAD:
                    yield _batch_of(waiting.popleft())
            while waiting:
                yield _batch_of(waiting.popleft())

    def _made(self, study: Study, epoch: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Views (V, S, S) uint8 of one study and its chances, both drawn for this study and epoch alone."""
        try:
            views = [study.view(index).pixels for index in range(len(study.views))]
        except ValueError:
            raise ShardError(f"study {study.key}: a view is no picture; ingest the archive again") from None
        if epoch is None:
            return np.stack([letterboxed(view, self.side) for view in views]), None
        random = np.random.default_rng([self.config.seed, epoch, *study.key.encode()])
        made = np.stack([augmented(view, self.side, self.config, random) for view in views])
        return made, random.random((len(views), self.depth, 2), np.float32)


def _batch_of(futures: Sequence[Future[Any]]) -> Batch:
    made = [future.result() for future in futures]
    chances = [drawn for _, drawn in made if drawn is not None]
    return Batch(
        images=np.concatenate([views for views, _ in made]),
        counts=np.array([len(views) for views, _ in made]),
        chances=np.concatenate(chances) if chances else None,
    )


class _Drop(nn.Module):
    """Stochastic depth (arXiv 1603.09382) by view, whose draws come with the view and not from the worker."""

    factor_V: Tensor | None = None

    def forward(self, x_VTD: Tensor) -> Tensor:
        return x_VTD if self.factor_V is None else x_VTD * self.factor_V[:, None, None].to(x_VTD.dtype)


class Network(nn.Module):
    """A backbone, the mean over a study's views, and a linear head that begins at zero."""

    def __init__(self, backbone: Backbone, findings: int, config: FinetuneConfig) -> None:
        super().__init__()
        # Built anew: the block's own stochastic depth draws for a worker's batch as a whole.
        card = replace(backbone.card, config=replace(backbone.card.config, drop_path=0.0))
        self.backbone = Backbone(card)
        self.backbone.load_state_dict(backbone.state_dict())
        self.backbone.mask_token.requires_grad_(False)  # nothing is hidden here
        self.pool, self.rate = config.pool, config.drop_path
        self.precision = config.precision
        for block in self.backbone.vit.blocks:
            for name in ("drop_path1", "drop_path2"):
                if hasattr(block, name):
                    setattr(block, name, _Drop())
        width = self.backbone.width * (1 if self.pool == "cls" else 2)
        self.head = nn.Linear(width, findings)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images_VSS: Tensor, counts_B: Tensor, chances_VL2: Tensor | None = None) -> Tensor:
        """Logits (B, F) float32 of studies whose views, uint8, lie side by side."""
        self._drop(chances_VL2)
        on = self.precision == "bfloat16"
        with torch.autocast(images_VSS.device.type, dtype=torch.bfloat16, enabled=on):
            # Without patches the last block is shortened to the CLS token, and with it what may drop.
            patches = self.pool != "cls" or chances_VL2 is not None
            tokens = self.backbone(self.backbone.normalised(images_VSS[:, None]), patches=patches)
        vectors_VD = tokens.cls.float()
        if self.pool != "cls":
            vectors_VD = torch.cat([vectors_VD, tokens.patches.float().mean(dim=1)], dim=1)
        of_V = torch.arange(len(counts_B), device=counts_B.device).repeat_interleave(counts_B)
        sums_BD = vectors_VD.new_zeros(len(counts_B), vectors_VD.shape[1]).index_add(0, of_V, vectors_VD)
        return self.head(sums_BD / counts_B[:, None])

    def _drop(self, chances_VL2: Tensor | None) -> None:
        blocks = self.backbone.vit.blocks
        for number, block in enumerate(blocks):
            rate = self.rate * number / max(1, len(blocks) - 1)
            for branch, name in enumerate(("drop_path1", "drop_path2")):
                drop = getattr(block, name, None)
                if isinstance(drop, _Drop):
                    drop.factor_V = None
                    if chances_VL2 is not None:
                        drop.factor_V = (chances_VL2[:, number, branch] >= rate).float() / (1 - rate)


def groups_of(network: Network, config: FinetuneConfig) -> list[dict[str, Any]]:
    """AdamW's parameter groups, each with `factor`, which multiplies the learning rate.

    MAE (arXiv 2111.06377), appendix A.1: of n blocks, block b = 0..n-1 has layer_decay ** (n - b), the embeddings
    layer_decay ** (n + 1), the last norm and the head 1. One-dimensional weights, tokens and position embeddings
    do not decay.
    """
    depth = len(network.backbone.vit.blocks)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = name.removeprefix("backbone.vit.")
        below = depth + 1
        if inner.startswith("blocks."):
            below = depth - int(inner.split(".")[1])
        elif inner.startswith(("head.", "norm.", "fc_norm.")):
            below = 0
        plain = inner.rsplit(".", 1)[-1] in ("cls_token", "pos_embed", "reg_token") or parameter.ndim < 2
        groups.setdefault((config.layer_decay**below, not plain), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": config.weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]


def rate_at(step: int, steps: int, config: FinetuneConfig) -> float:
    """The learning rate of a step of 0..steps-1: a linear rise, then half a cosine down to nearly 0.

    >>> config = FinetuneConfig(lr=1.0, warmup=0.2)
    >>> [round(rate_at(step, 10, config), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    rise = round(config.warmup * steps)
    if step < rise:
        return config.lr * (step + 1) / rise
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def weights_of(labels_NF: np.ndarray, balance: float) -> np.ndarray:
    """How much a present finding weighs, (F,): known absent over present ones in training, at most `balance`.

    >>> weights_of(np.array([[1, 1, 1], [0, 1, 0], [0, 0, np.nan], [0, np.nan, np.nan]]), balance=2.5)
    array([2.5, 0.5, 1. ])
    """
    ratio_F = (labels_NF == 0).sum(axis=0) / (labels_NF == 1).sum(axis=0)
    return np.minimum(ratio_F, balance) if balance > 1 else np.ones(len(ratio_F))


def loss_of(logits_BF: Tensor, labels_BF: Tensor, weight_F: Tensor) -> Tensor:
    """Sum over known labels of the binary cross-entropy, a present label weighing `weight_F`; NaN is unknown."""
    known_BF = ~labels_BF.isnan()
    each_BF = F.binary_cross_entropy_with_logits(
        logits_BF, labels_BF.nan_to_num(), pos_weight=weight_F, reduction="none"
    )
    return torch.where(known_BF, each_BF, 0.0).sum()


def told_of(folder: Path) -> dict[str, Any]:
    """What a fine-tuning knows of its epochs so far. Raises CheckpointError where its state is damaged."""
    from safetensors import SafetensorError, safe_open

    path = folder / STATE
    if not path.exists():
        return {"epochs": 0, "best_epoch": 0, "seconds": 0.0, "history": []}
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["told"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: damaged; remove it, and the fine-tuning starts anew") from None


class _Training:
    """What an epoch does on one worker, and the state that goes on from epoch to epoch."""

    def __init__(self, task: Task, place: Place, report: Report) -> None:
        self.task, self.place, self.report = task, place, report
        config, parts = task.config, task.parts
        backbone = load(task.folder / START)
        self.network = Network(backbone, len(parts.train.findings), config).to(place.device)
        self.learner: nn.Module = self.network
        if place.world > 1:
            self.learner = DistributedDataParallel(self.network)
        self.adam = torch.optim.AdamW(groups_of(self.network, config), fused=True)
        self.reader = Reader(task.shards, config, backbone.side, len(backbone.vit.blocks))
        weight_F = weights_of(parts.train.labels, config.balance)
        self.weight_F = torch.tensor(weight_F, dtype=torch.float32, device=place.device)
        self.best = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.told = told_of(task.folder)
        self.shown = 0

    @property
    def over(self) -> bool:
        """Whether no further epoch is wanted."""
        done, config = self.told["epochs"], self.task.config
        return done >= config.epochs or done - self.told["best_epoch"] >= config.patience

    def learn(self) -> None:
        """One pass over the training studies."""
        began, config, part = time.monotonic(), self.task.config, self.task.parts.train
        epoch, world = self.told["epochs"], self.place.world
        steps = order_of(len(part), self.task.batch, config.seed, epoch)
        mine = [step[self.place.rank :: world] for step in steps]
        batches = self.reader.batches(([part.keys[row] for row in rows] for rows in mine), epoch)
        self._mode(learning=True)
        total = torch.zeros((), device=self.place.device)
        for number, batch in enumerate(batches):
            rate = rate_at(epoch * len(steps) + number, config.epochs * len(steps), config)
            for group in self.adam.param_groups:
                group["lr"] = rate * group["factor"]
            known = max(1, int((~np.isnan(part.labels[steps[number]])).sum()))
            logits_BF = self.learner(*self._there(batch))
            labels_BF = torch.from_numpy(part.labels[mine[number]]).to(logits_BF.device)
            loss = loss_of(logits_BF, labels_BF, self.weight_F) / known
            self.adam.zero_grad()
            (loss * world).backward()  # the gradients become the mean over workers, and the loss is their sum
            nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
            self.adam.step()
            total += loss.detach()
            self._say(self.task.batch)
        if world > 1:
            dist.all_reduce(total)
        mean = total.item() / len(steps)
        if not math.isfinite(mean):
            raise TrainingError(
                f"epoch {epoch + 1}: the loss is no finite number; lower finetune.lr ({config.lr:g}) and run again"
            )
        self.told["epochs"] = epoch + 1
        self.told["seconds"] += time.monotonic() - began
        self.told["history"].append({"epoch": epoch + 1, "loss": mean})

    def choose(self) -> None:
        """Keep the weights where they order the validation split better than any before, or nobody can say."""
        began, part = time.monotonic(), self.task.parts.val
        found = macro(auroc(part.labels, self._scores(part))) if len(part) else math.nan
        earlier = [line["val_auroc"] for line in self.told["history"][:-1]]  # all known, or none
        if math.isnan(found) or not earlier or found > max(earlier):
            self.told["best_epoch"] = self.told["epochs"]
            self.best = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.told["history"][-1]["val_auroc"] = None if math.isnan(found) else found
        self.told["seconds"] += time.monotonic() - began

    def answer(self) -> None:
        """The test split by the best weights; the first worker writes the result."""
        self.network.load_state_dict(self.best)
        scores_NF = self._scores(self.task.parts.test)
        if self.place.rank:
            return
        history, best = self.told["history"], self.told["best_epoch"]
        found = history[best - 1]["val_auroc"]
        facts = {
            "epochs": self.told["epochs"],
            "best_epoch": best,
            "chosen": "the last epoch, as validation has no finding with both classes",
            **self.task.parts.facts,
            "trainable": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            "workers": max(1, self.place.world),
            "seconds": round(self.told["seconds"], 1),
        }
        if found is not None:
            facts |= {"chosen": f"best macro AUROC on {self.task.chooser}", "val_auroc": round(found, 4)}
        told = {"facts": facts, "history": history, "scores": scores_NF.tolist()}
        atomic_write(self.task.folder / RESULT, json.dumps(told) + "\n")

    def save(self) -> None:
        """The first worker writes the state after an epoch, whole or not at all."""
        if self.place.rank:
            return
        from safetensors.torch import save_file

        tensors = {f"now.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for number, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        with atomic_path(self.task.folder / STATE) as temporary:
            save_file(tensors, temporary, metadata={"told": json.dumps(self.told)})

    def resume(self) -> None:
        """Go on after the newest epoch, where there is one."""
        from safetensors.torch import load_file

        if not self.told["epochs"]:
            return
        tensors = load_file(self.task.folder / STATE)
        of = lambda kind: {
            name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)
        }
        self.network.load_state_dict(of("now."))
        self.best = {name: value.to(self.place.device) for name, value in of("best.").items()}
        adam = self.adam.state_dict()
        for name, value in of("adam.").items():
            number, _, kind = name.partition(".")
            adam["state"].setdefault(int(number), {})[kind] = value
        self.adam.load_state_dict(adam)

    @torch.no_grad()
    def _scores(self, part: Features) -> np.ndarray:
        """Logits of all studies of a part, (N, F) float32, on every worker."""
        self._mode(learning=False)
        mine = np.arange(self.place.rank, len(part), self.place.world)
        steps = [mine[first : first + self.task.batch] for first in range(0, len(mine), self.task.batch)]
        scores_NF = torch.zeros(part.labels.shape, device=self.place.device)
        batches = self.reader.batches([part.keys[row] for row in rows] for rows in steps)
        for rows, batch in zip(steps, batches, strict=True):
            scores_NF[torch.from_numpy(rows).to(scores_NF.device)] = self.network(*self._there(batch))
            self._say(min(len(rows) * self.place.world, len(part) - int(rows[0])))
        if self.place.world > 1:
            dist.all_reduce(scores_NF)
        if not scores_NF.isfinite().all():
            raise TrainingError(
                f"scores of {part.splits[0]} are no finite numbers; lower finetune.lr and run again"
            )
        return scores_NF.cpu().numpy()

    def _there(self, batch: Batch) -> tuple[Tensor, ...]:
        """A batch on the device, as the network takes it."""
        given = [batch.images, batch.counts]
        if batch.chances is not None and self.task.config.drop_path:
            given.append(batch.chances)
        return tuple(torch.from_numpy(array).to(self.place.device) for array in given)

    def _mode(self, *, learning: bool) -> None:
        self.network.train(learning)
        for block in self.network.backbone.vit.blocks:
            # Where gradients flow, plain products beat the fused kernel on a CPU.
            block.attn.fused_attn = self.place.device.type == "cuda" or not learning

    def _say(self, studies: int) -> None:
        """The network was shown so many more, by all workers together."""
        self.shown += studies
        if self.place.rank == 0:
            newest = self.told["history"][-1] if self.told["history"] else {}
            self.report(self.shown, {name: value for name, value in newest.items() if value is not None})
