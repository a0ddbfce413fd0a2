"""Ways to answer and what is measured of them, on small drawn scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from vetdino.downstream.fewshot.config import FewshotConfig
from vetdino.downstream.fewshot.measure import evaluate, measure, ways_by, ways_of
from vetdino.downstream.fewshot.method.answers import (
    Encoders,
    Lesson,
    Remembered,
    answered,
    by_copy,
    by_prototypes,
    by_truth,
    label_map,
    lesson_of,
    mask_of,
    smoothed,
)
from vetdino.downstream.fewshot.method.config import (
    Compat,
    PrototypeConfig,
    ScanConfig,
    SliceConfig,
    TaskConfig,
)
from vetdino.downstream.fewshot.method.protocol import told_parts
from vetdino.downstream.fewshot.method.prototypes import on_image, predict
from vetdino.downstream.fewshot.method.slices import PixelFeatures
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import ConfigError, DataError

ORGANS = {1: "liver", 2: "kidneys"}
COMPATS = ("ours", "alpnet", "levayz")
PIXELS = PixelFeatures(SliceConfig(grid=16))


def scan(seed: int = 0, organs: Sequence[int] = (1, 2)) -> Volume:
    """A grey body with a bright liver and brighter kidneys, each scan a bit moved."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[:8, :32, :32]
    up, left = random.uniform(-1, 1, 2)
    labels = np.zeros(z.shape, np.uint8)
    if 1 in organs:
        labels[(np.hypot(y - 12 - up, x - 11 - left) < 6) & (z > 0) & (z < 7)] = 1
    if 2 in organs:
        for side in (-6, 6):
            labels[(np.hypot(y - 23 - up, x - 16 - side - left) < 3.5) & (z > 1) & (z < 6)] = 2
    body = np.hypot(y - 16, x - 16) < 15
    image = body * (60 + 60.0 * (labels == 1) + 120 * (labels == 2)) + random.normal(0, 4, z.shape)
    return Volume(f"s{seed}", np.clip(image, 0, 255).astype(np.float32), labels, (5.0, 1.5, 1.5), "mri", None)


class Held:
    """Scans in memory that are read as a prepared folder is."""

    folder = Path("held")

    def __init__(self, *scans: Volume, classes: dict[int, str] = ORGANS) -> None:
        self.classes = classes
        self._scans = {one.name: one for one in scans}
        self.names = tuple(self._scans)
        self.cards = {name: {"labelled": one.labels_ZHW is not None} for name, one in self._scans.items()}

    def load(self, name: str) -> Volume:
        return self._scans[name]


def measured(*scans: Volume, **settings) -> dict[tuple[str, str, str], float]:
    config = FewshotConfig(**{"folds": 2, "resamples": 10, **settings})
    found = evaluate(Held(*scans), {"pixels": PIXELS}, config)
    return {(score.row, score.scan, score.organ): score.dice for score in found.scores}


def test_an_answer_is_the_prototypes_prediction_slice_by_slice():
    support, query = scan(0), scan(1)
    lesson = lesson_of(1, "liver", [support])
    config = PrototypeConfig()
    found = by_prototypes(PIXELS, config)(lesson, 1, query, [3, 4])
    z = lesson.places[0][1]
    mask = torch.from_numpy(support.labels_ZHW[[z]] == 1)
    logits, _ = predict(PIXELS(query, [4])[0], PIXELS(support, [z]), mask, config)
    back, front = on_image(logits, 32, 32)
    torch.testing.assert_close(found[1], front - back, atol=1e-4, rtol=1e-4)


def test_a_scan_that_teaches_itself_is_found_and_the_oracle_bounds_it():
    config = TaskConfig()
    own = scan(0)
    for organ, name in ORGANS.items():
        lesson = lesson_of(organ, name, [own])
        truth = own.labels_ZHW == organ
        plan = told_parts(truth)
        for answer, least in (
            (by_prototypes(PIXELS, config.prototypes), 0.7),
            (by_truth(PIXELS, "ours"), 0.85),
        ):
            [ahead] = answered(answer, lesson, own, plan)
            mask = mask_of(ahead, plan, lesson, "n", truth.shape)
            assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > least


def oracle_of(mask_HW: torch.Tensor, h: int, w: int, compat: Compat) -> torch.Tensor:
    """(H, W) bool: what the oracle makes of a one-slice scan's truth on a grid of h x w cells."""
    labels = mask_HW.numpy()[None].astype(np.uint8)
    query = Volume("s", labels.astype(np.float32), labels, (5.0, 1.0, 1.0), "mri", None)
    lesson = Lesson(1, "liver", (query,), ((0, 0, 0),))
    oracle = by_truth(lambda volume, slices: torch.zeros(len(slices), 1, h, w), compat)
    [ahead] = answered(oracle, lesson, query, {0: 0})
    return torch.from_numpy(ahead[0] > 0)


