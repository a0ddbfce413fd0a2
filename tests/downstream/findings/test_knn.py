"""k-NN answers from other patients, with k chosen on val, and names what it cannot answer."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vetdino.downstream.findings import knn as module
from vetdino.downstream.findings.config import KnnConfig
from vetdino.downstream.findings.knn import knn, knn_scores, leave_patient_out_scores
from vetdino.platform.core.errors import FeaturesError
from vetdino.platform.measure.features import Features, load_features, save_features
from vetdino.platform.measure.metrics import auroc
from vetdino.platform.measure.neighbors import nearest
from vetdino.platform.measure.results import metric_values


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
    ours_MF = knn_scores(bank, test, 15)
    theirs = KNeighborsClassifier(
        15, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    theirs.fit(bank.vectors, bank.labels[:, 0])
    np.testing.assert_allclose(ours_MF[:, 0], theirs.predict_proba(test.vectors)[:, 1], atol=1e-4)


def test_features_that_know_beat_features_that_do_not_and_the_interval_says_so():
    knowing, blind = features(COUNTS), features(COUNTS, strength=0.0)
    blind = replace(blind, labels=knowing.labels)
    found = metric_values({"backbone": knn(knowing), "random": knn(blind)}, n=300)
    gap = next(one for one in found if one.source == "backbone - random" and one.finding == "macro")
    assert (gap.metric, gap.low > 0.1) == ("AUROC", True)


def test_scores_of_others_are_those_of_a_bank_without_the_patient():
    table = features({"train": 40})
    # Patients of one to four studies, so that what is left out differs.
    patients = tuple(f"p{int(row**0.9) // 2}" for row in range(40))
    unknown = np.random.default_rng(1).random(table.labels.shape) < 0.3
    bank = replace(table, patients=patients, labels=np.where(unknown, np.nan, table.labels))
    found_JNF = leave_patient_out_scores(bank, [1, 7, 40])
    for row, patient in enumerate(patients):
        others = bank.rows([other for other in range(40) if patients[other] != patient])
        for j, k in enumerate([1, 7, 40]):
            voted_F = knn_scores(others, bank.rows([row]), k)[0]
            np.testing.assert_allclose(found_JNF[j, row], voted_F, atol=1e-6)


def chosen_by_hand(table, ks):
    """The k of best macro AUROC, one patient left out at a time."""
    bank = table.of("train")
    scores = {k: np.empty(bank.labels.shape) for k in ks}
    for patient in sorted(set(bank.patients)):
        rows = [row for row, one in enumerate(bank.patients) if one == patient]
        others = bank.rows([row for row, one in enumerate(bank.patients) if one != patient])
        for k in ks:
            scores[k][rows] = knn_scores(others, bank.rows(rows), k)
    return max(ks, key=lambda k: auroc(bank.labels, scores[k]).mean())


@pytest.mark.slow
def test_k_is_chosen_on_train_by_patients_left_out_where_val_is_smaller():
    table = features(COUNTS)
    chosen = knn(table).facts
    assert chosen["k"] == chosen_by_hand(table, (10, 20, 100, 120))
    assert (
        chosen["k_chosen"] == "best of [10, 20, 100, 120] on 120 train studies, each patient left out in turn"
    )
    # Labels of the test split turned around: the choice stays.
    turned = replace(
        table, labels=np.where(np.array(table.splits)[:, None] == "test", 1 - table.labels, table.labels)
    )
    assert knn(turned).facts["k"] == chosen["k"]


def test_k_is_chosen_on_val_where_it_has_more_studies():
    table = features({"train": 60, "val": 80, "test": 40})
    chosen = knn(table, KnnConfig(ks=(3, 9, 27))).facts
    assert chosen["k_chosen"] == "best of [3, 9, 27] on 80 val studies"
    scores = {k: knn_scores(table.of("train"), table.of("val"), k) for k in (3, 9, 27)}
    assert chosen["k"] == max(scores, key=lambda k: auroc(table.of("val").labels, scores[k]).mean())


def test_a_tie_goes_to_the_smaller_k():
    # Each study stands with three of its kind, and the two kinds stand opposite.
    table = features({"train": 16, "test": 4}, findings=("mass",))
    label_N = np.arange(20) % 2
    alike = replace(
        table,
        vectors=np.eye(8, dtype=np.float32)[label_N] + 1e-3 * table.vectors,
        labels=label_N[:, None].astype(np.float32),
        patients=tuple(f"p{row}" for row in range(20)),
    )
    assert knn(alike, KnnConfig(ks=(5, 3, 4))).facts["k"] == 3


def test_nobody_to_choose_leaves_k_as_given():
    table = features({"train": 30, "test": 10})
    assert knn(table, KnnConfig(k=7, ks=())).facts == knn(table, KnnConfig(k=7, ks=())).facts | {
        "k": 7,
        "k_chosen": "given",
    }
    alone = replace(table, patients=tuple("p" if split == "train" else "q" for split in table.splits))
    assert knn(alone, KnnConfig(k=7)).facts["k_chosen"] == "given"


def test_few_labels_choose_among_themselves():
    table = features({"train": 60, "val": 80, "test": 40})
    facts = knn(table, fraction=0.2).facts
    assert facts["train_patients"] == 6
    assert facts["k_chosen"].endswith("on 12 train studies, each patient left out in turn")


def by_view(table, random, views=3):
    """Each study's row as several rows around it."""
    rows = [row for row in range(len(table)) for _ in range(views)]
    many = table.rows(rows)
    vectors = many.vectors + 0.1 * random.normal(size=many.vectors.shape).astype(np.float32)
    return replace(many, vectors=vectors, views=tuple(f"view{n % views}" for n in range(len(rows))))


