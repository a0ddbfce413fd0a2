"""Bad steps: those whose loss or gradient was not finite. They are skipped and counted; too many stop a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..platform.core.errors import TrainingError
from .config import TrainingConfig


class BadSteps:
    """Counts bad steps, in all and in a row, from the flags of the steps between two records.

    >>> bad = BadSteps(limit=2)
    >>> bad.count(10, [0.0, 1.0, 0.0]), bad.too_many
    ([11], False)
    >>> bad.count(13, [1.0]), bad.count(14, [1.0, 0.0]), bad.too_many, bad.total
    ([13], [14], True, 3)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = self.in_a_row = self.longest = 0

    def count(self, first: int, flags: Sequence[float]) -> list[int]:
        """Those of the steps first, first + 1, … whose flag is not 0."""
        for flag in flags:
            self.in_a_row = self.in_a_row + 1 if flag else 0
            self.longest = max(self.longest, self.in_a_row)
        bad = [step for step, flag in enumerate(flags, start=first) if flag]
        self.total += len(bad)
        return bad

    @property
    def too_many(self) -> bool:
        """Whether `limit` steps in a row were bad: such a training does not recover by itself."""
        return self.longest >= self.limit

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps, as JSON types."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load(self, state: Mapping[str, int]) -> None:
        """Restore `state`."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]
        self.longest = self.in_a_row


def too_many_bad_steps(config: TrainingConfig, step: int, count: int) -> TrainingError:
    """The error that stops a training after `count` bad steps in a row, the last of which was `step`."""
    return TrainingError(
        f"step {step}: the loss or a gradient was not finite for {count} steps in a row; "
        f"`{replay_command(config, step)}` shows where it begins; lower optim.lr or optim.clip, then --resume "
        "continues from the newest checkpoint"
    )


def replay_command(config: TrainingConfig, step: int) -> str:
    """The command that computes a bad step again."""
    return f"vetdino replay {config.out} --step {step}"
