"""The training of one worker and of two, broken off and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pretrain.left import record, weights
from vetdino.platform.core.run_folder import history
from vetdino.platform.data.shards import StudyIndex
from vetdino.platform.models.backbone import load
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.batches.order import Order
from vetdino.pretrain.replay import replay_of

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

TAKEN_BACK = {
    "probe.every": 0,
    "alarms.policy": "rewind",
    "alarms.cosine": 0.0,  # so low that any training alarms
    "alarms.patience": 2,
    "alarms.rewinds": 2,
}

UNTRIED = {"probe.every": 0}

GREY = {"alarms.policy": "stop"}


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
            (tiny(out / "parts", SPREAD | {"optim.micro_batch": 2, "optim.zero": 3}), None),
            (tiny(out / "poisoned", EXACT, **exact | {"checkpoint_every": 1, "keep": 6}), None, [3]),
            # For one worker to go on with.
            (tiny(folder / "moved", PLAIN["centring"]), 2),
            (tiny(folder / "divided", PLAIN["sinkhorn"]), 2),
        ],
        2,
    )
    return out


@pytest.fixture(scope="module")
def one(two, folder, tiny, grey_shards, launched) -> Path:
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
            (tiny(out / "parts", SPREAD | {"optim.micro_batch": 2}), None),
            (tiny(out / "poisoned", EXACT, **exact | {"checkpoint_every": 1, "keep": 6}), None, [3]),
            (tiny(out / "taken_back", TAKEN_BACK, steps=60, checkpoint_every=10, keep=4), None),
            (tiny(out / "grey", GREY, steps=60, shards=grey_shards), None),
            (tiny(out / "nan_early", DIVERGING, bad_in_a_row=2, checkpoint_every=100), None),
            (tiny(out / "nan_late", DIVERGING, log_every=100, checkpoint_every=100), None),
            (tiny(out / "nan_kept", DIVERGING | UNTRIED, log_every=100, checkpoint_every=2, steps=8), None),
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


def keys(run: Path, rank: int = 0) -> list[list[str]]:
    return json.loads((run / f"rank{rank}.json").read_text())


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


def test_two_workers_have_the_spread_of_one(one, two):
    # The nearest of each study is looked for among those of all workers.
    for term in ("loss/spread", "loss/total"):
        assert told(two / "spread", term)[:2] == pytest.approx(told(one / "spread", term)[:2], abs=1e-4)


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


@pytest.mark.parametrize("workers", ["one", "two"])
def test_in_parts_and_under_any_zero_stage_the_losses_are_those_of_the_whole(workers, one, folder):
    for term in ("loss/total", "loss/view", "loss/spread"):
        expected = told(one / "spread", term)
        assert told(folder / workers / "parts", term) == pytest.approx(expected, abs=2e-3), term


@pytest.mark.parametrize("workers", ["one", "two"])
def test_a_bad_step_is_skipped_counted_and_kept_for_a_second_look(workers, one, folder):
    run = folder / workers / "poisoned"
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == [f"step_{step:08d}" for step in (1, 2, 3, 5, 6)]  # what a bad step ends with is not kept
    assert all(value.isfinite().all() for value in weights(run, 6).values())
    assert [line["health/bad_steps"] for line in history(run)] == [0, 0, 0, 1, 1, 1]
    assert "loss/total" not in history(run)[3]
    status = json.loads((run / "status.json").read_text())
    assert status["warnings"] == ["step 3: the loss or a gradient was no finite number; the step was skipped"]
    told = json.loads((run / "bad" / "step_00000003.json").read_text())
    seen = [keys(run, rank)[3] for rank in range(2 if workers == "two" else 1)]
    assert told["studies"] == seen
    assert replay_of(run, 3).healthy  # the poison was the test's, not the batch's


def test_an_alarm_takes_the_training_back_at_half_the_rate_so_often_and_then_stops_it(one):
    run = one / "taken_back"
    said = (run / "failure.txt").read_text()
    assert said.startswith("TrainingError: step ")
    assert "all_alike" in said
    assert "(after 2 rewinds)" in said
    lines = history(run)
    status = json.loads((run / "status.json").read_text())
    assert sum(text.startswith("back to step") for text in status["warnings"]) == 2
    assert "the learning rate times 0.25 from here on" in status["warnings"][-2]
    lr = {line["step"]: line["schedule/lr"] for line in lines}
    plain = Cosine(start=3e-2, end=1e-3, warmup=0.2)
    last = max(lr)
    assert lr[last] == pytest.approx(0.25 * plain.at(last - 1, 60) * (8 / 1024) ** 0.5)


def test_pictures_that_are_all_alike_stop_the_training_within_thirty_steps(one):
    said = (one / "grey" / "failure.txt").read_text()
    assert said.startswith("TrainingError: step ")
    assert "all_alike" in said
    assert len(keys(one / "grey")) <= 30


def test_another_seed_gives_another_training(one):
    assert record(one / "whole") != record(one / "other_seed")


def test_without_divided_state_another_number_of_workers_goes_on(one, folder):
    assert len(keys(folder / "moved")) == 2
    for term in ("loss/total", "loss/view", "loss/patch"):
        expected = told(one / "centring", term)
        assert told(folder / "moved", term) == pytest.approx(expected, abs=1e-5)


def test_divided_state_goes_on_with_another_number_of_workers(one, folder):
    assert len(keys(folder / "divided")) == 2
    for term in ("loss/total", "loss/view", "loss/patch"):
        expected = told(one / "sinkhorn", term)
        assert told(folder / "divided", term) == pytest.approx(expected, abs=1e-4)


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nan_early", "step 2: {} 2 steps"),
        ("nan_late", "step 3: {} 3 steps"),
        ("nan_kept", "step 5: {} 5 steps"),
    ],
)
def test_steps_that_stay_bad_stop_the_training_which_leaves_nothing_of_them(name, said, one):
    told = (one / name / "failure.txt").read_text()
    assert told.startswith("TrainingError: " + said.format("the loss or a gradient was no finite number for"))
    assert not list((one / name).glob("checkpoints/step_*"))
    assert not (one / name / "backbone").exists()
    report = replay_of(one / name, 1)
    assert report.studies == 8
    assert "the batch is not to blame" in str(report)


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