def test_views_vote_for_themselves_and_a_study_is_their_mean():
    table = by_view(features(COUNTS), np.random.default_rng(1))
    answers = knn(table, KnnConfig(ks=(), k=9, level="view"))
    assert len(answers.patients) == 60
    assert answers.facts["test_studies"] == 60
    scores_MF = knn_scores(table.of("train"), table.of("test"), 9)
    np.testing.assert_allclose(answers.scores, scores_MF.reshape(60, 3, -1).mean(axis=1))
    np.testing.assert_array_equal(answers.truth, table.of("test").labels[::3])
    # Chosen on train: no view of the own patient votes.
    assert knn(table).facts["k_chosen"].endswith("on 120 train studies, each patient left out in turn")


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
        metric_values({"backbone": answers})


def test_a_query_whose_neighbours_know_nothing_gets_the_prevalence():
    table = features({"train": 20, "test": 4})
    bank, test = table.of("train"), table.of("test")
    _, rows_M1 = nearest(bank.vectors, test.vectors, 1)
    labels = bank.labels.copy()
    labels[rows_M1[0, 0], 0] = np.nan
    scores_MF = knn_scores(replace(bank, labels=labels), test, 1)
    assert scores_MF[0, 0] == pytest.approx(np.nanmean(labels[:, 0]))


def test_a_patient_in_two_splits_is_refused_and_not_named():
    table = features(COUNTS)
    with pytest.raises(FeaturesError, match="1 patients are in train and in test") as caught:
        knn(replace(table, patients=(*table.patients[:-1], table.patients[0])))
    assert table.patients[0] not in str(caught.value).split()


def test_a_missing_split_or_another_backbone_is_refused():
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        knn(features({"train": 10}))
    with pytest.raises(FeaturesError, match="no studies in the train split"):
        knn(features({"test": 10}))
    table = features(COUNTS)
    with pytest.raises(FeaturesError, match="different backbones"):
        knn_scores(table.of("train"), replace(table.of("test"), backbone="other"), 5)


def test_k_of_a_large_bank_is_chosen_on_some_of_its_patients(monkeypatch):
    table = features({"train": 120, "test": 60})
    whole = knn(table)
    monkeypatch.setattr(module, "CHOOSING", 40)
    some = knn(table)
    assert "best of [10, 20, 100, 120] on 120 train studies" in whole.facts["k_chosen"]
    assert "best of [10, 20, 100, 120] on 40 of 120 train studies" in some.facts["k_chosen"]
    bank = table.of("train")
    rows = module._choosing_rows(bank)
    assert len(set(rows.tolist())) == 40
    assert all({row ^ 1} <= set(rows.tolist()) for row in rows.tolist())  # whole patients, of two studies
    every, chosen = (leave_patient_out_scores(bank, [1, 7], rows=which) for which in (None, rows))
    np.testing.assert_array_equal(chosen, every[:, rows])


def test_a_table_from_a_file_gives_the_same_predictions(tmp_path):
    table = features(COUNTS)
    table = replace(table, vectors=table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True))
    back = load_features(save_features(table, tmp_path))
    one, other = knn(table), knn(back)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert (one.facts, one.patients) == (other.facts, other.patients)
