"""k-NN answers from other patients, with k chosen on val, and names what it cannot answer."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vetdino.downstream.knn import KnnConfig, knn, knn_scores
from vetdino.platform.errors import FeaturesError
from vetdino.platform.features import Features
from vetdino.platform.metrics import auroc, figures_of
from vetdino.platform.neighbours import nearest


def features(counts, seed=0, width=8, strength=2.0, findings=("mass", "stones")):
    """Directions that lean towards one axis per finding, by `strength`; every patient has two studies."""
    random = np.random.default_rng(seed)
    rows = sum(counts.values())
    label_NF = (random.random((rows, len(findings))) < 0.4).astype(np.float32)
    vectors = random.normal(size=(rows, width)).astype(np.float32)
    vectors[:, : len(findings)] += strength * label_NF
    splits = [split for split, count in counts.items() for _ in range(count)]
    return Features(
        keys=tuple(f"k{row}" for row in range(rows)),
        patients=tuple(f"{split}{row // 2}" for row, split in enumerate(splits)),
        splits=tuple(splits),
        views=("",) * rows,
        vectors=vectors,
        findings=findings,
        labels=label_NF,
        backbone="b",
        manifest="m",
    )


COUNTS = {"train": 120, "val": 40, "test": 60}


def test_scores_are_those_of_scikit_learn():
    table = features(COUNTS)
    bank, test = table.of("train"), table.of("test")
    ours_MF = knn_scores(bank, test, KnnConfig(k=15))
    theirs = KNeighborsClassifier(
        15, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    theirs.fit(bank.vectors, bank.labels[:, 0])
    np.testing.assert_allclose(ours_MF[:, 0], theirs.predict_proba(test.vectors)[:, 1], atol=1e-4)


def test_features_that_know_beat_features_that_do_not_and_the_interval_says_so():
    knowing, blind = features(COUNTS), features(COUNTS, strength=0.0)
    blind = replace(blind, labels=knowing.labels)
    found = figures_of({"backbone": knn(knowing), "random": knn(blind)}, n=300)
    gap = next(one for one in found if one.source == "backbone - random" and one.finding == "macro")
    assert (gap.metric, gap.low > 0.1) == ("AUROC", True)


def test_k_is_chosen_on_val_and_test_has_no_say():
    table = features(COUNTS)
    chosen = knn(table).facts
    assert chosen["k"] in (10, 20, 100, 120)
    assert chosen["k_chosen"] == "best of [10, 20, 100, 120] on val"
    # Labels of the test split turned around: the choice stays.
    turned = replace(
        table, labels=np.where(np.array(table.splits)[:, None] == "test", 1 - table.labels, table.labels)
    )
    assert knn(turned).facts["k"] == chosen["k"]
    best = max(
        (10, 20, 100, 120),
        key=lambda k: auroc(
            table.of("val").labels, knn_scores(table.of("train"), table.of("val"), KnnConfig(k=k))
        ).mean(),
    )
    assert chosen["k"] == best


def test_without_a_useful_val_split_k_is_the_one_given():
    assert knn(features({"train": 60, "test": 20}), KnnConfig(k=7)).facts["k"] == 7
    table = features(COUNTS)
    silent = np.where(np.array(table.splits)[:, None] == "val", np.nan, table.labels).astype(np.float32)
    answers = knn(replace(table, labels=silent), KnnConfig(k=7))
    assert answers.facts["k_chosen"].startswith("given, as no finding")


def test_five_studies_are_answered_with_k_clipped():
    answers = knn(features({"train": 5, "test": 5}, seed=3), KnnConfig(k=200))
    assert answers.facts["k"] == 5
    assert answers.scores.shape == (5, len(answers.findings))
    assert np.isfinite(answers.scores).all()


@pytest.mark.parametrize(("split", "value"), [("train", 0), ("test", 1), ("test", np.nan)])
def test_a_finding_with_one_class_in_a_split_is_left_out_by_name(split, value):
    table = features(COUNTS)
    labels = table.labels.copy()
    labels[np.array(table.splits) == split, 1] = value
    answers = knn(replace(table, labels=labels))
    assert answers.findings == ("mass",)
    assert list(answers.left_out) == ["stones"]
    assert answers.left_out["stones"].endswith(f"in {split}")


def test_when_no_finding_is_left_the_reason_is_given():
    table = features(COUNTS, findings=("mass",))
    answers = knn(replace(table, labels=np.zeros_like(table.labels)))
    assert answers.findings == ()
    with pytest.raises(FeaturesError, match="mass: 0 present and 120 absent in train"):
        figures_of({"backbone": answers})


def test_a_query_whose_neighbours_know_nothing_gets_the_prevalence():
    table = features({"train": 20, "test": 4})
    bank, test = table.of("train"), table.of("test")
    _, rows_M1 = nearest(bank.vectors, test.vectors, 1)
    labels = bank.labels.copy()
    labels[rows_M1[0, 0], 0] = np.nan
    scores_MF = knn_scores(replace(bank, labels=labels), test, KnnConfig(k=1))
    assert scores_MF[0, 0] == pytest.approx(np.nanmean(labels[:, 0]))


def test_a_patient_in_two_splits_is_refused_and_not_named():
    table = features(COUNTS)
    with pytest.raises(FeaturesError, match="1 patients are in the bank") as caught:
        knn(replace(table, patients=(*table.patients[:-1], table.patients[0])))
    assert table.patients[0] not in str(caught.value).split()


def test_a_missing_split_or_another_backbone_is_refused():
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        knn(features({"train": 10}))
    with pytest.raises(FeaturesError, match="no studies in the train split"):
        knn(features({"test": 10}))
    table = features(COUNTS)
    with pytest.raises(FeaturesError, match="different backbones"):
        knn_scores(table.of("train"), replace(table.of("test"), backbone="other"), KnnConfig())
