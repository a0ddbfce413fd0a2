"""What an audit measures: organs of query scans, slice by slice.

An audit takes one step of the published method (cutting masks to components, test-time training) and measures its
effect on every single slice: a mean that rises may hide slices that get lost. Slices are those of the published
protocol, where the query's ground truth tells which third of the organ a slice belongs to (see `method.protocol`).
Each slice is segmented by itself, not smoothed along the scan (`ScanConfig.smooth`).
"""

# Z slices of a scan, H, W its rows and columns.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ....platform.core.errors import DataError
from ...volumes.volume import Volume, Volumes
from ..method.protocol import Fold, cross_validation_folds, parts_from_truth
from ..method.support import SupportSet, build_support_set, organ_truth, selected_classes
from .config import AuditConfig


@dataclass(frozen=True, eq=False)
class AuditTarget:
    """One organ in one query scan. parts: slice -> the third of the organ that it belongs to, by the ground truth."""

    fold: Fold
    support: SupportSet
    query: Volume
    parts: Mapping[int, int]

    @cached_property
    def truth(self) -> np.ndarray:
        """(Z, H, W) bool."""
        return organ_truth(self.query, self.support.organ)

    def __repr__(self) -> str:
        return f"AuditTarget({self.support.name} in {self.query.name}, {len(self.parts)} slices)"


def audit_targets(
    volumes: Volumes, config: AuditConfig, left_out: dict[str, str]
) -> Iterator[list[AuditTarget]]:
    """The organs of every scan of `audited_scans`, as one list per scan, fold by fold.

    What cannot be measured is added to `left_out`, place -> reason. Raises ConfigError for folds, shots or organs that
    do not fit.
    """
    audited = audited_scans(volumes, config)
    left_out |= {name: "no labels" for name in volumes.names if not volumes.cards[name]["labelled"]}
    organs = selected_classes(volumes, config.organs)
    for fold in cross_validation_folds(_labeled(volumes), config.folds, config.shots):
        queries = [name for name in fold.queries if name in audited]
        if queries:
            supports = _support_sets(fold, organs, [volumes.load(name) for name in fold.supports], left_out)
            for name in queries:
                yield list(_scan_targets(fold, supports, volumes.load(name), config, left_out))


def audited_scans(volumes: Volumes, config: AuditConfig) -> list[str]:
    """Names of the scans that are measured: `config.scans` of the labeled ones, evenly spaced."""
    names = _labeled(volumes)
    return [names[place] for place in evenly_spaced(len(names), config.scans)]


def _labeled(volumes: Volumes) -> list[str]:
    return [name for name in volumes.names if volumes.cards[name]["labelled"]]


def _support_sets(
    fold: Fold, organs: Mapping[int, str], supports: Sequence[Volume], left_out: dict[str, str]
) -> list[SupportSet]:
    sets = []
    for organ, name in organs.items():
        try:
            sets.append(build_support_set(organ, name, supports, fold.number))
        except DataError as reason:
            left_out[f"fold {fold.number}, {name}"] = str(reason)
    return sets


def _scan_targets(
    fold: Fold, supports: Sequence[SupportSet], query: Volume, config: AuditConfig, left_out: dict[str, str]
) -> Iterator[AuditTarget]:
    for support in supports:
        parts = parts_from_truth(organ_truth(query, support.organ))
        if not parts:
            left_out[f"{query.name}, {support.name}"] = "the scan does not show it"
            continue
        slices = [list(parts)[place] for place in evenly_spaced(len(parts), config.per_organ)]
        yield AuditTarget(fold, support, query, {z: parts[z] for z in slices})


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` indices, the middles of equal intervals; all of them if `wanted` is 0 or too large.

    >>> evenly_spaced(12, 3), evenly_spaced(2, 3)
    ([2, 6, 10], [0, 1])
    """
    if not 0 < wanted < count:
        return list(range(count))
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]
