"""Whole trainings on one worker and on two: equal, resumed exactly, stopped and rewound by alarms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.pretrain.left import record, weights
from vetdino.platform.core.run_folder import history
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.joined import JoinedIndex
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.models.loading import load
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.batches.order import MixedOrder, StudyOrder
from vetdino.pretrain.replay import replay_run

pytestmark = pytest.mark.slow

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

DIVERGING = {"optim.lr": Cosine(start=1e30, end=1e30), "optim.clip": 1e30, "probe.every": 0}

REWINDING = {
    "probe.every": 0,
    "alarms.policy": "rewind",
    "alarms.cosine": 0.0,  # so low that any training alarms
    "alarms.patience": 2,
    "alarms.rewinds": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


WORKERS = {"one": 1, "two": 2}
"""Folder of the runs -> workers, with the same global batch."""


@pytest.fixture(scope="module")
def compared(folder, tiny, launched) -> Path:
    """The same trainings on one worker and on two."""
    for name, workers in WORKERS.items():
        runs = PLAIN | {"spread": SPREAD}
        launched([(tiny(folder / name / run, changes), None) for run, changes in runs.items()], workers)
    return folder


@pytest.fixture(scope="module", params=WORKERS)
def resumed(request, folder, tiny, launched) -> Path:
    """A training undisturbed, and once stopped and resumed."""
    out = folder / request.param
    config = {"steps": 6, "checkpoint_every": 3, "loaders": int(request.param == "one")}
    whole, broken = tiny(out / "whole", EXACT, **config), tiny(out / "broken", EXACT, **config)
    launched([(whole, None), (broken, 4), (broken, None)], WORKERS[request.param])
    return out


@pytest.fixture(scope="module")
def moved(compared, folder, tiny, launched) -> Path:
    """Trainings that two workers begin and one continues."""
    configs = {"moved": PLAIN["centring"], "divided": PLAIN["sinkhorn"]}
    launched([(tiny(folder / name, changes), 2) for name, changes in configs.items()], 2)
    launched([(tiny(folder / name, changes), None) for name, changes in configs.items()], 1)
    return folder


@pytest.fixture(scope="module")
def lanes(folder, tiny, launched, small_shards) -> Path:
    """A training in lanes on one worker, and one that two workers begin and one continues."""
    order = {"order.window": 2, "order.lanes": 4, "optim.zero": 0}
    alone, moved = (tiny(folder / name, order, shards=small_shards) for name in ("lanes", "moved_lanes"))
    launched([(moved, 2)], 2)
    launched([(alone, None), (moved, None)], 1)
    return folder


@pytest.fixture(scope="module")
def mixed(folder, tiny, launched, small_shards, other_shards) -> Path:
    """A training on two archives in lanes: undisturbed, stopped in mid-epoch and resumed, begun by two workers."""
    changes = EXACT | {"backbone.drop_path": 0.0, "order.window": 1, "order.lanes": 2, "optim.zero": 0}
    whole, broken, moved = (
        tiny(folder / name, changes, shards=(small_shards, other_shards), mix=(3.0, 2.0), steps=6)
        for name in ("mixed", "broken_mix", "moved_mix")
    )
    launched([(moved, 4)], 2)
    launched([(whole, None), (broken, 4), (broken, None), (moved, None)], 1)
    return folder


@pytest.fixture(scope="module", params=WORKERS)
def micro_batched(request, compared, tiny, launched) -> Path:
    """Two studies at a time; on two workers under ZeRO 3 as well."""
    zero = {"optim.zero": 3} if request.param == "two" else {}
    out = compared / request.param / "parts"
    launched([(tiny(out, SPREAD | {"optim.micro_batch": 2} | zero), None)], WORKERS[request.param])
    return out


@pytest.fixture(scope="module", params=WORKERS)
def poisoned(request, folder, tiny, launched) -> tuple[Path, int]:
    """A training whose fourth loss is NaN, and its workers."""
    workers = WORKERS[request.param]
    config = tiny(folder / request.param / "poisoned", EXACT, steps=6, checkpoint_every=1, keep=6)
    launched([(config, None, [3])], workers)
    return config.out, workers


@pytest.fixture(scope="module")
def alone(folder, tiny, launched) -> Callable[..., Path]:
    """Runs one training on one worker; its folder."""

    def train(name: str, changes: Mapping[str, Any], **top: Any) -> Path:
        launched([(tiny(folder / name, changes, **top), None)], 1)
        return folder / name

    return train


def series(run: Path, name: str) -> list[float]:
    return [line[name] for line in history(run) if name in line]


def keys(run: Path, rank: int = 0) -> list[list[str]]:
    return json.loads((run / f"rank{rank}.json").read_text())


@pytest.mark.parametrize("name", PLAIN)
def test_two_workers_have_the_losses_of_one(name, compared):
    one, two = compared / "one", compared / "two"
    for term in ("loss/total", "loss/view", "loss/patch", "health/teacher_entropy", "data/pairs"):
        assert len(series(one / name, term)) == 4
        assert series(two / name, term) == pytest.approx(series(one / name, term), abs=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_two_workers_end_with_the_weights_and_the_probe_of_one(name, compared):
    one, two = compared / "one", compared / "two"
    alone, together = weights(one / name, 4), weights(two / name, 4)
    assert alone.keys() == together.keys()
    for key, value in alone.items():
        assert torch.allclose(value, together[key], atol=2e-5), key
    for term in ("probe/auroc_macro", "probe/ap_macro", "probe/effective_rank", "probe/mean_cosine"):
        assert series(two / name, term) == pytest.approx(series(one / name, term), abs=1e-3)


def test_two_workers_see_the_studies_of_one_in_its_order(compared, shards):
    one, two = compared / "one", compared / "two"
    halves = [keys(two / "centring", rank) for rank in (0, 1)]
    together = [left + right for left, right in zip(*halves, strict=True)]
    assert together == keys(one / "centring")
    named, order = StudyIndex(shards, "train").rows["key"].to_pylist(), StudyOrder(16, 8, 0)
    assert together == [[named[row] for row in order.rows(step)] for step in range(4)]


def test_two_workers_have_the_spread_of_one(compared):
    one, two = compared / "one", compared / "two"
    # The nearest vector of each study is searched among those of all workers.
    for term in ("loss/spread", "loss/total"):
        assert series(two / "spread", term)[:2] == pytest.approx(series(one / "spread", term)[:2], abs=1e-4)


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(resumed):
    whole, broken = resumed / "whole", resumed / "broken"
    assert len(keys(broken)) == 3  # it went on from step 3
    assert record(whole) == record(broken)
    expected, found = weights(whole, 6), weights(broken, 6)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    names = sorted(path.name for path in (whole / "checkpoints" / "step_00000006" / "engine").iterdir())
    assert names == sorted(p.name for p in (broken / "checkpoints" / "step_00000006" / "engine").iterdir())


def test_micro_batches_have_the_losses_of_the_whole_batch_under_any_zero_stage(micro_batched, compared):
    for term in ("loss/total", "loss/view", "loss/spread"):
        expected = series(compared / "one" / "spread", term)
        assert series(micro_batched, term) == pytest.approx(expected, abs=2e-3), term


def test_a_bad_step_is_skipped_counted_and_kept_for_replay(poisoned):
    run, workers = poisoned
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == [f"step_{step:08d}" for step in (1, 2, 3, 5, 6)]  # what a bad step ends with is not kept
    assert all(value.isfinite().all() for value in weights(run, 6).values())
    assert [line["health/bad_steps"] for line in history(run)] == [0, 0, 0, 1, 1, 1]
    assert "loss/total" not in history(run)[3]
    status = json.loads((run / "status.json").read_text())
    assert status["warnings"] == ["step 3: the loss or a gradient was not finite; the step was skipped"]
    description = json.loads((run / "bad" / "step_00000003.json").read_text())
    assert description["studies"] == [keys(run, rank)[3] for rank in range(workers)]
    assert replay_run(run, 3).healthy  # the poison was the test's, not the batch's


@pytest.mark.parametrize(("workers", "saved"), [(1, 3), (2, 4)])
def test_on_notice_all_workers_write_a_checkpoint_from_which_the_training_goes_on_exactly(
    workers, saved, folder, tiny, launched
):
    config = {"steps": 6, "checkpoint_every": 6}
    whole, taken = (tiny(folder / f"{name}{workers}", EXACT, **config) for name in ("untaken", "taken"))
    launched([(whole, None)], workers)
    launched([(taken, 4)], workers, notice=3)
    assert [path.name for path in (taken.out / "checkpoints").glob("step_*")] == [f"step_{saved:08d}"]
    status = json.loads((taken.out / "status.json").read_text())
    assert [text for text in status["warnings"] if f"written after step {saved}" in text]
    launched([(taken, None)], workers)
    assert keys(taken.out) == keys(whole.out)[saved:]
    assert record(taken.out) == record(whole.out)
    expected, found = weights(whole.out, 6), weights(taken.out, 6)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_alarm_rewinds_the_training_at_half_the_rate_so_often_and_then_stops_it(alone):
    run = alone("rewound", REWINDING, steps=60, checkpoint_every=10, keep=4)
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


def test_images_that_are_all_alike_stop_the_training_within_thirty_steps(alone, grey_shards):
    run = alone("gray", {"alarms.policy": "stop"}, steps=60, shards=grey_shards)
    said = (run / "failure.txt").read_text()
    assert said.startswith("TrainingError: step ")
    assert "all_alike" in said
    assert len(keys(run)) <= 30


def test_another_seed_gives_another_training(alone, compared):
    other = alone("other_seed", PLAIN["centring"], seed=1)
    assert record(compared / "one" / "centring") != record(other)


def test_without_divided_state_another_number_of_workers_continues(moved):
    assert len(keys(moved / "moved")) == 2
    for term in ("loss/total", "loss/view", "loss/patch"):
        expected = series(moved / "one" / "centring", term)
        assert series(moved / "moved", term) == pytest.approx(expected, abs=1e-5)


def test_divided_state_continues_with_another_number_of_workers(moved):
    assert len(keys(moved / "divided")) == 2
    for term in ("loss/total", "loss/view", "loss/patch"):
        expected = series(moved / "one" / "sinkhorn", term)
        assert series(moved / "divided", term) == pytest.approx(expected, abs=1e-4)


def test_a_mix_has_its_share_of_each_archive_in_each_step_and_the_rows_of_its_order(
    mixed, small_shards, other_shards
):
    steps = keys(mixed / "mixed")
    assert {sum(key.startswith("other") for key in step) for step in steps} <= {3, 4}
    assert sum(key.startswith("other") for step in steps for key in step) == round(6 * 8 * 2 / 5)
    joined = JoinedIndex([str(small_shards), str(other_shards)], "train")
    shards = [
        tuple(s.studies for s in load_manifest(each).of("train")) for each in (small_shards, other_shards)
    ]
    order = MixedOrder(tuple(shards), (600_000, 400_000), 8, 0, window=1, lanes=2)
    assert steps == [[joined.load(row).key for row in order.rows(step)] for step in range(6)]


def test_a_mix_that_is_stopped_and_resumed_equals_uninterrupted_bit_for_bit(mixed):
    assert len(keys(mixed / "broken_mix")) == 2
    assert record(mixed / "mixed") == record(mixed / "broken_mix")
    expected, found = weights(mixed / "mixed", 6), weights(mixed / "broken_mix", 6)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_another_number_of_workers_continues_a_mix_with_the_studies_that_were_to_come(mixed):
    assert keys(mixed / "moved_mix") == keys(mixed / "mixed")[4:]
    expected = series(mixed / "mixed", "loss/total")
    assert series(mixed / "moved_mix", "loss/total") == pytest.approx(expected, abs=1e-5)


def test_a_mix_leaves_its_weights_and_all_manifests_in_its_files(mixed, small_shards, other_shards):
    run = mixed / "mixed"
    digests = " ".join(load_manifest(folder).digest for folder in (small_shards, other_shards))
    assert load(run / "backbone").card.origin["manifest"] == digests
    position = json.loads((run / "checkpoints" / "step_00000006" / "position.json").read_text())
    assert position["manifest"] == digests
    recorded = json.loads((run / "params.json").read_text())
    assert recorded["params"]["mix"] == "[3.0, 2.0]"
    assert recorded["tags"]["manifest"] == digests
    assert "probe/auroc_macro" in history(run)[-1]


def test_lanes_give_another_number_of_workers_the_studies_that_were_to_come(lanes):
    assert keys(lanes / "moved_lanes") == keys(lanes / "lanes")[2:]
    expected = series(lanes / "lanes", "loss/total")
    assert series(lanes / "moved_lanes", "loss/total") == pytest.approx(expected, abs=1e-5)


def test_a_training_leaves_its_backbone_and_the_newest_checkpoints(resumed):
    run = resumed / "whole"
    backbone = load(run / "backbone")
    teacher = weights(run, 6)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, teacher[f"teacher.backbone.{name}"])
    assert backbone.card.label == "tiny, 48 study presentations, seed 0"
    assert backbone.card.metrics["probe/auroc_macro"] == series(run, "probe/auroc_macro")[-1]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]
    assert not list(run.glob(".*"))


def test_a_record_has_losses_schedules_speed_and_probe(resumed):
    last = history(resumed / "whole")[-1]
    assert {
        "loss/total", "loss/view", "loss/patch", "loss/spread", "health/teacher_entropy",
        "health/view_loss_minus_ln_k", "schedule/lr", "schedule/weight_decay", "schedule/momentum",
        "schedule/teacher_temperature", "data/pairs", "data/studies", "speed/studies_per_second",
        "probe/auroc_macro", "probe/ap_macro", "probe/effective_rank", "probe/mean_cosine",
    } <= set(last)  # fmt: skip
    assert last["health/view_loss_minus_ln_k"] == pytest.approx(last["loss/view"] - np.log(32), abs=1e-5)
    assert last["data/studies"] == 48


@pytest.mark.parametrize(
    ("bad_in_a_row", "log_every", "checkpoint_every", "said"),
    [
        (2, 1, 100, "step 2: {} 2 steps"),
        (5, 100, 100, "step 3: {} 3 steps"),
        (5, 100, 2, "step 5: {} 5 steps"),
    ],
    ids=["early", "at the end", "at a checkpoint"],
)
def test_steps_that_stay_bad_stop_the_training_without_checkpoint_or_backbone(
    bad_in_a_row, log_every, checkpoint_every, said, alone
):
    settings = {"log_every": log_every, "checkpoint_every": checkpoint_every, "bad_in_a_row": bad_in_a_row}
    steps = 8 if checkpoint_every == 2 else 4
    run = alone(f"bad_{log_every}_{checkpoint_every}", DIVERGING, steps=steps, **settings)
    failure = (run / "failure.txt").read_text()
    assert failure.startswith("TrainingError: " + said.format("the loss or a gradient was not finite for"))
    assert not list(run.glob("checkpoints/step_*"))
    assert not (run / "backbone").exists()
    report = replay_run(run, 1)
    assert report.studies == 8
    assert "not the batch is to blame" in str(report)


def test_twenty_steps_have_the_golden_losses_on_record(alone):
    run = alone("golden", {"distill.patch_weight": 1.0, "distill.spread_weight": 0.1}, steps=20)
    found = {name: [round(v, 6) for v in series(run, f"loss/{name}")] for name in ("view", "patch", "spread")}
    expected = json.loads(GOLDEN.read_text())
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-4), (
            f"{name}; on record would be {json.dumps(found)}"
        )
