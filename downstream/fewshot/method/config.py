"""Settings of the few-shot method: features of slices, prototypes, and what is predicted from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ....platform.core.device import DeviceConfig
from ....platform.core.errors import ConfigError

Compat: TypeAlias = Literal["ours", "alpnet", "levayz"]
"""Our own variant, or the behavior of a released code: that of arXiv 2007.09886 or of arXiv 2403.03273."""

Components: TypeAlias = Literal["1", "n", "all"]
"""Connected components to keep in a slice: the most confident one, as many as the support shows, or all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrototypeConfig:
    """How prototypes are taken from support slices and compared with a query slice."""

    compat: Compat = "ours"
    """`ours`, or the behavior of a released code: `alpnet`, `levayz`. They differ in how a mask is resampled to the
    grid (area, bilinear, nearest), in the window of the gate and the factor of cosines at test (`window`, `tau`; else
    `training_window`, `training_tau`), in how several supports are pooled (joint set, mean prototype, largest score)
    and in cells at the edge that a window covers only in part (kept; else dropped)."""
    window: int = 2
    """Side of the square that is pooled to one local prototype at test, in cells of the feature grid."""
    training_window: int = 4
    """The same in training and in the alignment loss."""
    tau: float = 40.0
    """Factor of every cosine (1 / temperature) at test: the larger, the more the nearest prototype alone decides."""
    training_tau: float = 20.0
    """The same in training and in the alignment loss."""
    foreground_share: float = 0.95
    """A pooled cell with more than this share of organ is a local prototype of the organ; if no cell of the gate
    reaches it, the organ's mean is its only prototype."""
    background_share: float = 0.95
    """A pooled cell with more than this share of background is a background prototype."""
    background_weight: float = 0.05
    """Weight of a background pixel in the cross-entropy; an organ's pixel weighs 1."""

    def __post_init__(self) -> None:
        for name in ("window", "training_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"prototypes.{name} is {getattr(self, name)}; a window has at least 1 cell")
        for name in ("foreground_share", "background_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"prototypes.{name} is {getattr(self, name)}; a share lies from 0 to below 1"
                )
        for name in ("tau", "training_tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"prototypes.{name} is {getattr(self, name)}; give a finite number above 0")
        if not 0 < self.background_weight <= 1:
            raise ConfigError(
                f"prototypes.background_weight is {self.background_weight}; give above 0, up to 1"
            )

    def pooling_window(self, training: bool) -> int:
        """Side of the window that is pooled to one local prototype, in cells."""
        return self.training_window if training else self.window

    def gate_window(self, training: bool) -> int:
        """Side of the window that decides between local prototypes and the organ's mean alone, in cells.

        Both released codes use the window of training at test too, where 4 x 4 cells within a kidney are rare.

        >>> PrototypeConfig().gate_window(training=False)
        2
        >>> PrototypeConfig(compat="alpnet").gate_window(training=False)
        4
        """
        return self.pooling_window(training or self.compat != "ours")

    def cosine_factor(self, training: bool) -> float:
        """Factor of every cosine; both released codes use that of training at test too.

        >>> PrototypeConfig().cosine_factor(training=False)
        40.0
        >>> PrototypeConfig(compat="alpnet").cosine_factor(training=False)
        20.0
        """
        return self.training_tau if training or self.compat != "ours" else self.tau


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceConfig:
    """How slices become features."""

    grid: int = 32
    """Least cells along a side; 32 keeps 96.7 of a true mask's Dice, 18 (a ViT-L/14 at 252 pixels) 91.3."""
    side: int = 0
    """Shorter side of a slice as the network sees it, in pixels; 0: the side said behind the backbone,
    `BACKBONE#side=PX`, else as many as `grid` needs."""
    stride: int = 0
    """Pixels from patch to patch, a divisor of the patch's side; 0: that side. Smaller strides overlap."""
    enlarged: int = 0
    """Side to which features are enlarged bilinearly, in cells; 0: not. The released code makes 18 cells 32."""
    layers: tuple[int, ...] = ()
    """Blocks whose normalized tokens are concatenated; negative numbers count from the end. None: in mode `ours` each
    organ's labeled support chooses among blocks at half to all of the depth, and with them the weight of coordinates
    and `prototypes.tau`, whose values here are the largest candidates; else the last block."""
    scales: tuple[float, ...] = (1.0,)
    """The network sees a slice at these multiples of its side; all tokens are resampled to the grid of scale 1 and
    concatenated."""
    debias: int = 0
    """How many of the strongest directions of a blank slice's features are removed: they encode position, not
    tissue."""
    coordinates: float = 1.4
    """Weight of a cell's position in the body beside features of mean length 1; 0 leaves it out. On CHAOS-T2 a small
    ViT finds three times as much with it."""
    pixel_coordinates: float = 1.4
    """The same for pixel features."""

    def __post_init__(self) -> None:
        for name in ("side", "stride", "enlarged", "debias", "coordinates", "pixel_coordinates"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"slices.{name} is {getattr(self, name)}; give 0 or more")
        if self.grid < 1:
            raise ConfigError(f"slices.grid is {self.grid}; give at least 1")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ConfigError(f"slices.scales is {self.scales}; give at least one number above 0")

    @property
    def blocks(self) -> tuple[int, ...]:
        """`layers`, or the last block alone where none is named."""
        return self.layers or (-1,)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig(DeviceConfig):
    """How an organ is segmented, in evaluation and in new scans."""

    slices: SliceConfig = field(default_factory=SliceConfig)
    prototypes: PrototypeConfig = field(default_factory=PrototypeConfig)
    components: Components = "n"
    """Connected components of a mask that are kept in each slice: the most confident one (`1`), as many as the support
    shows (`n`), or `all`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanConfig:
    """How the slices of a scan are predicted together."""

    reach: float = 0.1
    """Where a whole scan's slices are not matched with the supports' (modes but `ours`, the copied mask), an organ is
    searched this far beyond where the supports have it, as a share of its length."""
    spread: bool = True
    """In mode `ours`, scores are spread over cells of the scan that look alike before they become masks."""
    smooth: float = 1.0
    """In mode `ours`, standard deviation of the Gaussian that averages a slice's scores with those of the slices above
    and below it, in slices; 0: each slice by itself, as in the released codes."""
    edges: float = 0.025
    """In mode `ours`, how far scores follow the edges of the image: radius of a guided filter as a share of a slice's
    shorter side; 0: no filter, as in the released codes."""

    def __post_init__(self) -> None:
        for name in ("reach", "smooth", "edges"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more")

    def refinement(self, compat: Compat) -> dict[str, float]:
        """Arguments of `slice_margins`: `smooth` and `edges` in mode `ours`, nothing in the released modes."""
        return {"smooth": self.smooth, "edges": self.edges} if compat == "ours" else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldsConfig(TaskConfig):
    """How a prepared folder with ground truth is split into folds and summarized."""

    folds: int = 5
    """Folds over the labeled scans in natural order; each scan is a query once."""
    organs: tuple[int, ...] = ()
    """Class numbers; none: all classes."""
    resamples: int = 1000
    """Resamples of the bootstrap over scans."""
    seed: int = 0
    """Seed for random weights and the bootstrap."""

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ConfigError(f"resamples is {self.resamples}; give at least 1")
