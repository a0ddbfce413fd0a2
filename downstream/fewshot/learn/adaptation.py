"""Test-time training: the encoder learns a little on the very slice that it is asked about, and forgets it again.

A slice is segmented, its mask taken for a label, and the encoder trained on augmented looks at the slice with it, each
pair a support and a query; then the slice is segmented again, by the true supports (Ayzenberg et al., arXiv 2403.03273,
section 3.4). The released code's reset keeps references to the weights that it trains and so resets nothing: answers
then depend on which slices came before. Here every slice begins with the same weights, bit for bit.
"""

# n slices that are asked, K a slice with its neighbours, H, W pixels.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ....platform.core.errors import DataError, TrainingError
from ...views.pairs import hash_of
from ...volumes.volume import Volume
from ..method.answers import Lesson, by_prototypes
from ..method.config import PrototypeConfig
from ..method.slices import standardised
from .config import AdaptConfig
from .episodes import two_looks
from .learnable import Learnable, stacked
from .training import step

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
"""Of gradient descent, as in training (arXiv 2403.03273, section 4)."""


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """What the training on one slice did. steps: 0 where nothing was found that could be learnt from.

    part: third of the organ whose supports taught; by the truth a slice may belong to another than without it.
    Losses are NaN without steps. drift: length of the weights' change over their length. seconds: all in all.
    """

    scan: str
    organ: str
    slice: int
    part: int
    steps: int
    first_loss: float
    last_loss: float
    drift: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """A slice's answers (H, W), the weights' drift and the seconds it took, after some numbers of steps.

    All three have the same keys; losses: of every step.
    """

    ahead: Mapping[int, Tensor]
    drift: Mapping[int, float]
    seconds: Mapping[int, float]
    losses: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Course({len(self.losses)} steps)"


class Adapted:
    """Prototypes over features of an encoder that is first trained on the slice that is asked: an `Answer`.

    learnable_for: lesson -> encoder, such as `lambda _: learnable`, or that of the lesson's fold. After every slice it
    is what it was before, also where the work was broken off. reports: of all slices so far.
    """

    def __init__(
        self,
        learnable_for: Callable[[Lesson], Learnable],
        config: AdaptConfig,
        prototypes: PrototypeConfig,
    ) -> None:
        self.learnable_for = learnable_for
        self.config = config
        self.prototypes = prototypes
        self.reports: list[AdaptReport] = []

    def __call__(self, lesson: Lesson, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        return torch.stack([self._one(lesson, part, query, z) for z in slices])

    def _one(self, lesson: Lesson, part: int, query: Volume, z: int) -> Tensor:
        learnable = self.learnable_for(lesson)
        with restored(learnable):
            course = course_of(
                learnable, lesson, part, query, z, self.config, self.prototypes, marks=(self.config.steps,)
            )
        last = max(course.ahead)
        self.reports.append(
            AdaptReport(
                scan=query.name,
                organ=lesson.name,
                slice=z,
                part=part,
                steps=len(course.losses),
                first_loss=course.losses[0] if course.losses else math.nan,
                last_loss=course.losses[-1] if course.losses else math.nan,
                drift=course.drift[last],
                seconds=course.seconds[last],
            )
        )
        return course.ahead[last]

    def __repr__(self) -> str:
        return f"Adapted({self.config.steps} steps, {len(self.reports)} slices so far)"


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """When the block ends, however it ends, the module's weights, buffers, gradients and modes are what they were."""
    tensors = [*module.parameters(), *module.buffers()]
    # Copies, not references: the optimizer changes weights where they lie.
    kept = [
        (
            tensor,
            tensor.detach().clone(),
            tensor.requires_grad,
            None if tensor.grad is None else tensor.grad.detach().clone(),
        )
        for tensor in tensors
    ]
    modes = [(one, one.training) for one in module.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value, asks, gradient in kept:
                tensor.copy_(value)
                tensor.requires_grad_(asks)
                tensor.grad = gradient
        for one, training in modes:
            one.training = training


def course_of(
    learnable: Learnable,
    lesson: Lesson,
    part: int,
    query: Volume,
    z: int,
    config: AdaptConfig,
    prototypes: PrototypeConfig,
    *,
    marks: Sequence[int],
    label_HW: np.ndarray | None = None,
    start: Sequence[Tensor] | None = None,
) -> Course:
    """Trains the encoder on one slice, and does not reset it; answers after each of `marks` steps, at most
    `config.steps`.

    label: (H, W) bool; None: what the encoder finds in the slice before it is trained. Without a pixel to learn from
    nothing is trained, and all answers are the first. start: weights that drift is measured from; None: those that the
    encoder comes with.
    """
    began = time.monotonic()
    start = weights_of(learnable) if start is None else start

    def answer() -> Tensor:
        # Made anew: prototypes remember what they were taught with earlier weights.
        return by_prototypes(learnable, prototypes)(lesson, part, query, [z])[0]

    first_HW = answer()
    label_HW = (first_HW > 0).numpy() if label_HW is None else label_HW
    ahead, drift, seconds, losses = {}, {}, {}, []

    def mark(steps: int, answer_HW: Tensor) -> None:
        ahead[steps], drift[steps] = answer_HW, drift_of(learnable, start)
        seconds[steps] = time.monotonic() - began

    if 0 in marks:
        mark(0, first_HW)
    if label_HW.any():
        for loss in trained_on(learnable, lesson.organ, query, z, label_HW, config, prototypes):
            losses.append(loss)
            if len(losses) in marks:
                mark(len(losses), answer())
    for steps in marks:
        if steps not in ahead:
            mark(steps, first_HW)
    return Course(ahead, drift, seconds, tuple(losses))


def trained_on(
    learnable: Learnable,
    organ: int,
    query: Volume,
    z: int,
    label_HW: np.ndarray,
    config: AdaptConfig,
    prototypes: PrototypeConfig,
) -> Iterator[float]:
    """`config.steps` steps on pairs of looks at one slice and a label of it; yields each step's loss.

    Looks are drawn from (seed, scan, organ, slice), so that no slice's depend on another. The optimizer is a new one.
    Raises TrainingError where the weights run away.
    """
    random = np.random.default_rng(hash_of(config.seed, query.name, organ, z))
    weights = learnable.trainable()
    optimizer = torch.optim.SGD(weights, config.rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    slice_KHW = stacked(standardised(query), [z], learnable.learn.neighbours)[0]
    for number in range(config.steps):
        support, asked = two_looks(slice_KHW, label_HW, config.looks, random)
        try:
            loss = step(learnable, support, asked, prototypes)
        except DataError as reason:
            if not number:
                raise
            raise TrainingError(
                f"{query.name}, slice {z}: training on it broke down after {number} steps ({reason}); "
                "give a smaller adapt.rate"
            ) from None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


def weights_of(learnable: Learnable) -> list[Tensor]:
    """A copy of what learns."""
    return [weight.detach().clone() for weight in learnable.trainable()]


def drift_of(learnable: Learnable, start: Sequence[Tensor]) -> float:
    """|w - w_start| / |w_start| over all that learns, 0 for no change."""
    pairs = list(zip(learnable.trainable(), start, strict=True))
    moved = sum(float((now.detach().double() - then.double()).square().sum()) for now, then in pairs)
    length = sum(float(then.double().square().sum()) for then in start)
    return math.sqrt(moved / length) if length else 0.0
