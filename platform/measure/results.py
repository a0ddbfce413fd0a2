"""What an evaluation yields: metric values with intervals, per finding and source.

N items, F findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..core.errors import FeaturesError
from .bootstrap import Estimate, estimate, percentiles
from .metrics import auroc, average_precision
from .predictions import Predictions


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A metric (AUROC, AP, …) of a finding (or `macro`) from the predictions of a source.

    low and high bound the 95 % interval over patients; NaN where there are too few of them for one. present
    and known count the labels it rests on; for `macro`, those of all findings.
    """

    metric: str
    finding: str
    source: str
    value: float
    low: float
    high: float
    present: int
    known: int


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """A metric on resamples of some patients, so that two sources can be compared on the same ones.

    patients: whom the resamples are drawn from. samples: (R,) float64, NaN where undefined.
    """

    patients: tuple[str, ...]
    samples: np.ndarray

    def __repr__(self) -> str:
        return f"Resamples({len(self.samples)} of {len(self.patients)} patients)"


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """What a task measures that has no predictions of findings, such as how well one view retrieves the other.

    values: each with the name of its row as `finding`. left_out: row -> why it is not measured. facts: further
    numbers, such as the settings chosen. pictures: file name -> PNG. resamples: (metric, row) -> its resamples, of the
    values that other sources can be compared with.
    """

    values: tuple[MetricValue, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    resamples: Mapping[tuple[str, str], Resamples] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Measurements({len(self.values)} values, {len(self.pictures)} pictures)"


def measured_values(measured: Mapping[str, Measurements]) -> list[MetricValue]:
    """The values of each source; then of the first minus each other (`a - b`), where both measured the same patients.

    The differences are paired: the sources are resampled together.
    """
    values = [value for one in measured.values() for value in one.values]
    first, *others = measured
    known = {
        name: {(value.metric, value.finding): value for value in one.values} for name, one in measured.items()
    }
    for other in others:
        for key, mine in measured[first].resamples.items():
            theirs = measured[other].resamples.get(key)
            if theirs is None or theirs.patients != mine.patients:
                continue
            one, two = known[first][key], known[other][key]
            (low,), (high,) = percentiles((mine.samples - theirs.samples)[:, None])
            values.append(
                MetricValue(
                    *key,
                    f"{first} - {other}",
                    one.value - two.value,
                    float(low),
                    float(high),
                    one.present,
                    one.known,
                )
            )
    return values


def metric_values(predictions: Mapping[str, Predictions], n: int = 1000, seed: int = 0) -> list[MetricValue]:
    """AUROC and AP, macro and per finding, of each source; then of the first minus each other (`a - b`).

    The differences are paired: all sources predict the same items and are resampled together. Raises
    FeaturesError where they do not, or where no finding is left to measure.
    """
    first, *others = predictions
    base = predictions[first]
    for name in others:
        other = predictions[name]
        if (other.findings, other.patients) != (base.findings, base.patients):
            raise FeaturesError(f"{first} and {name} predict other studies or findings; extract both again")
    if not base.findings:
        why = "; ".join(f"{name}: {reason}" for name, reason in base.left_out.items()) or "there are none"
        raise FeaturesError(f"no finding can be measured ({why}); ingest more labelled studies")
    values: list[MetricValue] = []
    for title, metric in (("AUROC", auroc), ("AP", average_precision)):
        estimates = {
            name: estimate(metric, base.truth, prediction.scores, base.patients, n, seed)
            for name, prediction in predictions.items()
        }
        estimates |= {f"{first} - {name}": estimates[first] - estimates[name] for name in others}
        for source, one in estimates.items():
            values += _values(title, source, ("macro",), one.macro(), base.truth.reshape(-1, 1))
            values += _values(title, source, base.findings, one, base.truth)
    return values


def _values(
    metric: str, source: str, findings: Sequence[str], estimate: Estimate, truth_NF: np.ndarray
) -> Iterator[MetricValue]:
    columns = zip(findings, estimate.values, *estimate.interval(), truth_NF.T, strict=True)
    for finding, value, low, high, truth_N in columns:
        present, known = int((truth_N == 1).sum()), int((~np.isnan(truth_N)).sum())
        yield MetricValue(metric, finding, source, float(value), float(low), float(high), present, known)
