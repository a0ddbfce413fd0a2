"""Settings of the tasks that compare the views of a study: consistency and view synthesis."""

from __future__ import annotations

from dataclasses import dataclass

from ...platform.core.errors import ConfigError
from ...platform.core.location import Location

CELL = 8
"""Pixels, along each side of a painted picture, that one query of the synthesis decoder stands for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyConfig:
    """How many studies are compared, and where the ground truth of generated studies lies."""

    studies: int = 2000
    """Most test studies for view retrieval and for decoding the projection."""
    train_studies: int = 1000
    """Most train studies that the linear decoders learn from."""
    strengths: tuple[float, ...] = (0.001, 0.03, 1.0)
    """Inverse L2 strengths of the decoders (scikit-learn's C); the validation split chooses."""
    truth: Location | None = None
    """Folder of `vetdino phantom` that the shards were made from; without it, patches and attention are left out."""
    secret: Location | None = None
    """Key file that those shards were ingested with; none: SHARDS.secret, where `vetdino ingest` writes it."""
    truth_studies: int = 150
    """Most test studies whose patches and attention are compared with the ground truth."""
    patches: int = 32
    """Most query patches of a view for each other view of its study."""
    radius_cm: float = 2.0
    """A match this near to the true position is a hit, in cm of the animal."""
    pixel_side: int = 192
    """Side to which a view is resized for the pixel baseline's patches, in pixels."""
    pixel_patch: int = 16
    """Side of the pixel baseline's patches, in pixels."""

    def __post_init__(self) -> None:
        for name in ("studies", "train_studies", "truth_studies", "patches", "pixel_side", "pixel_patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"consistency.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.radius_cm > 0:
            raise ConfigError(f"consistency.radius_cm is {self.radius_cm}; it must be above 0")
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError(f"consistency.strengths is {self.strengths}; give numbers above 0")
        if self.pixel_side % self.pixel_patch:
            raise ConfigError(
                f"consistency.pixel_side {self.pixel_side} is no multiple of pixel_patch {self.pixel_patch}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisConfig:
    """How the decoder is built and trained, on how many views; the defaults take 2 minutes of one core per source."""

    side: int = 64
    """Side of the painted and compared pictures, in pixels; a multiple of 8."""
    train_views: int = 2000
    """Most train views; their tokens stay in memory as float16. A thousand views take 35 MiB with 144 patches of
    width 128, 375 MiB with 256 patches of width 768."""
    val_views: int = 200
    """Most validation views."""
    test_views: int = 1600
    """Most test views."""
    min_pairs: int = 10
    """Fewest pairs, in train and in test, for a row to be measured; it also needs 2 patients in test."""
    width: int = 128
    """Width of the decoder; a multiple of its heads."""
    layers: int = 2
    """Transformer layers of the decoder."""
    heads: int = 4
    """Attention heads of a layer."""
    dropout: float = 0.0
    """Rate of dropout in the layers."""
    epochs: int = 20
    """Most passes over the train studies; each takes one pair of every study."""
    patience: int = 8
    """Epochs without a smaller validation loss after which training stops."""
    batch: int = 16
    """Pairs in a step, and views in a forward pass of the backbone."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss, beside the mean absolute error."""
    panels: int = 8
    """Most rows of the figure, one test pair each; 0 draws none."""

    def check(self) -> None:
        """Raises ConfigError for a setting out of range; the message names it."""
        if self.side < 2 * CELL or self.side % CELL:
            raise ConfigError(f"synthesis.side is {self.side}; choose a multiple of {CELL}, such as 64")
        if self.width % self.heads:
            raise ConfigError(
                f"synthesis.width {self.width} is no multiple of synthesis.heads {self.heads}; change one"
            )
        for name in ("train_views", "test_views", "min_pairs", "layers", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"synthesis.{name} is {getattr(self, name)}; it must be at least 1")