def test_the_oracle_loses_nothing_on_a_grid_as_fine_as_the_image():
    mask = torch.rand(16, 24) > 0.5
    for compat in COMPATS:
        assert torch.equal(oracle_of(mask, 16, 24, compat), mask)


def test_the_oracle_keeps_more_of_an_organ_by_its_area_than_by_a_corner():
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    mask = (rows - 44).square() / 2 + (columns - 51).square() < 300
    kept = {}
    for compat in COMPATS:
        found = oracle_of(mask, 12, 12, compat)
        kept[compat] = 2 * float((found & mask).sum()) / float(found.sum() + mask.sum())
    assert kept["ours"] > 0.95
    assert kept["alpnet"] > kept["levayz"]
    assert kept["levayz"] < 0.85


def test_the_oracle_gives_all_for_all_and_nothing_for_nothing():
    for value in (True, False):
        mask = torch.full((20, 20), value)
        for compat in COMPATS:
            assert torch.equal(oracle_of(mask, 6, 7, compat), mask)


def test_copy_gives_the_supports_own_mask_whatever_is_asked():
    lesson = lesson_of(2, "kidneys", [scan(0)])
    found = by_copy(lesson, 0, scan(5), [1, 2])
    assert found.shape == (2, 32, 32)
    np.testing.assert_array_equal(found[0] > 0, lesson.masks(0)[0])


def test_what_two_plans_share_is_asked_once():
    asked = []

    def answer(lesson, part, query, slices):
        asked.extend((part, z) for z in slices)
        return torch.full((len(slices), 32, 32), float(part))

    lesson = lesson_of(1, "liver", [scan(0)])
    one, two = answered(answer, lesson, scan(1), {1: 0, 2: 0, 3: 1}, {2: 0, 3: 2})
    assert sorted(asked) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert one[3][0, 0] == 1
    assert two[3][0, 0] == 2


def test_a_slice_leans_on_those_around_it_as_a_gaussian_filter_has_it():
    given = {z: np.random.default_rng(z).normal(size=(3, 4)).astype(np.float32) for z in range(4, 24)}
    # Beyond the ends nothing is asked: weights there are 0, and the others sum to 1.
    values, known = (
        gaussian_filter1d(np.pad(x, ((9, 9), (0, 0), (0, 0))), 2.0, axis=0, truncate=3, mode="constant")[9:-9]
        for x in (np.stack(list(given.values())), np.ones((20, 3, 4)))
    )
    found = smoothed(given, 2.0)
    assert list(found) == list(given)
    np.testing.assert_allclose(np.stack(list(found.values())), values / known, atol=1e-5)
    assert smoothed({}, 2.0) == {}


def test_slices_lean_on_one_another_in_our_mode_only_and_only_where_asked():
    config = FewshotConfig(beside=("alpnet", "levayz"))
    told = {
        (way.source, way.compat): way.smooth for way in ways_of({"mine": PIXELS}, config, {"pixels": PIXELS})
    }
    assert {name for name, smooth in told.items() if smooth} == {("mine", "ours"), ("pixels", "ours")}
    alone = FewshotConfig(scan=ScanConfig(smooth=0.0))
    assert not any(way.smooth for way in ways_of({"mine": PIXELS}, alone))
    lesson, query, plan = lesson_of(1, "liver", [scan(0)]), scan(1), {z: 1 for z in range(1, 7)}
    answer = by_prototypes(PIXELS, config.prototypes)
    [one], [leaning] = (answered(answer, lesson, query, plan, smooth=smooth) for smooth in (0.0, 1.0))
    for z, ahead_HW in smoothed(one, 1.0).items():
        np.testing.assert_allclose(leaning[z], ahead_HW, atol=1e-4)


def test_features_are_made_once_for_each_slice_and_old_scans_are_forgotten():
    made = []

    def features(volume, slices):
        made.extend((volume.name, z) for z in slices)
        return torch.tensor([[[[float(z)]]] for z in slices])

    remembered, first, second, third = Remembered(features, 2), scan(1), scan(2), scan(3)
    assert remembered(first, [3, 1]).flatten().tolist() == [3, 1]
    assert remembered(first, [1, 2, 3]).flatten().tolist() == [1, 2, 3]
    assert sorted(made) == [("s1", 1), ("s1", 2), ("s1", 3)]
    for volume in (second, third, first):
        remembered(volume, [1])
    assert made[-1] == ("s1", 1)


