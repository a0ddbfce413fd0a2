"""Settings of the student and of its loss. Imports no torch and no numpy: the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ...platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """What differs from the named architecture of a student with random weights; Vision Transformers only."""

    patch: int | None = None
    """Side of a patch in pixels; None keeps the architecture's."""
    width: int | None = None
    """Width of a token; None keeps the architecture's."""
    depth: int | None = None
    """Number of blocks; None keeps the architecture's."""
    heads: int | None = None
    """Attention heads a block; None keeps the architecture's."""
    registers: int | None = None
    """Register tokens beside the CLS; None keeps the architecture's."""
    drop_path: float = 0.0
    """Rate of stochastic depth in the last block, rising linearly from 0 in the first."""

    @property
    def changes(self) -> dict[str, int | float]:
        """The settings that are not left as they are, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name))}


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureLossConfig:
    """How the student's tokens are compared with the teacher's.

    The teacher's are standardized first: on a sample of crops, each of their dimensions has mean 0 and variance 1.
    Raw, what all images share would outweigh what differs between them.
    """

    kind: Literal["cosine", "smooth_l1"] = "cosine"
    """1 - cosine between the student's projected and the teacher's standardized tokens, or the mean smooth L1 distance
    of their dimensions."""
    cls_weight: float = 1.0
    """Weight of the loss on the CLS token; of a CNN, on its pooled features."""
    patch_weight: float = 1.0
    """Weight of the loss on patch tokens; of a CNN, on its last feature map. 0 leaves them out."""
    sample: int = 256
    """Most studies of the sample by which the teacher's tokens are standardized."""

    def check(self) -> None:
        """Raises ConfigError if there would be nothing to learn."""
        for name in ("cls_weight", "patch_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"loss.{name} {getattr(self, name)} must be 0 or more")
        if not self.cls_weight and not self.patch_weight:
            raise ConfigError("loss.cls_weight and loss.patch_weight are both 0; raise one of them")
        if self.sample < 2:
            raise ConfigError(f"loss.sample {self.sample} must be at least 2")
