"""The linear probe is scikit-learn's logistic regression, its settings chosen on val only, tested once."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from vetdino.downstream.findings.config import LinearConfig
from vetdino.downstream.findings.linear import linear
from vetdino.platform.core.errors import ConfigError, FeaturesError
from vetdino.platform.measure.features import Features
from vetdino.platform.measure.metrics import auroc, macro

FINDINGS = ("mass", "stones")


def features(counts, seed=0, width=12, strength=1.0, findings=FINDINGS):
    """Directions that lean towards one axis per finding, by `strength`; every patient has two studies."""
    random = np.random.default_rng(seed)
    rows = sum(counts.values())
    label_NF = (random.random((rows, len(findings))) < 0.4).astype(np.float32)
    vectors = random.normal(size=(rows, width))
    vectors[:, : len(findings)] += strength * label_NF
    splits = [split for split, count in counts.items() for _ in range(count)]
    return Features(
        keys=tuple(f"k{row}" for row in range(rows)),
        patients=tuple(f"{split}{row // 2}" for row, split in enumerate(splits)),
        splits=tuple(splits),
        views=("",) * rows,
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        findings=findings,
        labels=label_NF,
        backbone="b",
        manifest="m",
    )


COUNTS = {"train": 160, "val": 60, "test": 80}


@dataclass
class Tables:
    """A source whose tables are here already: (pool, blocks) -> features."""

    tables: dict
    name: str = "tables"

    def available(self, descriptors):
        return [one for one in descriptors if (one.pool, one.blocks) in self.tables]

    def features(self, pool="cls", blocks=1):
        return self.tables[pool, blocks]


def one(table):
    return Tables({("cls", 1): table})


def by_scikit_learn(train, c, test):
    """Scores of regressions from a cold start by another solver, one finding at a time; unknown labels left out."""
    mean, spread = train.vectors.astype(float).mean(0), train.vectors.astype(float).std(0)
    columns = []
    for label_N in train.labels.T:
        rows = ~np.isnan(label_N)
        model = LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
        model.fit(((train.vectors - mean) / spread)[rows], label_N[rows])
        columns.append(model.decision_function((test.vectors - mean) / spread))
    return np.stack(columns, axis=1)


def some_unknown(table, share=0.2):
    unknown = np.random.default_rng(5).random(table.labels.shape) < share
    return replace(table, labels=np.where(unknown, np.nan, table.labels).astype(np.float32))


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 1e2])
def test_scores_are_those_of_scikit_learn(c):
    table = some_unknown(features(COUNTS))
    answers = linear(one(table), LinearConfig(cs=(c,)))
    theirs_MF = by_scikit_learn(table.of("train"), c, table.of("test"))
    np.testing.assert_allclose(answers.scores, theirs_MF, rtol=1e-3, atol=1e-3)
    rows = ~np.isnan(answers.truth[:, 0])
    assert auroc(answers.truth, answers.scores)[0] == pytest.approx(
        roc_auc_score(answers.truth[rows, 0], answers.scores[rows, 0]), abs=1e-12
    )


def test_fewer_studies_than_dimensions_are_fitted_exactly_too():
    table = features({"train": 20, "test": 30}, width=64)
    answers = linear(one(table), LinearConfig(cs=(0.01, 1.0)))
    theirs_MF = by_scikit_learn(table.of("train"), answers.facts["C"], table.of("test"))
    np.testing.assert_allclose(answers.scores, theirs_MF, rtol=1e-3, atol=1e-3)


def test_wide_features_go_another_way_to_the_same_place(monkeypatch):
    table = features(COUNTS)
    direct = linear(one(table), LinearConfig(cs=(0.1, 10.0)))
    monkeypatch.setattr("vetdino.downstream.findings.linear.DIRECT", 3)
    np.testing.assert_allclose(
        linear(one(table), LinearConfig(cs=(0.1, 10.0))).scores, direct.scores, rtol=0.02, atol=0.02
    )


def test_the_penalty_is_the_one_that_serves_val_best_and_test_has_no_say():
    table = features(COUNTS, strength=0.5)
    config = LinearConfig()
    answers = linear(one(table), config)
    on_val = {
        c: macro(auroc(table.of("val").labels, by_scikit_learn(table.of("train"), c, table.of("val"))))
        for c in config.cs
    }
    assert on_val[answers.facts["C"]] == pytest.approx(max(on_val.values()), abs=0.002)
    assert answers.facts["chosen"].endswith("on 60 val studies")
    turned = replace(
        table, labels=np.where(np.array(table.splits)[:, None] == "test", 1 - table.labels, table.labels)
    )
    np.testing.assert_array_equal(linear(one(turned), config).scores, answers.scores)


def test_the_descriptor_that_knows_more_is_chosen_and_of_equals_the_first():
    weak = features(COUNTS, strength=0.0)
    strong = replace(features(COUNTS, strength=4.0), labels=weak.labels)
    assert np.array_equal(features(COUNTS, strength=4.0).labels, weak.labels)
    facts = linear(Tables({("cls", 1): weak, ("cls+mean", 4): strong})).facts
    assert (facts["descriptor"], facts["blocks"]) == ("cls+mean", 4)
    facts = linear(Tables({("cls", 1): strong, ("cls", 4): strong, ("cls+mean", 1): strong})).facts
    assert (facts["descriptor"], facts["blocks"]) == ("cls", 1)


def test_without_a_val_that_knows_all_findings_folds_of_train_patients_choose():
    table = features(COUNTS)
    val = np.array(table.splits) == "val"
    labels = table.labels.copy()
    labels[val, 1] = 0
    for changed in (replace(table, labels=labels), table.rows(np.flatnonzero(~val).tolist())):
        facts = linear(one(changed)).facts
        assert facts["chosen"].endswith("on 160 train studies, by 5 folds of patients")
        assert facts["C"] in LinearConfig().cs


def test_a_patient_of_a_fold_is_never_among_those_that_answer_for_it():
    # Each patient has a direction of its own and a label by chance: only its own studies could tell.
    random = np.random.default_rng(0)
    table = features({"train": 120, "test": 20}, width=60, findings=("mass",))
    patient = np.arange(140) // 2
    vectors = np.eye(70)[patient][:, :60] + 0.01 * random.normal(size=(140, 60))
    labels = random.integers(0, 2, 70)[patient][:, None].astype(np.float32)
    facts = linear(one(replace(table, vectors=vectors.astype(np.float32), labels=labels))).facts
    assert float(facts["chosen"].split("(")[1].split(")")[0]) < 0.75


def test_few_labels_choose_among_themselves_and_say_how_many_they_are():
    answers = linear(one(features(COUNTS)), fraction=0.1)
    assert (answers.facts["train_patients"], answers.facts["train_studies"]) == (8, 16)
    assert "train studies, by 5 folds" in answers.facts["chosen"]
    assert answers.scores.shape == (80, len(answers.findings))


def test_one_patient_cannot_choose_and_it_is_said():
    table = features({"train": 6, "test": 5}, seed=1)
    alone = replace(
        table,
        patients=tuple("a" if split == "train" else f"t{n}" for n, split in enumerate(table.splits)),
    )
    facts = linear(one(alone)).facts
    assert facts["chosen"].startswith("given, ")
    assert facts["C"] == 0.1


def test_classes_that_exclude_one_another_share_a_softmax():
    random = np.random.default_rng(2)
    table = features(COUNTS, findings=("a", "b", "c"), strength=0.0)
    class_N = random.integers(0, 4, len(table))  # the fourth is: none of them
    labels = np.eye(4, dtype=np.float32)[class_N][:, :3]
    vectors = table.vectors + 0.4 * np.eye(12, dtype=np.float32)[class_N]
    table = replace(table, labels=labels, vectors=vectors)
    answers = linear(one(table), LinearConfig(exclusive=True, cs=(1.0,)))
    train, test = table.of("train"), table.of("test")
    mean, spread = train.vectors.astype(float).mean(0), train.vectors.astype(float).std(0)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    model.fit((train.vectors - mean) / spread, class_N[np.array(table.splits) == "train"])
    logit_MK = model.decision_function((test.vectors - mean) / spread)
    np.testing.assert_allclose(answers.scores, log_softmax(logit_MK, axis=1)[:, :3], atol=2e-3)
    assert macro(auroc(answers.truth, answers.scores)) > 0.7


def test_two_exclusive_classes_are_one_regression():
    table = features(COUNTS, findings=("a",), strength=2.0)
    both = replace(
        table, findings=("a", "b"), labels=np.concatenate([table.labels, 1 - table.labels], axis=1)
    )
    softmax = linear(one(both), LinearConfig(exclusive=True, cs=(1.0,)))
    single = linear(one(table), LinearConfig(cs=(1.0,)))
    odds_M = softmax.scores[:, 0] - softmax.scores[:, 1]
    np.testing.assert_allclose(odds_M, single.scores[:, 0], atol=2e-3)


def test_findings_that_stand_together_are_refused_as_exclusive():
    with pytest.raises(FeaturesError, match="studies of train have several of the findings"):
        linear(one(features(COUNTS)), LinearConfig(exclusive=True))


def test_weighing_the_classes_alike_is_that_of_scikit_learn():
    table = features(COUNTS, findings=("mass",))
    answers = linear(one(table), LinearConfig(cs=(1.0,), class_weight="balanced"))
    train, test = table.of("train"), table.of("test")
    mean, spread = train.vectors.astype(float).mean(0), train.vectors.astype(float).std(0)
    model = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10, max_iter=10_000)
    model.fit((train.vectors - mean) / spread, train.labels[:, 0])
    theirs_M = model.decision_function((test.vectors - mean) / spread)
    np.testing.assert_allclose(answers.scores[:, 0], theirs_M, atol=2e-3)


def test_five_test_studies_are_answered_or_named():
    answers = linear(one(features({"train": 12, "test": 5}, seed=3)))
    assert set(answers.findings) | set(answers.left_out) == set(FINDINGS)
    assert np.isfinite(answers.scores).all()


@pytest.mark.parametrize(("split", "value"), [("train", 0), ("test", 1), ("test", np.nan)])
def test_a_finding_with_one_class_in_a_split_is_left_out_by_name(split, value):
    table = features(COUNTS)
    labels = table.labels.copy()
    labels[np.array(table.splits) == split, 1] = value
    answers = linear(one(replace(table, labels=labels)))
    assert answers.findings == ("mass",)
    assert answers.left_out["stones"].endswith(f"in {split}")


def test_when_no_finding_is_left_nothing_is_fitted():
    table = features(COUNTS)
    answers = linear(one(replace(table, labels=np.ones_like(table.labels))))
    assert (answers.findings, answers.scores.shape) == ((), (80, 0))
    assert set(answers.left_out) == set(FINDINGS)


def test_nan_a_patient_in_two_splits_and_an_empty_split_are_refused():
    table = features(COUNTS)
    vectors = table.vectors.copy()
    vectors[170, 0] = np.nan
    with pytest.raises(FeaturesError, match="that of study k170"):
        linear(one(replace(table, vectors=vectors)))
    with pytest.raises(FeaturesError, match="1 patients are in train and in test"):
        linear(one(replace(table, patients=(*table.patients[:-1], table.patients[0]))))
    with pytest.raises(FeaturesError, match="no studies in the test split"):
        linear(one(features({"train": 10})))


def test_a_dimension_that_does_not_vary_has_no_say():
    table = features(COUNTS)
    constant = np.concatenate([table.vectors, np.full((len(table), 1), 0.25, np.float32)], axis=1)
    with_it = linear(one(replace(table, vectors=constant)), LinearConfig(cs=(1.0,)))
    np.testing.assert_allclose(
        with_it.scores, linear(one(table), LinearConfig(cs=(1.0,))).scores, rtol=1e-3, atol=1e-3
    )


def test_a_solver_that_did_not_converge_is_reported():
    facts = linear(one(features(COUNTS)), LinearConfig(cs=(1e2,), max_iterations=1)).facts
    assert facts["not_converged"] == "1 of 1 strengths"


def test_a_source_without_the_descriptors_is_refused():
    with pytest.raises(ConfigError, match="tables has no descriptor of"):
        linear(Tables({}))
