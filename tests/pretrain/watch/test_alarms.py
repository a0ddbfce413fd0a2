"""Alarms: silent on healthy curves, loud on one picture shown again and again, the same after a resume."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vetdino.platform.data.study import Study, View
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.batches.batch import collate_crops
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.crops import study_crops
from vetdino.pretrain.distillation.config import DistillConfig, HeadConfig
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.watch.alarms import Alarm, Alarms, alarm_metrics, decide
from vetdino.pretrain.watch.config import AlarmConfig
from vetdino.pretrain.watch.spread import cosine_and_rank

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "experiments.md"

LN_K = math.log(256)

BEGINNING = {
    10: (0.156, 2.981), 20: (-0.028, 4.838), 30: (-0.060, 4.954), 40: (-0.062, 4.952), 50: (-0.077, 4.927),
    60: (-0.112, 4.878), 70: (-0.130, 4.829), 80: (-0.175, 4.745), 90: (-0.215, 4.660),
}  # fmt: skip
"""Step -> view loss minus ln K and teacher entropy of the training in docs/experiments.md, before its table."""

SPREAD = {10: (0.634, 16.2), 20: (0.452, 20.6), 30: (0.271, 21.3), 40: (0.260, 20.3), 70: (0.110, 21.5)}
"""Step -> mean cosine and effective rank of a batch of the student's, in a training of the same recipe."""

PAIRS_ONLY = {
    10: (0.175, 3.015), 20: (0.015, 4.906), 30: (0.005, 5.043), 40: (0.005, 5.050), 50: (-0.011, 5.035),
    60: (-0.013, 5.015), 70: (-0.026, 5.006), 80: (-0.031, 4.994), 90: (-0.037, 4.978), 100: (-0.043, 4.976),
}  # fmt: skip
"""The same of a training that got pairs from its first step and learnt, if slowly."""


def alarms_of(config: AlarmConfig | None = None, steps: int = 1100) -> Alarms:
    return Alarms(config or AlarmConfig(), prototypes=256, width=128, batch=64, steps=steps)


def health(gap: float, entropy: float) -> dict[str, float]:
    return {"health/view_loss_minus_ln_k": gap, "health/teacher_entropy": entropy}


def names(alarms: list[Alarm]) -> list[str]:
    return [alarm.name for alarm in alarms]


def table() -> Iterator[tuple[int, dict[str, float]]]:
    """The rows of the first table of docs/experiments.md as they were recorded, found by the names of its columns."""
    lines = RESULTS.read_text().splitlines()
    first = next(row for row, line in enumerate(lines) if line.startswith("| presentations | pairs |"))
    names = [cell.split(" (")[0].strip() for cell in lines[first].strip("|").split("|")]
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[first + 2 :]):
        cells = (float(cell.replace(",", "")) for cell in line.strip("|").split("|"))
        row = dict(zip(names, cells, strict=True))
        probe = {
            "probe/auroc_macro": row["probe AUROC"],
            "probe/effective_rank": row["effective rank"],
            "probe/mean_cosine": row["mean cosine"],
        }
        step = int(row["presentations"]) // 64
        yield step, health(row["view loss - ln K"], row["teacher entropy"]) | probe


def test_nothing_recorded_alarms_nothing():
    assert alarms_of().check(500, {}) == []


def test_the_training_in_the_documents_never_alarms():
    alarms, rows = alarms_of(), list(table())
    steps = [step for step, _ in rows]
    assert len(steps) >= 5
    assert steps == sorted(set(steps))
    for step, (gap, entropy) in BEGINNING.items():
        assert alarms.check(step, health(gap, entropy)) == []
    for step, (cosine, rank) in SPREAD.items():
        assert alarms.check(step, {"health/mean_cosine": cosine, "health/effective_rank": rank}) == []
    for step, values in rows:
        # Each row ten times over: no record of this training is bad in itself.
        for later in range(10):
            assert alarms.check(step + 10 * later, values) == []


def test_a_training_that_learns_pairs_slowly_does_not_alarm():
    alarms = alarms_of()
    for step, (gap, entropy) in PAIRS_ONLY.items():
        assert alarms.check(step, health(gap, entropy)) == []


