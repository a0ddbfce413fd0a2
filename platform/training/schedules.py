"""Values that change with the step: a warm-up and half a cosine, or a straight line."""

from __future__ import annotations

import math
from dataclasses import dataclass


def share_of_steps(share: float, steps: int) -> int:
    """The nearest whole number of steps: 0.29 of 100 is 28.999… in floating point, and 29 steps.

    >>> share_of_steps(0.29, 100), share_of_steps(0.07, 100), share_of_steps(0.0, 100)
    (29, 7, 0)
    """
    return round(share * steps)


def steps_begun(share: float, steps: int) -> int:
    """The steps that lie in a first share of all, if only in part: one at least for any share above 0.

    >>> steps_begun(0.01, 20), steps_begun(0.07, 100), steps_begun(0.0, 100)
    (1, 7, 0)
    """
    return math.ceil(round(share * steps, 6))  # 0.07 of 100 is 7.000000000000001, and not 8 steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """From `start` to `end` along half a cosine, after a linear rise from zero."""

    start: float
    """Value once the warm-up is over."""
    end: float
    """Value at the last step."""
    warmup: float = 0.0
    """Share of the steps spent rising linearly from 0 to `start`."""

    def at(self, step: int, steps: int) -> float:
        """The value at a step, of 0..steps - 1. DINO (arXiv 2104.14294, section 3.2, implementation details).

        The rise reaches `start` at its last step, and the step after the training's last would have `end`.

        >>> [round(Cosine(start=1.0, end=0.0, warmup=0.3).at(step, 10), 3) for step in (0, 1, 2, 3, 9)]
        [0.0, 0.5, 1.0, 1.0, 0.05]
        """
        rise = share_of_steps(self.warmup, steps)
        if step < rise:
            return self.start * step / max(1, rise - 1)
        done = (step - rise) / max(1, steps - rise)
        return _half_cosine(self.start, self.end, math.pi * min(1.0, done))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ramp:
    """From `start` to `end` in a straight line over the first share of the steps, then level."""

    start: float
    """Value at the first step."""
    end: float
    """Value after the rise."""
    over: float = 0.3
    """Share of the steps that the rise takes."""

    def at(self, step: int, steps: int) -> float:
        """The value at a step.

        >>> Ramp(start=0.04, end=0.08, over=0.5).at(25, 100)
        0.06
        """
        done = min(1.0, step / max(1.0, self.over * steps))
        return self.start + (self.end - self.start) * done


def warmup_cosine(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """A rise in a straight line to `peak`, then half a cosine down to nearly 0, at a step of 0..steps - 1.

    The schedule of fine-tuning (MAE, arXiv 2111.06377, appendix A.1). Other than `Cosine`, the first step already
    learns: the rise takes the share `warmup` of the steps, and step k of a rise over n has (k + 1) / n of the peak.

    >>> [round(warmup_cosine(step, 10, peak=1.0, warmup=0.2), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    # timm's CosineLRScheduler has the same cosine, but its rise begins at 0 and reaches the peak a step later.
    rise = share_of_steps(warmup, steps)
    if step < rise:
        return peak * (step + 1) / rise
    return _half_cosine(peak, 0.0, math.pi * (step - rise) / (steps - rise))


def _half_cosine(start: float, end: float, angle: float) -> float:
    """From `start` at angle 0 to `end` at pi."""
    return end + 0.5 * (start - end) * (1 + math.cos(angle))
