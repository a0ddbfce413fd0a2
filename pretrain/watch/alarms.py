"""Alarms: a training that has stopped telling studies apart is noticed from the values that it records.

A loss that falls says little: it falls as well while all answers become one. So what is looked at is how much
the teacher tells, how much of it the student guesses, and how the vectors of different studies lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import AlarmConfig

# B studies, D width, K prototypes.

SETTLING = 20
"""Fewest steps before anything may alarm, however short the training: at its momentum of 0.9 the centre of the
teacher's scores has then covered nine tenths of its way."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that went wrong: which, at which record, how far beyond its limit, and what to do.

    >>> print(Alarm("view_loss", 80, 60, "health/view_loss_minus_ln_k", 0.2, -0.01, "lower optim.lr"))
    step 80: view_loss: health/view_loss_minus_ln_k 0.2 is beyond -0.01 since step 60; lower optim.lr
    """

    name: str
    step: int
    since: int
    """Step of the first bad record of the row."""
    measure: str
    value: float
    limit: float
    advice: str

    def __str__(self) -> str:
        return (
            f"step {self.step}: {self.name}: {self.measure} {self.value:.4g} is beyond {self.limit:.4g} "
            f"since step {self.since}; {self.advice}"
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """An alarm's name, the value that it looks at, the side on which a limit is passed, and the advice."""

    name: str
    measure: str
    side: Literal["above", "below"]
    advice: str


_LOWER = "lower optim.lr, or raise distill.spread_weight"

RULES = (
    Rule(
        "uniform_teacher",
        "health/teacher_entropy",
        "above",
        "lower distill.teacher_temperature or optim.lr, or take fewer distill.head.prototypes",
    ),
    Rule(
        "one_prototype",
        "health/teacher_entropy",
        "below",
        "raise distill.teacher_temperature, or set distill.targets sinkhorn",
    ),
    Rule(
        "view_loss",
        "health/view_loss_minus_ln_k",
        "above",
        "look at the images; make crops larger (crops.local_area), or pairs rarer (crops.p_multiview)",
    ),
    Rule("few_directions", "health/effective_rank", "below", _LOWER),
    Rule("few_directions", "probe/effective_rank", "below", _LOWER),
    Rule("all_alike", "health/mean_cosine", "above", _LOWER),
    Rule("all_alike", "probe/mean_cosine", "above", _LOWER),
    Rule(
        "probe_drop",
        "probe/auroc_macro",
        "below",
        "the checkpoint of the best trial may serve better; lower optim.lr",
    ),
)
"""What is looked at. A value that a record lacks, or that is no number, neither alarms nor calms."""


class Alarms:
    """Looks at each record of a training; what it says is a function of the records alone.

    prototypes: K; width: D of the backbone; batch: studies whose vectors `spread_of` compared; steps: of the
    whole training.
    """

    def __init__(self, config: AlarmConfig, *, prototypes: int, width: int, batch: int, steps: int) -> None:
        self.config = config
        self.grace = max(SETTLING, int(config.grace * steps))
        ln_k = math.log(prototypes)
        # Of n vectors about their mean n - 1 directions are left; one is the least that can be measured.
        rank = 1 + config.rank * (min(width, max(batch, 2) - 1) - 1)
        self._limits = {
            "uniform_teacher": config.uniform * ln_k,
            "one_prototype": config.certain * ln_k,
            "view_loss": -config.guessing,
            "few_directions": rank,
            "all_alike": config.cosine,
        }
        self._rows: dict[str, dict[str, int]] = {}
        self._best = -math.inf

    def look(self, step: int, values: Mapping[str, float]) -> list[Alarm]:
        """The alarms that a record raises. Each is raised once, and again only after a good record."""
        alarms = [self._alarm(rule, step, values[rule.measure]) for rule in RULES if rule.measure in values]
        auroc = values.get("probe/auroc_macro", math.nan)
        if auroc > self._best:
            self._best = auroc
        return [alarm for alarm in alarms if alarm is not None]

    def _alarm(self, rule: Rule, step: int, value: float) -> Alarm | None:
        if step <= self.grace or not math.isfinite(value):
            return None
        limit = self._limit(rule)
        place = f"{rule.name} {rule.measure}"
        if not (value > limit if rule.side == "above" else value < limit):
            self._rows.pop(place, None)
            return None
        row = self._rows.setdefault(place, {"since": step, "records": 0})
        row["records"] += 1
        if row["records"] != self._patience(rule):
            return None
        return Alarm(rule.name, step, row["since"], rule.measure, value, limit, rule.advice)

    def _limit(self, rule: Rule) -> float:
        return self._limits.get(rule.name, self._best - self.config.auroc_drop)

    def _patience(self, rule: Rule) -> int:
        return self.config.trials if rule.measure.startswith("probe/") else self.config.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON types."""
        return {
            "rows": {place: dict(row) for place, row in self._rows.items()},
            "best": self._best if math.isfinite(self._best) else None,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Back to what `state` told: from here on the same records raise the same alarms."""
        self._rows = {place: dict(row) for place, row in state["rows"].items()}
        self._best = -math.inf if state["best"] is None else state["best"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the training.

    before, with `rewind`: go on from the newest checkpoint of a step below this one; where there is none, from
    the beginning. factor: what the learning rate is multiplied with from there on.
    """

    deed: Literal["go on", "warn", "stop", "rewind"]
    text: str = ""
    before: int = 0
    factor: float = 1.0


def verdict(config: AlarmConfig, alarms: Sequence[Alarm], rewinds: int) -> Verdict:
    """What to do about the alarms of a record, after so many rewinds of this training."""
    factor = 0.5**rewinds
    if not alarms:
        return Verdict("go on", factor=factor)
    text = "; ".join(map(str, alarms))
    if config.policy == "warn":
        return Verdict("warn", text, factor=factor)
    if config.policy == "stop":
        return Verdict("stop", text, factor=factor)
    if rewinds >= config.rewinds:
        return Verdict("stop", f"{text} (after {rewinds} rewinds)", factor=factor)
    return Verdict("rewind", text, before=min(alarm.since for alarm in alarms), factor=factor / 2)


def spread_of(vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine between different studies, and their effective rank: two scalars on the vectors' device.

    The same numbers as the probe's `mean_cosine` and `effective_rank` of the unit vectors, by way of the small
    Gram matrix: its eigenvalues are the squares of the singular values. Roy and Vetterli, EUSIPCO 2007, section
    2. For fewer than two vectors 0 and 1. On CUDA the eigenvalues make the host wait for the device (their
    convergence is checked), so this is asked at a record, where it waits anyway.
    """
    unit_BD = F.normalize(vectors_BD.detach().double(), dim=-1)
    count = len(unit_BD)
    cosine = (unit_BD.sum(0).square().sum() - count) / max(count * (count - 1), 1)
    centred_BD = unit_BD - unit_BD.mean(0)
    values_B = torch.linalg.eigvalsh(centred_BD @ centred_BD.T).clamp_min(0).sqrt()
    share_B = values_B / values_B.sum().clamp_min(1e-12)
    rank = torch.exp(-(share_B * share_B.clamp_min(1e-12).log()).sum())
    return cosine.float(), rank.float()


def as_values(alarms: Sequence[Alarm]) -> dict[str, float]:
    """The alarms as they are recorded: name -> the value that passed its limit.

    >>> as_values([Alarm("all_alike", 40, 10, "health/mean_cosine", 0.99, 0.95, "")])
    {'alarm/all_alike': 0.99}
    """
    return {f"alarm/{alarm.name}": alarm.value for alarm in alarms}
