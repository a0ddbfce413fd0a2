"""The audits: what is counted of each slice, against masks made by hand, and that every row is what it says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.audits.adaptation import (
    BACKWARDS,
    BEFORE,
    NO_RESET,
    passes_of,
    roughened,
    ttt_audit,
)
from vetdino.downstream.fewshot.audits.components import cca_audit
from vetdino.downstream.fewshot.audits.config import AuditConfig, CcaConfig, TttConfig
from vetdino.downstream.fewshot.audits.figures import examples
from vetdino.downstream.fewshot.audits.record import cca_left, ttt_left
from vetdino.downstream.fewshot.audits.slices import (
    MEAN,
    Example,
    Extremes,
    SliceScore,
    evenly,
    example_of,
    joined,
    parts_in,
    questions,
    summary_of,
)
from vetdino.downstream.fewshot.learn.adaptation import weights_of
from vetdino.downstream.fewshot.learn.config import AdaptConfig, EpisodeConfig, LearnConfig
from vetdino.downstream.fewshot.learn.learnable import Learnable
from vetdino.downstream.fewshot.method.answers import classes_of
from vetdino.downstream.fewshot.method.config import PrototypeConfig, SliceConfig
from vetdino.downstream.fewshot.method.protocol import dice
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import ConfigError, DataError

CLASSES = {1: "liver", 2: "right kidney", 3: "left kidney"}
SMALL = {"folds": 2, "resamples": 10, "slices": SliceConfig(grid=8)}


def scan(seed: int = 0, organs: Sequence[int] = (1, 2, 3), right: float = 3.5) -> Volume:
    """A grey body with a bright liver and two brighter kidneys, the left one smaller; each scan a bit moved."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:6, :32, :32]
    up, left = random.uniform(-1, 1, 2)
    labels = np.zeros(z.shape, np.uint8)
    for number, row, column, radius in ((1, 12, 10, 5.5), (2, 24, 10, right), (3, 24, 22, 2.5)):
        if number in organs:
            labels[(np.hypot(y - row - up, x - column - left) < radius) & (z > 0) & (z < 5)] = number
    body = np.hypot(y - 16, x - 16) < 15
    image = body * (60 + 50.0 * (labels == 1) + 120 * (labels > 1)) + random.normal(0, 4, z.shape)
    return Volume(f"s{seed}", np.clip(image, 0, 255).astype(np.float32), labels, (5.0, 1.5, 1.5), "mri", None)


class Held:
    """Scans in memory that are read as a prepared folder is."""

    folder = "held"
    classes = CLASSES

    def __init__(self, *scans: Volume) -> None:
        self._scans = {one.name: one for one in scans}
        self.names = tuple(self._scans)
        self.cards = {name: {"labelled": one.labels_ZHW is not None} for name, one in self._scans.items()}

    def load(self, name: str) -> Volume:
        return self._scans[name]


def score(
    row: str, scan: str, z: int, found: int, true: int, overlap: int, organ: str = "liver"
) -> SliceScore:
    return SliceScore(row, 0, scan, organ, z, 1, 1, found, true, overlap, 2 * overlap / (found + true))


# Questions ---------------------------------------------------------------------------------------


def test_no_scans_make_no_questions_and_an_unknown_organ_is_refused():
    with pytest.raises(ConfigError, match="folds"):
        list(questions(Held(), AuditConfig(**SMALL), {}))
    with pytest.raises(ConfigError, match="no class 7"):
        classes_of(Held(), (7,))
    with pytest.raises(ConfigError, match="per_organ is -1"):
        AuditConfig(per_organ=-1)


