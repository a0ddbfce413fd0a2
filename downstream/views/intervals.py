"""Metric values with 95 % intervals: means, ratios and medians of items, bootstrapped over their patients.

N items, P patients, R resamples, X columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat, TypeAlias

import numpy as np

from ...platform.measure.bootstrap import bootstrap_samples, percentiles
from ...platform.measure.results import Measurements, MetricValue, Resamples

Bounds: TypeAlias = tuple[SupportsFloat, SupportsFloat]
"""Low and high end of an interval."""


@dataclass(frozen=True, slots=True)
class PatientBootstrap:
    """Makes the values of one source. Of every value `present` counts patients and `known` items."""

    source: str
    resamples: int
    seed: int
    kept: dict[tuple[str, str], Resamples] = field(default_factory=dict)
    """(metric, row) -> the resamples behind its interval, of means, ratios and medians."""

    def means(
        self, row: str, columns: Mapping[str, np.ndarray], patients: Sequence[str]
    ) -> Iterator[MetricValue]:
        """The mean of each column (N,) over its known items; NaN is unknown."""
        known = {name: ~np.isnan(column) for name, column in columns.items()}
        sums = {name: np.where(known[name], column, 0.0) for name, column in columns.items()}
        return self.ratios(row, {name: (sums[name], known[name].astype(float)) for name in columns}, patients)

    def ratios(
        self, row: str, columns: Mapping[str, tuple[np.ndarray, np.ndarray]], patients: Sequence[str]
    ) -> Iterator[MetricValue]:
        """The sum of the first array (N,) over the sum of the second; no value where the second is all 0."""
        names, patient_N = np.unique(np.asarray(patients), return_inverse=True)
        people = names.tolist()
        parts_2PX = np.zeros((2, len(people), len(columns)))
        for x, pair in enumerate(columns.values()):
            for part, column_N in enumerate(pair):
                np.add.at(parts_2PX[part, :, x], patient_N, column_N)
        over_PX, under_PX = parts_2PX
        samples_RX = self._samples(lambda weight_RP: ratio(weight_RP @ over_PX, weight_RP @ under_PX), people)
        low, high = percentiles(samples_RX)
        values = ratio(over_PX.sum(axis=0), under_PX.sum(axis=0))
        for x, name in enumerate(columns):
            if under_PX[:, x].any():
                count = int((under_PX[:, x] > 0).sum()), int(under_PX[:, x].sum())
                if not name.endswith("_chance"):
                    self.kept[name, row] = Resamples(tuple(people), samples_RX[:, x])
                yield self.value(name, row, values[x], (low[x], high[x]), *count)

    def medians(
        self, row: str, columns: Mapping[str, np.ndarray], patients: Sequence[str]
    ) -> Iterator[MetricValue]:
        """The median of each column (N,), all items known; of an even number the lower middle one."""
        for name, column_N in columns.items():
            order = np.argsort(column_N, kind="stable")

            def median(weight_RN: np.ndarray, order=order, sorted_N=column_N[order]) -> np.ndarray:
                below_RN = np.cumsum(weight_RN[:, order], axis=1)
                return sorted_N[(2 * below_RN >= below_RN[:, -1:]).argmax(axis=1)]

            (value,) = median(np.ones((1, len(column_N))))
            samples_R = self._samples(median, patients)
            self.kept[name, row] = Resamples(tuple(sorted(set(patients))), samples_R)
            low, high = percentiles(samples_R)
            yield self.value(name, row, value, (low, high), len(set(patients)), len(column_N))

    def interval(
        self, fn: Callable[[np.ndarray], np.ndarray], patients: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The interval of fn: weights of the items (R, N) -> values (R,) or (R, X)."""
        return percentiles(self._samples(fn, patients))

    def _samples(self, fn: Callable[[np.ndarray], np.ndarray], patients: Sequence[str]) -> np.ndarray:
        """`bootstrap_samples` of fn; NaN where there is one patient only, who says nothing of others."""
        samples = bootstrap_samples(fn, patients, self.resamples, self.seed)
        return samples if len(set(patients)) > 1 else np.full_like(samples, np.nan, dtype=float)

    def value(
        self, metric: str, row: str, value: SupportsFloat, bounds: Bounds, patients: int, items: int
    ) -> MetricValue:
        """One value of this source with the bounds of its interval."""
        low, high = map(float, bounds)
        return MetricValue(metric, row, self.source, float(value), low, high, patients, items)


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """over / under, NaN where under is 0.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under != 0)


def mean_known(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean along an axis over values that are not NaN; NaN where all are."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def merged(parts: Sequence[Measurements]) -> Measurements:
    """Several measurements of one source as one."""
    return Measurements(
        values=tuple(value for part in parts for value in part.values),
        left_out={name: reason for part in parts for name, reason in part.left_out.items()},
        facts={name: value for part in parts for name, value in part.facts.items()},
        pictures={name: png for part in parts for name, png in part.pictures.items()},
    )
