"""The rules that every task of answers keeps: who learns, who chooses, who is asked, and who is left out.

N studies, F findings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.data.study import SPLITS
from ...platform.measure.features import Features, check


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The features of the three splits, each with the findings that can be measured, and why others cannot."""

    train: Features
    val: Features
    test: Features
    left_out: dict[str, str]

    @property
    def facts(self) -> dict[str, int]:
        """How much there is to learn from, and how many are asked."""
        return {
            "train_studies": len(set(self.train.keys)),
            "train_patients": len(set(self.train.patients)),
            "test_studies": len(set(self.test.keys)),
            "test_patients": len(set(self.test.patients)),
        }

    def __repr__(self) -> str:
        return f"Parts({len(self.train)} train, {len(self.val)} val, {len(self.test)} test)"


def parts_of(features: Features, fraction: float = 1.0, seed: int = 0) -> Parts:
    """What a task may look at: a fraction of the train patients, and the whole of val and test.

    A finding that is not both present and absent among the known labels of train and of test is left out by
    name. Raises FeaturesError for vectors that are NaN (the study is named), for a patient in two splits, and
    where nobody is left to learn from or to ask.
    """
    check(features, "features")
    train, val, test = (features.of(split) for split in SPLITS)
    _refuse_shared({"train": train, "val": val, "test": test})
    for name, part in (("train", train), ("test", test)):
        if not len(part):
            raise FeaturesError(
                f"no studies in the {name} split; train and test are needed, ingest more patients"
            )
    taught = few(train.patients, fraction, seed)
    train = train.rows([row for row, patient in enumerate(train.patients) if patient in taught])
    left_out = left_out_of(features.findings, {"train": train.labels, "test": test.labels})
    kept = [name for name in features.findings if name not in left_out]
    return Parts(*(_only(part, kept) for part in (train, val, test)), left_out)


def few(patients: Iterable[str], fraction: float, seed: int = 0) -> frozenset[str]:
    """A fraction of the patients, one at least, the same for the same seed whatever the order they come in.

    A smaller fraction is a part of a larger one: patients are taken by the order of their hashes. Raises
    ConfigError for a fraction outside of 0..1.

    >>> few("abcdef", 0.2) < few("fedcba", 0.5) < few("abcdef", 1.0)
    True
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"a fraction of {fraction:g} of the patients; choose more than 0, and 1 at most")
    ordered = sorted(set(patients), key=lambda patient: _hash(patient, seed))
    return frozenset(ordered[: math.ceil(fraction * len(ordered) - 1e-9)])


def folds_of(patients: Iterable[str], folds: int, seed: int = 0) -> np.ndarray:
    """(N,) int: the fold of each row, all rows of a patient in one, folds of nearly as many patients each.

    >>> folds_of(["a", "b", "a", "c"], 2)
    array([0, 0, 0, 1])
    """
    patients = list(patients)
    ordered = sorted(set(patients), key=lambda patient: _hash(patient, seed))
    place = {patient: number % folds for number, patient in enumerate(ordered)}
    return np.array([place[patient] for patient in patients], np.int64)


def left_out_of(findings: Iterable[str], labels: dict[str, np.ndarray]) -> dict[str, str]:
    """finding -> why it cannot be measured. labels: split -> (N, F), 1 present, 0 absent, NaN unknown."""
    reasons = {}
    for column, finding in enumerate(findings):
        for split, label_NF in labels.items():
            present, absent = (int((label_NF[:, column] == value).sum()) for value in (1, 0))
            if not (present and absent):
                reasons[finding] = f"{present} present and {absent} absent in {split}"
                break
    return reasons


def _hash(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _refuse_shared(parts: dict[str, Features]) -> None:
    """Raises FeaturesError where a patient is in two splits; says how many, not who."""
    names = list(parts)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            both = len(set(parts[one].patients) & set(parts[other].patients))
            if both:
                raise FeaturesError(
                    f"{both} patients are in {one} and in {other}, whose answers would be known beforehand; "
                    "split by patient with `vetdino ingest`"
                )


def _only(features: Features, findings: list[str]) -> Features:
    """The features with these findings only."""
    columns = [features.findings.index(name) for name in findings]
    return replace(features, findings=tuple(findings), labels=features.labels[:, columns])
