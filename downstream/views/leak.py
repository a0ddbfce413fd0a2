"""Leak: how well a linear decoder tells the projection of a view, and how its file was made, from its vector.

It is compared with the same decoder on findings: is the embedding about the projection or about the patient?

V views, P patients, C classes, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...platform.measure.bootstrap import estimate
from ...platform.measure.descriptors import Descriptor, Pool
from ...platform.measure.features import Features
from ...platform.measure.metrics import auroc
from ...platform.measure.predictions import Predictions
from ...platform.measure.results import Measurements, MetricValue
from ..findings.config import LinearConfig
from ..findings.linear import linear
from .intervals import PatientBootstrap, ratio
from .vectors import UNKNOWN, ViewVectors

FEWEST = 5
"""Fewest views of a class, in train and in test, for it to be decoded."""


def leak(
    views: Mapping[str, ViewVectors], strengths: tuple[float, ...], bootstrap: PatientBootstrap
) -> Measurements:
    """How well projection, facts of the file, and findings are decoded from view vectors.

    views: by split. A linear probe (`findings.linear`) learns from views of train patients and is tested on those of
    test patients; the validation split chooses one of the `strengths` (scikit-learn's C). `leak_balanced_accuracy`:
    the mean recall over classes, chance 1 / C. `leak_auroc` of `findings`: macro AUROC over findings. Raises
    FeaturesError where a patient is in two splits.
    """
    if not len(views["train"].features):
        return Measurements((), {"leak": "no studies in the train split"})
    decoder = LinearConfig(pools=("cls",), blocks=(1,), cs=strengths, class_weight="balanced")
    figures: list[MetricValue] = []
    left_out: dict[str, str] = {}
    facts: dict[str, str | int | float] = {}
    for name in (
        "projection",
        *sorted({name for part in views.values() for fact in part.facts for name in fact}),
    ):
        classes = _classes(_values(views["train"], name), _values(views["test"], name))
        if len(classes) < 2:
            left_out[f"leak {name}"] = f"fewer than two classes with {FEWEST} views in train and in test"
            continue
        answers = linear(_TableSource(_classified(views, name, classes)), replace(decoder, exclusive=True))
        figures += _balanced_accuracy(name, answers, bootstrap)
        facts |= {f"leak_{name}": ", ".join(classes), f"leak_{name}_C": answers.facts["C"]}
    answers = linear(_TableSource(_concatenated([part.features for part in views.values()])), decoder)
    left_out |= {f"leak {finding}": reason for finding, reason in answers.left_out.items()}
    if answers.findings:
        facts |= {"leak_findings": len(answers.findings), "leak_findings_C": answers.facts["C"]}
        figures += _macro_auroc(answers, bootstrap)
    return Measurements(
        tuple(figures), left_out, facts | {"leak_train_views": len(views["train"].projections)}
    )


@dataclass(frozen=True, slots=True, eq=False)
class _TableSource:
    """One feature table as a source for the linear probe, whatever the descriptor."""

    table: Features
    name: str = "views"

    def available(self, descriptors: Iterable[Descriptor]) -> list[Descriptor]:
        return [next(iter(descriptors))]

    def features(self, pool: Pool = "cls", blocks: int = 1) -> Features:
        return self.table


def _values(views: ViewVectors, name: str) -> list[str]:
    """The projection, or a fact of the file, of each view; empty where unknown."""
    if name == "projection":
        return ["" if value == UNKNOWN else value for value in views.projections]
    return [facts.get(name, "") for facts in views.facts]


def _classes(train: Sequence[str], test: Sequence[str]) -> list[str]:
    """Values that are frequent enough in both, in order."""
    counts = Counter(train), Counter(test)
    return sorted(value for value in counts[0] if value and min(count[value] for count in counts) >= FEWEST)


def _classified(views: Mapping[str, ViewVectors], name: str, classes: list[str]) -> Features:
    """The vectors of the views of these classes, with the classes as findings."""
    tables = []
    for part in views.values():
        values = _values(part, name)
        rows = [row for row, value in enumerate(values) if value in classes]
        labels_VC = np.array([[value == values[row] for value in classes] for row in rows], np.float32)
        labels_VC = labels_VC.reshape(-1, len(classes))
        tables.append(replace(part.features.rows(rows), findings=tuple(classes), labels=labels_VC))
    return _concatenated(tables)


def _concatenated(tables: Sequence[Features]) -> Features:
    """The rows of several tables of one source as one table."""
    return replace(
        tables[0],
        keys=tuple(key for table in tables for key in table.keys),
        patients=tuple(patient for table in tables for patient in table.patients),
        splits=tuple(split for table in tables for split in table.splits),
        views=tuple(view for table in tables for view in table.views),
        vectors=np.concatenate([table.vectors for table in tables]),
        labels=np.concatenate([table.labels for table in tables]),
        projections=tuple(projection for table in tables for projection in table.projections),
    )


def _balanced_accuracy(name: str, answers: Predictions, bootstrap: PatientBootstrap) -> Iterator[MetricValue]:
    """Balanced accuracy of the class with the highest score, and chance."""
    patients, patient_V = np.unique(np.asarray(answers.patients), return_inverse=True)
    correct_V = answers.scores.argmax(axis=1) == answers.truth.argmax(axis=1)
    counts_2PC = np.zeros((2, len(patients), len(answers.findings)))
    np.add.at(counts_2PC[0], patient_V, answers.truth * correct_V[:, None])
    np.add.at(counts_2PC[1], patient_V, answers.truth)
    correct_PC, all_PC = counts_2PC

    def accuracy(weight_RP: np.ndarray) -> np.ndarray:
        return ratio(weight_RP @ correct_PC, weight_RP @ all_PC).mean(axis=1)

    (value,) = accuracy(np.ones((1, len(patients))))
    chance, counts = 1 / len(answers.findings), (len(patients), len(correct_V))
    bounds = bootstrap.interval(accuracy, patients.tolist())
    yield bootstrap.value("leak_balanced_accuracy", name, value, bounds, *counts)
    yield bootstrap.value("leak_balanced_accuracy_chance", name, chance, (chance, chance), *counts)


def _macro_auroc(answers: Predictions, bootstrap: PatientBootstrap) -> Iterator[MetricValue]:
    macro = estimate(
        auroc, answers.truth, answers.scores, answers.patients, bootstrap.resamples, bootstrap.seed
    ).macro()
    counts = len(set(answers.patients)), len(answers.patients)
    (low,), (high,) = macro.interval()
    yield bootstrap.value("leak_auroc", "findings", macro.values[0], (low, high), *counts)
    yield bootstrap.value("leak_auroc_chance", "findings", 0.5, (0.5, 0.5), *counts)
