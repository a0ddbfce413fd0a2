"""The training of one worker, from its first step to the exported backbone."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..platform.core.config import digest, flat, from_json, to_json
from ..platform.core.errors import CheckpointError, TrainingError
from ..platform.core.files import atomic_write
from ..platform.core.revision import git_revision
from ..platform.core.runs import Run, open_run
from ..platform.data.shards import Manifest, load_manifest
from ..platform.models.backbone import Card, random_backbone, resized, save_backbone
from ..platform.training import checkpoint
from ..platform.training.cluster import Place
from .batches.batch import CropBatch
from .batches.crops import seed_of
from .batches.device_crops import WholeViews, crops_on, ships_whole
from .batches.order import CropDataset, Order, batch_again, loader_of
from .distillation.distiller import LOSS_NAMES, Distiller, of_all_ranks
from .distillation.engine import Engine
from .recipes import PretrainConfig
from .replay import BadSteps, newest_by, save_bad, too_many_bad
from .start import TEACHER, Start, start_of
from .watch.alarms import Alarms, Verdict, as_values, spread_of, verdict
from .watch.probe import Probe

Report = Callable[[int, Mapping[str, float]], None]
"""Told of each record: step and values, on all workers."""

STATUS = "status.json"
"""In the run's folder: step, newest values and warnings, for whoever shows progress."""


def train(config: PretrainConfig, place: Place, report: Report = lambda step, values: None) -> None:
    """Train from the newest checkpoint in `config.out`, or from the start, to `config.steps`.

    The process group exists already. Leaves `checkpoints/`, `metrics.jsonl` and `backbone/` in `config.out`.
    Raises CheckpointError for a checkpoint of another architecture or one that cannot be written, TrainingError
    for too many bad steps in a row or an alarm whose policy is to stop.
    """
    torch.manual_seed(config.seed)
    manifest = load_manifest(config.shards)
    newest = checkpoint.newest(checkpoints_of(config))
    dataset = CropDataset(
        str(config.shards),
        config.crops,
        config.distill.masks,
        config.crops.global_side // _patch(config),
        config.seed,
        whole=ships_whole(config.crops, place.device),
    )
    order = Order(len(dataset), config.batch, config.seed)
    start = _start(config, newest)
    distiller = Distiller(start.backbone, config.distill)
    start.give(distiller)
    distiller = distiller.to(place.device)
    if newest is None and config.distill.spread_head and not start.has_heads:
        _spread_heads(distiller, dataset, order, place)
    engine = Engine(
        distiller.student,
        config.optim,
        batch=config.batch,
        world=place.world,
        steps=config.steps,
        device=place.device,
        frozen=start.warmup,
    )
    probe = Probe(str(config.shards), config.probe, manifest.findings)
    with _record(config, manifest) as run:
        run.dataset(manifest.name, manifest.digest, "pretraining", dict(manifest.counts))
        training = _Training(config, place, dataset, order, distiller, engine, probe, run, report)
        first = training.load(newest) if newest else 0
        try:
            while (again := training.go(first)) is not None:
                first = again
        finally:
            engine.wait()
        place.wait()
        if place.rank == 0:
            card = _export(config, distiller, manifest)
            _tell_models(config, run, card)
    place.wait()


