"""The training of one worker, from its first step to the exported backbone."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from ..platform import checkpoint
from ..platform.backbone import (
    Backbone,
    adopt,
    foreign_state,
    load,
    plain_state,
    random_backbone,
    resized,
    save_backbone,
)
from ..platform.config import atomic_write, digest, flat, from_json, to_json
from ..platform.errors import CheckpointError, ConfigError, TrainingError
from ..platform.runs import Run, git_revision, open_run
from ..platform.shards import Manifest, load_manifest
from .batch import CropBatch
from .crops import seed_of
from .data import CropDataset, Order, loader_of
from .distiller import LOSS_NAMES, Distiller
from .engine import Engine
from .probe import Probe
from .recipes import PretrainConfig

Report = Callable[[int, Mapping[str, float]], None]
"""Told of each record: step and values, on all workers."""

STATUS = "status.json"
"""In the run's folder: step and newest values, for whoever shows progress."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one worker stands among all."""

    rank: int
    world: int
    device: torch.device


def train(config: PretrainConfig, place: Place, report: Report = lambda step, values: None) -> None:
    """Train from the newest checkpoint in `config.out`, or from the start, to `config.steps`.

    The process group exists already. Leaves `checkpoints/`, `metrics.jsonl` and `backbone/` in `config.out`.
    Raises CheckpointError for a checkpoint of another architecture, TrainingError for a loss that is no number.
    """
    torch.manual_seed(config.seed)
    manifest = load_manifest(config.shards)
    dataset = CropDataset(
        str(config.shards),
        config.crops,
        config.distill.masks,
        config.crops.global_side // _patch(config),
        config.seed,
    )
    order = Order(len(dataset), config.batch, config.seed)
    distiller = Distiller(start_of(config), config.distill).to(place.device)
    first = _fit_heads(config, distiller, dataset, order, place)
    engine = Engine(
        distiller.student,
        config.optim,
        batch=config.batch,
        world=place.world,
        steps=config.steps,
        device=place.device,
    )
    first = resume(config, place, distiller, engine) if first is None else first
    probe = Probe(str(config.shards), config.probe, manifest.findings)
    batches = loader_of(
        dataset,
        order,
        first=first,
        steps=config.steps,
        rank=place.rank,
        world=place.world,
        processes=config.loaders,
    )
    with _record(config, manifest) as run:
        day = _Day(config, place, distiller, engine, probe, run, report)
        for step, batch in enumerate(batches, start=first):
            day.step(step, batch)
    if place.rank == 0:
        _export(config, distiller, manifest)
    if place.world > 1:
        dist.barrier()


