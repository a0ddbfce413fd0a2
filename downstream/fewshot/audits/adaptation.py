"""What test-time training does, slice by slice: steps, a label that is wrong, no reset, another order.

Rows are compared with `before`, the same encoder without training. Slices of a fold are asked one after the other:
without reset the weights go on from slice to slice as they do in the released code of arXiv 2403.03273, and begin anew
with each fold, whose model is loaded anew there too.
"""

# H, W rows and columns of a slice.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
from torch import Tensor

from ....platform.core.progress import Progress
from ...views.pairs import hash_of
from ...volumes.volume import Volumes
from ..learn.adaptation import Course, course_of, restored, weights_of
from ..learn.learnable import Learnable
from ..method.answers import Lesson, Remembered, answered, by_copy, by_prototypes, by_truth, mask_of
from ..method.slices import PixelFeatures
from .config import TttConfig
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

BEFORE, TRUE_LABEL = "before", "label truth"
FLOORS = ("copy", "pixels", "oracle")
BACKWARDS, NO_RESET = "backwards", "no reset"

ROUGHNESS = 6.0
"""How large the pieces are in which a label is made wrong, sigma in pixels."""


@dataclass(frozen=True, slots=True)
class Pass:
    """All slices of a fold asked once, in one way. noise: None: the label is what the encoder finds."""

    row: str
    reset: bool = True
    backwards: bool = False
    noise: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """One slice of one pass; a line of training.csv. place: when it was asked in its fold, from 1 on."""

    row: str
    fold: int
    scan: str
    organ: str
    slice: int
    place: int
    steps: int
    first_loss: float
    last_loss: float
    drift: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class TttAudit:
    """What the audit found. before: row -> the row it is compared with; steps: row -> how many, of the sweep.

    order: row -> largest difference of an answer when slices come backwards, in units of score.
    """

    organs: tuple[str, ...]
    scores: tuple[SliceScore, ...]
    costs: tuple[Cost, ...]
    before: Mapping[str, str]
    steps: Mapping[str, int]
    order: Mapping[str, float]
    examples: Extremes
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        return f"TttAudit({len(self.before)} rows, {len(self.costs)} trainings)"


def ttt_audit(
    volumes: Volumes, learnable_for: Callable[[Lesson], Learnable], config: TttConfig | None = None
) -> TttAudit:
    """Trains the encoder on every slice asked, once for each `Pass`; the encoder is afterwards what it was.

    learnable_for: lesson -> encoder, such as `lambda _: learnable`. Raises DataError where there is nothing to measure,
    ConfigError for settings that do not fit the folder, TrainingError where weights run away.
    """
    config = config or TttConfig()
    volumes = joined(volumes, config.together)
    passes = passes_of(config)
    audit = _Audit(config, learnable_for)
    scans = len(scans_asked(volumes, config))
    with Progress("test-time training", scans * len(passes), unit="scans of all passes") as progress:
        every = (question for scan in questions(volumes, config, audit.left_out) for question in scan)
        for _, asked in groupby(every, key=lambda question: question.fold.number):
            audit.fold(list(asked), passes, progress)
    organs = organs_in(audit.scores, volumes, audit.left_out)
    rows = dict.fromkeys(score.row for score in audit.scores)
    return TttAudit(
        organs,
        tuple(audit.scores),
        tuple(audit.costs),
        {row: row if row in FLOORS else BEFORE for row in rows},
        {steps_row(steps): steps for steps in (0, *sorted(config.also), config.adapt.steps)},
        audit.order,
        audit.examples,
        audit.left_out,
    )


def passes_of(config: TttConfig) -> list[Pass]:
    """The sweep first; then wrong labels, the other order, no reset in both orders."""
    main = Pass(steps_row(config.adapt.steps))
    noises = [
        Pass(f"{TRUE_LABEL}, {share:.0%} wrong" if share else TRUE_LABEL, noise=share)
        for share in config.noise
    ]
    return [
        main,
        *noises,
        Pass(BACKWARDS, backwards=True),
        Pass(NO_RESET, reset=False),
        Pass(f"{NO_RESET}, {BACKWARDS}", reset=False, backwards=True),
    ]


def steps_row(steps: int) -> str:
    """What the row after so many steps is called.

    >>> steps_row(0), steps_row(1), steps_row(10)
    ('before', '1 step', '10 steps')
    """
    return f"{steps} step{'s' * (steps > 1)}" if steps else BEFORE