@pytest.mark.parametrize(
    ("measure", "bad", "good", "name", "records"),
    [
        ("health/teacher_entropy", 0.985 * LN_K, 0.97 * LN_K, "uniform_teacher", 4),
        ("health/teacher_entropy", 0.01 * LN_K, 0.03 * LN_K, "one_prototype", 4),
        ("health/view_loss_minus_ln_k", 0.2, -0.02, "view_loss", 4),
        ("health/effective_rank", 2.0, 3.0, "few_directions", 4),
        ("health/mean_cosine", 0.97, 0.94, "all_alike", 4),
        ("probe/effective_rank", 2.0, 3.0, "few_directions", 3),
        ("probe/mean_cosine", 0.97, 0.94, "all_alike", 3),
    ],
)
def test_each_value_alarms_after_so_many_bad_records_in_a_row(measure, bad, good, name, records):
    alarms = alarms_of()
    for step in range(100, 100 + 10 * (records - 1), 10):
        assert alarms.check(step, {measure: bad}) == []
    assert alarms.check(200, {measure: good}) == []
    assert alarms.check(205, {measure: math.nan}) == []
    steps = range(210, 210 + 10 * records, 10)
    *before, (alarm,) = [alarms.check(step, {measure: bad}) for step in steps]
    assert before == [[]] * (records - 1)
    assert (alarm.name, alarm.since, alarm.step, alarm.metric) == (name, 210, steps[-1], measure)
    # It is raised once, and again after a good record.
    assert alarms.check(300, {measure: bad}) == []
    assert alarms.check(310, {measure: good}) == []
    later = [alarms.check(step, {measure: bad}) for step in range(320, 320 + 10 * records, 10)]
    assert names(later[-1]) == [name]


def test_a_value_that_is_missing_or_no_number_neither_alarms_nor_calms():
    alarms = alarms_of()
    raised = []
    for step in range(100, 140, 10):
        raised += alarms.check(step, {"health/mean_cosine": 0.99})
        raised += alarms.check(step + 5, {"health/mean_cosine": math.nan, "loss/total": 1.0})
    assert names(raised) == ["all_alike"]


def test_the_probes_score_is_held_against_its_best():
    alarms = alarms_of()
    scores = [0.60, 0.70, 0.66, 0.64, 0.69, 0.64, 0.64]
    for step, score in enumerate(scores):
        assert alarms.check(500 + 100 * step, {"probe/auroc_macro": score}) == []
    (alarm,) = alarms.check(1200, {"probe/auroc_macro": 0.60})
    assert (alarm.name, alarm.since, alarm.limit) == ("probe_drop", 1000, pytest.approx(0.65))


@pytest.mark.parametrize(("steps", "grace"), [(10, 20), (1100, 22), (100_000, 2000)])
def test_the_first_steps_of_any_training_do_not_alarm(steps, grace):
    alarms = alarms_of(steps=steps)
    sick = health(0.3, LN_K) | {"health/mean_cosine": 1.0, "health/effective_rank": 1.0}
    assert not any(alarms.check(step, sick) for step in range(1, grace + 4))
    raised = alarms.check(grace + 4, sick)
    assert names(raised) == ["uniform_teacher", "view_loss", "few_directions", "all_alike"]
    assert {alarm.since for alarm in raised} == {grace + 1}


def test_a_few_studies_in_a_batch_are_not_blamed_for_their_few_directions():
    alarms = Alarms(AlarmConfig(), prototypes=256, width=768, batch=4, steps=100)
    spread = cosine_and_rank(torch.randn(4, 768, generator=torch.Generator().manual_seed(0)))[1].item()
    assert not any(alarms.check(step, {"health/effective_rank": spread}) for step in range(30, 90))


@pytest.mark.parametrize("cut", range(0, 12, 3))
def test_after_a_resume_the_same_records_raise_the_same_alarms(cut):
    records = [
        health(0.1, 5.0) | {"probe/auroc_macro": 0.7 - 0.02 * number, "health/mean_cosine": 0.96}
        for number in range(12)
    ]
    whole = alarms_of()
    expected = [whole.check(100 + 10 * number, values) for number, values in enumerate(records)]
    before, after = alarms_of(), alarms_of()
    found = [before.check(100 + 10 * number, values) for number, values in enumerate(records[:cut])]
    after.load(json.loads(json.dumps(before.state(), allow_nan=False)))
    found += [after.check(100 + 10 * (cut + n), values) for n, values in enumerate(records[cut:])]
    assert found == expected
    assert {name for alarms in expected for name in names(alarms)} == {"view_loss", "all_alike", "probe_drop"}
    assert after.state() == whole.state()


ALARM = Alarm("view_loss", 80, 60, "health/view_loss_minus_ln_k", 0.2, -0.01, "look at the images")

