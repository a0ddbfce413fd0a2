"""Every method on every scan of a small folder: scores, folds, shots, other folders' supports, what is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.fewshot.config import FewshotConfig
from vetdino.downstream.fewshot.finished import FinishedQueries
from vetdino.downstream.fewshot.measure import measure
from vetdino.downstream.fewshot.method.predictors import FoldEncoders
from vetdino.downstream.fewshot.methods import feature_methods, prototype_methods
from vetdino.downstream.fewshot.results import FewshotResults
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import ConfigError, DataError

pytestmark = pytest.mark.slow

QUICK = FewshotConfig(folds=2, floors=(), resamples=10)


@pytest.fixture
def evaluate(pixels):
    """(volumes, config) -> results of pixel features and the config's baselines."""

    def results(volumes, config: FewshotConfig = QUICK) -> FewshotResults:
        return measure(volumes, feature_methods({"pixels": pixels}, config), config)

    return results


def dice_by_place(results: FewshotResults) -> dict[tuple[str, str, str], float]:
    return {(score.row, score.scan, score.organ): score.dice for score in results.scores}


def test_every_row_has_every_scan_and_organ_and_their_order_does_not_matter(
    evaluate, pixels, organ_scan, organ_volumes
):
    volumes = organ_volumes(*(organ_scan(seed) for seed in range(4)))
    config = replace(QUICK, beside=("levayz",), components_beside=("1",), floors=("copy", "oracle"))
    results = evaluate(volumes, config)
    scores = dice_by_place(results)
    assert len(results.methods) == 4 + 1 + 2
    assert len(scores) == len(results.methods) * 4 * 2
    backwards = measure(volumes, feature_methods({"pixels": pixels}, config)[::-1], config)
    assert scores == dice_by_place(backwards)
    assert np.mean([value for (row, _, _), value in scores.items() if row == "oracle"]) > 0.8


def test_several_supports_are_those_that_follow_the_queries(evaluate, organ_scan, organ_volumes):
    volumes = organ_volumes(*(organ_scan(seed) for seed in range(6)))
    results = evaluate(volumes, replace(QUICK, shots=(2,)))
    assert set(results.methods) == {"pixels"}
    assert {score.supports for score in results.scores} == {"s3 s4", "s0 s1"}


def test_numbers_of_shots_are_rows_over_the_same_queries(evaluate, organ_scan, organ_volumes):
    volumes = organ_volumes(*(organ_scan(seed) for seed in range(6)))
    results = evaluate(volumes, replace(QUICK, shots=(1, 2), floors=("copy", "oracle")))
    queries = {
        row: {(score.scan, score.organ) for score in results.scores if score.row == row}
        for row in results.methods
    }
    assert len({frozenset(pairs) for pairs in queries.values()}) == 1
    for shots in (1, 2):
        alone = evaluate(volumes, replace(QUICK, shots=(shots,)))
        rows = [score for score in results.scores if score.source == "pixels" and score.shots == shots]
        if shots == 2:  # with one shot the folds are the same, with the same first support
            assert [score.supports for score in rows] == [score.supports for score in alone.scores]
        assert [score.dice for score in rows] == [score.dice for score in alone.scores]


def test_a_support_that_does_not_show_an_organ_is_named_if_others_do(evaluate, organ_scan, organ_volumes):
    scans = [organ_scan(seed) for seed in range(6)]
    scans[3] = organ_scan(3, organs=[1])
    results = evaluate(organ_volumes(*scans), replace(QUICK, shots=(1, 2)))
    assert "in none of the supports (s3)" in results.left_out["fold 0, kidneys, 1 shot"]
    assert "1 of 2" in results.left_out["fold 0, kidneys, support s3"]
    used = {(score.fold, score.shots) for score in results.scores if score.organ == "kidneys"}
    assert used == {(0, 2), (1, 1), (1, 2)}


def test_every_fold_and_organ_is_segmented_by_its_own_encoder(evaluate, pixels, organ_scan, organ_volumes):
    class Encoder:
        def __init__(self):
            self.scans = set()

        def __call__(self, volume, slices):
            self.scans.add(volume.name)
            return pixels(volume, slices)

    volumes = organ_volumes(*(organ_scan(seed) for seed in range(4)))
    encoders = {(fold, organ): Encoder() for fold in range(2) for organ in (1, 2)}
    results = measure(volumes, prototype_methods("trained", FoldEncoders(encoders, 2), QUICK), QUICK)
    for (fold, _), encoder in encoders.items():
        assert encoder.scans == ({"s0", "s1", "s2"}, {"s2", "s3", "s0"})[fold]
    frozen = evaluate(volumes)
    assert [score.dice for score in results.scores] == [score.dice for score in frozen.scores]


