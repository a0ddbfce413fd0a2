"""The splits of a task that predicts findings: which studies train, choose and test, and which findings are left out.

N studies, F findings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.core.seeds import stable_hash
from ...platform.data.study import SPLITS
from ...platform.measure.features import Features, check_features
from ...platform.measure.texts import common_count, rows_of, text_count


@dataclass(frozen=True, slots=True, eq=False)
class TaskSplits:
    """The features of the three splits with the measurable findings; left_out: finding -> why it is not."""

    train: Features
    val: Features
    test: Features
    left_out: dict[str, str]

    @property
    def facts(self) -> dict[str, int]:
        """Numbers of studies and patients in train and test."""
        return {
            "train_studies": text_count(self.train.keys),
            "train_patients": text_count(self.train.patients),
            "test_studies": text_count(self.test.keys),
            "test_patients": text_count(self.test.patients),
        }

    def __repr__(self) -> str:
        return f"TaskSplits({len(self.train)} train, {len(self.val)} val, {len(self.test)} test)"


def task_splits(features: Features, fraction: float = 1.0, seed: int = 0) -> TaskSplits:
    """The splits of a task: a fraction of the train patients, all of validation and test.

    A finding that is not both present and absent among the known labels of train and of test is left out by
    name. Raises FeaturesError for NaN vectors (the message names the study), for a patient in two splits, and for
    an empty train or test split.
    """
    check_features(features, "features")
    train, val, test = (features.of(split) for split in SPLITS)
    _check_patients({"train": train, "val": val, "test": test})
    for name, part in (("train", train), ("test", test)):
        if not len(part):
            raise FeaturesError(
                f"no studies in the {name} split; train and test are needed, ingest more patients"
            )
    if fraction != 1:
        train = train.rows(rows_of(train.patients, patient_subset(train.patients, fraction, seed)))
    left_out = single_class_findings(features.findings, {"train": train.labels, "test": test.labels})
    kept = [name for name in features.findings if name not in left_out]
    train, val, test = (_with_findings(part, kept) for part in (train, val, test))
    return TaskSplits(train, val, test, left_out)


def patient_subset(patients: Iterable[str], fraction: float, seed: int = 0) -> frozenset[str]:
    """A fraction of the patients, at least one; it does not depend on their order.

    A smaller fraction is a subset of a larger one, since patients are taken in the order of their hashes. Raises
    ConfigError for a fraction outside (0, 1].

    >>> patient_subset("abcdef", 0.2) < patient_subset("fedcba", 0.5) < patient_subset("abcdef", 1.0)
    True
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"a fraction of {fraction:g} of the patients; choose more than 0, and 1 at most")
    ordered = _shuffled(patients, seed)
    return frozenset(ordered[: math.ceil(fraction * len(ordered) - 1e-9)])


def patient_folds(patients: Iterable[str], folds: int, seed: int = 0) -> np.ndarray:
    """The fold of each row, (N,) int64: all rows of a patient in one fold, folds of nearly equally many patients.

    >>> patient_folds(["a", "b", "a", "c"], 2)
    array([0, 0, 0, 1])
    """
    patients = list(patients)
    fold = {patient: number % folds for number, patient in enumerate(_shuffled(patients, seed))}
    return np.array([fold[patient] for patient in patients], np.int64)


def single_class_findings(findings: Iterable[str], labels: dict[str, np.ndarray]) -> dict[str, str]:
    """finding -> why it cannot be measured. labels: split -> (N, F), 1 present, 0 absent, NaN unknown."""
    reasons = {}
    for column, finding in enumerate(findings):
        for split, label_NF in labels.items():
            present, absent = (int((label_NF[:, column] == value).sum()) for value in (1, 0))
            if not (present and absent):
                reasons[finding] = f"{present} present and {absent} absent in {split}"
                break
    return reasons


def check_exclusive(train: Features) -> None:
    """Raises FeaturesError where a study has several findings."""
    present_N = np.nansum(train.labels, axis=1)
    if several := int((present_N > 1).sum()):
        raise FeaturesError(
            f"{several} of {len(train)} studies of train have several of the findings, which so do not exclude "
            "one another; leave linear.exclusive off"
        )


def _shuffled(patients: Iterable[str], seed: int) -> list[str]:
    """The patients, each once, in an order that depends on their names and the seed alone."""
    return sorted(set(patients), key=lambda patient: stable_hash(f"{seed}:{patient}"))


def _check_patients(splits: dict[str, Features]) -> None:
    """Raises FeaturesError where a patient is in two splits; the message says how many are, not who."""
    for one, other in combinations(splits, 2):
        if both := common_count(splits[one].patients, splits[other].patients):
            raise FeaturesError(
                f"{both} patients are in {one} and in {other}, which would leak labels; "
                "split by patient with `vetdino ingest`"
            )


def _with_findings(features: Features, findings: list[str]) -> Features:
    """The features with the labels of these findings only."""
    columns = [features.findings.index(name) for name in findings]
    return replace(features, findings=tuple(findings), labels=features.labels[:, columns])