LATER = replace(ALARM, name="all_alike", since=70)


def test_without_an_alarm_the_training_continues():
    assert decide(AlarmConfig(policy="rewind"), [], 2).action == "continue"


def test_an_alarm_warns_stops_or_rewinds_as_the_policy_says():
    warn = decide(AlarmConfig(), [ALARM], 0)
    assert (warn.action, warn.text) == ("warn", str(ALARM))
    assert decide(AlarmConfig(policy="stop"), [ALARM, LATER], 0).action == "stop"
    rewind = decide(AlarmConfig(policy="rewind"), [LATER, ALARM], 0)
    assert (rewind.action, rewind.before) == ("rewind", 60)
    assert rewind.text == f"{LATER}; {ALARM}"


def test_a_training_is_rewound_so_often_and_then_stopped():
    config = AlarmConfig(policy="rewind", rewinds=3)
    found = [decide(config, [ALARM], rewinds) for rewinds in range(4)]
    assert [each.action for each in found] == ["rewind"] * 3 + ["stop"]
    assert found[-1].text.endswith("(after 3 rewinds)")


def test_alarms_are_recorded_by_name():
    assert alarm_metrics([ALARM, LATER]) == {"alarm/view_loss": 0.2, "alarm/all_alike": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize(("targets", "grey"), [("sinkhorn", 0), ("sinkhorn", 128), ("centring", 128)])
def test_one_picture_for_all_studies_alarms_within_a_few_dozen_steps(targets, grey):
    studies = [Study(f"k{n}", f"p{n}", (View(np.full((48, 40), grey, np.uint8)),) * 2) for n in range(12)]
    alarms = Alarms(AlarmConfig(), prototypes=64, width=32, batch=12, steps=1000)
    raised = [
        name for step, values in _recorded(studies, targets, 45) for name in names(alarms.check(step, values))
    ]
    assert "all_alike" in raised


@pytest.mark.slow
def test_untrained_weights_on_different_pictures_are_not_called_all_alike():
    alarms = Alarms(AlarmConfig(), prototypes=64, width=32, batch=12, steps=1000)
    generator = np.random.default_rng(0)
    pictures = [cv2.resize(generator.integers(0, 256, (6, 5), np.uint8), (40, 48)) for _ in range(12)]
    studies = [Study(f"k{n}", f"p{n}", (View(picture), View(picture))) for n, picture in enumerate(pictures)]
    raised = [
        name
        for step, values in _recorded(studies, "sinkhorn", 45)
        for name in names(alarms.check(step, values))
    ]
    assert raised == ["view_loss"]  # 45 steps are too few to learn anything


def _recorded(studies: list[Study], targets: str, steps: int) -> Iterator[tuple[int, dict[str, float]]]:
    """A training in plain torch, a record each 5 steps, as the loop makes them."""
    torch.manual_seed(0)
    shape = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)
    head = HeadConfig(prototypes=64, hidden=64, bottleneck=32)
    distiller = Distiller(random_backbone(shape, 0), DistillConfig(head=head, targets=targets))
    optimizer = torch.optim.AdamW(distiller.student.parameters(), lr=1e-3)
    crops = CropConfig(global_side=32, local_side=16, locals_per_view=1)
    nothing = [np.zeros((2, 16), bool)] * len(studies)
    batches = [
        collate_crops([study_crops(study, crops, seed=0, epoch=epoch) for study in studies], nothing)
        for epoch in range(10)
    ]
    seen: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        batch = batches[step % 10]
        losses = distiller(distiller.student, batch, 0.04)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        distiller.update_teacher(0.99)
        seen.append(health(losses.view.item() - math.log(64), losses.teacher_entropy.item()))
        if step % 5 == 0:
            with torch.no_grad():
                outputs = distiller.student(batch.globals_GB1SS, None, batch.hidden_TBN, True)
            cosine, rank = cosine_and_rank(outputs.global_cls[0])
            spread = {"health/mean_cosine": cosine.item(), "health/effective_rank": rank.item()}
            yield step, {name: float(np.mean([line[name] for line in seen])) for name in seen[0]} | spread
            seen = []


def test_a_share_of_the_steps_is_not_a_step_short():
    assert alarms_of(AlarmConfig(grace=0.57), steps=1000).grace == 570
    assert alarms_of(AlarmConfig(grace=0.57), steps=100).grace == 57  # 56.99999999999999 in floating point
