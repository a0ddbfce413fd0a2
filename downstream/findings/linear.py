"""Linear probe: logistic regression on frozen features.

Protocol of DINOv2 (2304.07193, section 7.1 and appendix B.3) with an L2 path instead of its grid of learning
rates: for each descriptor (CLS, CLS + mean of the patches, of the last 1 or 4 blocks) and each strength of the
penalty a regression is fitted on the training split; descriptor and penalty are those of best macro AUROC on
the validation split, one choice for all findings. The test split is used once.

N training studies, M queries, D dimensions, R dimensions of the span of few studies, F findings, C penalties,
K fitted outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ...platform.core.device import DeviceChoice, resolve_device
from ...platform.core.errors import ConfigError
from ...platform.measure.descriptors import Descriptor, Pool
from ...platform.measure.features import Features
from ...platform.measure.metrics import auroc, macro
from ...platform.measure.predictions import Predictions
from ...platform.measure.texts import text_count
from .config import LinearConfig
from .protocol import TaskSplits, check_exclusive, patient_folds, single_class_findings, task_splits
from .streamed import LabelColumns, RowBlocks, StreamedFit, fit_streamed

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

TOLERANCE = 1e-4
"""Largest slope of the loss, a mean over studies, at which the solver may stop."""

STREAMED = 200_000
"""Training rows up to which the exact solver holds all of them in float64; more are read block by block."""

DIRECT = 768
"""Up to this many dimensions solving Newton's equations directly was faster, with 1,642 studies."""


class FeatureSource(Protocol):
    """What the probe needs of a source of features, such as `common.sources.Source`."""

    @property
    def name(self) -> str: ...

    def available(self, descriptors: Iterable[Descriptor]) -> list[Descriptor]:
        """The descriptors that this source has."""

    def features(self, pool: Pool = "cls", blocks: int = 1) -> Features:
        """The table of one descriptor, all splits."""


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """The best penalty for a descriptor, its macro AUROC (-1 where undefined) and where it was measured."""

    descriptor: Descriptor
    splits: TaskSplits
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
            "dimensions": self.splits.train.vectors.shape[1],
            **self.splits.facts,
        }


def linear(
    source: FeatureSource,
    config: LinearConfig | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    device: DeviceChoice = "auto",
) -> Predictions:
    """Scores of the test split by logistic regressions on the training split, one row for each study.

    fraction: of the train patients, drawn by seed; below 1, descriptor and penalty are chosen on them, too. Findings
    that cannot be measured are named in `left_out`. More than 200,000 training rows are fitted block by block, on
    `device`, to the same minimum within its tolerance; the facts say so. Raises FeaturesError as `task_splits` does,
    and for findings said to be exclusive that are not; ConfigError where the source has none of the descriptors.
    """
    config = config or LinearConfig()
    descriptors = source.available(Descriptor(*pair) for pair in product(config.pools, config.blocks))
    if not descriptors or not config.cs:
        raise ConfigError(
            f"{source.name} has no descriptor of {config.blocks} blocks, or linear.cs is empty; give both"
        )
    best: _Choice | None = None
    for descriptor in descriptors:
        splits = task_splits(source.features(descriptor.pool, descriptor.blocks), fraction, seed)
        if not splits.test.findings:
            return _predictions(splits, np.empty((len(splits.test), 0)), splits.facts)
        # With few labels for training there would be few for choosing, too.
        use_val = fraction == 1 and _can_choose(splits.val)
        choice = _best_penalty(descriptor, splits, config, use_val, seed, device)
        # Of equal values the first, smaller descriptor wins.
        if best is None or choice.auroc > best.auroc:
            best = choice
    assert best is not None  # there is a descriptor at least
    # The path up to the choice once more: started elsewhere, the solver ends elsewhere within its tolerance.
    train = best.splits.train
    fits = list(_fit_path(train, None, [c for c in sorted(config.cs) if c <= best.c], config, device))
    unfinished = sum(not fit.converged for fit in fits)
    facts = best.facts | ({"solver": "L-BFGS, block by block"} if len(train) > STREAMED else {})
    facts |= {"not_converged": f"{unfinished} of {len(fits)} strengths"} if unfinished else {}
    return _predictions(best.splits, fits[-1].scores(best.splits.test.vectors), facts)


def _predictions(
    splits: TaskSplits, score_MF: np.ndarray, facts: Mapping[str, str | int | float]
) -> Predictions:
    test = splits.test
    return Predictions(test.findings, tuple(test.patients), test.labels, score_MF, splits.left_out, facts)


def _can_choose(val: Features) -> bool:
    """Whether every finding has both classes there; choosing by some of them would be unfair to the others."""
    return len(val) > 0 and not single_class_findings(val.findings, {"val": val.labels})


