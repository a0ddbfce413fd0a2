"""Test-time training: the encoder is trained on the slice it is about to segment, then reset.

The slice is segmented, and its mask serves as the label: the encoder is trained on pairs of augmentations of the slice,
support and query; then the slice is segmented again with the true supports (Ayzenberg et al., arXiv 2403.03273,
section 3.4). The reset of the released code keeps references to the weights it trains and so resets nothing: its
results depend on the order of slices. Here every slice starts from the same weights, bit for bit.
"""

# n slices, K a slice with its neighbors, H, W pixels.

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....platform.core.errors import DataError, TrainingError
from ....platform.core.seeds import stable_hash
from ...volumes.volume import Volume
from ..method.config import PrototypeConfig
from ..method.predictors import prototype_predictor
from ..method.slices import standardized
from ..method.support import SupportSet
from .augmentation import augmented_pair
from .config import AdaptConfig
from .encoder import TrainableEncoder, with_neighbors
from .losses import episode_losses

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
"""Of SGD, as in training (arXiv 2403.03273, section 4)."""


@dataclass(frozen=True, slots=True)
class AdaptationReport:
    """Training on one slice in numbers. steps: 0 if the first mask was empty; the losses are NaN then.

    part: third of the organ whose support slices were used; found with the truth, it may be another than without.
    drift: see `weight_drift`. seconds: wall time of both segmentations and the training.
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
class AdaptationTrace:
    """A slice's margins (H, W), the weight drift and the seconds so far, by number of steps.

    The three mappings have the same keys. losses: of every step.
    """

    margins: Mapping[int, Tensor]
    drift: Mapping[int, float]
    seconds: Mapping[int, float]
    losses: tuple[float, ...]

    def numbers(self, steps: int) -> dict[str, Any]:
        """Steps done (0 with an empty label), first and last loss, drift and seconds after so many steps."""
        losses = self.losses[:steps] or (math.nan,)
        return {
            "steps": min(steps, len(self.losses)),
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "drift": self.drift[steps],
            "seconds": self.seconds[steps],
        }

    def __repr__(self) -> str:
        return f"AdaptationTrace({len(self.losses)} steps)"


class AdaptivePredictor:
    """Prototypes over features of an encoder that is first trained on the slice it segments: a `Predictor`.

    encoder_for: support set -> encoder, such as `lambda _: encoder`, or the encoder of its fold; reset after every
    slice, also after an exception. reports: of all slices so far.
    """

    def __init__(
        self,
        encoder_for: Callable[[SupportSet], TrainableEncoder],
        config: AdaptConfig,
        prototypes: PrototypeConfig,
    ) -> None:
        self.encoder_for = encoder_for
        self.config = config
        self.prototypes = prototypes
        self.reports: list[AdaptationReport] = []

    def __call__(self, support: SupportSet, part: int, query: Volume, slices: Sequence[int]) -> Tensor:
        return torch.stack([self._segment_slice(support, part, query, z) for z in slices])

    def _segment_slice(self, support: SupportSet, part: int, query: Volume, z: int) -> Tensor:
        encoder, steps = self.encoder_for(support), self.config.steps
        with reset_after(encoder):
            trace = adapt_and_segment(
                encoder, support, part, query, z, self.config, self.prototypes, marks=(steps,)
            )
        self.reports.append(AdaptationReport(query.name, support.name, z, part, **trace.numbers(steps)))
        return trace.margins[steps]

    def __repr__(self) -> str:
        return f"AdaptivePredictor({self.config.steps} steps, {len(self.reports)} slices so far)"


@contextmanager
def reset_after(module: nn.Module) -> Iterator[None]:
    """After the block, also after an exception, weights, buffers, gradients and modes are what they were before."""
    # Copies, not references: the optimizer changes weights in place.
    saved = [
        (
            tensor,
            tensor.detach().clone(),
            tensor.requires_grad,
            None if tensor.grad is None else tensor.grad.detach().clone(),
        )
        for tensor in (*module.parameters(), *module.buffers())
    ]
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value, requires_grad, gradient in saved:
                tensor.copy_(value)
                tensor.requires_grad_(requires_grad)
                tensor.grad = gradient
        for submodule, training in modes:
            submodule.training = training


def adapt_and_segment(
    encoder: TrainableEncoder,
    support: SupportSet,
    part: int,
    query: Volume,
    z: int,
    config: AdaptConfig,
    prototypes: PrototypeConfig,
    *,
    marks: Sequence[int],
    label_HW: np.ndarray | None = None,
    start: Sequence[Tensor] | None = None,
) -> AdaptationTrace:
    """Trains the encoder on one slice for `config.steps` steps and segments after each of `marks` steps; no reset.

    label_HW: bool; None: the encoder's own segmentation before training. With an empty label nothing is trained, and
    all margins are the first. start: weights that drift is measured from; None: the encoder's current weights.
    """
    start_time = time.monotonic()
    start = trained_weights(encoder) if start is None else start

    def segment() -> Tensor:
        # A new predictor each time: it caches the prototypes of earlier weights.
        return prototype_predictor(encoder, prototypes)(support, part, query, [z])[0]

    first_HW = segment()
    label_HW = (first_HW > 0).numpy() if label_HW is None else label_HW
    margins, drift, seconds, losses = {}, {}, {}, []

    def mark(steps: int, margin_HW: Tensor) -> None:
        margins[steps], drift[steps] = margin_HW, weight_drift(encoder, start)
        seconds[steps] = time.monotonic() - start_time

    if 0 in marks:
        mark(0, first_HW)
    if label_HW.any():
        for loss in train_on_slice(encoder, support.organ, query, z, label_HW, config, prototypes):
            losses.append(loss)
            if len(losses) in marks:
                mark(len(losses), segment())
    for steps in marks:
        if steps not in margins:
            mark(steps, first_HW)
    return AdaptationTrace(margins, drift, seconds, tuple(losses))


def train_on_slice(
    encoder: TrainableEncoder,
    organ: int,
    query: Volume,
    z: int,
    label_HW: np.ndarray,
    config: AdaptConfig,
    prototypes: PrototypeConfig,
) -> Iterator[float]:
    """`config.steps` steps on augmented pairs of one slice and its label, with a new optimizer; yields each loss.

    Augmentations depend on (seed, scan, organ, slice) only, not on other slices. Raises TrainingError if the weights
    diverge.
    """
    random = np.random.default_rng(stable_hash(config.seed, query.name, organ, z))
    optimizer = torch.optim.SGD(
        encoder.trainable_parameters(), config.rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    slice_KHW = with_neighbors(standardized(query), [z], encoder.learn.neighbours)[0]
    for number in range(config.steps):
        first, second = augmented_pair(slice_KHW, label_HW, config.looks, random)
        try:
            loss = episode_losses(encoder, first, second, prototypes).total
        except DataError as reason:
            if not number:
                raise
            raise TrainingError(
                f"{query.name}, slice {z}: test-time training diverged after {number} steps ({reason}); "
                "give a smaller adapt.rate"
            ) from None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield float(loss.detach())


def trained_weights(encoder: TrainableEncoder) -> list[Tensor]:
    """A copy of all trainable parameters."""
    return [weight.detach().clone() for weight in encoder.trainable_parameters()]


def weight_drift(encoder: TrainableEncoder, start: Sequence[Tensor]) -> float:
    """|w - w_start| / |w_start| over all trainable parameters; 0 for no change."""
    pairs = list(zip(encoder.trainable_parameters(), start, strict=True))
    change = sum(float((now.detach().double() - then.double()).square().sum()) for now, then in pairs)
    length = sum(float(then.double().square().sum()) for then in start)
    return math.sqrt(change / length) if length else 0.0