class _Training:
    """What a step does, and what is done every so many steps."""

    def __init__(
        self,
        config: PretrainConfig,
        place: Place,
        dataset: CropDataset,
        order: Order,
        distiller: Distiller,
        engine: Engine,
        probe: Probe,
        run: Run,
        report: Report,
    ) -> None:
        self.config, self.place, self.dataset, self.order = config, place, dataset, order
        self.distiller, self.engine, self.probe, self.run, self.report = distiller, engine, probe, run, report
        self.window = _Window(config.log_every, place.device)
        self.alarms = Alarms(
            config.alarms,
            prototypes=config.distill.head.prototypes,
            width=distiller.student.backbone.width,
            batch=config.batch,
            steps=config.steps,
        )
        self.bad = BadSteps(config.bad_in_a_row)
        self.rewinds = 0
        self.warned: list[str] = []
        self.auroc: float | None = None

    def go(self, first: int) -> int | None:
        """Train from a step to the end: None; or the step to go on from, where an alarm took the training back."""
        if first == 0 and self.rewinds == 0 and self.config.alarms.policy == "rewind":
            self._save(0)
        batches = loader_of(
            self.dataset,
            self.order,
            first=first,
            steps=self.config.steps,
            rank=self.place.rank,
            world=self.place.world,
            processes=self.config.loaders,
            pinned=self.place.device.type == "cuda",
        )
        self.window.begin(first)
        for step, batch in enumerate(batches, start=first):
            self._step(step, batch)
            found = self._records(step + 1)
            if found.deed == "rewind":
                return self._back(found)
        return None

    def _step(self, step: int, batch: CropBatch | WholeViews) -> None:
        """One batch: losses, update, teacher. Nothing here waits for the device."""
        config, distill, parts = self.config, self.config.distill, self.engine.parts
        settings = self.engine.schedule(step, 0.5**self.rewinds)
        settings["momentum"] = distill.momentum.at(step, config.steps)
        settings["teacher_temperature"] = distill.teacher_temperature.at(step, config.steps)
        told, vectors = [], []
        with self.engine.autocast():
            whole = crops_on(self.place.device, batch, config.crops)
            pieces = whole.parts(parts)
            # What drops out is drawn anew for each part, so that a training that was broken off draws the same.
            seeds = [
                seed_of(config.seed, step, f"part {self.place.rank * parts + part}") for part in range(parts)
            ]
            questions = self.distiller.questions(pieces, settings["teacher_temperature"], seeds)
            for piece, question in zip(pieces, questions, strict=True):
                losses = self.distiller.losses(self.engine.inner, piece, question)
                self.engine.backward(losses.total)
                told.append(losses.values())
                vectors.append(losses.vectors_BD)
        bad = self.engine.step()
        self.distiller.follow(settings["momentum"], bad, self.engine.whole())
        self.window.add(torch.stack(told).mean(0), bad, whole.pairs / len(whole.keys), settings, vectors)

    def _records(self, done: int) -> Verdict:
        """Record, trial and checkpoint where they are due; what becomes of the training."""
        config, last = self.config, done == self.config.steps
        kept = last or done % config.checkpoint_every == 0
        values: dict[str, float] = {}
        # A checkpoint begins a new record, so that a resumed training has the records of one that was not.
        if kept or done % config.log_every == 0:
            values |= self._logged(done)
        if self.probe.useful and (last or (config.probe.every and done % config.probe.every == 0)):
            values |= self._tried()
        found = verdict(config.alarms, alarms := self.alarms.look(done, values), self.rewinds)
        self.warned += [found.text] if found.text else []
        if values:
            self._tell(done, values | as_values(alarms))
        if found.deed == "stop":
            raise TrainingError(f"{found.text}; the checkpoints before are in {checkpoints_of(config)}")
        # Weights with which the newest step was bad may be what is bad.
        if kept and found.deed != "rewind" and not self.bad.in_a_row:
            self._save(done)
        return found

    def _logged(self, done: int) -> dict[str, float]:
        """The means since the last record, over all workers; here the host waits for the device."""
        first, (named, flags, vectors_BD) = self.window.first, self.window.close(self.place)
        found = self.bad.note(first, flags)
        for step in found:
            self._aside(step)
        if self.bad.too_many or (self.bad.in_a_row and done == self.config.steps):
            raise too_many_bad(self.config, found[-1], self.bad.longest)
        told = {"health/bad_steps": float(self.bad.total), "data/studies": float(done * self.config.batch)}
        told["speed/studies_per_second"] = len(flags) * self.config.batch / self.window.seconds
        told |= {f"schedule/{name}": value for name, value in self.window.settings.items()}
        if named:
            told |= {f"loss/{name}": named[name] for name in LOSS_NAMES if name != "teacher_entropy"}
            told |= {
                "health/teacher_entropy": named["teacher_entropy"],
                "health/view_loss_minus_ln_k": named["view"] - math.log(self.config.distill.head.prototypes),
                "data/pairs": named["pairs"],
            }
        if not flags[-1]:
            cosine, rank = spread_of(vectors_BD)
            told |= {"health/mean_cosine": cosine.item(), "health/effective_rank": rank.item()}
        self.window.begin(done)
        return told

    def _tried(self) -> dict[str, float]:
        began = time.monotonic()
        found = self.probe.measure(self.distiller.teacher.backbone, self.engine.autocast())
        self.auroc = found.get("probe/auroc_macro")
        self.window.clock += time.monotonic() - began
        return found

    def _aside(self, step: int) -> None:
        """Make the batch of a bad step anew and write it aside, as its parts were looked at."""
        self.warned.append(f"step {step}: the loss or a gradient was no finite number; the step was skipped")
        if self.place.rank == 0:
            cpu = torch.device("cpu")
            batch = crops_on(
                cpu, batch_again(self.dataset, self.order, step, self.config.steps), self.config.crops
            )
            save_bad(self.config, step, batch.parts(self.engine.parts * self.place.world))

    def _tell(self, done: int, values: Mapping[str, float]) -> None:
        self.run.metrics(done, values)
        self.report(done, values)
        if self.place.rank == 0:
            status = {"step": done, "steps": self.config.steps, "warnings": self.warned, **values}
            atomic_write(self.config.out / STATUS, json.dumps(status))

    def _save(self, step: int) -> None:
        """Begin to write a checkpoint; all workers call this together. It appears once all of it is written."""
        config, place, root = self.config, self.place, checkpoints_of(self.config)
        self.engine.wait()
        if place.rank == 0:
            draft = checkpoint.begin(root, step)
            atomic_write(draft / "config.json", to_json(config))
            atomic_write(draft / POSITION, json.dumps(self._position(step)))
        place.wait()
        state = self.distiller.state_dict()
        followers = {name: value for name, value in state.items() if not name.startswith("student.")}

        def publish() -> None:
            checkpoint.publish(root, step)
            checkpoint.prune(root, config.keep, best_of(root))

        self.engine.save(checkpoint.draft_of(root, step), {TEACHER: followers}, publish)

    def _position(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "workers": self.place.world,
            "manifest": load_manifest(self.config.shards).digest,
            "head_warmup": self.engine.frozen,
            "alarms": self.alarms.state(),
            "bad": self.bad.state(),
            "rewinds": self.rewinds,
            "auroc": self.auroc,
        }

    def load(self, folder: Path) -> int:
        """Back to a checkpoint; the step to go on with."""
        from safetensors.torch import load_file

        check_checkpoint(self.config, folder)
        self.distiller.load_state_dict(load_file(folder / TEACHER), strict=False)
        self.engine.load(folder)
        told = json.loads((folder / POSITION).read_text())
        self.alarms.load(told["alarms"])
        self.bad.load(told["bad"])
        self.rewinds, self.auroc = told["rewinds"], told["auroc"]
        return checkpoint.step_of(folder)

    def _back(self, found: Verdict) -> int:
        """Take the training back to the newest checkpoint before the trouble, at half the learning rate."""
        self.engine.wait()
        self.place.wait()
        folder = newest_by(self.config, found.before - 1)
        if folder is None:
            raise TrainingError(f"{found.text}; no checkpoint is older, so start anew")
        rewinds = self.rewinds + 1
        first = self.load(folder)
        self.rewinds = rewinds
        self.place.wait()
        # The newer ones go first: whoever resumes after a kill here meets the same trouble and the same way back.
        if self.place.rank == 0:
            for path in checkpoints_of(self.config).glob("step_*"):
                if checkpoint.step_of(path) > first:
                    checkpoint.remove(path)
        self.warned.append(f"back to step {first}, the learning rate times {0.5**rewinds:g} from here on")
        self._save(first)  # the halved rate is kept from here on
        return first


