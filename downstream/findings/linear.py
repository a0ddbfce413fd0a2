"""Linear probe: logistic regression on frozen features, and how little else is needed to read findings off them.

Protocol of DINOv2 (2304.07193, section 7.1 and appendix B.3) with an L2 path in place of its grid of learning
rates: for each descriptor (CLS, CLS + mean of the patches, of the last 1 or 4 blocks) and each strength of the
penalty a regression is fitted on the training split; descriptor and strength are those of best macro AUROC on
the validation split, one choice for all findings. The test split is asked once.

N studies to learn from, M to ask, D dimensions, R of the span of few studies, F findings, C strengths of the
penalty, K columns fitted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.measure.features import Descriptor, Features, Pool
from ...platform.measure.metrics import Answers, auroc, macro
from ..common.sources import Source
from .protocol import Parts, folds_of, left_out_of, parts_of

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

TOLERANCE = 1e-4
"""Largest slope of the loss, a mean over studies, at which the solver may stop."""

DIRECT = 768
"""Dimensions up to which solving Newton's equations directly was the faster way, with 1,642 studies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConfig:
    """What is tried, and how it is fitted."""

    pools: tuple[Pool, ...] = ("cls", "cls+mean")
    """What of the last block is tried: its CLS, or with the mean of its patch tokens."""
    blocks: tuple[int, ...] = (1, 4)
    """The CLS of how many last blocks is tried; numbers beyond the backbone's depth are not."""
    cs: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
    """Inverse strengths of the L2 penalty (scikit-learn's C), tried from the strongest penalty on."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced weighs the studies with and those without a finding alike, however rare it is."""
    exclusive: bool = False
    """Findings exclude one another: one softmax over them (and over `none of them`) in place of a yes or no for
    each."""
    folds: int = 5
    """Parts of the train patients that are left out in turn where the validation split cannot choose."""
    max_iterations: int = 100
    """Of the solver (Newton's) for one strength of the penalty, which starts from the one before."""


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """What was best, how good it was, and where that was measured. -1 where nothing could choose."""

    descriptor: Descriptor
    parts: Parts
    c: float
    auroc: float
    where: str

    @property
    def facts(self) -> dict[str, str | int | float]:
        """The choice in words."""
        measured = f"best macro AUROC ({self.auroc:.3f}) on {self.where}"
        return {
            "descriptor": self.descriptor.pool,
            "blocks": self.descriptor.blocks,
            "C": self.c,
            "chosen": measured if self.auroc >= 0 else f"given, {self.where} cannot choose",
            "dimensions": self.parts.train.vectors.shape[1],
            **self.parts.facts,
        }


def linear(
    source: Source, config: LinearConfig | None = None, fraction: float = 1.0, seed: int = 0
) -> Answers:
    """The test split's scores by regressions on the training split, one row for each study.

    fraction: of the train patients, drawn by seed; where they are few, they choose as well. Findings that
    cannot be measured are named in `left_out`. Raises FeaturesError as `parts_of` does, and for findings said
    to be exclusive that are not; ConfigError where the source has none of the descriptors.
    """
    config = config or LinearConfig()
    descriptors = source.given(Descriptor(*pair) for pair in product(config.pools, config.blocks))
    if not descriptors or not config.cs:
        raise ConfigError(
            f"{source.name} has no descriptor of {config.blocks} blocks, or linear.cs is empty; give both"
        )
    best: _Choice | None = None
    for descriptor in descriptors:
        parts = parts_of(source.features(descriptor.pool, descriptor.blocks), fraction, seed)
        if not parts.test.findings:
            return _answers(parts, np.empty((len(parts.test), 0)), parts.facts)
        # With few labels there are few for choosing, too.
        by_val = fraction == 1 and _can_choose(parts.val)
        choice = _tried(descriptor, parts, config, by_val, seed)
        # What came first is the smaller: it wins a tie.
        if best is None or choice.auroc > best.auroc:
            best = choice
    # The path up to the choice once more: what starts elsewhere ends elsewhere, by the solver's tolerance.
    fits = list(_path(best.parts.train, [c for c in sorted(config.cs) if c <= best.c], config))
    unfinished = sum(not fit.finished for fit in fits)
    facts = best.facts | ({"not_converged": f"{unfinished} of {len(fits)} strengths"} if unfinished else {})
    return _answers(best.parts, fits[-1].scores(best.parts.test.vectors), facts)


