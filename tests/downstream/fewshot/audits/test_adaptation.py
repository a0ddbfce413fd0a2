"""Audit of test-time training: every row is what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.audits.adaptation import (
    BACKWARDS,
    BEFORE,
    NO_RESET,
    TttAuditResult,
    audit_passes,
    ttt_audit,
)
from vetdino.downstream.fewshot.audits.config import TttConfig
from vetdino.downstream.fewshot.audits.record import ttt_record
from vetdino.downstream.fewshot.audits.summary import MEAN
from vetdino.downstream.fewshot.learn.adaptation import trained_weights
from vetdino.downstream.fewshot.learn.config import AdaptConfig, EpisodeConfig
from vetdino.downstream.fewshot.learn.encoder import TrainableEncoder
from vetdino.downstream.fewshot.method.config import PrototypeConfig

pytestmark = pytest.mark.slow

NO_RESET_BACKWARDS = f"{NO_RESET}, {BACKWARDS}"


@pytest.fixture(scope="module")
def settings(small) -> dict[str, object]:
    return small | {
        "adapt": AdaptConfig(steps=2, rate=0.05, looks=EpisodeConfig(shift=2.0, elastic_alpha=2.0)),
        "also": (1,),
        "noise": (0.0, 0.5),
        "organs": (1, 2),
        "per_organ": 2,
        "prototypes": PrototypeConfig(training_window=2),
    }


@pytest.fixture(scope="module")
def volumes(scan, scans):
    return scans(*map(scan, range(3)))


@pytest.fixture(scope="module")
def result(tiny, volumes, settings) -> TttAuditResult:
    config = TttConfig(**settings)
    encoder = TrainableEncoder(tiny, config.learn, config.slices, seed=1)
    return ttt_audit(volumes, lambda _: encoder, config)


def slice_dice(result: TttAuditResult, row: str) -> dict[tuple[str, str, int], float]:
    return {(score.scan, score.organ, score.slice): score.dice for score in result.scores if score.row == row}


def test_every_row_has_every_slice(result):
    rows = [BEFORE, "1 step", "2 steps", "label truth", "label truth, 50% wrong", BACKWARDS, NO_RESET]
    assert set(result.before) == {*rows, NO_RESET_BACKWARDS, "copy", "pixels", "oracle"}
    assert {len(slice_dice(result, row)) for row in result.before} == {3 * 2 * 2}
    assert result.steps == {BEFORE: 0, "1 step": 1, "2 steps": 2}
    assert {result.before[row] for row in rows} == {BEFORE}
    assert result.before["oracle"] == "oracle"


def test_the_order_of_slices_matters_only_without_reset(result):
    assert slice_dice(result, BACKWARDS) == slice_dice(result, "2 steps")
    assert result.order["2 steps"] == 0
    assert result.order[NO_RESET] > 0


def test_without_reset_the_weights_drift_over_a_fold(result):
    kept, reset = (
        [one for one in result.trainings if one.row == row and one.fold == 1] for row in (NO_RESET, "2 steps")
    )
    assert len(kept) == len(reset) > 3
    assert kept[0].drift == reset[0].drift
    assert kept[-1].drift > 2 * max(one.drift for one in reset)
    assert [one.place for one in kept] == list(range(1, len(kept) + 1))


def test_the_encoder_is_reset_at_the_end(tiny, volumes, settings):
    config = TttConfig(**settings | {"scans": 1, "noise": (), "also": ()})
    encoder = TrainableEncoder(tiny, config.learn, config.slices, seed=1)
    before = trained_weights(encoder)
    ttt_audit(volumes, lambda _: encoder, config)
    assert all(torch.equal(one, other) for one, other in zip(trained_weights(encoder), before, strict=True))


def test_the_record_has_trainings_and_pictures(result, settings):
    record = ttt_record(result, "tiny", TttConfig(**settings))
    assert {"dice", "harm", "steps", "drift"} <= record.pictures.keys()
    [line] = [one for one in record.summary if one["row"] == "2 steps" and one["organ"] == MEAN]
    trainings = [one for one in result.trainings if one.row == "2 steps"]
    assert line["drift"] == pytest.approx(np.mean([one.drift for one in trainings]))
    assert line["seconds"] == pytest.approx(np.mean([one.seconds for one in trainings]))
    assert line["trained"] == sum(one.steps > 0 for one in trainings)
    assert record.metrics["order/2 steps"] == 0
    assert {"slices", "training", "summary"} == record.tables.keys()


def test_passes_are_named_for_what_they_do(settings):
    names = [each.row for each in audit_passes(TttConfig(**settings))]
    expected = ["2 steps", "label truth", "label truth, 50% wrong", BACKWARDS, NO_RESET, NO_RESET_BACKWARDS]
    assert names == expected
    assert [each.is_main for each in audit_passes(TttConfig(**settings))] == [True, *[False] * 5]
