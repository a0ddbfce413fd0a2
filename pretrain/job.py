"""The training as a Ray Train job: workers are asked for, watched, and started anew when one is lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..platform.core.config import from_json, to_json
from ..platform.core.errors import ConfigError
from ..platform.core.files import atomic_write
from ..platform.core.progress import Progress
from ..platform.core.tracking import create_database, tracking_address
from ..platform.data.shards import load_manifest
from ..platform.training import checkpoint
from ..platform.training.cluster import Crew, Place, run_on_ray, told_in, watched
from .loop import STATUS, check_checkpoint, checkpoints_of, train
from .recipes import PretrainConfig
from .start import start_of


def pretrain(config: PretrainConfig) -> Path:
    """Train on Ray to the last step; the folder of the exported backbone.

    A Ray that already runs is used (`RAY_ADDRESS`, or inside `ray job submit`), else one is started here and
    stopped afterwards. Raises ConfigError before any worker is asked for where settings quarrel or `out` holds
    another training; TrainingError where the workers failed more often than `restarts` allows.
    """
    config.check()
    config = replace(
        config, shards=_absolute(config.shards), out=config.out.resolve(), start=_start(config.start)
    )
    manifest = load_manifest(config.shards)
    if manifest.studies("train") < config.batch:
        raise ConfigError(
            f"batch {config.batch} is more than the {manifest.studies('train')} training studies; lower it"
        )
    _claim(config)
    create_database(tracking_address(config.out))
    crew = Crew(
        workers=config.workers,
        min_workers=config.min_workers,
        device=config.device,
        threads=config.threads,
        restarts=config.restarts,
    )
    with _shown(config):
        run_on_ray(_work, to_json(config), crew, config.out, lambda: _advice(config))
    return config.out / "backbone"


def _work(told: str, place: Place) -> None:
    """What each Ray worker runs."""
    train(from_json(PretrainConfig, told), place)


def _advice(config: PretrainConfig) -> str:
    if any(checkpoints_of(config).glob("step_*")):
        return f"{config.out} holds a checkpoint: run again with --resume"
    return "run the same command again"


def _claim(config: PretrainConfig) -> None:
    """Make the run's folder ours, or refuse one that holds another training."""
    root = checkpoints_of(config)
    newest = checkpoint.newest(root)
    if config.resume and newest is None:
        raise ConfigError(f"{config.out}: holds no whole checkpoint to resume from; leave out --resume")
    if not config.resume and any(root.glob("step_*")):
        raise ConfigError(
            f"{config.out}: holds a training already; add --resume to go on, or choose another --out"
        )
    if newest is not None:
        check_checkpoint(config, newest)
    else:
        start_of(config)  # a name that is unknown or weights that do not fit are told at once
        # The record of a training that was stopped before its first checkpoint.
        for name in (STATUS, "metrics.jsonl", "run.json"):
            (config.out / name).unlink(missing_ok=True)
    atomic_write(config.out / "config.json", to_json(config))


def _absolute(path: Path) -> Path:
    return path if "://" in str(path) else path.resolve()


def _start(start: str) -> str:
    return str(Path(start).resolve()) if start and Path(start).exists() else start


@contextmanager
def _shown(config: PretrainConfig) -> Iterator[None]:
    """Meanwhile a bar follows what the first worker tells in its status file, and warnings appear once."""
    status = config.out / STATUS
    began = seen = told_in(status).get("step", 0)
    warned: set[str] = set()
    names = {"loss/total": "loss", "probe/auroc_macro": "auroc", "health/teacher_entropy": "entropy"}
    with Progress("pretrain", total=(config.steps - began) * config.batch, unit="studies") as progress:

        def tell(told: Mapping[str, Any]) -> None:
            nonlocal seen
            for text in told.get("warnings", ()):
                if text not in warned:
                    print(f"vetdino: warning: {text}", file=sys.stderr, flush=True)
                    warned.add(text)
            now = max(seen, told.get("step", seen))
            notes = {
                short: round(told[name], 3) for name, short in names.items() if told.get(name) is not None
            }
            progress.advance((now - seen) * config.batch, **notes)
            seen = now

        with watched(status, tell):
            yield
