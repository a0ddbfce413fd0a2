"""Which studies train and which test: the rules that tasks share, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.downstream.findings.protocol import patient_folds, patient_subset, task_splits
from vetdino.platform.core.errors import ConfigError, FeaturesError
from vetdino.platform.measure.features import Features


def table(counts, seed=0, findings=("mass", "stones")):
    """Every patient has two studies."""
    random = np.random.default_rng(seed)
    splits = [split for split, count in counts.items() for _ in range(count)]
    return Features(
        keys=tuple(f"k{row}" for row in range(len(splits))),
        patients=tuple(f"{split}{row // 2}" for row, split in enumerate(splits)),
        splits=tuple(splits),
        views=("",) * len(splits),
        vectors=random.normal(size=(len(splits), 4)).astype(np.float32),
        findings=findings,
        labels=(random.random((len(splits), len(findings))) < 0.5).astype(np.float32),
        backbone="b",
        manifest="m",
    )


COUNTS = {"train": 60, "val": 12, "test": 20}


@settings(max_examples=30, deadline=None)
@given(
    patients=st.sets(st.text(max_size=3), min_size=1, max_size=40),
    fractions=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 9),
)
def test_a_smaller_fraction_is_a_part_of_a_larger_one_whatever_the_order(patients, fractions, seed):
    small, large = sorted(fractions)
    fewer, more = (
        patient_subset(patients, small, seed),
        patient_subset(sorted(patients, reverse=True), large, seed),
    )
    assert fewer <= more <= patients
    assert len(fewer) == max(1, np.ceil(small * len(patients) - 1e-9))
    assert patient_subset(patients, 1.0, seed) == patients


def test_another_seed_draws_other_patients():
    patients = [f"p{number}" for number in range(50)]
    assert patient_subset(patients, 0.2, 0) != patient_subset(patients, 0.2, 1)


@pytest.mark.parametrize("fraction", [0.0, 1.5, -0.1])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(ConfigError, match="a fraction of"):
        patient_subset("ab", fraction)


def test_folds_hold_whole_patients_and_nearly_as_many_each():
    patients = [f"p{number % 13}" for number in range(40)]
    fold_N = patient_folds(patients, 5)
    for patient in set(patients):
        assert len({fold for fold, one in zip(fold_N, patients, strict=True) if one == patient}) == 1
    counts = [len({one for fold, one in zip(fold_N, patients, strict=True) if fold == k}) for k in range(5)]
    assert sorted(counts) == [2, 2, 3, 3, 3]


def test_few_labels_thin_train_by_patient_and_leave_val_and_test_whole():
    parts = task_splits(table(COUNTS), 0.1)
    assert parts.facts == {"train_studies": 6, "train_patients": 3, "test_studies": 20, "test_patients": 10}
    assert len(parts.val) == 12


def test_a_finding_that_few_patients_lack_is_left_out_by_name():
    whole = table(COUNTS)
    labels = whole.labels.copy()
    labels[:, 1] = np.arange(len(labels)) % 20 == 0  # three of the train studies
    parts = task_splits(replace(whole, labels=labels), 0.02)
    assert parts.train.findings == parts.val.findings == parts.test.findings == ("mass",)
    assert parts.left_out == {"stones": "0 present and 2 absent in train"}


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("train", "test"), ("val", "test")])
def test_a_patient_in_two_splits_is_refused_and_not_named(one, other):
    whole = table(COUNTS)
    shared = whole.of(one).patients[0]
    row = whole.splits.index(other)
    patients = (*whole.patients[:row], shared, *whole.patients[row + 1 :])
    with pytest.raises(FeaturesError, match=f"1 patients are in {one} and in {other}") as caught:
        task_splits(replace(whole, patients=patients))
    assert shared not in str(caught.value).split()


def test_a_vector_that_is_nan_is_refused_with_its_study():
    whole = table(COUNTS)
    vectors = whole.vectors.copy()
    vectors[7, 2] = np.nan
    with pytest.raises(
        FeaturesError, match="1 of 92 vectors hold NaN or infinity, the first that of study k7"
    ):
        task_splits(replace(whole, vectors=vectors))


def test_an_empty_split_is_refused():
    for counts in ({"train": 6}, {"test": 6}, {"val": 6}):
        with pytest.raises(FeaturesError, match=r"no studies in the (train|test) split"):
            task_splits(table(counts))