class _Day:
    """What a step does, and what is done every so many steps."""

    def __init__(
        self,
        config: PretrainConfig,
        place: Place,
        distiller: Distiller,
        engine: Engine,
        probe: Probe,
        run: Run,
        report: Report,
    ) -> None:
        self.config, self.place, self.distiller, self.engine = config, place, distiller, engine
        self.probe, self.run, self.report = probe, run, report
        self.total = torch.zeros(len(LOSS_NAMES) + 1, device=place.device)
        self.counted, self.clock = 0, time.monotonic()

    def step(self, step: int, batch: CropBatch) -> None:
        """One batch: losses, update, teacher; then records, trial and checkpoint where they are due."""
        config, done = self.config, step + 1
        distill = config.distill
        # What drops out is drawn anew at each step, so that a training that was broken off draws the same.
        torch.manual_seed(seed_of(config.seed, step, f"worker {self.place.rank}"))
        settings = self.engine.schedule(step)
        settings["momentum"] = distill.momentum.at(step, config.steps)
        settings["teacher_temperature"] = distill.teacher_temperature.at(step, config.steps)
        with self.engine.autocast():
            losses = self.distiller(
                self.engine.inner, batch.to(self.place.device), settings["teacher_temperature"]
            )
        self.engine.step(losses.total)
        self.distiller.follow(settings["momentum"])
        pairs = torch.tensor([batch.pairs / len(batch.keys)], device=self.place.device)
        self.total += torch.cat([torch.stack(list(losses.named().values())).float(), pairs])
        self.counted += 1
        last = done == config.steps
        if done % config.log_every == 0 or last:
            self._log(done, settings)
        trial = self.probe.useful and (last or (config.probe.every and done % config.probe.every == 0))
        kept = done % config.checkpoint_every == 0 or last
        if (trial or kept) and not all(
            value.isfinite().all() for value in self.distiller.state_dict().values()
        ):
            raise _no_number(done)
        if trial:
            self._try(done)
        if kept:
            save(self.config, self.place, self.distiller, self.engine, done)

    def _log(self, done: int, settings: Mapping[str, float]) -> None:
        """One reduced tensor for all workers; the only place where the step waits for the device."""
        mean = self.total / (self.counted * self.place.world)
        if self.place.world > 1:
            dist.all_reduce(mean)
        *values, pairs = mean.tolist()
        named = dict(zip(LOSS_NAMES, values, strict=True))
        if not all(map(torch.isfinite, mean)):
            raise _no_number(done)
        seconds = time.monotonic() - self.clock
        ln_k = torch.log(torch.tensor(float(self.config.distill.head.prototypes))).item()
        told = {f"loss/{name}": named[name] for name in ("total", "view", "patch", "spread")}
        told |= {
            "health/teacher_entropy": named["teacher_entropy"],
            "health/view_loss_minus_ln_k": named["view"] - ln_k,
        }
        told |= {f"schedule/{name}": value for name, value in settings.items()}
        told |= {
            "data/pairs": pairs,
            "data/studies": float(done * self.config.batch),
            "speed/studies_per_second": self.counted * self.config.batch / max(seconds, 1e-9),
        }
        self._tell(done, told)
        self.total.zero_()
        self.counted, self.clock = 0, time.monotonic()

    def _try(self, done: int) -> None:
        began = time.monotonic()
        self._tell(done, self.probe.measure(self.distiller.teacher.backbone, self.engine.autocast()))
        self.clock += time.monotonic() - began

    def _tell(self, done: int, values: Mapping[str, float]) -> None:
        self.run.metrics(done, values)
        self.report(done, values)
        if self.place.rank == 0:
            status = {"step": done, "steps": self.config.steps, **values}
            atomic_write(self.config.out / STATUS, json.dumps(status))


def _no_number(step: int) -> TrainingError:
    return TrainingError(
        f"step {step}: the loss or a weight is no number; lower optim.lr or optim.clip, then --resume goes on "
        "from the checkpoint before"
    )


def start_of(config: PretrainConfig) -> Backbone:
    """The student's backbone before the first step: random by the seed, or the weights of `config.start`."""
    backbone = random_backbone(config.backbone, config.seed)
    if config.start:
        source = Path(config.start)
        if not source.exists():
            raise ConfigError(
                f"start {config.start!r}: there is no such backbone folder or weights file; "
                "for another architecture from random weights set --backbone.name"
            )
        state = foreign_state(source) if source.is_file() else plain_state(load(config.start))
        try:
            adopt(backbone, state)
        except (RuntimeError, CheckpointError):
            raise CheckpointError(
                f"{config.start}: holds another architecture than backbone {config.backbone.name}, "
                f"width {backbone.width}, {len(backbone.vit.blocks)} blocks; set --backbone.* to match it"
            ) from None
    return backbone


def save(config: PretrainConfig, place: Place, distiller: Distiller, engine: Engine, step: int) -> None:
    """Write a checkpoint; all workers call this together."""
    from safetensors.torch import save_file

    root = checkpoints_of(config)
    if place.rank == 0:
        draft = checkpoint.begin(root, step)
        state = {name: value.contiguous() for name, value in distiller.state_dict().items()}
        followers = {name: value for name, value in state.items() if not name.startswith("student.")}
        save_file(followers, str(draft / "teacher.safetensors"))
        atomic_write(draft / "config.json", to_json(config))
        position = {"step": step, "workers": place.world, "manifest": load_manifest(config.shards).digest}
        atomic_write(draft / "position.json", json.dumps(position))
    if place.world > 1:
        dist.barrier()
    engine.save(checkpoint.draft_of(root, step))
    if place.world > 1:
        dist.barrier()
    if place.rank == 0:
        checkpoint.publish(root, step)
        checkpoint.prune(root, config.keep)
    if place.world > 1:
        dist.barrier()


