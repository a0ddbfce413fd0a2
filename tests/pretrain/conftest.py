"""Sixteen small studies in shards, the smallest training on them, and how to start one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vetdino.platform.core.config import to_json
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.loader import CropDataset, crop_loader
from vetdino.pretrain.batches.order import StepSampler, StudyOrder
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.config import DistillConfig, HeadConfig, OptimConfig
from vetdino.pretrain.watch.config import ProbeConfig

ROOT = Path(__file__).resolve().parents[2]

SPLITS = {"train": 16, "val": 6}


def study_of(split: str, number: int) -> Study:
    """A smooth random picture for each view; the brighter studies have the finding. Each fifth has one view."""
    generator = np.random.default_rng([number, len(split)])
    ill = number % 2
    views = []
    for projection in ("VD", "LLAT", "RLAT")[: 1 if number % 5 == 4 else 2 + number % 2]:
        coarse = generator.integers(40 * ill, 180 + 40 * ill, (6, 5), np.uint8)
        views.append(View(cv2.resize(coarse, (40, 48), interpolation=cv2.INTER_CUBIC), projection))
    key = f"{split}{number:02d}"
    return Study(key, f"p{key}", tuple(views), {"bright": float(ill), "rare": np.nan}, split)


def grey_study_of(split: str, number: int) -> Study:
    """Two views of one even grey: nothing can be learnt from them."""
    views = tuple(View(np.full((48, 40), 128, np.uint8), projection) for projection in ("VD", "LLAT"))
    key = f"{split}{number:02d}"
    return Study(key, f"p{key}", views, {"bright": float(number % 2), "rare": np.nan}, split)


def other_study_of(split: str, number: int) -> Study:
    """A study of another archive, which knows one finding of the first and one that the first does not know."""
    study = study_of(split, number + 100)
    labels = {"bright": study.labels["bright"], "dark": 1 - study.labels["bright"]}
    return replace(study, key=f"other{study.key}", patient=f"other{study.patient}", labels=labels)


def write_shards(
    folder: Path,
    make: Callable[[str, int], Study] = study_of,
    config: ShardConfig | None = None,
    splits: Mapping[str, int] = SPLITS,
    findings: tuple[str, ...] = ("bright", "rare"),
) -> Path:
    """A folder of shards: 16 training and 6 validation studies by default."""
    written = []
    for split, count in splits.items():
        with ShardWriter(folder, split, config) as writer:
            for number in range(count):
                writer.write(make(split, number))
        written += writer.shards
    counts = {"studies": sum(splits.values())}
    save_manifest(folder, Manifest(VERSION, "tiny", findings, tuple(written), counts, "0" * 64))
    return folder


def tiny_of(
    shards: Path | Sequence[Path], out: Path, changes: Mapping[str, Any] | None = None, **top: Any
) -> PretrainConfig:
    """The smallest training, in float32; nested settings are changed by dotted name."""
    config = PretrainConfig(
        recipe="tiny",
        shards=tuple(map(str, [shards] if isinstance(shards, Path) else shards)),
        out=out,
        backbone=BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2),
        crops=CropConfig(global_side=32, local_side=16, locals_per_view=2),
        distill=DistillConfig(head=HeadConfig(prototypes=32, hidden=32, bottleneck=16)),
        optim=OptimConfig(lr=Cosine(start=3e-2, end=1e-3, warmup=0.2), zero=0, precision="float32"),
        probe=ProbeConfig(every=2, k=3),
        batch=8,
        steps=4,
        device="cpu",
        threads=1,
        loaders=0,
        log_every=1,
        checkpoint_every=2,
    )
    for path, value in (changes or {}).items():
        config = changed(config, path, value)
    return replace(config, **top)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def grey_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("grey"), grey_study_of)


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same studies in shards of two or three."""
    return write_shards(tmp_path_factory.mktemp("small_shards"), config=ShardConfig(max_bytes=12_000))


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training and four validation studies of other patients, in shards of two or three."""
    folder, small = tmp_path_factory.mktemp("other"), ShardConfig(max_bytes=12_000)
    return write_shards(folder, other_study_of, small, {"train": 10, "val": 4}, ("bright", "dark"))


@pytest.fixture(scope="session")
def tiny(shards: Path) -> Callable[..., PretrainConfig]:
    return lambda out, changes=None, **top: tiny_of(top.pop("shards", shards), out, changes, **top)


@pytest.fixture
def run_config(tmp_path: Path, tiny: Callable[..., PretrainConfig]) -> PretrainConfig:
    """A tiny training with all losses that has written nothing yet."""
    return tiny(tmp_path / "run", {"distill.patch_weight": 1.0, "distill.spread_weight": 0.1})


@pytest.fixture(scope="session")
def micro_batches(shards: Path, tiny: Callable[..., PretrainConfig]) -> list[CropBatch]:
    """The batch of step 3 as two workers have it."""
    config = tiny(Path("nowhere"))
    dataset = CropDataset([str(shards)], config.crops, config.distill.masks, 4, config.seed)
    order = StudyOrder(len(dataset), config.batch, config.seed)
    samplers = [StepSampler(order, first=3, steps=4, rank=rank, world=2) for rank in (0, 1)]
    return [next(iter(crop_loader(dataset, sampler, processes=0))) for sampler in samplers]


def changed(config: Any, path: str, value: Any) -> Any:
    """The config with one setting, `distill.head.prototypes`, of another value."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    """See `launcher`."""
    with launcher(tmp_path_factory.mktemp("launch") / "log.txt", {}) as launch:
        yield launch


@contextmanager
def launcher(log: Path, more: Mapping[str, str]) -> Iterator[Callable[..., None]]:
    """Runs trainings one after another on so many freshly forked workers.

    Each is (config, step after which it is stopped, or None[, steps whose loss becomes NaN]). machines: whether each
    worker has a cache of its own. notice: the step after which the last worker knows that its machine will be taken
    away. more: environment variables.
    """
    command = [sys.executable, str(Path(__file__).parent / "launched.py")]
    # An address that MLflow refuses at once: the files are the record that these tests read.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "nowhere://", **more}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as server,
    ):

        def launch(
            trainings: Sequence[tuple[Any, ...]],
            workers: int,
            machines: bool = False,
            notice: int | None = None,
        ) -> None:
            rows = [[to_json(config), stop, *(poison or [[]])] for config, stop, *poison in trainings]
            order = {"trainings": rows, "workers": workers, "seconds": 600}
            order |= {"machines": machines, "notice": notice}
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            reply = server.stdout.readline().strip()
            assert reply == "ok", f"{reply}: {log.read_text()[-6000:]}"

        yield launch
        server.stdin.close()