def test_every_organ_of_every_scan_is_asked_once_and_what_cannot_be_asked_is_said():
    left_out: dict[str, str] = {}
    blank = Volume("s9", scan(9).image_ZHW, None, (1.0, 1.0, 1.0), "mri", None)
    scans = Held(scan(0), scan(1, organs=[1]), scan(2), scan(3), blank)
    asked = [one for group in questions(scans, AuditConfig(**SMALL), left_out) for one in group]
    assert [(one.query.name, one.lesson.organ) for one in asked] == [
        ("s0", 1), ("s0", 2), ("s0", 3), ("s1", 1), ("s2", 1), ("s2", 2), ("s2", 3), ("s3", 1), ("s3", 2), ("s3", 3)
    ]  # fmt: skip
    assert [one.lesson.fold for one in asked] == [one.fold.number for one in asked]
    assert asked[0].parts == {1: 0, 2: 1, 3: 2, 4: 2}
    assert asked[0].query is not asked[0].lesson.supports[0]
    told = {"s9": "no labels"} | {f"s1, {CLASSES[n]}": "the scan does not show it" for n in (2, 3)}
    assert left_out == told


def test_a_sample_of_scans_and_slices_lies_evenly():
    config = AuditConfig(scans=2, per_organ=2, **SMALL)
    asked = [one for group in questions(Held(*map(scan, range(4))), config, {}) for one in group]
    assert sorted({one.query.name for one in asked}) == ["s1", "s3"]
    assert {tuple(one.parts) for one in asked} == {(2, 4)}
    assert evenly(3, 0) == [0, 1, 2]


def test_classes_that_are_asked_together_are_one_organ():
    both = joined(Held(scan(0)), ["2+3"])
    assert both.classes == {1: "liver", 2: "right kidney + left kidney"}
    own, labels = scan(0).labels_ZHW, both.load("s0").labels_ZHW
    np.testing.assert_array_equal(labels == 2, own >= 2)
    np.testing.assert_array_equal(labels == 1, own == 1)
    assert joined(Held(scan(0)), ["left kidney + right kidney"]).classes == both.classes
    assert joined(held := Held(scan(0)), []) is held


@pytest.mark.parametrize("words", ["2", "2+9", "2+2"])
def test_what_joins_no_two_classes_is_refused(words):
    with pytest.raises(ConfigError):
        joined(Held(scan(0)), [words])


# Rows --------------------------------------------------------------------------------------------


def test_change_and_share_of_slices_harmed_are_those_counted_by_hand():
    scores = [
        score("before", "a", 0, 10, 10, 5),
        score("before", "a", 1, 10, 10, 5),
        score("before", "b", 0, 10, 10, 5),
        score("after", "a", 0, 10, 10, 8),
        score("after", "a", 1, 10, 10, 4),
        score("after", "b", 0, 10, 10, 4),
    ]
    lines = summary_of(scores, {"before": "before", "after": "before"}, ["liver"], AuditConfig(resamples=10))
    by_row = {line["row"]: line for line in lines if line["organ"] == "liver"}
    assert by_row["before"]["dice"] == pytest.approx(0.5)
    assert by_row["before"]["worse"] == by_row["before"]["better"] == by_row["before"]["change"] == 0
    after = by_row["after"]
    assert after["dice"] == pytest.approx((2 * 12 / 40 + 2 * 4 / 20) / 2)
    assert after["change"] == pytest.approx(after["dice"] - 0.5)
    assert after["worse"] == pytest.approx((1 / 2 + 1) / 2)
    assert after["better"] == pytest.approx((1 / 2 + 0) / 2)
    assert (after["scans"], after["slices"]) == (2, 3)


def test_the_mean_is_over_organs_and_an_organ_that_a_scan_lacks_does_not_count():
    scores = [
        score("all", "a", 0, 10, 10, 10),
        score("all", "a", 0, 10, 10, 0, organ="spleen"),
        score("all", "b", 0, 10, 10, 10),
    ]
    lines = summary_of(scores, {"all": "all"}, ["liver", "spleen"], AuditConfig(resamples=10))
    assert [line["dice"] for line in lines] == [1.0, 0.0, 0.5]
    assert [line["scans"] for line in lines] == [2, 1, 2]
    assert lines[-1]["organ"] == MEAN


