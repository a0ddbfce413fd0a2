"""Which checkpoint a step begins from, which is best, and which cannot be resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pretrain.examples import write_checkpoint
from vetdino.platform.core.config import to_json
from vetdino.platform.core.errors import CheckpointError
from vetdino.pretrain.batches.config import OrderConfig
from vetdino.pretrain.checkpoints import (
    POSITION,
    best_step,
    check_resumable,
    checkpoints_folder,
    newest_checkpoint_at,
)
from vetdino.pretrain.mixture import Mixture, load_mixture


def test_a_step_begins_from_its_own_checkpoint_or_the_newest_whole_one_before(run_config):
    assert newest_checkpoint_at(run_config, 9) is None
    for step in (2, 4, 6):
        write_checkpoint(run_config, step)
    assert [newest_checkpoint_at(run_config, step).name[-1] for step in (2, 3, 4, 9)] == ["2", "2", "4", "6"]
    assert newest_checkpoint_at(run_config, 1) is None
    (run_config.out / "checkpoints" / "step_00000004" / "teacher.safetensors").write_bytes(b"")
    assert newest_checkpoint_at(run_config, 5).name == "step_00000002"


def position(folder: Path, auroc: float | None) -> None:
    folder.mkdir(parents=True)
    (folder / POSITION).write_text(json.dumps({"auroc": auroc, "manifest": "0"}))


def test_the_best_step_has_the_highest_auroc_and_missing_ones_do_not_count(tmp_path):
    assert best_step(tmp_path) is None
    for step, auroc in ((2, None), (4, 0.7), (6, float("nan")), (8, 0.6)):
        position(tmp_path / f"step_{step:08d}", auroc)
    assert best_step(tmp_path) == 4


@pytest.fixture
def mixture(run_config) -> Mixture:
    return load_mixture(run_config)


@pytest.fixture
def resumable(run_config, mixture) -> Path:
    """A checkpoint's settings and position."""
    folder = checkpoints_folder(run_config) / "step_00000002"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(run_config))
    (folder / POSITION).write_text(json.dumps({"manifest": mixture.digest}))
    return folder


def test_settings_that_do_not_change_the_result_may_differ_on_resume(run_config, resumable, mixture):
    check_resumable(run_config, resumable, mixture)
    check_resumable(replace(run_config, steps=100, workers=2, resume=True), resumable, mixture)
    check_resumable(
        replace(run_config, steps=2), resumable, mixture
    )  # no step is left, but the export may be


def test_a_training_that_began_before_there_were_lanes_goes_on(run_config, resumable, mixture):
    began = json.loads((resumable / "config.json").read_text())
    del began["order"]
    (resumable / "config.json").write_text(json.dumps(began))
    check_resumable(run_config, resumable, mixture)


def test_a_training_that_began_before_there_were_mixes_goes_on(run_config, resumable, mixture):
    began = json.loads((resumable / "config.json").read_text())
    (began["shards"],) = began["shards"]
    del began["mix"]
    (resumable / "config.json").write_text(json.dumps(began))
    check_resumable(run_config, resumable, mixture)


def test_fewer_steps_than_are_done_are_refused(run_config, resumable, mixture):
    with pytest.raises(CheckpointError, match="beyond --steps 1 already; give 2 or more"):
        check_resumable(replace(run_config, steps=1), resumable, mixture)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 4),
        ("seed", 1),
        ("head_warmup", 0.5),
        ("order", OrderConfig(window=2)),
        ("start", "timm:other"),
        ("mix", (1.0,)),
    ],
)
def test_settings_that_change_the_result_may_not(name, value, run_config, resumable, mixture):
    with pytest.raises(CheckpointError, match=f"{name} differs"):
        check_resumable(replace(run_config, **{name: value}), resumable, mixture)


def test_other_shards_are_refused(run_config, resumable, mixture):
    (resumable / POSITION).write_text(json.dumps({"manifest": "0"}))
    with pytest.raises(CheckpointError, match="other shards"):
        check_resumable(run_config, resumable, mixture)
