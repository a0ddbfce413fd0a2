"""Values that change with the step: warm up, then follow a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        rise = int(self.warmup * steps)
        if step < rise:
            return self.start * step / max(1, rise - 1)
        done = (step - rise) / max(1, steps - rise)
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * min(1.0, done)))


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