class _Window:
    """The steps since the last record: sums on the device, which nothing waits for until it is closed."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.total = torch.zeros(len(LOSS_NAMES) + 1, device=device)
        self.flags = torch.zeros(steps, device=device)
        self.begin(0)

    def begin(self, first: int) -> None:
        """Forget all; the next step is `first`."""
        self.first, self.count, self.clock = first, 0, time.monotonic()
        self.total.zero_()
        self.flags.zero_()

    def add(
        self, losses: Tensor, bad: Tensor, pairs: float, settings: Mapping[str, float], vectors: list[Tensor]
    ) -> None:
        """Losses count where the step was good."""
        told = torch.cat([losses, losses.new_full((1,), pairs)])
        self.total += torch.where(bad > 0, 0.0, told)
        self.flags[self.count] = bad
        self.count += 1
        self.settings, self.vectors = settings, vectors

    def close(self, place: Place) -> tuple[dict[str, float], list[float], Tensor]:
        """Means by name, empty where no step was good; the steps' flags; the newest vectors of all workers."""
        vectors_BD = of_all_ranks(torch.cat(self.vectors)[None])[0]
        if place.world > 1:
            dist.all_reduce(self.total)
        told = torch.cat([self.total / place.world, self.flags[: self.count]]).tolist()
        self.seconds = max(time.monotonic() - self.clock, 1e-9)
        sums, flags = told[: len(self.total)], told[len(self.total) :]
        good = self.count - sum(flags)
        names = (*LOSS_NAMES, "pairs")
        named = {name: value / good for name, value in zip(names, sums, strict=True)} if good else {}
        return named, flags, vectors_BD