def test_the_slices_kept_for_pictures_are_the_same_in_any_order():
    blank = np.zeros((2, 2))
    seen = [Example(f"slice {n:02}", blank, blank, blank, blank, 0.5, n / 20) for n in range(21)]
    forth, back = Extremes(), Extremes()
    for one, other in zip(seen, seen[::-1], strict=True):
        forth.see(one)
        back.see(other)
    assert [one.title for one in forth.losses] == ["slice 00", "slice 01", "slice 02", "slice 03"]
    assert [one.title for one in forth.gains] == ["slice 20", "slice 19", "slice 18", "slice 17"]
    assert (forth.losses, forth.gains) == (back.losses, back.gains)


# Components --------------------------------------------------------------------------------------


def test_the_ceiling_of_one_component_is_what_is_left_of_both_kidneys():
    found = cca_audit(Held(*map(scan, range(4))), None, CcaConfig(together=("2+3",), **SMALL))
    lines = {
        (line["row"], line["organ"]): line
        for line in summary_of(found.scores, found.before, found.organs, CcaConfig(**SMALL))
    }
    expected = []
    for seed in range(4):
        labels = scan(seed).labels_ZHW
        expected.append(dice(labels == 2, labels >= 2))
    both = "right kidney + left kidney"
    assert lines["truth, components 1", both]["dice"] == pytest.approx(np.mean(expected))
    assert lines["truth, components 1", both]["worse"] == 1
    assert lines["truth, components n", both]["dice"] == lines["truth", both]["dice"] == 1
    assert lines["truth", both]["parts"] == 2
    assert lines["truth", both]["several"] == 1
    assert lines["truth, components 1", "liver"]["dice"] == 1


def test_slices_that_changed_are_shown_before_and_after_and_none_where_none_did():
    assert examples(Extremes(), "none", "") is None
    [asked] = next(questions(Held(*map(scan, range(3))), AuditConfig(organs=(2,), **SMALL), {}))
    found = Extremes()
    one = example_of(asked, 2, asked.truth[2], np.zeros((32, 32), bool))
    found.see(one)
    assert (one.before, one.after, one.title) == (1.0, 0.0, "right kidney, scan s0, slice 2")
    assert found.losses == [one]
    assert found.gains == []
    assert examples(found, "one", "note").startswith(b"\x89PNG")


def test_components_leave_every_kept_row_at_most_so_many_parts_and_floors_are_rows():
    found = cca_audit(Held(*map(scan, range(4))), None, CcaConfig(**SMALL))
    sources = {row.partition(",")[0] for row in found.before}
    assert sources == {"pixels", "copy", "oracle", "truth"}
    assert all(one.parts <= 1 for one in found.scores if one.row.endswith("components 1"))
    assert found.left_out == {}
    left = cca_left(found, "pixels", CcaConfig(**SMALL))
    assert {"dice", "harm", "parts"} <= left.pictures.keys()
    assert all(png.startswith(b"\x89PNG") for png in left.pictures.values())
    assert len(left.tables["slices"]) == len(found.scores)


def test_nothing_to_measure_is_an_error():
    with pytest.raises(DataError, match="class 2"):
        cca_audit(Held(*(scan(seed, organs=[1]) for seed in range(3))), None, CcaConfig(organs=(2,), **SMALL))


# Test-time training ------------------------------------------------------------------------------

LITTLE = TttConfig(
    adapt=AdaptConfig(steps=2, rate=0.05, looks=EpisodeConfig(shift=2.0, elastic_alpha=2.0)),
    also=(1,),
    noise=(0.0, 0.5),
    organs=(1, 2),
    per_organ=2,
    prototypes=PrototypeConfig(training_window=2),
    learn=LearnConfig(),
    **SMALL,
)


@pytest.fixture(scope="module")
def learnable(tiny) -> Learnable:
    return Learnable(tiny, LITTLE.learn, LITTLE.slices, seed=1)


@pytest.fixture(scope="module")
def audit(learnable):
    return ttt_audit(Held(*map(scan, range(3))), lambda _: learnable, LITTLE)


def dices(audit, row: str) -> dict[tuple[str, str, int], float]:
    return {(one.scan, one.organ, one.slice): one.dice for one in audit.scores if one.row == row}


