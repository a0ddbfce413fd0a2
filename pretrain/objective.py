"""What the training loop trains: a student, and where its targets come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ..platform.models.backbone import Backbone
from ..platform.models.convnet import ConvNet
from .batches.batch import CropBatch

# B studies, D width of the student's embedding.


class StepLosses(Protocol):
    """The losses of one micro-batch: the scalar whose gradient is taken, and the student's vectors (B, D)."""

    @property
    def total(self) -> Tensor: ...

    @property
    def vectors_BD(self) -> Tensor: ...  # noqa: N802

    def values(self) -> Tensor:
        """The terms in the order of the objective's `loss_names`: float32."""
        ...


class Objective(Protocol):
    """A student and what it learns: from itself (`Distiller`), or from a frozen teacher (`FeatureDistiller`)."""

    student: Any
    loss_names: ClassVar[tuple[str, ...]]

    def settings_at(self, step: int, steps: int) -> dict[str, float]:
        """What changes with the step beside learning rate and weight decay, by name."""
        ...

    def step_targets(
        self, micro_batches: Sequence[CropBatch], settings: Mapping[str, float], seeds: Sequence[int | None]
    ) -> Sequence[Any]:
        """The targets of each micro-batch of a step, without gradient."""
        ...

    def losses(self, student: nn.Module, batch: CropBatch, targets: Any) -> StepLosses:
        """Losses of one micro-batch; `student` is the student as its engine wraps it."""
        ...

    def after_step(
        self, settings: Mapping[str, float], bad: Tensor, student: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """What follows an optimizer step. bad: 1 where it was skipped."""
        ...

    def loss_metrics(self, means: Mapping[str, float]) -> dict[str, float]:
        """The mean terms of a record by their logged names."""
        ...

    def network(self, student: Iterable[Mapping[str, Tensor]]) -> Backbone | ConvNet:
        """What is evaluated and exported. student: its parameters by name, a few at a time."""
        ...

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside the engine's part."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Load `saved_state`, with strict False."""
        ...

    @property
    def identity(self) -> str:
        """Digest of what is learned from and is in no checkpoint; empty where there is nothing."""
        ...