class _Audit:
    """What has been found so far."""

    def __init__(self, config: TttConfig, learnable_for: Callable[[Lesson], Learnable]) -> None:
        self.config = config
        self.learnable_for = learnable_for
        self.scores: list[SliceScore] = []
        self.costs: list[Cost] = []
        self.examples = Extremes()
        self.left_out: dict[str, str] = {}
        self.order: dict[str, float] = {}
        self._pixels = by_prototypes(
            Remembered(PixelFeatures(config.slices), config.shots + 1), config.prototypes
        )

    def fold(self, asked: Sequence[Question], passes: Sequence[Pass], progress: Progress) -> None:
        """All rows of one fold."""
        for question in asked:
            self._floors(question)
        answers = {one.row: self._run(one, asked, progress) for one in passes}
        main = passes[0].row
        for row, other in ((main, BACKWARDS), (NO_RESET, f"{NO_RESET}, {BACKWARDS}")):
            apart = [float((answers[row][key] - answers[other][key]).abs().max()) for key in answers[row]]
            self.order[row] = max([self.order.get(row, 0.0), *apart])

    def _floors(self, question: Question) -> None:
        """The support's mask, pixels, and the truth through the encoder's grid, of the same slices."""
        oracle = by_truth(self.learnable_for(question.lesson), self.config.prototypes.compat)
        for row, answer in {"copy": by_copy, "pixels": self._pixels, "oracle": oracle}.items():
            [ahead] = answered(answer, question.lesson, question.query, question.parts)
            keep = self.config.components if row == "pixels" else "all"
            shape = question.query.image_ZHW.shape
            found_ZHW = mask_of(ahead, question.parts, question.lesson, keep, shape)
            self.scores += [slice_score(row, question, z, found_ZHW[z]) for z in question.parts]

    def _run(
        self, one: Pass, asked: Sequence[Question], progress: Progress
    ) -> dict[tuple[str, int, int], Tensor]:
        """One pass over a fold's slices; (scan, organ, slice) -> its last answer."""
        told = [(question, z) for question in asked for z in question.parts]
        encoders = {id(encoder): encoder for encoder in (self.learnable_for(q.lesson) for q in asked)}
        starts = {key: weights_of(encoder) for key, encoder in encoders.items()}
        waiting = Counter(question.query.name for question, _ in told)
        answers = {}
        with ExitStack() as stack:
            for encoder in encoders.values():
                stack.enter_context(restored(encoder))
            for place, (question, z) in enumerate(told[::-1] if one.backwards else told, start=1):
                encoder, name = self.learnable_for(question.lesson), question.query.name
                with restored(encoder) if one.reset else nullcontext():
                    course = self._course(one, encoder, question, z, starts[id(encoder)])
                self._keep(one, question, z, course)
                self._cost(one, question, z, place, course)
                answers[name, question.lesson.organ, z] = course.ahead[self.config.adapt.steps]
                waiting[name] -= 1
                progress.advance(int(not waiting[name]), slices=len(self.costs))
        return answers

    def _course(
        self, one: Pass, encoder: Learnable, question: Question, z: int, start: Sequence[Tensor]
    ) -> Course:
        adapt, lesson = self.config.adapt, question.lesson
        label_HW = None
        if one.noise is not None:
            random = np.random.default_rng(hash_of(self.config.seed, question.query.name, lesson.organ, z))
            label_HW = roughened(question.truth[z], one.noise, random)
        marks = (0, *self.config.also, adapt.steps) if _is_sweep(one) else (adapt.steps,)
        return course_of(
            encoder,
            lesson,
            question.parts[z],
            question.query,
            z,
            adapt,
            self.config.prototypes,
            marks=marks,
            label_HW=label_HW,
            start=start,
        )

    def _keep(self, one: Pass, question: Question, z: int, course: Course) -> None:
        """Scores of a slice after every mark."""
        masks = {}
        for steps, ahead_HW in course.ahead.items():
            ahead, parts = {z: ahead_HW.numpy()}, {z: question.parts[z]}
            shape = question.query.image_ZHW.shape
            masks[steps] = mask_of(ahead, parts, question.lesson, self.config.components, shape)[z]
            row = steps_row(steps) if _is_sweep(one) else one.row
            self.scores.append(slice_score(row, question, z, masks[steps]))
        if _is_sweep(one):
            self.examples.see(example_of(question, z, masks[0], masks[self.config.adapt.steps]))

    def _cost(self, one: Pass, question: Question, z: int, place: int, course: Course) -> None:
        done = len(course.losses)
        for steps in course.ahead:
            if steps:
                told = course.losses[:steps] or (math.nan,)
                self.costs.append(
                    Cost(
                        row=steps_row(steps) if _is_sweep(one) else one.row,
                        fold=question.fold.number,
                        scan=question.query.name,
                        organ=question.lesson.name,
                        slice=z,
                        place=place,
                        steps=min(steps, done),
                        first_loss=told[0],
                        last_loss=told[-1],
                        drift=course.drift[steps],
                        seconds=course.seconds[steps],
                    )
                )


def _is_sweep(one: Pass) -> bool:
    return one.reset and not one.backwards and one.noise is None


def roughened(mask_HW: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """(H, W) bool: the mask with this share of its pixels given away, in pieces, for as many beside it.

    Which go and which come is decided by smooth noise (see ROUGHNESS); those that come lie nearer than the mask is
    thick. Its size stays, but for lack of room.

    >>> mask = np.zeros((32, 32), bool); mask[8:24, 8:24] = True
    >>> rough = roughened(mask, 0.25, np.random.default_rng(0))
    >>> int(rough.sum()), int((mask & ~rough).sum())
    (256, 64)
    """
    from scipy.ndimage import distance_transform_edt

    wanted = round(share * np.count_nonzero(mask_HW))
    if not wanted:
        return mask_HW.copy()
    noise_HW = cv2.GaussianBlur(random.standard_normal(mask_HW.shape), (0, 0), ROUGHNESS)
    thick = distance_transform_edt(mask_HW).max()
    beside_HW = ~mask_HW & (distance_transform_edt(~mask_HW) <= thick)
    rough_HW = mask_HW.copy()
    for among_HW, value in ((mask_HW, False), (beside_HW, True)):
        places = np.flatnonzero(among_HW)
        chosen = places[np.argsort(noise_HW.ravel()[places], kind="stable")[:wanted]]
        rough_HW.ravel()[chosen] = value
    return rough_HW
