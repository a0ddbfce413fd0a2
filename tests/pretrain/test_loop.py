"""The training of one worker and of two, broken off and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vetdino.platform.backbone import load
from vetdino.platform.runs import history
from vetdino.platform.shards import StudyIndex
from vetdino.pretrain.data import Order
from vetdino.pretrain.schedules import Cosine

GOLDEN = Path(__file__).with_name("golden.json")

PLAIN = {
    "centring": {"distill.patch_weight": 1.0, "optim.zero": 0},
    "sinkhorn": {"distill.targets": "sinkhorn", "distill.patch_weight": 1.0, "optim.zero": 2},
}

SPREAD = {"distill.targets": "sinkhorn", "distill.spread_weight": 0.1, "optim.zero": 2}

EXACT = {
    "backbone.drop_path": 0.3,
    "distill.patch_weight": 1.0,
    "distill.spread_weight": 0.1,
    "distill.spread_head": True,
    "optim.zero": 2,
}
"""All that draws at random or remembers something."""

DIVERGING = {"optim.lr": Cosine(start=1e30, end=1e30), "optim.clip": 1e30}

UNTRIED = {"probe.every": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder, tiny, launched) -> Path:
    """What two workers leave."""
    out = folder / "two"
    exact = {"steps": 6, "checkpoint_every": 3}
    launched(
        [
            *((tiny(out / name, changes), None) for name, changes in PLAIN.items()),
            (tiny(out / "spread", SPREAD), None),
            (tiny(out / "whole", EXACT, **exact), None),
            (tiny(out / "broken", EXACT, **exact), 4),
            (tiny(out / "broken", EXACT, **exact), None),
            # For one worker to go on with.
            (tiny(folder / "moved", PLAIN["centring"]), 2),
            (tiny(folder / "divided", PLAIN["sinkhorn"]), 2),
        ],
        2,
    )
    return out


@pytest.fixture(scope="module")
def one(two, folder, tiny, launched) -> Path:
    """What one worker leaves, with the same global batch."""
    out = folder / "one"
    exact = {"steps": 6, "checkpoint_every": 3, "loaders": 1}
    launched(
        [
            *((tiny(out / name, changes), None) for name, changes in PLAIN.items()),
            (tiny(out / "spread", SPREAD), None),
            (tiny(out / "whole", EXACT, **exact), None),
            (tiny(out / "broken", EXACT, **exact), 4),
            (tiny(out / "broken", EXACT, **exact), None),
            (tiny(out / "other_seed", EXACT, **exact, seed=1), None),
            (tiny(folder / "moved", PLAIN["centring"]), None),
            (tiny(folder / "divided", PLAIN["sinkhorn"]), None),
            (tiny(out / "nan_logged", DIVERGING, checkpoint_every=100), None),
            (tiny(out / "nan_tried", DIVERGING, log_every=100, checkpoint_every=100), None),
            (tiny(out / "nan_kept", DIVERGING | UNTRIED, log_every=100), None),
            (
                tiny(out / "golden", {"distill.patch_weight": 1.0, "distill.spread_weight": 0.1}, steps=20),
                None,
            ),
        ],
        1,
    )
    return out


def told(run: Path, name: str) -> list[float]:
    return [line[name] for line in history(run) if name in line]


def record(run: Path) -> list[dict[str, float]]:
    """The record but for time and speed."""
    unlike = ("time", "speed/studies_per_second")
    return [{key: value for key, value in line.items() if key not in unlike} for line in history(run)]


def keys(run: Path, rank: int = 0) -> list[list[str]]:
    return json.loads((run / f"rank{rank}.json").read_text())


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Teacher and student of a checkpoint."""
    checkpoint = run / "checkpoints" / f"step_{step:08d}"
    # Written by the test itself a moment ago, and DeepSpeed's file holds more than tensors.
    engine = torch.load(checkpoint / "engine" / "mp_rank_00_model_states.pt", weights_only=False)
    student = {f"student.{name}": value for name, value in engine["module"].items()}
    return load_file(checkpoint / "teacher.safetensors") | student


