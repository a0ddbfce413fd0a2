"""Settings of heads, losses and optimizer. Imports no torch and no numpy: the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...platform.core.errors import ConfigError
from ...platform.training.schedules import Cosine, Ramp
from ..batches.config import MaskConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """Size of the projection heads."""

    prototypes: int = 65536
    """Prototypes K: each token gets one logit per prototype."""
    hidden: int = 2048
    """Width of the two hidden layers."""
    bottleneck: int = 256
    """Width of the vector that is compared with the prototypes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """What the student learns from the teacher (DINO, DINOv2)."""

    head: HeadConfig = field(default_factory=HeadConfig)
    targets: Literal["centring", "sinkhorn"] = "centring"
    """How the teacher's logits become targets: centering and softmax (DINO), or Sinkhorn-Knopp (DINOv2)."""
    student_temperature: float = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: Ramp = field(default_factory=lambda: Ramp(start=0.04, end=0.07, over=0.3))
    """Temperature of the teacher's softmax, over the steps; lower makes sharper targets."""
    momentum: Cosine = field(default_factory=lambda: Cosine(start=0.996, end=1.0))
    """Momentum of the teacher, an exponential moving average (EMA) of the student, over the steps."""
    view_weight: float = 1.0
    """Weight of the loss between crops."""
    patch_weight: float = 0.0
    """Weight of the loss on hidden patches; 0 hides no patches."""
    spread_weight: float = 0.0
    """Weight of the KoLeo loss on the student's global crops."""
    contrast_weight: float = 0.0
    """Weight of the contrast between studies: the CLS token of a global crop finds the teacher's of its own study among
    those of the whole batch (InfoNCE). It shapes the embedding itself, where few pairs and short trainings leave the
    other losses to the heads."""
    contrast_temperature: float = 0.1
    """Temperature of that contrast's softmax."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    spread_head: bool = False
    """Fit the untrained heads to the tokens of the untrained backbone first, so that targets differ between images
    from the first step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW over parameter groups, and how DeepSpeed divides its state among workers."""

    lr: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=1e-6, warmup=0.1))
    """Learning rate at a batch of 1,024 studies; multiplied by the square root of batch / 1,024."""
    weight_decay: Cosine = field(default_factory=lambda: Cosine(start=0.04, end=0.4))
    """Weight decay of matrices; biases, norms, tokens and position embeddings have none."""
    layer_decay: float = 0.9
    """Factor on the learning rate from each block to the one before it."""
    patch_embed: float = 0.2
    """Factor on the learning rate of the patch embedding."""
    clip: float = 3.0
    """Largest global norm of the gradient."""
    freeze_prototypes: float = 0.01
    """Share of the steps during which the heads' prototypes are frozen."""
    zero: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's ZeRO stage: 1 divides the optimizer's state among workers, 2 the gradients too, 3 the student's
    weights too."""
    micro_batch: int = 0
    """Studies in one forward and backward pass of a worker; gradients are accumulated over its share of the batch.
    0 takes the whole share at once."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the matrix products; parameters, teacher and losses stay float32."""
    compile: bool = False
    """Compile the student's blocks; CUDA only."""
    checkpoint_activations: bool = False
    """Keep only each block's input and compute the block again for its gradient: less memory, a third more
    compute."""

    def check(self, device_type: str) -> None:
        """Raises ConfigError if settings contradict each other or the device (`cpu`, `cuda`)."""
        if self.compile and device_type != "cuda":
            raise ConfigError(f"optim.compile needs a GPU, the device is {device_type}; leave it out")
        if self.compile and self.zero == 3:
            raise ConfigError(
                "optim.compile and optim.zero 3 do not work together, as weights are gathered and released; use "
                "optim.zero 2"
            )
        if self.clip <= 0:
            raise ConfigError(f"optim.clip {self.clip} must be above 0")

    def micro_batches(self, batch: int, world: int) -> int:
        """How many micro-batches a worker's share of a batch is divided into.

        >>> OptimConfig(micro_batch=4).micro_batches(batch=64, world=2)
        8

        Raises ConfigError if they would not be equal.
        """
        share = batch // world
        if self.micro_batch < 0 or (self.micro_batch and share % self.micro_batch):
            divisors = (size for size in range(1, share + 1) if share % size == 0)
            near = max(size for size in divisors if size <= max(self.micro_batch, 1))
            raise ConfigError(
                f"optim.micro_batch {self.micro_batch} does not divide a worker's {share} studies "
                f"(batch {batch}, workers {world}); nearest is {near}"
            )
        return share // (self.micro_batch or share)
