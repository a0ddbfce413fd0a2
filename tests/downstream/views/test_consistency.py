"""Consistency: views find one another, the projection leaks, patches and heads answer to the truth."""

import math
from dataclasses import replace

import numpy as np
import pytest

from vetdino.downstream.common.sources import SourceConfig, Sources
from vetdino.downstream.views import consistency as room
from vetdino.downstream.views.consistency import (
    ConsistencyConfig,
    Overlap,
    Spread,
    Views,
    attention_figures,
    best_heads,
    chosen,
    consistency,
    leak,
    rank_correlation,
    ranks_of,
    retrieval,
)
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import ConfigError, DataError, FeaturesError
from vetdino.platform.data.shards import VERSION, Manifest, ShardWriter, save_manifest
from vetdino.platform.data.study import Study
from vetdino.platform.ingest.ingest import IngestConfig, Task, part_of, split_of
from vetdino.platform.measure.features import Features
from vetdino.platform.measure.neighbors import unit
from vetdino.platform.models.backbone import BackboneConfig, random_backbone, save_backbone
from vetdino.platform.phantom.dog.archive import PhantomConfig, phantom

SPREAD = Spread("ours", 200, 0)


def views_of(vectors, keys, projections, patients=None, split="test", labels=None, facts=None):
    """Rows of view vectors; a study is its own patient unless told otherwise."""
    seen, names = {}, []
    for key in keys:
        names.append(f"view{seen.setdefault(key, 0)}")
        seen[key] += 1
    labels = np.empty((len(keys), 0), np.float32) if labels is None else np.asarray(labels, np.float32)
    features = Features(
        keys=tuple(keys),
        patients=tuple(patients or (f"p{key}" for key in keys)),
        splits=(split,) * len(keys),
        views=tuple(names),
        vectors=unit(vectors),
        findings=tuple(f"finding{column}" for column in range(labels.shape[1])),
        labels=labels,
        backbone="b",
        manifest="m",
    )
    return Views(features, tuple(projections), tuple(facts or ({},) * len(keys)))


def told(measured):
    return {(figure.metric, figure.finding): figure for figure in measured.figures}


# Retrieval


def two_views(count, dimensions, noise, seed=0, patients=None):
    """Studies of a VD and an LLAT whose vectors are the study's own but for noise."""
    random = np.random.default_rng(seed)
    own = random.normal(size=(count, dimensions))
    vectors = np.repeat(own, 2, axis=0) + noise * random.normal(size=(2 * count, dimensions))
    keys = [f"{number:03d}" for number in range(count) for _ in range(2)]
    patients = patients and [patients[number] for number in range(count) for _ in range(2)]
    return views_of(vectors, keys, ["VD", "LLAT"] * count, patients)


def test_ranks_and_recalls_are_those_of_slow_loops():
    views = two_views(30, 4, noise=0.7, patients=[f"p{number // 2}" for number in range(30)])
    vectors, patients = views.features.vectors.astype(float), views.features.patients
    ranks, counts = [], []
    for query in range(60):
        own = query + 1 if query % 2 == 0 else query - 1
        others = [row for row in range(own % 2, 60, 2) if patients[row] != patients[query]]
        better = [row for row in others if vectors[query] @ vectors[row] >= vectors[query] @ vectors[own]]
        ranks.append(1 + len(better))
        counts.append(len(others))
    figures = told(retrieval(views, SPREAD))
    for top in (1, 5, 10):
        expected = np.mean([rank <= top for rank in ranks])
        assert figures[f"recall_at_{top}", "VD-LLAT"].value == pytest.approx(expected)
        assert figures[f"recall_at_{top}_chance", "all"].value == pytest.approx(top / 29)
    assert figures["mrr", "all"].value == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert set(counts) == {28}
    assert figures["mrr_chance", "all"].value == pytest.approx(sum(1 / rank for rank in range(1, 30)) / 29)
    assert (figures["mrr", "all"].present, figures["mrr", "all"].known) == (15, 60)


def test_chance_is_what_vectors_without_meaning_get():
    views = two_views(300, 8, noise=50.0, seed=2)
    figures = told(retrieval(views, SPREAD))
    for metric in ("recall_at_10", "mrr"):
        one, chance = figures[metric, "all"], figures[f"{metric}_chance", "all"]
        assert one.low <= chance.value <= one.high


def test_equal_views_are_found_at_once_and_collapsed_ones_never():
    assert told(retrieval(two_views(30, 8, noise=0.0), SPREAD))["recall_at_1", "all"].value == 1
    alike = views_of(np.ones((60, 3)), [f"{n // 2}" for n in range(60)], ["VD", "LLAT"] * 30)
    assert told(retrieval(alike, SPREAD))["recall_at_10", "all"].value == 0