def test_every_row_has_every_slice(audit):
    rows = [BEFORE, "1 step", "2 steps", "label truth", "label truth, 50% wrong", BACKWARDS, NO_RESET]
    assert set(audit.before) == {*rows, f"{NO_RESET}, {BACKWARDS}", "copy", "pixels", "oracle"}
    assert {len(dices(audit, row)) for row in audit.before} == {3 * 2 * 2}
    assert audit.steps == {BEFORE: 0, "1 step": 1, "2 steps": 2}
    assert {audit.before[row] for row in rows} == {BEFORE}
    assert audit.before["oracle"] == "oracle"


def test_with_the_reset_order_does_not_matter_and_without_it_it_does(audit):
    assert dices(audit, BACKWARDS) == dices(audit, "2 steps")
    assert audit.order["2 steps"] == 0
    assert audit.order[NO_RESET] > 0


def test_without_the_reset_weights_drift_on_over_a_fold(audit):
    drift = [one.drift for one in audit.costs if one.row == NO_RESET and one.fold == 1]
    reset = [one.drift for one in audit.costs if one.row == "2 steps" and one.fold == 1]
    assert len(drift) == len(reset) > 3
    assert drift[0] == reset[0]
    assert drift[-1] > 2 * max(reset)
    assert [one.place for one in audit.costs if one.row == NO_RESET and one.fold == 1] == list(
        range(1, len(drift) + 1)
    )


def test_the_encoder_is_afterwards_what_it_was(tiny):
    fresh = Learnable(tiny, LITTLE.learn, LITTLE.slices, seed=1)
    before = weights_of(fresh)
    ttt_audit(Held(*map(scan, range(3))), lambda _: fresh, TttConfig(**_settings(scans=1, noise=(), also=())))
    assert all(torch.equal(one, other) for one, other in zip(weights_of(fresh), before, strict=True))


def _settings(**changed) -> dict:
    kept = ("adapt", "organs", "per_organ", "prototypes", "learn", "slices", "folds", "resamples")
    return {name: getattr(LITTLE, name) for name in kept} | changed


def test_costs_and_pictures_are_left(audit):
    left = ttt_left(audit, "tiny", LITTLE)
    assert {"dice", "harm", "steps", "drift"} <= left.pictures.keys()
    [line] = [one for one in left.summary if one["row"] == "2 steps" and one["organ"] == MEAN]
    own = [one for one in audit.costs if one.row == "2 steps"]
    assert line["drift"] == pytest.approx(np.mean([one.drift for one in own]))
    assert line["seconds"] == pytest.approx(np.mean([one.seconds for one in own]))
    assert line["trained"] == sum(one.steps > 0 for one in own)
    assert left.metrics["order/2 steps"] == 0
    assert {"slices", "training", "summary"} == left.tables.keys()


def test_a_rough_mask_keeps_its_size_and_loses_the_share_asked_for():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 12:28] = True
    for share in (0.0, 0.1, 0.5, 0.9):
        rough = roughened(mask, share, np.random.default_rng(3))
        assert rough.sum() == mask.sum()
        assert (mask & ~rough).sum() == round(share * mask.sum())
    assert not roughened(np.zeros((4, 4), bool), 0.5, np.random.default_rng(3)).any()
    small = np.zeros((9, 9), bool)
    small[4, 4:6] = True
    assert (small & ~roughened(small, 0.5, np.random.default_rng(0))).sum() == 1


def test_passes_are_named_for_what_they_do():
    names = [one.row for one in passes_of(LITTLE)]
    assert names == [
        "2 steps",
        "label truth",
        "label truth, 50% wrong",
        BACKWARDS,
        NO_RESET,
        f"{NO_RESET}, {BACKWARDS}",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapt": AdaptConfig(steps=0)}, r"adapt\.steps 0"),
        ({"also": (100,)}, "also"),
        ({"noise": (1.0,)}, "noise"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TttConfig(**settings)


def test_parts_are_counted_over_corners():
    assert parts_in(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])) == 1
    assert parts_in(np.array([[1, 0, 1]])) == 2
    assert parts_in(np.zeros((2, 2))) == 0
