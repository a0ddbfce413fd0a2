"""Collapse alarms: notice from the recorded values that a training no longer tells studies apart.

A falling loss says little: it falls as well while all outputs become one. The alarms look at how much the teacher
tells (entropy), how much of it the student guesses (view loss), and how the vectors of different studies lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...platform.training.schedules import share_of_steps
from .config import AlarmConfig

# D width, K prototypes.

SETTLING = 20
"""Fewest steps before anything may alarm, however short the training: with its momentum of 0.9 the center of the
teacher's logits has then covered nine tenths of its way."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A value that was beyond its limit for too long, and what to do.

    >>> print(Alarm("view_loss", 80, 60, "health/view_loss_minus_ln_k", 0.2, -0.01, "lower optim.lr"))
    step 80: view_loss: health/view_loss_minus_ln_k 0.2 is beyond -0.01 since step 60; lower optim.lr
    """

    name: str
    step: int
    since: int
    """Step of the first bad record in a row."""
    metric: str
    value: float
    limit: float
    advice: str

    def __str__(self) -> str:
        return (
            f"step {self.step}: {self.name}: {self.metric} {self.value:.4g} is beyond {self.limit:.4g} "
            f"since step {self.since}; {self.advice}"
        )


@dataclass(frozen=True, slots=True)
class AlarmRule:
    """An alarm's name, the metric that it watches, the bad side of the limit, and the advice."""

    name: str
    metric: str
    side: Literal["above", "below"]
    advice: str


_LOWER_LR = "lower optim.lr, or raise distill.spread_weight"

RULES = (
    AlarmRule(
        "uniform_teacher",
        "health/teacher_entropy",
        "above",
        "lower distill.teacher_temperature or optim.lr, or take fewer distill.head.prototypes",
    ),
    AlarmRule(
        "one_prototype",
        "health/teacher_entropy",
        "below",
        "raise distill.teacher_temperature, or set distill.targets sinkhorn",
    ),
    AlarmRule(
        "view_loss",
        "health/view_loss_minus_ln_k",
        "above",
        "look at the images; make crops larger (crops.local_area), or pairs rarer (crops.p_multiview)",
    ),
    AlarmRule("few_directions", "health/effective_rank", "below", _LOWER_LR),
    AlarmRule("few_directions", "probe/effective_rank", "below", _LOWER_LR),
    AlarmRule("all_alike", "health/mean_cosine", "above", _LOWER_LR),
    AlarmRule("all_alike", "probe/mean_cosine", "above", _LOWER_LR),
    AlarmRule(
        "probe_drop",
        "probe/auroc_macro",
        "below",
        "the checkpoint with the probe's best AUROC may serve better; lower optim.lr",
    ),
)
"""All rules. A value that is missing from a record, or not finite, counts neither as bad nor as good."""


class Alarms:
    """Checks each record of a training; the alarms are a function of the records alone.

    prototypes: K. width: D of the backbone. batch: studies whose vectors `cosine_and_rank` compares. steps: of the
    whole training.
    """

    def __init__(self, config: AlarmConfig, *, prototypes: int, width: int, batch: int, steps: int) -> None:
        self.config = config
        self.grace = max(SETTLING, share_of_steps(config.grace, steps))
        ln_k = math.log(prototypes)
        # n centered vectors have at most n - 1 directions; one is the least that can be measured.
        rank = 1 + config.rank * (min(width, max(batch, 2) - 1) - 1)
        self._limits = {
            "uniform_teacher": config.uniform * ln_k,
            "one_prototype": config.certain * ln_k,
            "view_loss": -config.guessing,
            "few_directions": rank,
            "all_alike": config.cosine,
        }
        self._bad_rows: dict[str, dict[str, int]] = {}
        """`NAME METRIC` -> since which step its records are bad, and how many."""
        self._best_auroc = -math.inf

    def check(self, step: int, values: Mapping[str, float]) -> list[Alarm]:
        """The alarms that a record raises. Each is raised once, and again only after a good record."""
        alarms = [self._alarm(rule, step, values[rule.metric]) for rule in RULES if rule.metric in values]
        auroc = values.get("probe/auroc_macro", math.nan)
        if auroc > self._best_auroc:
            self._best_auroc = auroc
        return [alarm for alarm in alarms if alarm is not None]

    def _alarm(self, rule: AlarmRule, step: int, value: float) -> Alarm | None:
        if step <= self.grace or not math.isfinite(value):
            return None
        limit = self._limits.get(rule.name, self._best_auroc - self.config.auroc_drop)
        key = f"{rule.name} {rule.metric}"
        if not (value > limit if rule.side == "above" else value < limit):
            self._bad_rows.pop(key, None)
            return None
        row = self._bad_rows.setdefault(key, {"since": step, "records": 0})
        row["records"] += 1
        patience = self.config.trials if rule.metric.startswith("probe/") else self.config.patience
        if row["records"] != patience:
            return None
        return Alarm(rule.name, step, row["since"], rule.metric, value, limit, rule.advice)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON types."""
        return {
            "rows": {key: dict(row) for key, row in self._bad_rows.items()},
            "best": self._best_auroc if math.isfinite(self._best_auroc) else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore `state`: from here on the same records raise the same alarms."""
        self._bad_rows = {key: dict(row) for key, row in state["rows"].items()}
        self._best_auroc = -math.inf if state["best"] is None else state["best"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the training does after a record.

    before, for `rewind`: go back to the newest checkpoint of a step below this one.
    """

    action: Literal["continue", "warn", "stop", "rewind"]
    text: str = ""
    before: int = 0


def decide(config: AlarmConfig, alarms: Sequence[Alarm], rewinds: int) -> Decision:
    """What to do about the alarms of a record, after so many rewinds of this training."""
    if not alarms:
        return Decision("continue")
    text = "; ".join(map(str, alarms))
    if config.policy != "rewind":
        return Decision(config.policy, text)
    if rewinds >= config.rewinds:
        return Decision("stop", f"{text} (after {rewinds} rewinds)")
    return Decision("rewind", text, before=min(alarm.since for alarm in alarms))


def alarm_metrics(alarms: Sequence[Alarm]) -> dict[str, float]:
    """The alarms as they are logged: name -> the value that passed its limit.

    >>> alarm_metrics([Alarm("all_alike", 40, 10, "health/mean_cosine", 0.99, 0.95, "")])
    {'alarm/all_alike': 0.99}
    """
    return {f"alarm/{alarm.name}": alarm.value for alarm in alarms}
