"""What cutting a mask to its connected components does, organ by organ: the ceiling, Dice with and without, harm.

The published step keeps the one component of a slice's mask that is surest (arXiv 2403.03273, section 3.3). Where an
organ is cut in two, as both kidneys are, a perfect answer loses by it: the row `truth` shows how much there is to have.
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
from ..method.answers import (
    Answer,
    Lesson,
    Remembered,
    answered,
    by_copy,
    by_prototypes,
    by_truth,
    mask_of,
)
from ..method.config import Components
from ..sources import features_of
from .config import AuditConfig, CcaConfig
from .slices import (
    Extremes,
    Question,
    SliceScore,
    example_of,
    joined,
    organs_in,
    questions,
    scans_asked,
    slice_score,
)

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

KEEPS: tuple[Components, ...] = ("all", "1", "n")
"""What is kept: everything (the step left out), the surest component, as many as the support shows."""

TRUTH, ORACLE, COPY = "truth", "oracle", "copy"


@dataclass(frozen=True, slots=True, eq=False)
class CcaAudit:
    """What the audit found. before: row -> the row of the same answers with every component kept."""

    organs: tuple[str, ...]
    scores: tuple[SliceScore, ...]
    before: Mapping[str, str]
    examples: Extremes
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        return f"CcaAudit({len(self.before)} rows, {len(self.scores)} slices)"


def cca_audit(volumes: Volumes, backbone: Backbone | None, config: CcaConfig | None = None) -> CcaAudit:
    """Cuts the answers of encoder, pixels, floor and truth to components, and counts what each slice gains or loses.

    backbone: None is pixels alone. Raises DataError where there is nothing to measure, ConfigError for settings that do
    not fit the folder.
    """
    config = config or CcaConfig()
    volumes = joined(volumes, config.together)
    answers = answers_of(backbone, config)
    main = next(iter(answers))
    left_out: dict[str, str] = {}
    scores: list[SliceScore] = []
    examples = Extremes()
    total = len(scans_asked(volumes, config))
    for scan in track(questions(volumes, config, left_out), label="components", total=total, unit="scans"):
        for question, (source, answer) in product(scan, answers.items()):
            masks = _masks(answer, question)
            scores += _scored(source, question, masks)
            if source == main:
                for z in question.parts:
                    examples.see(example_of(question, z, masks["all"][z], masks["1"][z]))
    organs = organs_in(scores, volumes, left_out)
    before = {row_of(source, keep): row_of(source, "all") for source in answers for keep in KEEPS}
    return CcaAudit(organs, tuple(scores), before, examples, left_out)


def answers_of(backbone: Backbone | None, config: AuditConfig) -> dict[str, Answer]:
    """Source -> its answer: the encoder, pixels, the support's mask, the truth through the grid, the truth."""
    features = {"encoder": features_of(backbone, config)} if backbone is not None else {}
    features["pixels"] = features_of(None, config)
    remembered = {name: Remembered(one, config.shots + 1) for name, one in features.items()}
    answers = {name: by_prototypes(one, config.prototypes) for name, one in remembered.items()}
    oracle = by_truth(next(iter(remembered.values())), config.prototypes.compat)
    return answers | {COPY: by_copy, ORACLE: oracle, TRUTH: by_labels}


def by_labels(lesson: Lesson, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
    """The ceiling: the query's own labels, pixel by pixel."""
    return torch.from_numpy((query.labels_ZHW[list(slices)] == lesson.organ) * 2.0 - 1).float()


def row_of(source: str, keep: Components) -> str:
    """`encoder, components 1`; the source alone where all are kept."""
    return source if keep == "all" else f"{source}, components {keep}"


def _masks(answer: Answer, question: Question) -> dict[Components, np.ndarray]:
    """What is kept -> (Z, H, W) bool."""
    [ahead] = answered(answer, question.lesson, question.query, question.parts)
    shape = question.query.image_ZHW.shape
    return {keep: mask_of(ahead, question.parts, question.lesson, keep, shape) for keep in KEEPS}


def _scored(source: str, question: Question, masks: Mapping[Components, np.ndarray]) -> list[SliceScore]:
    return [
        slice_score(row_of(source, keep), question, z, found_ZHW[z])
        for keep, found_ZHW in masks.items()
        for z in question.parts
    ]
