"""Audit of the connected-component step: its upper bound, Dice with and without it, and the slices it harms.

The published step keeps the component of a slice's mask with the highest confidence (arXiv 2403.03273, section 3.3).
Where a slice shows an organ in two components, as both kidneys, even a perfect mask loses Dice by it: the row `truth`
is the upper bound.
"""

# H, W rows and columns of a slice.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ....platform.core.progress import track
from ...volumes.volume import Volume, Volumes
from ..method.choice import mode_predictor, source_choice
from ..method.config import Components
from ..method.masks import organ_mask, slice_margins
from ..method.predictors import Predictor, copy_predictor, oracle_predictor
from ..method.support import SupportSet, organ_truth
from ..sources import slice_features
from .config import AuditConfig, CcaConfig
from .examples import ExtremeExamples, slice_example
from .joined import join_classes
from .scores import SliceScore, measured_organs, slice_score
from .targets import AuditTarget, audit_targets, audited_scans

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

KEEPS: tuple[Components, ...] = ("all", "1", "n")
"""Which components stay: all (without the step), the one of highest confidence, as many as the support shows."""

TRUTH, ORACLE, COPY = "truth", "oracle", "copy"


@dataclass(frozen=True, slots=True, eq=False)
class CcaAuditResult:
    """Scores of all rows. before: row -> the row of the same predictor with all components."""

    organs: tuple[str, ...]
    scores: tuple[SliceScore, ...]
    before: Mapping[str, str]
    examples: ExtremeExamples
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        return f"CcaAuditResult({len(self.before)} rows, {len(self.scores)} slices)"


def cca_audit(volumes: Volumes, backbone: Backbone | None, config: CcaConfig | None = None) -> CcaAuditResult:
    """Scores the masks of encoder, baselines and ground truth with all components, with one, and with n.

    backbone: None for pixel features only. Raises DataError if there is nothing to measure, ConfigError for settings
    that do not fit the folder.
    """
    config = config or CcaConfig()
    data = join_classes(volumes, config.together)
    predictors = audit_predictors(backbone, config)
    main = next(iter(predictors))
    left_out: dict[str, str] = {}
    scores: list[SliceScore] = []
    examples = ExtremeExamples()
    scans = len(audited_scans(data, config))
    for targets in track(
        audit_targets(data, config, left_out), label="components", total=scans, unit="scans"
    ):
        for target, (source, predictor) in product(targets, predictors.items()):
            masks = _masks(predictor, target)
            scores += [
                slice_score(row_name(source, keep), target, z, mask_ZHW[z])
                for keep, mask_ZHW in masks.items()
                for z in target.parts
            ]
            if source == main:
                for z in target.parts:
                    examples.add(slice_example(target, z, masks["all"][z], masks["1"][z]))
    organs = measured_organs(scores, data, left_out)
    before = {row_name(source, keep): row_name(source, "all") for source in predictors for keep in KEEPS}
    return CcaAuditResult(organs, tuple(scores), before, examples, left_out)


def audit_predictors(backbone: Backbone | None, config: AuditConfig) -> dict[str, Predictor]:
    """Source -> predictor: encoder, pixels, the support's mask, the truth on the feature grid, the truth."""
    features = {"encoder": slice_features(backbone, config)} if backbone is not None else {}
    features["pixels"] = slice_features(None, config)
    choices = {name: source_choice(source, config, config.shots + 1) for name, source in features.items()}
    predictors = {name: mode_predictor(choice, config.prototypes) for name, choice in choices.items()}
    oracle = oracle_predictor(next(iter(choices.values())), config.prototypes.compat)
    return predictors | {COPY: copy_predictor, ORACLE: oracle, TRUTH: truth_predictor}


def truth_predictor(support: SupportSet, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
    """The upper bound: the query's own labels, pixel by pixel, as margins of 1 and -1."""
    return torch.from_numpy(organ_truth(query, support.organ, slices) * 2.0 - 1).float()


def row_name(source: str, keep: Components) -> str:
    """`encoder, components 1`; the source alone if all components are kept."""
    return source if keep == "all" else f"{source}, components {keep}"


def _masks(predictor: Predictor, target: AuditTarget) -> dict[Components, np.ndarray]:
    """Components kept -> (Z, H, W) bool."""
    [margins] = slice_margins(predictor, target.support, target.query, target.parts)
    shape = target.query.image_ZHW.shape
    return {keep: organ_mask(margins, target.parts, target.support, keep, shape) for keep in KEEPS}
