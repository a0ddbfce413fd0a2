"""`vetdino plan RECIPE`: what a training would take, before it starts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Self

from ...platform.core.config import subconfig
from ...pretrain.config import PretrainConfig
from ...pretrain.planning.config import PlanConfig
from .pretrain import RecipeCommand


@dataclass(frozen=True, kw_only=True)
class PlanTraining(PlanConfig, RecipeCommand):
    """Predict a training's memory, speed, network, disk and cost, from counted work and stated assumptions."""

    usage: ClassVar = "plan RECIPE --gpus N --gpu h100"
    basic: ClassVar = (
        *("gpus", "gpu", "shards", "studies", "batch", "steps", "price", "peak_share", "network"),
        *("backbone.name", "optim.zero", "optim.micro_batch", "optim.checkpoint_activations"),
    )

    def prepared(self, action: str) -> AbstractContextManager[Self]:
        """As it is: nothing is written."""
        return nullcontext(self)

    def run(self) -> None:
        from ...pretrain.planning.page import plan_page
        from ...pretrain.planning.plan import training_plan

        print(plan_page(training_plan(subconfig(PretrainConfig, self), subconfig(PlanConfig, self))))
