"""The training loop of one worker, from its first step to the exported backbone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

from ..platform.core.errors import TrainingError
from ..platform.core.files import atomic_write
from ..platform.core.runs import Run
from ..platform.training import checkpoint
from ..platform.training.cluster import WorkerContext, report_stage, report_warning
from .bad_batches import save_bad_batch
from .bad_steps import BadSteps, too_many_bad_steps
from .batches.batch import CropBatch
from .batches.device_crops import PlannedBatch, crops_on_device
from .batches.seeds import derived_seed
from .build import Trainer, build_trainer
from .checkpoints import Checkpoints, LoopState, checkpoints_folder, newest_checkpoint_at
from .config import TrainingConfig
from .data_warnings import data_warnings
from .export import export_network, log_models, open_training_run, purpose
from .preemption import Preemption, notice_text
from .records import STATUS, RecordWindow
from .run_storage import RunStorage
from .watch.alarms import Decision, alarm_metrics, decide

OnRecord = Callable[[int, Mapping[str, float]], None]
"""Called with step and values of each record, on all workers."""


def train(
    config: TrainingConfig, worker: WorkerContext, on_record: OnRecord = lambda step, values: None
) -> None:
    """Train from the newest checkpoint in `config.out`, or from the start, to `config.steps`.

    The process group exists already. Writes `checkpoints/`, `metrics.jsonl` and `backbone/` in `config.out`.
    Raises CheckpointError for a checkpoint of another architecture or one that cannot be written, TrainingError
    for too many bad steps in a row or an alarm whose policy is to stop.
    """
    storage = RunStorage(config)
    storage.on_warning = partial(report_warning, storage.folder / STATUS, worker)
    storage.pull()
    worker.barrier()  # nobody begins a checkpoint while another clears what a killed training left of one
    try:
        _train(config, worker, on_record, storage)
    except Exception:
        if worker.rank == 0:
            storage.try_push_record()  # what explains the error: the last records, and bad batches to replay
        raise
    if worker.rank == 0:
        storage.push_record()
    worker.barrier()


def _train(config: TrainingConfig, worker: WorkerContext, on_record: OnRecord, storage: RunStorage) -> None:
    status = storage.folder / STATUS
    report_stage(status, worker, "loading the network and the studies")
    newest = checkpoint.newest(checkpoints_folder(config))
    trainer = build_trainer(config, worker, newest)
    mixture = trainer.mixture
    with open_training_run(config, mixture, checkpoint.step_of(newest) if newest else 0) as run:
        for manifest in mixture.manifests:
            run.log_dataset(manifest.name, manifest.digest, purpose(config), dict(manifest.counts))
        loop = TrainingLoop(trainer, run, on_record)
        first = loop.checkpoints.load(newest) if newest else 0
        record = min(config.steps, (first // config.log_every + 1) * config.log_every)
        report_stage(status, worker, f"the first steps; the first record comes after step {record}")
        try:
            while (rewound_to := loop.run_from(first)) is not None:
                first = rewound_to
        finally:
            trainer.engine.wait()
        loop.preemption.wait()
        worker.barrier()
        report_stage(status, worker, "exporting the backbone")
        network = trainer.distiller.network(trainer.engine.full_parameters())
        if worker.rank == 0:
            card = export_network(config, network, mixture)
            log_models(config, run, card)
            storage.push_backbone()
        report_stage(status, worker, "")
    loop.checkpoints.storage.wait()


class TrainingLoop:
    """The steps, and what is done every so many steps: record, probe, checkpoint, rewind."""

    def __init__(self, trainer: Trainer, run: Run, on_record: OnRecord) -> None:
        config, worker = trainer.config, trainer.worker
        self.config, self.worker, self.trainer = config, worker, trainer
        self.distiller, self.engine, self.probe = trainer.distiller, trainer.engine, trainer.probe
        self.mlflow_run, self.on_record = run, on_record
        self.window = RecordWindow(config, self.distiller, worker.device, worker.world_size)
        self.state = LoopState(trainer.alarms, BadSteps(config.bad_in_a_row))
        self.checkpoints = Checkpoints(
            config, worker, trainer.mixture, self.distiller, self.engine, self.state
        )
        self.warnings = data_warnings(config, trainer.mixture)
        self.checkpoints.storage.on_warning = self._warn
        self.alarms = 0
        self.preemption = Preemption(worker)

    def run_from(self, first: int) -> int | None:
        """Train from a step to the end; returns the step to continue from if an alarm rewound the training."""
        if first == 0 and self.state.rewinds == 0 and self.state.alarms.config.policy == "rewind":
            self.checkpoints.save(0)
        self.window.begin(first)
        for step, batch in enumerate(self.window.timed(self.trainer.batches(first)), start=first):
            self._step(step, batch)
            decision = self._after_step(step + 1)
            if decision.action == "rewind":
                return self._rewind(decision)
        return None

    def _step(self, step: int, batch: CropBatch | PlannedBatch) -> None:
        """One batch: targets, losses, gradients, update, EMA of the teacher. Nothing here waits for the device."""
        config, count = self.config, self.engine.micro_batches
        settings = self.engine.schedule(step, 0.5**self.state.rewinds)
        settings |= self.distiller.settings_at(step, config.steps)
        losses, vectors = [], []
        with self.engine.autocast():
            crops = crops_on_device(self.worker.device, batch, config.crops)
            micro_batches = crops.split(count)
            # Stochastic depth has a seed for each micro-batch, so that a resumed training draws the same.
            first = self.worker.rank * count
            seeds = [derived_seed(config.seed, step, f"part {first + index}") for index in range(count)]
            targets = self.distiller.step_targets(micro_batches, settings, seeds)
            for micro_batch, wanted in zip(micro_batches, targets, strict=True):
                loss = self.distiller.losses(self.engine.model, micro_batch, wanted)
                self.engine.backward(loss.total)
                losses.append(loss.values())
                vectors.append(loss.vectors_BD)
        bad = self.engine.step()
        self.distiller.after_step(settings, bad, self.engine.full_parameters())
        means = torch.stack(losses).mean(0)
        self.window.add(means, bad, crops.pairs / len(crops.keys), settings, vectors)

    def _after_step(self, done: int) -> Decision:
        """Record, probe and checkpoint when they are due; returns what the alarms decide."""
        config, last = self.config, done == self.config.steps
        preempted = self.preemption.is_due()
        checkpoint_due = last or preempted or done % config.checkpoint_every == 0
        values: dict[str, float] = {}
        # A checkpoint begins a new record, so that a resumed training has the records of one that was not.
        if checkpoint_due or done % config.log_every == 0:
            values |= self._record(done)
        if self.probe.has_studies and (last or (config.probe.every and done % config.probe.every == 0)):
            values |= self._run_probe()
        alarms = self.state.alarms.check(done, values)
        self.alarms += len(alarms)
        decision = decide(self.state.alarms.config, alarms, self.state.rewinds)
        if decision.text:
            self.warnings.append(decision.text)
        if values:
            self._log(done, values | alarm_metrics(alarms))
        if decision.action == "stop":
            raise TrainingError(
                f"{decision.text}; the checkpoints before are in {checkpoints_folder(config)}"
            )
        # After a bad step the weights themselves may be the cause.
        if checkpoint_due and decision.action != "rewind" and not self.state.bad_steps.in_a_row:
            self.checkpoints.save(done)
            self.preemption.saved()
            if preempted:
                self._warn(notice_text(self.preemption.known, done))
        return decision

    def _record(self, done: int) -> dict[str, float]:
        """The metrics since the last record, over all workers; here the host waits for the device."""
        bad_steps, first = self.state.bad_steps, self.window.first
        flags, metrics = self.window.close()
        bad = bad_steps.count(first, flags)
        for step in bad:
            self.warnings.append(f"step {step}: the loss or a gradient was not finite; the step was skipped")
            if self.worker.rank == 0:
                save_bad_batch(self.config, step, self.trainer.remade_micro_batches(step))
        if bad_steps.too_many or (bad_steps.in_a_row and done == self.config.steps):
            raise too_many_bad_steps(self.config, bad[-1], bad_steps.longest)
        self.window.begin(done)
        studies = float(done * self.config.batch)
        return {"health/bad_steps": float(bad_steps.total), "data/studies": studies} | metrics

    def _run_probe(self) -> dict[str, float]:
        began = time.monotonic()
        report_stage(self.checkpoints.storage.folder / STATUS, self.worker, "evaluating the probe")
        network = self.distiller.network(self.engine.full_parameters())
        metrics = self.probe.evaluate(network, self.engine.autocast())
        self.state.auroc = metrics.get("probe/auroc_macro")
        self.window.exclude(time.monotonic() - began)
        return metrics

    def _log(self, done: int, values: Mapping[str, float]) -> None:
        self.mlflow_run.log_metrics(done, values)
        self.on_record(done, values)
        storage = self.checkpoints.storage
        if self.worker.rank == 0:
            status = {
                "step": done,
                "steps": self.config.steps,
                "warnings": self.warnings,
                "alarms": self.alarms,
                "data_wait": self.window.data_wait,
                "checkpoint_seconds": self.checkpoints.seconds,
                **values,
            }
            atomic_write(storage.folder / STATUS, json.dumps(status))
            storage.push_record_soon()

    def _warn(self, text: str) -> None:
        """Tell of something that cannot wait for the next record."""
        self.warnings.append(text)
        report_warning(self.checkpoints.storage.folder / STATUS, self.worker, text)

    def _rewind(self, decision: Decision) -> int:
        """Load the newest checkpoint before the trouble and halve the learning rate; returns its step."""
        self.engine.wait()
        self.worker.barrier()
        self.checkpoints.storage.pull()
        folder = newest_checkpoint_at(self.config, decision.before - 1)
        if folder is None:
            raise TrainingError(f"{decision.text}; no checkpoint is older, so start again from the beginning")
        rewinds = self.state.rewinds + 1
        first = self.checkpoints.load(folder)
        self.state.rewinds = rewinds
        self.worker.barrier()
        # Newer checkpoints go first: a training resumed after a kill here meets the same trouble and rewinds again.
        self.checkpoints.remove_after(first)
        self.warnings.append(f"back to step {first}, the learning rate times {0.5**rewinds:g} from here on")
        self.checkpoints.save(first)  # so that the halved rate is kept
        return first