def test_supports_of_another_folder_are_used_for_classes_of_the_same_name(pixels, organ_scan, organ_volumes):
    scans = [organ_scan(seed) for seed in range(4)]
    swapped = [
        replace(one, name=f"t{one.name}", labels_ZHW=np.array([0, 2, 1], np.uint8)[one.labels_ZHW])
        for one in scans
    ]
    supports = organ_volumes(*scans)
    queries = organ_volumes(*swapped, classes={1: "Kidneys", 2: "LIVER", 9: "spleen"}, folder="other")
    config = replace(QUICK, floors=("copy",))
    methods = feature_methods({"pixels": pixels}, config)
    own, crossed = measure(supports, methods, config), measure(queries, methods, config, supports)
    assert [score.dice for score in crossed.scores] == [score.dice for score in own.scores]
    assert {score.supports for score in crossed.scores} == {"s2", "s0"}
    assert {score.scan for score in crossed.scores} == {"ts0", "ts1", "ts2", "ts3"}
    lacking = organ_volumes(*scans, classes={1: "liver", 2: "something"})
    results = measure(lacking, methods, config, supports)
    assert results.left_out == {"held, kidneys": "no class of this name there"}
    assert set(results.organs.values()) == {"liver"}
    with pytest.raises(DataError, match="share no class"):
        measure(organ_volumes(*scans, classes={1: "a", 2: "b"}), methods, config, supports)


def test_what_a_scan_or_a_support_does_not_show_is_left_out_with_the_reason(
    evaluate, organ_scan, organ_volumes
):
    scans = [organ_scan(0), organ_scan(1, organs=[1]), organ_scan(2), organ_scan(3)]
    results = evaluate(organ_volumes(*scans))
    assert results.left_out == {"s1, kidneys": "the scan does not show it"}
    assert ("s1", "kidneys") not in {(score.scan, score.organ) for score in results.scores}
    unlabelled = Volume("s9", scans[0].image_ZHW, None, (1.0, 1.0, 1.0), "mri", None)
    results = evaluate(organ_volumes(organ_scan(0, organs=[1]), *scans[2:], unlabelled))
    assert results.left_out["s9"] == "no labels"
    assert "class 2 (kidneys) is in none of the supports (s0)" in results.left_out["fold 1, kidneys"]


def test_a_scan_may_have_a_single_slice(evaluate, organ_scan, organ_volumes):
    middles = [
        replace(scan, image_ZHW=scan.image_ZHW[3:4], labels_ZHW=scan.labels_ZHW[3:4])
        for scan in map(organ_scan, range(3))
    ]
    scores = dice_by_place(evaluate(organ_volumes(*middles)))
    assert len(scores) == 6
    assert min(scores.values()) > 0.5


def test_unknown_organs_and_folders_that_show_none_are_refused(evaluate, organ_scan, organ_volumes):
    volumes = organ_volumes(organ_scan(0), organ_scan(1))
    with pytest.raises(ConfigError, match="no class 7"):
        evaluate(volumes, replace(QUICK, organs=(7,)))
    with pytest.raises(DataError, match="nothing can be measured"):
        evaluate(organ_volumes(organ_scan(0, organs=[]), organ_scan(1, organs=[])))


def test_a_measurement_that_was_interrupted_gives_the_same_results(
    pixels, organ_scan, organ_volumes, tmp_path, monkeypatch
):
    unlabelled = Volume("s9", organ_scan(9).image_ZHW, None, (1.0, 1.0, 1.0), "mri", None)
    scans = [organ_scan(0), organ_scan(1, organs=[1]), organ_scan(2, organs=[1]), organ_scan(3), unlabelled]
    volumes = organ_volumes(*scans)
    config = replace(QUICK, beside=("levayz",), floors=("copy", "oracle"))

    def run(finished=None) -> FewshotResults:
        return measure(volumes, feature_methods({"pixels": pixels}, config), config, finished=finished)

    whole = run()
    loaded = []
    load = organ_volumes.load
    monkeypatch.setattr(organ_volumes, "load", lambda self, name: loaded.append(name) or load(self, name))
    for stop in range(1, 4):

        class Interrupted(FinishedQueries):
            saved = 0

            def save(self, fold, results, stop=stop):
                if self.saved == stop:
                    raise KeyboardInterrupt
                super().save(fold, results)
                self.saved += 1

        with pytest.raises(KeyboardInterrupt):
            run(Interrupted(tmp_path / str(stop), {}))
        loaded.clear()
        again = run(FinishedQueries(tmp_path / str(stop), {}))
        assert loaded.count("s0") <= 1  # finished as a query, needed at most as the support of the other fold
        assert repr(again.scores) == repr(whole.scores)
        assert list(again.left_out.items()) == list(whole.left_out.items())
        assert [one.scan for one in again.examples] == [one.scan for one in whole.examples]
        for one, other in zip(again.examples, whole.examples, strict=True):
            np.testing.assert_array_equal(one.predicted_nHW, other.predicted_nHW)
        assert list(again.seconds) == list(whole.seconds)


def test_a_scan_of_unknown_spacing_has_no_distance_in_mm(evaluate, organ_scan, organ_volumes):
    scans = [replace(organ_scan(seed), in_mm=seed > 1) for seed in range(4)]
    results = evaluate(organ_volumes(*scans))
    for score in results.scores:
        assert np.isnan(score.volume_hd95) == (score.scan in ("s0", "s1"))
        assert not score.missed


def test_scans_sliced_in_several_planes_are_named(evaluate, organ_scan, organ_volumes, caplog):
    volumes = organ_volumes(*(organ_scan(seed) for seed in range(2)))
    evaluate(volumes)
    assert not caplog.records
    volumes.cards["s1"]["grid"] = {"plane": "sagittal"}
    evaluate(volumes)
    assert "several planes (axial, sagittal)" in caplog.text