@pytest.mark.parametrize("name", PLAIN)
def test_two_workers_have_the_losses_of_one(name, one, two):
    for term in ("loss/total", "loss/view", "loss/patch", "health/teacher_entropy", "data/pairs"):
        assert len(told(one / name, term)) == 4
        assert told(two / name, term) == pytest.approx(told(one / name, term), abs=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_two_workers_end_with_the_weights_and_the_trial_of_one(name, one, two):
    alone, together = weights(one / name, 4), weights(two / name, 4)
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        assert torch.allclose(value, together[key], atol=2e-5), key
    for term in ("probe/auroc_macro", "probe/ap_macro", "probe/effective_rank", "probe/mean_cosine"):
        assert told(two / name, term) == pytest.approx(told(one / name, term), abs=1e-3)


def test_two_workers_see_the_studies_of_one_in_its_order(one, two, shards):
    halves = [keys(two / "centring", rank) for rank in (0, 1)]
    together = [left + right for left, right in zip(*halves, strict=True)]
    assert together == keys(one / "centring")
    named, order = StudyIndex(shards, "train").keys(), Order(16, 8, 0)
    assert together == [[named[row] for row in order.rows(step)] for step in range(4)]


def test_of_the_losses_only_the_spread_depends_on_the_number_of_workers(one, two):
    # Each worker looks for the nearest among its own crops: half as many, so farther away.
    first = lambda run, term: told(run / "spread", f"loss/{term}")[0]
    assert first(two, "view") == pytest.approx(first(one, "view"), abs=1e-5)
    assert first(two, "spread") < first(one, "spread") - 0.01


@pytest.mark.parametrize("workers", ["one", "two"])
def test_broken_off_and_resumed_equals_uninterrupted_bit_for_bit(workers, one, two, folder):
    whole, broken = folder / workers / "whole", folder / workers / "broken"
    assert len(keys(broken)) == 3  # it went on from step 3
    assert record(whole) == record(broken)
    expected, found = weights(whole, 6), weights(broken, 6)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    names = sorted(path.name for path in (whole / "checkpoints" / "step_00000006" / "engine").iterdir())
    assert names == sorted(p.name for p in (broken / "checkpoints" / "step_00000006" / "engine").iterdir())


def test_another_seed_gives_another_training(one):
    assert record(one / "whole") != record(one / "other_seed")


def test_without_divided_state_another_number_of_workers_goes_on(one, folder):
    assert len(keys(folder / "moved")) == 2
    for term in ("loss/total", "loss/view", "loss/patch"):
        expected = told(one / "centring", term)
        assert told(folder / "moved", term) == pytest.approx(expected, abs=1e-5)


def test_divided_state_is_refused_to_another_number_of_workers(one, folder):
    said = (folder / "divided" / "failure.txt").read_text()
    assert said.startswith("CheckpointError")
    assert "divided among 2 workers, not 1; resume with --workers 2" in said


def test_a_training_leaves_its_backbone_and_the_newest_checkpoints(one):
    run = one / "whole"
    backbone = load(run / "backbone")
    teacher = weights(run, 6)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, teacher[f"teacher.backbone.{name}"])
    assert backbone.card.label == "tiny, 48 study presentations, seed 0"
    assert backbone.card.metrics["probe/auroc_macro"] == told(run, "probe/auroc_macro")[-1]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
    assert not list(run.glob(".*"))


def test_the_record_tells_losses_schedules_speed_and_trials(one):
    last = history(one / "whole")[-1]
    assert {
        "loss/total", "loss/view", "loss/patch", "loss/spread", "health/teacher_entropy",
        "health/view_loss_minus_ln_k", "schedule/lr", "schedule/weight_decay", "schedule/momentum",
        "schedule/teacher_temperature", "data/pairs", "data/studies", "speed/studies_per_second",
        "probe/auroc_macro", "probe/ap_macro", "probe/effective_rank", "probe/mean_cosine",
    } <= set(last)  # fmt: skip
    assert last["health/view_loss_minus_ln_k"] == pytest.approx(last["loss/view"] - np.log(32), abs=1e-5)
    assert last["data/studies"] == 48


@pytest.mark.parametrize("name", ["nan_logged", "nan_tried", "nan_kept"])
def test_a_loss_that_is_no_number_stops_the_training_before_it_is_tried_or_kept(name, one):
    said = (one / name / "failure.txt").read_text()
    assert said.startswith("TrainingError: step 2: the loss or a weight is no number; lower optim.lr")
    assert not list((one / name).glob("checkpoints/step_*"))
    assert not (one / name / "backbone").exists()


def test_twenty_steps_have_the_losses_on_record(one):
    found = {
        name: [round(v, 6) for v in told(one / "golden", f"loss/{name}")]
        for name in ("view", "patch", "spread")
    }
    expected = json.loads(GOLDEN.read_text())
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-4), (
            f"{name}; on record would be {json.dumps(found)}"
        )