def test_a_bank_in_blocks_gives_the_same_ranks(monkeypatch):
    random = np.random.default_rng(0)
    query, own, bank = (unit(random.normal(size=(count, 5))) for count in (9, 9, 40))
    people = [np.array([f"p{number % 7}" for number in range(count)]) for count in (9, 40)]
    whole = ranks_of(query, own, bank, *people)
    monkeypatch.setattr(room, "BLOCK", 80)
    for one, other in zip(whole, ranks_of(query, own, bank, *people), strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_of_one_projection_make_a_row_that_is_no_part_of_all():
    random = np.random.default_rng(0)
    keys = [f"{number // 3}" for number in range(60)]
    views = views_of(random.normal(size=(60, 4)), keys, ["VD", "VD", "UNKNOWN"] * 20)
    measured = retrieval(views, SPREAD)
    assert {row for _, row in told(measured)} == {"VD-VD"}
    assert measured.facts["views_without_projection"] == 20


def test_what_cannot_be_retrieved_is_named():
    lonely = views_of(np.eye(3), ["a", "b", "c"], ["VD"] * 3)
    assert retrieval(lonely, SPREAD).left_out == {
        "retrieval": "no test study has two views of known projection"
    }
    one = retrieval(views_of(np.eye(2), ["a", "a"], ["VD", "LLAT"]), SPREAD)
    assert one.figures == ()
    assert one.left_out["retrieval VD-LLAT"] == "no other patient has such a view"


def test_studies_are_chosen_by_key_whatever_their_order():
    keys = [f"{number:03d}" for number in range(50)]
    assert chosen(keys, 10, 0) == chosen(keys[::-1] * 2, 10, 0) != chosen(keys, 10, 1)
    assert chosen(keys[:40], 50, 0) == [key for key in chosen(keys, 50, 0) if key in keys[:40]]


# Figures with intervals


def test_an_interval_weighs_each_patient_as_often_as_it_was_drawn():
    random = np.random.default_rng(0)
    patients = [f"p{number}" for number in random.integers(0, 8, 40)]
    values = random.random(40)
    values[3] = np.nan
    (mean,) = SPREAD.means("row", {"m": values}, patients)
    (median,) = SPREAD.medians("row", {"m": np.nan_to_num(values)}, patients)
    assert mean.value == pytest.approx(np.nanmean(values))
    assert median.value == np.sort(np.nan_to_num(values))[19]
    names = np.unique(patients)
    draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=200)
    means, medians = [], []
    for draw in draws:
        rows = [row for row, name in enumerate(patients) for _ in range(draw[list(names).index(name)])]
        means.append(np.nanmean(values[rows]))
        medians.append(np.sort(np.nan_to_num(values)[rows])[(len(rows) - 1) // 2])
    np.testing.assert_allclose((mean.low, mean.high), np.quantile(means, (0.025, 0.975)))
    np.testing.assert_allclose((median.low, median.high), np.quantile(medians, (0.025, 0.975)))
    assert (mean.present, mean.known) == (8, 39)


def test_one_patient_has_no_interval_and_nothing_known_no_figure():
    (only,) = SPREAD.means("row", {"m": np.array([1.0, 0.0]), "n": np.full(2, np.nan)}, ["p", "p"])
    assert only.value == 0.5
    assert math.isnan(only.low)
    assert math.isnan(only.high)


# Leak


def leaking(share, split, count=80, seed=0):
    """Vectors that tell the projection by `share`, and the finding a little; `voi` is in nothing."""
    random = np.random.default_rng((seed, len(split)))
    names = random.choice(["VD", "LLAT", "RLAT"], count)
    label = random.integers(0, 2, count)
    vectors = random.normal(size=(count, 8))
    vectors[:, :3] += 20 * share * (names[:, None] == np.array(["VD", "LLAT", "RLAT"]))
    vectors[:, 4] += 3 * label
    facts = [{"voi": str(word), "same": "always"} for word in random.choice(["window", "lut"], count)]
    keys = [f"{split}{number}" for number in range(count)]
    return views_of(vectors, keys, names.tolist(), split=split, labels=label[:, None], facts=facts)


def splits_of(share):
    return {split: leaking(share, split) for split in ("train", "val", "test")}


def test_a_projection_that_is_in_the_vectors_is_decoded_and_one_that_is_not_is_not():
    loud, quiet = (leak(splits_of(share), ConsistencyConfig(), SPREAD) for share in (1.0, 0.0))
    assert told(loud)["leak_balanced_accuracy", "projection"].value > 0.95
    silent = told(quiet)["leak_balanced_accuracy", "projection"]
    assert silent.low < 1 / 3 < silent.high
    assert told(quiet)["leak_balanced_accuracy_chance", "projection"].value == pytest.approx(1 / 3)
    assert told(quiet)["leak_auroc", "findings"].value > 0.8
    assert told(quiet)["leak_balanced_accuracy", "voi"].value < 0.7
    assert "leak same" in quiet.left_out
    assert loud.facts["leak_projection"] == "LLAT, RLAT, VD"


def test_balanced_accuracy_is_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score

    from vetdino.platform.measure.metrics import Answers

    random = np.random.default_rng(0)
    truth, scores = random.choice(3, 50, p=[0.7, 0.2, 0.1]), random.normal(size=(50, 3))
    answers = Answers(("a", "b", "c"), tuple(f"p{n % 9}" for n in range(50)), np.eye(3)[truth], scores)
    value, chance = room._balanced("projection", answers, SPREAD)
    assert value.value == pytest.approx(balanced_accuracy_score(truth, scores.argmax(axis=1)))
    assert value.low < value.value < value.high
    assert chance.value == pytest.approx(1 / 3)


def test_a_patient_in_two_splits_is_refused_and_no_train_is_named():
    views = splits_of(1.0)
    train = views["train"]
    known = replace(train, features=replace(train.features, patients=views["test"].features.patients))
    with pytest.raises(FeaturesError, match="patients are in"):
        leak({**views, "train": known}, ConsistencyConfig(), SPREAD)
    nothing = Views(views["train"].features.rows([]), (), ())
    assert leak({**views, "train": nothing}, ConsistencyConfig(), SPREAD).left_out == {
        "leak": "no studies in the train split"
    }


# Heads


def overlaps(auc_of, count=24):
    """Studies of a VD and an RLAT; auc_of: (projection, number) -> heads' AUC of the heart."""
    return [
        Overlap(
            f"k{number}",
            f"p{number}",
            projection,
            ("body", "heart"),
            np.array([[0.9] * 3, auc]),
            np.ones((2, 3)),
        )
        for number in range(count)
        for projection in ("VD", "RLAT")
        for auc in [auc_of(projection, number)]
    ]


def test_one_head_for_one_organ_is_stable_from_above_and_beside():
    figures = told(attention_figures(overlaps(lambda *_: [0.5, 0.8, 0.6]), SPREAD))
    assert figures["attention_auc", "heart"].value == pytest.approx(0.8)
    assert figures["attention_auc_heads", "heart"].value == pytest.approx(1.9 / 3)
    assert figures["attention_best_head", "heart"].value == 1
    assert figures["attention_same_head", "heart"].value == 1
    assert figures["attention_head_correlation", "heart"].value == pytest.approx(1)
    assert not any(row == "body" for _, row in figures)


def test_heads_that_change_places_from_the_side_are_not_stable():
    turned = overlaps(lambda projection, _: [0.5, 0.8, 0.6] if projection == "VD" else [0.8, 0.5, 0.6])
    figures = told(attention_figures(turned, SPREAD))
    assert figures["attention_same_head", "heart"].value == 0
    assert figures["attention_head_correlation", "heart"].value == pytest.approx(-1)


def test_choosing_the_best_of_heads_that_know_nothing_does_not_flatter():
    random = np.random.default_rng(0)
    noise = overlaps(lambda *_: (0.5 + 0.2 * random.normal(size=3)).tolist(), count=60)
    one = told(attention_figures(noise, SPREAD))["attention_auc", "heart"]
    assert one.low < 0.5 < one.high


def test_an_organ_of_one_half_of_the_patients_is_named():
    few = overlaps(lambda *_: [0.5, 0.8, 0.6], count=1)
    measured = attention_figures(few, SPREAD)
    assert measured.left_out["attention heart"] == "shown to one half of the patients or to none"
    np.testing.assert_array_equal(best_heads(np.full((2, 1, 3), np.nan)), [-1])


def test_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    one, other = np.random.default_rng(0).integers(0, 5, (2, 4, 7)).astype(float)
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(rank_correlation(one, other), expected)
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


# All of it on generated studies

KEY = b"a key of sixteen bytes"
PHANTOM = PhantomConfig(studies=14, side=64, seed=5, workers=1)
INGEST = IngestConfig(val=0.0, test=0.3)
TINY = BackboneConfig(name="vit_tiny_patch16_224", side=64, patch=8, width=48, depth=1, heads=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """archive, shards and their key, and a backbone at random weights."""
    place = tmp_path_factory.mktemp("consistency")
    phantom(place / "archive", PHANTOM)
    (place / "shards.secret").write_bytes(KEY)
    studies = []
    for home in sorted((place / "archive" / "dicom").glob("*/*")):
        parts = [part_of(home, Task(path.name), KEY, INGEST) for path in sorted(home.iterdir())]
        views = tuple(part.view for part in parts)
        studies.append(
            Study(parts[0].study, parts[0].patient, views, split=split_of(KEY, parts[0].patient, INGEST))
        )
    write(place / "shards", studies)
    save_backbone(place / "backbone", random_backbone(TINY, seed=0))
    return place


def write(folder, studies):
    folder.mkdir(exist_ok=True)
    written = []
    for split in ("train", "val", "test"):
        with ShardWriter(folder, split) as writer:
            for study in studies:
                if study.split == split:
                    writer.write(study)
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "phantom", (), tuple(written), {}, "c"))


def sources(place, shards="shards"):
    return Sources(
        place / shards, place / f"features-{shards}", SourceConfig(pixel_side=8, components=3, workers=1)
    )


def ask(place, source, shards="shards", **settings):
    config = ConsistencyConfig(**{"truth": place / "archive", "patches": 8, "pixel_side": 64, **settings})
    return consistency(source, place / shards, config, resamples=50)


@pytest.fixture(scope="module")
def measured(place):
    return ask(place, sources(place).backbone("ours", place / "backbone"))


def test_a_backbone_is_measured_in_all_four_ways(measured):
    figures = told(measured)
    for metric in (
        "recall_at_10",
        "mrr",
        "patch_hit_at_1",
        "patch_error_cm_oracle",
        "patch_answerable",
        "attention_auc",
    ):
        figure = figures[metric, "all"]
        assert figure.source == "ours"
        assert figure.low <= figure.value <= figure.high
    assert figures["patch_error_cm_oracle", "all"].value < figures["patch_error_cm", "all"].value
    assert 0 <= figures["leak_balanced_accuracy", "projection"].value <= 1
    assert measured.facts["views_without_truth"] == 0
    assert measured.facts["heads"] == 3
    assert measured.pictures["attention_ours.png"].startswith(b"\x89PNG")


def test_the_figures_do_not_depend_on_the_order_of_studies(place, measured):
    from vetdino.platform.data.shards import read

    studies = [study for split in ("train", "val", "test") for study in read(place / "shards", split)]
    write(place / "turned", studies[::-1])
    settings = {"secret": place / "shards.secret"}
    again = ask(place, sources(place, "turned").backbone("ours", place / "backbone"), "turned", **settings)
    assert told(again).keys() == told(measured).keys()
    for name, figure in told(again).items():
        assert figure.value == pytest.approx(told(measured)[name].value, abs=1e-6), name


def test_pixels_answer_with_patches_but_have_no_heads_and_components_have_neither(place):
    pixels = ask(place, sources(place).pixels())
    assert ("patch_hit_at_1", "all") in told(pixels)
    assert pixels.left_out["attention"] == "it has no heads"
    assert pixels.pictures == {}
    components = ask(place, sources(place).pca())
    assert ("recall_at_10", "all") in told(components)
    assert "no patches" in components.left_out["patches"]


def test_without_truth_patches_and_attention_are_named(place):
    without = ask(place, sources(place).pixels(), truth=None)
    assert without.left_out.keys() >= {"patches", "attention"}
    assert ("recall_at_10", "all") in told(without)


def test_truth_of_other_studies_is_refused_without_a_name(place, tmp_path):
    (tmp_path / "secret").write_bytes(b"quite another secret")
    with pytest.raises(DataError, match="truth of none of the") as error:
        ask(place, sources(place).pixels(), secret=tmp_path / "secret")
    assert "2.25." not in str(error.value)
    assert "K9-" not in str(error.value)


def test_a_test_split_without_studies_and_foreign_features_are_refused(place, tmp_path):
    pixels = sources(place).pixels()
    write(tmp_path / "empty", [])
    with pytest.raises(FeaturesError, match="other shards"):
        consistency(pixels, tmp_path / "empty", ConsistencyConfig(), resamples=10)
    features = pixels.features(level="view")
    kept = replace(pixels, folder=tmp_path, extract=lambda asked: [features.of("train")] * len(asked))
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        consistency(kept, place / "shards", ConsistencyConfig(), resamples=10)


# Settings


def test_settings_travel_as_json_and_bad_ones_are_named():
    from pathlib import Path

    config = ConsistencyConfig(truth=Path("archive"), radius_cm=1.5)
    assert from_json(ConsistencyConfig, to_json(config)) == config
    for bad, said in (
        ({"studies": 0}, "studies is 0"),
        ({"radius_cm": 0.0}, "radius_cm"),
        ({"strengths": ()}, "strengths"),
        ({"pixel_side": 100}, "no multiple"),
    ):
        with pytest.raises(ConfigError, match=said):
            ConsistencyConfig(**bad)