def _best_penalty(
    descriptor: Descriptor,
    splits: TaskSplits,
    config: LinearConfig,
    use_val: bool,
    seed: int,
    device: DeviceChoice,
) -> _Choice:
    """The best penalty for one descriptor, on validation or by cross-validation over the train patients."""
    train, val, cs = splits.train, splits.val, sorted(config.cs)
    if use_val:
        truth_MF, where = val.labels, f"{text_count(val.keys)} val studies"
        score_CMF = np.stack([fit.scores(val.vectors) for fit in _fit_path(train, None, cs, config, device)])
    else:
        studies = text_count(train.keys)
        truth_MF, where = train.labels, f"{studies} train studies, by {config.folds} folds of patients"
        score_CMF = _cross_validated_scores(train, cs, config, seed, device)
    # Where no regression could be fitted (NaN), the truth counts as unknown.
    auroc_C = np.array(
        [
            macro(auroc(np.where(np.isnan(score_MF), np.nan, truth_MF), np.nan_to_num(score_MF)))
            for score_MF in score_CMF
        ]
    )
    if np.isnan(auroc_C).all():
        return _Choice(descriptor, splits, cs[len(cs) // 2], -1.0, where)
    best = int(np.argmax(np.nan_to_num(auroc_C, nan=-1.0)))
    return _Choice(descriptor, splits, cs[best], float(auroc_C[best]), where)


def _cross_validated_scores(
    train: Features, cs: list[float], config: LinearConfig, seed: int, device: DeviceChoice
) -> np.ndarray:
    """(C, N, F): each study's scores by regressions on the patients of the other folds; NaN where there are none."""
    fold_N = patient_folds(train.patients, config.folds, seed)
    score_CNF = np.full((len(cs), *train.labels.shape), np.nan)
    for fold in sorted(set(fold_N.tolist())):
        held_out, rest = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        if len(rest):
            for c, fit in enumerate(_fit_path(train, rest, cs, config, device)):
                score_CNF[c, held_out] = fit.scores(train.vectors[held_out])
    return score_CNF


@dataclass(frozen=True, slots=True, eq=False)
class _LinearFit:
    """Regressions at one penalty: weight (K, D) and bias (K,) on standardized features.

    columns: the finding that each of the K outputs predicts; the number of findings stands for `none of them`.
    """

    mean_D: np.ndarray
    scale_D: np.ndarray
    weight_KD: np.ndarray
    bias_K: np.ndarray
    columns: list[int]
    findings: int
    exclusive: bool
    converged: bool

    def scores(self, vectors_MD: np.ndarray) -> np.ndarray:
        """(M, F): log odds of each finding, or log probabilities of exclusive ones.

        NaN for a finding that had one class where these regressions were fitted.
        """
        from scipy.special import log_softmax

        # More rows than the exact solver takes come in blocks of as many: nothing else is that large in float64.
        blocks = [
            vectors_MD[start : start + STREAMED] for start in range(0, max(1, len(vectors_MD)), STREAMED)
        ]
        logit_MK = np.concatenate(
            [(block - self.mean_D) / self.scale_D @ self.weight_KD.T + self.bias_K for block in blocks]
        )
        score_MF = np.full((len(vectors_MD), self.findings + 1), np.nan)
        score_MF[:, self.columns] = log_softmax(logit_MK, axis=1) if self.exclusive else logit_MK
        return score_MF[:, : self.findings]


def _fit_path(
    train: Features, rows: np.ndarray | None, cs: list[float], config: LinearConfig, device: DeviceChoice
) -> Iterator[_LinearFit]:
    """Regressions at each penalty, each starting from the solution of the one before it. rows: of train; None: all."""
    if len(train if rows is None else rows) > STREAMED:
        return _streamed_path(train, np.arange(len(train)) if rows is None else rows, cs, config, device)
    return _exact_path(train if rows is None else train.rows(rows), cs, config)


def _streamed_path(
    train: Features, rows: np.ndarray, cs: list[float], config: LinearConfig, device: DeviceChoice
) -> Iterator[_LinearFit]:
    """The path of the exact solver within `streamed.TOLERANCE`, from blocks of rows."""
    chosen = RowBlocks(train.vectors, rows, resolve_device(device))
    scaling = chosen.scaling()
    labels = replace(train.rows(rows), vectors=np.empty((len(rows), 0), np.float32))
    targets = list(_exclusive_target(labels) if config.exclusive else _binary_targets(labels))
    columns = [column for target in targets for column in target.columns]
    joint = _joint_targets(targets, len(rows), config) if targets else None
    fit: StreamedFit | None = None
    for c in cs:
        weight_KD, bias_K, converged = np.empty((0, train.vectors.shape[1])), np.empty(0), True
        if joint is not None:
            fit = fit_streamed(chosen, scaling, joint, c, config.max_iterations, fit)
            weight_KD, bias_K, converged = fit.weight_KD, fit.bias_K, fit.converged
            if len(bias_K) < len(columns):  # of two exclusive classes, the second against the first
                weight_KD, bias_K = np.concatenate([0 * weight_KD, weight_KD]), np.append(0.0, bias_K)
        yield _LinearFit(
            scaling.mean_D,
            scaling.scale_D,
            weight_KD,
            bias_K,
            columns,
            len(train.findings),
            config.exclusive,
            converged,
        )


def _joint_targets(targets: list[_Target], rows: int, config: LinearConfig) -> LabelColumns:
    """All regressions as one problem: a column for each finding, or one for each exclusive class (two share one)."""
    classes = [max(2, len(target.columns)) for target in targets]
    widths = [1 if count == 2 else count for count in classes]
    class_nK = np.zeros((rows, sum(widths)), np.float32)
    weight_nK = np.zeros_like(class_nK)
    first = 0
    for target, count, width in zip(targets, classes, widths, strict=True):
        sizes = np.bincount(target.class_N, minlength=count)
        factors = np.ones(count) if config.class_weight == "none" else len(target.rows) / (count * sizes)
        here = slice(first, first + width)
        one_hot = target.class_N[:, None] == (np.arange(width) if width > 1 else [1])
        class_nK[target.rows, here] = one_hot
        weight_nK[target.rows, here] = factors[target.class_N][:, None]
        first += width
    return LabelColumns(class_nK, weight_nK, exclusive=max(widths) > 1)


def _exact_path(train: Features, cs: list[float], config: LinearConfig) -> Iterator[_LinearFit]:
    """The path by scikit-learn's Newton solvers, all rows in float64."""
    vectors_ND = train.vectors.astype(np.float64)
    mean_D, scale_D = vectors_ND.mean(axis=0), vectors_ND.std(axis=0)
    # A dimension that hardly varies would become noise of full size once divided by its standard deviation.
    scale_D = np.where(scale_D > 1e-6, scale_D, np.inf)
    standard_ND = (vectors_ND - mean_D) / scale_D
    # The weights of a penalized regression lie in the span of its studies; with few, it is fitted there, exactly.
    basis_RD = np.linalg.svd(standard_ND, full_matrices=False)[2] if len(train) < len(mean_D) else None
    if basis_RD is not None:
        standard_ND = standard_ND @ basis_RD.T
    targets = list(_exclusive_target(train) if config.exclusive else _binary_targets(train))
    models = [_new_model(config, standard_ND.shape[1]) for _ in targets]
    for c in cs:
        converged = [
            _fit(model, c, standard_ND[target.rows], target.class_N)
            for model, target in zip(models, targets, strict=True)
        ]
        parts = [
            _coefficients(model, len(target.columns)) for model, target in zip(models, targets, strict=True)
        ]
        weight_KR = np.concatenate([weight for weight, _ in parts] or [np.empty((0, standard_ND.shape[1]))])
        yield _LinearFit(
            mean_D,
            scale_D,
            weight_KR if basis_RD is None else weight_KR @ basis_RD,
            np.concatenate([bias_K for _, bias_K in parts] or [np.empty(0)]),
            [column for target in targets for column in target.columns],
            len(train.findings),
            config.exclusive,
            all(converged),
        )


def _new_model(config: LinearConfig, dimensions: int) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        # Features are nearly collinear where patients are few: L-BFGS then needs thousands of steps, Newton a few.
        solver="newton-cholesky" if dimensions <= DIRECT else "newton-cg",
        warm_start=True,
        tol=TOLERANCE,
        max_iter=config.max_iterations,
        class_weight=None if config.class_weight == "none" else config.class_weight,
    )


def _fit(model: LogisticRegression, c: float, standard_ND: np.ndarray, class_N: np.ndarray) -> bool:
    """Fit in place; whether the solver converged."""
    from scipy.linalg import LinAlgWarning
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted, and reported in the facts
        warnings.simplefilter("ignore", LinAlgWarning)  # scikit-learn then goes on with L-BFGS by itself
        model.set_params(C=c).fit(standard_ND, class_N)
    return int(model.n_iter_.max()) < model.max_iter


def _coefficients(model: LogisticRegression, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies of weight (K, R) and bias (K,); the model itself goes on from them."""
    weight_KR, bias_K = model.coef_.copy(), model.intercept_.copy()
    if columns == 2:  # of two classes, scikit-learn keeps the second against the first
        return np.concatenate([0 * weight_KR, weight_KR]), np.append(0.0, bias_K)
    return weight_KR, bias_K


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """What one regression learns: the findings it predicts, the rows (N,) it uses, and their classes (N,)."""

    columns: list[int]
    rows: np.ndarray
    class_N: np.ndarray


def _binary_targets(train: Features) -> Iterator[_Target]:
    """One target for each finding with both classes, on the studies where it is known."""
    for column, label_N in enumerate(train.labels.T):
        rows = np.flatnonzero(~np.isnan(label_N))
        if len(np.unique(label_N[rows])) == 2:
            yield _Target([column], rows, label_N[rows].astype(int))


def _exclusive_target(train: Features) -> Iterator[_Target]:
    """One target over all findings, `none of them` the last class, on the studies whose class is known.

    Raises FeaturesError where a study has several findings.
    """
    check_exclusive(train)
    present_N = np.nansum(train.labels, axis=1)
    known_N = (present_N == 1) | ~np.isnan(train.labels).any(axis=1)
    rows = np.flatnonzero(known_N)
    class_N = np.where(present_N == 1, np.nan_to_num(train.labels).argmax(axis=1), len(train.findings))
    columns, class_N = np.unique(class_N[rows], return_inverse=True)
    if len(columns) > 1:
        yield _Target(columns.tolist(), rows, class_N)