POSITION = "position.json"
"""In a checkpoint: where it stands in the training, and what is not in tensors."""


def check_checkpoint(config: PretrainConfig, folder: Path) -> None:
    """Raises CheckpointError where a training with these settings cannot go on from a checkpoint."""
    began = from_json(
        PretrainConfig, (folder / "config.json").read_text(), source=str(folder / "config.json")
    )
    for name in ("backbone", "distill", "crops", "batch", "seed", "head_warmup"):
        if getattr(began, name) != getattr(config, name):
            raise CheckpointError(
                f"{folder}: {name} differs from the settings that this training began with; resume with those "
                "of its config.json, or choose another --out"
            )
    told = json.loads((folder / POSITION).read_text())
    if told["manifest"] != load_manifest(config.shards).digest:
        raise CheckpointError(
            f"{folder}: was trained on other shards than {config.shards}; resume with those, or choose another --out"
        )


def checkpoints_of(config: PretrainConfig) -> Path:
    """Where a training keeps its checkpoints."""
    return config.out / "checkpoints"


def best_of(root: Path) -> int | None:
    """The step of the checkpoint with the highest AUROC of the probe at its time; None where none was tried."""
    found = []
    for folder in root.glob("step_*"):
        auroc = json.loads((folder / POSITION).read_text())["auroc"]
        if auroc is not None and math.isfinite(auroc):
            found.append((auroc, checkpoint.step_of(folder)))
    return max(found)[1] if found else None


def _patch(config: PretrainConfig) -> int:
    from .recipes import native_patch

    return config.backbone.patch or native_patch(config.backbone.name)


def _start(config: PretrainConfig, newest: Path | None) -> Start:
    """What the training began with; of a resumed one only the shape, so that the source is not needed again."""
    if newest is None:
        return start_of(config)
    told = json.loads((newest / POSITION).read_text())
    return Start(random_backbone(config.backbone, config.seed), warmup=told["head_warmup"])


def _spread_heads(distiller: Distiller, dataset: CropDataset, order: Order, place: Place) -> None:
    sample = replace(order, batch=min(order.studies, 256))
    batch = batch_again(dataset, sample, 0, 1)
    distiller.spread_heads(crops_on(place.device, batch, dataset.crops))


def _record(config: PretrainConfig, manifest: Manifest) -> Run:
    tags = {
        "manifest": manifest.digest,
        "config": digest(config),
        "seed": config.seed,
        "views": _views(config),
    }
    name = f"{config.recipe or 'custom'}-{config.seed}"
    return open_run(config.out, experiment="vetdino/pretrain", name=name, params=flat(config), tags=tags)


def _views(config: PretrainConfig) -> str:
    return "multi" if config.crops.p_multiview > 0 else "single"


def _tell_models(config: PretrainConfig, run: Run, card: Card) -> None:
    """The checkpoints that were kept, and the backbone, as logged models; the best trial."""
    for folder in sorted(checkpoints_of(config).glob("step_*")):
        seal = hashlib.sha256((folder / checkpoint.SEAL).read_bytes()).hexdigest()
        run.model(f"checkpoint {folder.name}", seal, checkpoint.step_of(folder))
    run.model(card.label, card.digest, config.steps, card.origin)
    run.best("probe/auroc_macro")


def _export(config: PretrainConfig, distiller: Distiller, manifest: Manifest) -> Card:
    """The teacher's backbone as a folder of its own; its card."""
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
            "step": str(config.steps),
            "seed": str(config.seed),
            "views": _views(config),
        },
        metrics={
            name: value
            for name, value in status.items()
            if name.startswith("probe/") and math.isfinite(value)
        },
    )
    draft = config.out / ".backbone"
    shutil.rmtree(draft, ignore_errors=True)
    card = save_backbone(draft, backbone)
    shutil.rmtree(config.out / "backbone", ignore_errors=True)
    draft.rename(config.out / "backbone")
    return card
