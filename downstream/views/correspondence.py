"""Patch correspondence: do the tokens of one view find the same place of the animal in another view?

Q query patches of one view, M patches of the other, T best matches. Lengths are cm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...platform.measure.results import Measurements, MetricValue
from .intervals import PatientBootstrap
from .tokenized import TokenizedView, unit_or_zero
from .truth import PatchTruth
from .vectors import ordered_pairs

TOP = 5
"""Matches that are looked at, as in the paper's patch similarity (arXiv 2505.15248)."""

COLUMNS = (
    "patch_hit_at_1", "patch_hit_at_1_chance", "patch_hit_at_1_position",
    "patch_hit_at_5", "patch_hit_at_5_chance", "patch_hit_at_5_position", "patch_hit_oracle",
    "patch_error_cm", "patch_error_cm_chance", "patch_error_cm_position", "patch_error_cm_oracle",
)  # fmt: skip
"""What is measured of a query patch; the suffix names the baseline, tokens have none."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchMatches:
    """How well patches of one view were matched in another.

    columns: COLUMNS -> (Q,), hits 0..1 and errors in cm; empty where there was no query. foreground: patches that
    show the animal; answerable: those of them that could be queries.
    """

    columns: Mapping[str, np.ndarray]
    foreground: int
    answerable: int

    def __repr__(self) -> str:
        return f"PatchMatches({self.answerable} of {self.foreground} patches answerable)"


def patch_matches(
    source: TokenizedView, target: TokenizedView, *, radius: float, most: int, random: np.random.Generator
) -> PatchMatches:
    """Match patches of one view to the most similar patches (cosine) of another view of the same animal.

    The densest organ behind the middle of a query patch is at a point P of the animal. In the other view, rays pass
    through P at one place of its detector, known from its frame: the error of a match is the distance, in cm, of its
    middle from there, along the two axes which the other view shows. (The third cannot be known: a left and a right
    rib lie on one ray of a lateral.) A hit is a match within `radius`; at 5, the best of five.

    Animals breathe and move their limbs between two exposures, so a patch is a query only where the other view's own
    map confirms P: it has a point within `radius` of P in all three axes. At most `most` of these answerable patches
    are drawn.

    Baselines: chance is the expectation over different random patches of the animal (its error: that of the middle
    one). Position takes the patches nearest to the same place in the animal's outline, half-way along the axis that
    the query's view does not show. The oracle knows P and takes the patch nearest to it: the ceiling, which the
    grid's own coarseness keeps from being perfect.
    """
    queries, targets = source.patches, target.patches
    inside = targets.inside
    answerable = _confirmed(queries, targets, radius) if len(inside) else inside
    foreground = len(queries.inside)
    if not len(answerable):
        return PatchMatches({}, foreground, 0)
    drawn_Q = np.sort(random.choice(answerable, min(most, len(answerable)), replace=False))
    centers_M2 = targets.centers[inside]
    error_QM = _distances(targets.truth.on_detector(queries.points[drawn_Q]), centers_M2)
    dissimilarities = {
        "": -unit_or_zero(source.tokens[drawn_Q]) @ unit_or_zero(target.tokens[inside]).T,
        "_position": _distances(targets.from_relative(queries.relative()[drawn_Q]), centers_M2),
    }
    columns = _chance_columns(error_QM, radius)
    for suffix, dissimilarity_QM in dissimilarities.items():
        order_QT = np.argsort(dissimilarity_QM, axis=1, kind="stable")[:, :TOP]
        columns |= _columns(np.take_along_axis(error_QM, order_QT, axis=1), radius, suffix)
    least_Q = error_QM.min(axis=1)
    columns |= {"patch_hit_oracle": (least_Q <= radius).astype(float), "patch_error_cm_oracle": least_Q}
    return PatchMatches({name: columns[name] for name in COLUMNS}, foreground, len(answerable))


def _confirmed(queries: PatchTruth, targets: PatchTruth, radius: float) -> np.ndarray:
    """Numbers of the query view's patches whose point the other view's map has, within the radius."""
    inside = queries.inside
    distance_N, _ = targets.tree.query(queries.points[inside], distance_upper_bound=radius)
    return inside[np.isfinite(distance_N)]


def _distances(one_Q2: np.ndarray, other_M2: np.ndarray) -> np.ndarray:
    return np.linalg.norm(one_Q2[:, None] - other_M2, axis=2)


def _columns(error_QT: np.ndarray, radius: float, suffix: str) -> dict[str, np.ndarray]:
    """The columns of one kind of matching, from the errors of its best matches in order."""
    hit_QT = error_QT <= radius
    return {
        f"patch_hit_at_1{suffix}": hit_QT[:, 0].astype(float),
        f"patch_hit_at_5{suffix}": hit_QT.any(axis=1).astype(float),
        f"patch_error_cm{suffix}": error_QT[:, 0],
    }


def _chance_columns(error_QM: np.ndarray, radius: float) -> dict[str, np.ndarray]:
    """The columns of chance: the probability that `TOP` different random patches all miss is a product of draws."""
    count = error_QM.shape[1]
    misses_Q = (error_QM > radius).sum(axis=1)
    drawn_T = np.arange(min(TOP, count))
    miss_QT = ((misses_Q[:, None] - drawn_T) / (count - drawn_T)).clip(0)
    return {
        "patch_hit_at_1_chance": 1 - miss_QT[:, 0],
        "patch_hit_at_5_chance": 1 - miss_QT.prod(axis=1),
        "patch_error_cm_chance": np.median(error_QM, axis=1),
    }


def patch_figures(
    matches: Mapping[str, Sequence[tuple[str, PatchMatches]]], bootstrap: PatientBootstrap
) -> Measurements:
    """Hits (means) and errors (medians, cm), by pair of projections. matches: pair -> (patient, matches) of each study.

    `patch_answerable` is the share of the animal's patches that could be queries.
    """
    figures: list[MetricValue] = []
    left_out = {}
    rows = {row: list(group) for row, group in matches.items()}
    rows["all"] = [one for row, group in rows.items() if len(set(row.split("-"))) > 1 for one in group]
    for row in ordered_pairs(rows):
        matched = [(patient, one) for patient, one in rows[row] if one.columns]
        if not matched:
            left_out[f"patches {row}"] = "no patch of one view is confirmed by another's truth"
            continue
        columns = {
            name: np.concatenate([one.columns[name] for _, one in matched]) for name in matched[0][1].columns
        }
        patients = [patient for patient, one in matched for _ in one.columns["patch_error_cm"]]
        hits, errors = (
            {name: column for name, column in columns.items() if name.startswith(f"patch_{what}")}
            for what in ("hit", "error")
        )
        figures += bootstrap.means(row, hits, patients)
        figures += bootstrap.medians(row, errors, patients)
        answerable, foreground = np.array([(one.answerable, one.foreground) for _, one in rows[row]], float).T
        figures += bootstrap.ratios(
            row, {"patch_answerable": (answerable, foreground)}, [patient for patient, _ in rows[row]]
        )
    return Measurements(tuple(figures), left_out)