def test_every_pixel_goes_to_the_organ_that_is_furthest_ahead():
    lessons = {organ: lesson_of(organ, name, [scan(0)]) for organ, name in ORGANS.items()}
    one, two = np.full((2, 32, 32), -1.0, np.float32)
    one[:10], two[5:15] = 1.0, 2.0
    parts = {1: {3: 1}, 2: {3: 1}}
    found = label_map({1: {3: one}, 2: {3: two}}, parts, lessons, "all", (8, 32, 32))
    assert (found[3, :5] == 1).all()
    assert (found[3, 5:15] == 2).all()
    assert not found[3, 15:].any()
    assert not found[[0, 1, 2, 4, 5, 6, 7]].any()


def test_components_keep_as_many_parts_as_the_support_shows():
    lesson = lesson_of(2, "kidneys", [scan(0)])
    ahead = np.full((32, 32), -1.0, np.float32)
    for place, sure in ((2, 3.0), (10, 2.0), (20, 1.0)):
        ahead[place : place + 4, 4:8] = sure
    for components, parts in (("1", 1), ("n", 2), ("all", 3)):
        mask = mask_of({3: ahead}, {3: 1}, lesson, components, (8, 32, 32))
        assert mask.sum() == 16 * parts


def test_every_row_has_every_scan_and_organ_and_their_order_does_not_matter():
    scans = [scan(seed) for seed in range(4)]
    found = measured(*scans, beside=("levayz",), components_beside=("1",))
    rows = {row for row, _, _ in found}
    assert rows == {
        "pixels",
        "pixels, components 1",
        "pixels, levayz",
        "pixels, levayz, components 1",
        "copy",
        "oracle",
        "oracle, levayz",
    }
    assert len(found) == len(rows) * 4 * 2
    assert found == measured(*scans, beside=("levayz",), components_beside=("1",))
    assert np.mean([value for key, value in found.items() if key[0] == "oracle"]) > 0.8


def test_more_shots_teach_together():
    found = measured(*(scan(seed) for seed in range(6)), shots=(2,), floors=())
    assert {row for row, _, _ in found} == {"pixels"}
    config = FewshotConfig(folds=2, shots=(2,), floors=(), resamples=10)
    scores = evaluate(Held(*(scan(seed) for seed in range(6))), {"pixels": PIXELS}, config).scores
    assert {score.supports for score in scores} == {"s3 s4", "s0 s1"}


def test_numbers_of_shots_are_rows_over_the_same_queries():
    scans = Held(*(scan(seed) for seed in range(6)))
    config = FewshotConfig(folds=2, shots=(1, 2), floors=("copy", "oracle"), resamples=10)
    found = evaluate(scans, {"pixels": PIXELS}, config)
    assert list(found.ways) == [
        "pixels, 1 shot",
        "pixels, 2 shots",
        "copy, 1 shot",
        "copy, 2 shots",
        "oracle",
    ]
    asked = {
        row: {(score.scan, score.organ) for score in found.scores if score.row == row} for row in found.ways
    }
    assert len({frozenset(pairs) for pairs in asked.values()}) == 1
    for shots in (1, 2):
        alone = evaluate(scans, {"pixels": PIXELS}, replace(config, shots=(shots,), floors=()))
        own = [score for score in found.scores if score.source == "pixels" and score.shots == shots]
        if shots == 2:  # with one shot the folds are the same, with the same first support
            assert [score.supports for score in own] == [score.supports for score in alone.scores]
        assert [score.dice for score in own] == [score.dice for score in alone.scores]


def test_a_support_that_does_not_show_an_organ_is_said_where_others_teach():
    scans = [scan(seed) for seed in range(6)]
    scans[3] = scan(3, organs=[1])
    config = FewshotConfig(folds=2, shots=(1, 2), floors=(), resamples=10)
    found = evaluate(Held(*scans), {"pixels": PIXELS}, config)
    assert "in none of the supports (s3)" in found.left_out["fold 0, kidneys, 1 shot"]
    assert found.left_out["fold 0, kidneys, support s3"].endswith("the other supports teach (1 of 2)")
    taught = {(score.fold, score.shots) for score in found.scores if score.organ == "kidneys"}
    assert taught == {(0, 2), (1, 1), (1, 2)}


def test_floors_stand_beside_in_the_main_way_alone():
    config = FewshotConfig(beside=("levayz",), components_beside=("all",))
    ways = ways_of({"mine": PIXELS}, config, {"pixels": PIXELS})
    rows = [(way.source, way.compat, len(way.components), way.floor) for way in ways]
    assert rows == [
        ("mine", "ours", 2, False),
        ("mine", "levayz", 2, False),
        ("pixels", "ours", 1, True),
        ("copy", "", 1, True),
        ("oracle", "ours", 1, True),
        ("oracle", "levayz", 1, True),
    ]