def resume(config: PretrainConfig, place: Place, distiller: Distiller, engine: Engine) -> int:
    """Load the newest whole checkpoint in `config.out`; the step to go on with."""
    from safetensors.torch import load_file

    folder = checkpoint.newest(checkpoints_of(config))
    assert folder is not None
    check_checkpoint(config, folder, place.world)
    distiller.load_state_dict(load_file(folder / "teacher.safetensors"), strict=False)
    engine.load(folder)
    return checkpoint.step_of(folder)


def check_checkpoint(config: PretrainConfig, folder: Path, workers: int) -> None:
    """Raises CheckpointError where a training with these settings cannot go on from a checkpoint."""
    began = from_json(
        PretrainConfig, (folder / "config.json").read_text(), source=str(folder / "config.json")
    )
    for name in ("backbone", "distill", "crops", "batch", "seed"):
        if getattr(began, name) != getattr(config, name):
            raise CheckpointError(
                f"{folder}: {name} differs from the settings that this training began with; resume with those "
                "of its config.json, or choose another --out"
            )
    if began.optim.zero != config.optim.zero:
        raise CheckpointError(
            f"{folder}: was written with optim.zero {began.optim.zero}, not {config.optim.zero}; resume with that"
        )
    told = json.loads((folder / "position.json").read_text())
    if told["manifest"] != load_manifest(config.shards).digest:
        raise CheckpointError(
            f"{folder}: was trained on other shards than {config.shards}; resume with those, or choose another --out"
        )
    if config.optim.zero and told["workers"] != workers:
        raise CheckpointError(
            f"{folder}: its optim.zero {config.optim.zero} state is divided among {told['workers']} workers, not "
            f"{workers}; resume with --workers {told['workers']}"
        )


def checkpoints_of(config: PretrainConfig) -> Path:
    """Where a training keeps its checkpoints."""
    return config.out / "checkpoints"


def _patch(config: PretrainConfig) -> int:
    from .recipes import native_patch

    return config.backbone.patch or native_patch(config.backbone.name)


def _fit_heads(
    config: PretrainConfig, distiller: Distiller, dataset: CropDataset, order: Order, place: Place
) -> int | None:
    """Step 0 for a new training, its heads fitted where that is asked for; None where a checkpoint exists."""
    if checkpoint.newest(checkpoints_of(config)):
        return None
    if config.distill.spread_head:
        sample = replace(order, batch=min(order.studies, 256))
        batches = loader_of(dataset, sample, first=0, steps=1, rank=0, world=1, processes=0)
        distiller.spread_heads(next(iter(batches)).to(place.device))
    return 0


def _record(config: PretrainConfig, manifest: Manifest) -> Run:
    tags = {
        "manifest": manifest.digest,
        "config": digest(config),
        "seed": config.seed,
        "views": "multi" if config.crops.p_multiview > 0 else "single",
    }
    name = f"{config.recipe or 'custom'}-{config.seed}"
    return open_run(config.out, experiment="vetdino/pretrain", name=name, params=flat(config), tags=tags)


def _export(config: PretrainConfig, distiller: Distiller, manifest: Manifest) -> None:
    """The teacher's backbone as a folder of its own."""
    backbone = resized(distiller.teacher.backbone, config.embed_side or config.backbone.side)
    status = json.loads((config.out / STATUS).read_text())
    studies = config.steps * config.batch
    backbone.card = replace(
        backbone.card,
        label=f"{config.recipe or 'custom'}, {studies:,} study presentations, seed {config.seed}",
        origin={
            "recipe": config.recipe,
            "start": Path(config.start).name or "random",
            "manifest": manifest.digest,
            "config": digest(config),
            "revision": git_revision(),
        },
        metrics={
            name: value
            for name, value in status.items()
            if name.startswith("probe/") and math.isfinite(value)
        },
    )
    draft = config.out / ".backbone"
    shutil.rmtree(draft, ignore_errors=True)
    save_backbone(draft, backbone)
    shutil.rmtree(config.out / "backbone", ignore_errors=True)
    draft.rename(config.out / "backbone")