def _answers(parts: Parts, score_MF: np.ndarray, facts: Mapping[str, str | int | float]) -> Answers:
    test = parts.test
    return Answers(test.findings, test.patients, test.labels, score_MF, parts.left_out, facts)


def _can_choose(val: Features) -> bool:
    """Whether every finding has both classes there: a choice by some of them would be unfair to the others."""
    return len(val) > 0 and not left_out_of(val.findings, {"val": val.labels})


def _tried(descriptor: Descriptor, parts: Parts, config: LinearConfig, by_val: bool, seed: int) -> _Choice:
    """The best strength of the penalty for one descriptor, on val or else by folds of the train patients."""
    train, val, cs = parts.train, parts.val, sorted(config.cs)
    if by_val:
        truth_MF, where = val.labels, f"{len(set(val.keys))} val studies"
        score_CMF = np.stack([fit.scores(val.vectors) for fit in _path(train, cs, config)])
    else:
        studies = len(set(train.keys))
        truth_MF, where = train.labels, f"{studies} train studies, by {config.folds} folds of patients"
        score_CMF = _scores_of_others(train, cs, config, seed)
    found_C = np.array([macro(auroc(_fitted(truth_MF, score), np.nan_to_num(score))) for score in score_CMF])
    best = int(np.argmax(np.nan_to_num(found_C, nan=-1.0)))
    if np.isnan(found_C).all():
        return _Choice(descriptor, parts, cs[len(cs) // 2], -1.0, where)
    return _Choice(descriptor, parts, cs[best], float(found_C[best]), where)


def _scores_of_others(train: Features, cs: list[float], config: LinearConfig, seed: int) -> np.ndarray:
    """(C, N, F): each study's scores by regressions on the patients of the other folds; NaN where none was."""
    fold_N = folds_of(train.patients, config.folds, seed)
    score_CNF = np.full((len(cs), *train.labels.shape), np.nan)
    for fold in sorted(set(fold_N.tolist())):
        asked, rest = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        if len(rest):
            for c, fit in enumerate(_path(train.rows(rest), cs, config)):
                score_CNF[c, asked] = fit.scores(train.vectors[asked])
    return score_CNF


def _fitted(truth_MF: np.ndarray, score_MF: np.ndarray) -> np.ndarray:
    """The truth where there was a regression to ask, unknown elsewhere: no guess counts for or against."""
    return np.where(np.isnan(score_MF), np.nan, truth_MF)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """Regressions at one strength of the penalty, weight (K, D) and bias (K,) on standardised features.

    columns: the finding that each of the K is of; `findings` itself stands for none of them.
    """

    mean_D: np.ndarray
    scale_D: np.ndarray
    weight_KD: np.ndarray
    bias_K: np.ndarray
    columns: list[int]
    findings: int
    exclusive: bool
    finished: bool

    def scores(self, vectors_MD: np.ndarray) -> np.ndarray:
        """How surely each study has each finding, (M, F): log odds, or log probabilities of exclusive ones.

        NaN for a finding that had one class where these regressions were fitted.
        """
        from scipy.special import log_softmax

        logit_MK = (vectors_MD - self.mean_D) / self.scale_D @ self.weight_KD.T + self.bias_K
        score_MF = np.full((len(vectors_MD), self.findings + 1), np.nan)
        score_MF[:, self.columns] = log_softmax(logit_MK, axis=1) if self.exclusive else logit_MK
        return score_MF[:, : self.findings]


def _path(train: Features, cs: list[float], config: LinearConfig) -> Iterator[_Fit]:
    """Regressions at each strength of the penalty, each starting where the one before it ended."""
    vectors_ND = train.vectors.astype(np.float64)
    mean_D, scale_D = vectors_ND.mean(axis=0), vectors_ND.std(axis=0)
    # What hardly varies says nothing, and would say a lot once divided by its own spread.
    scale_D = np.where(scale_D > 1e-6, scale_D, np.inf)
    standard_ND = (vectors_ND - mean_D) / scale_D
    # A penalised regression lies in the span of its studies: where they are few it is fitted there, exactly.
    basis_RD = np.linalg.svd(standard_ND, full_matrices=False)[2] if len(train) < len(mean_D) else None
    if basis_RD is not None:
        standard_ND = standard_ND @ basis_RD.T
    targets = list(_exclusive(train) if config.exclusive else _one_by_one(train))
    models = [_model(config, standard_ND.shape[1]) for _ in targets]
    for c in cs:
        finished = [
            _fit(model, c, standard_ND[rows], target_N)
            for model, (_, rows, target_N) in zip(models, targets, strict=True)
        ]
        parts = [
            _coefficients(model, len(columns)) for model, (columns, _, _) in zip(models, targets, strict=True)
        ]
        weight_KR = np.concatenate([weight for weight, _ in parts] or [np.empty((0, standard_ND.shape[1]))])
        yield _Fit(
            mean_D,
            scale_D,
            weight_KR if basis_RD is None else weight_KR @ basis_RD,
            np.concatenate([bias_K for _, bias_K in parts] or [np.empty(0)]),
            [column for columns, _, _ in targets for column in columns],
            len(train.findings),
            config.exclusive,
            all(finished),
        )


def _model(config: LinearConfig, dimensions: int) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    # Features are nearly collinear where patients are few: L-BFGS then needs thousands of steps, Newton a few.
    solver = "newton-cholesky" if dimensions <= DIRECT else "newton-cg"
    weight = None if config.class_weight == "none" else config.class_weight
    how = {"tol": TOLERANCE, "max_iter": config.max_iterations, "class_weight": weight}
    return LogisticRegression(solver=solver, warm_start=True, **how)


def _fit(model: LogisticRegression, c: float, standard_ND: np.ndarray, target_N: np.ndarray) -> bool:
    """Fits in place; whether the solver came to its end."""
    from scipy.linalg import LinAlgWarning
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted, and told in the facts
        warnings.simplefilter("ignore", LinAlgWarning)  # scikit-learn then goes on with L-BFGS by itself
        model.set_params(C=c).fit(standard_ND, target_N)
    return int(model.n_iter_.max()) < model.max_iter


def _coefficients(model: LogisticRegression, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies of weight (K, R) and bias (K,): the model goes on from its own."""
    weight_KR, bias_K = model.coef_.copy(), model.intercept_.copy()
    if columns == 2:  # of two classes the model knows the second against the first
        return np.concatenate([0 * weight_KR, weight_KR]), np.append(0.0, bias_K)
    return weight_KR, bias_K


def _one_by_one(train: Features) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """(columns, rows, targets) of each finding that has both classes here: the studies where it is known."""
    for column, label_N in enumerate(train.labels.T):
        rows = np.flatnonzero(~np.isnan(label_N))
        if len(np.unique(label_N[rows])) == 2:
            yield [column], rows, label_N[rows].astype(int)


def _exclusive(train: Features) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """(columns, rows, targets) of all classes here, `none of them` the last: studies whose class is known.

    Raises FeaturesError where a study has several findings.
    """
    present_N = np.nansum(train.labels, axis=1)
    if several := int((present_N > 1).sum()):
        raise FeaturesError(
            f"{several} of {len(train)} studies of train have several of the findings, which so do not exclude "
            "one another; leave linear.exclusive off"
        )
    known_N = (present_N == 1) | ~np.isnan(train.labels).any(axis=1)
    rows = np.flatnonzero(known_N)
    class_N = np.where(present_N == 1, np.nan_to_num(train.labels).argmax(axis=1), len(train.findings))
    columns, target_N = np.unique(class_N[rows], return_inverse=True)
    if len(columns) > 1:
        yield columns.tolist(), rows, target_N