def test_every_fold_and_organ_is_answered_by_its_own_encoder():
    class Own:
        def __init__(self, fold, organ):
            self.place, self.asked = (fold, organ), set()

        def __call__(self, volume, slices):
            self.asked.add(volume.name)
            return PIXELS(volume, slices)

    scans = Held(*(scan(seed) for seed in range(4)))
    config = FewshotConfig(folds=2, floors=(), resamples=10)
    trained = {(fold, organ): Own(fold, organ) for fold in range(2) for organ in ORGANS}
    found = measure(scans, ways_by("trained", Encoders(trained, 2), config), config)
    assert {key: own.asked for key, own in trained.items()} == {
        (fold, organ): names
        for fold, names in enumerate(({"s0", "s1", "s2"}, {"s2", "s3", "s0"}))
        for organ in ORGANS
    }
    frozen = evaluate(scans, {"pixels": PIXELS}, config)
    assert [score.dice for score in found.scores] == [score.dice for score in frozen.scores]


def test_scans_of_another_folder_teach_classes_of_the_same_name():
    scans = [scan(seed) for seed in range(4)]
    swapped = [
        replace(one, name=f"t{one.name}", labels_ZHW=np.array([0, 2, 1], np.uint8)[one.labels_ZHW])
        for one in scans
    ]
    other = Held(*swapped, classes={1: "Kidneys", 2: "LIVER", 9: "spleen"})
    config = FewshotConfig(folds=2, floors=("copy",), resamples=10)
    ways = ways_of({"pixels": PIXELS}, config)
    own = measure(Held(*scans), ways, config)
    crossed = measure(other, ways_of({"pixels": PIXELS}, config), config, Held(*scans))
    assert [score.dice for score in crossed.scores] == [score.dice for score in own.scores]
    assert {score.supports for score in crossed.scores} == {"s2", "s0"}
    assert {score.scan for score in crossed.scores} == {"ts0", "ts1", "ts2", "ts3"}
    lacking = Held(*scans, classes={1: "liver", 2: "something"})
    found = measure(lacking, ways_of({"pixels": PIXELS}, config), config, Held(*scans))
    assert found.left_out == {"held, kidneys": "no class of this name there"}
    assert set(found.organs.values()) == {"liver"}
    with pytest.raises(DataError, match="share no class"):
        measure(Held(*scans, classes={1: "a", 2: "b"}), ways, config, Held(*scans))


def test_what_a_scan_or_a_support_does_not_show_is_left_out_and_said():
    scans = [scan(0), scan(1, organs=[1]), scan(2), scan(3)]
    config = FewshotConfig(folds=2, floors=(), resamples=10)
    found = evaluate(Held(*scans), {"pixels": PIXELS}, config)
    assert found.left_out == {"s1, kidneys": "the scan does not show it"}
    assert ("s1", "kidneys") not in {(score.scan, score.organ) for score in found.scores}
    unlabelled = Volume("s9", scans[0].image_ZHW, None, (1.0, 1.0, 1.0), "mri", None)
    found = evaluate(Held(scan(0, organs=[1]), *scans[2:], unlabelled), {"pixels": PIXELS}, config)
    assert found.left_out["s9"] == "no labels"
    assert "class 2 (kidneys) is in none of the supports (s0)" in found.left_out["fold 1, kidneys"]


def test_one_slice_is_a_scan_too():
    scans = []
    for seed in range(3):
        whole = scan(seed)
        middle = Volume(whole.name, whole.image_ZHW[3:4], whole.labels_ZHW[3:4], whole.spacing, "mri", None)
        scans.append(middle)
    found = measured(*scans, floors=())
    assert len(found) == 6
    assert min(found.values()) > 0.5


def test_wrong_settings_are_refused():
    with pytest.raises(DataError, match="class 3"):
        lesson_of(3, "spleen", [scan(0)])
    with pytest.raises(ConfigError, match="no class 7"):
        measured(scan(0), scan(1), organs=(7,))
    for name in ("reach", "smooth"):
        with pytest.raises(ConfigError, match=name):
            ScanConfig(**{name: -1.0})
    with pytest.raises(ConfigError, match="resamples"):
        FewshotConfig(resamples=0)
    for shots in ((), (1, 1)):
        with pytest.raises(ConfigError, match="shots"):
            FewshotConfig(shots=shots)
    with pytest.raises(ConfigError, match="two rows would be called 'copy'"):
        evaluate(Held(scan(0), scan(1)), {"copy": PIXELS}, FewshotConfig(folds=2))


def test_things_introduce_themselves():
    assert repr(lesson_of(1, "liver", [scan(0)])) == "Lesson(liver, 1 supports)"
    assert isinstance(lesson_of(1, "liver", [scan(0)]), Lesson)
