"""Settings of crops and of hidden patches. Imports no torch and no numpy: the command line shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """How two views become crops.

    The changes of grey are those that the same body shows from one exposure to the next. What a radiograph
    never shows is left out: hue and saturation (it has none), solarising (it turns dense into thin), turning
    upside down and strong shear.
    """

    global_side: int = 224
    """Side of a global crop, in pixels; a multiple of the backbone's patch."""
    local_side: int = 98
    """Side of a local crop, in pixels; a multiple of the backbone's patch."""
    globals_per_view: int = 2
    """Global crops of each view; the teacher sees those of one view."""
    locals_per_view: int = 10
    """Local crops of each view; only the student sees them."""
    global_area: tuple[float, float] = (0.32, 1.0)
    """Share of the view's area that a global crop covers, from and to; less where the view is too narrow. From
    a body region up to the whole film, which already shows one region only."""
    local_area: tuple[float, float] = (0.05, 0.32)
    """Share of the view's area that a local crop covers, from and to: one organ or joint."""
    aspect: tuple[float, float] = (0.75, 1.3333)
    """Width over height of a crop before it becomes a square, from and to; uniform in its logarithm. Animals
    and people are of many builds, but a heart's proportions are a finding: the change stays moderate."""
    rotation: float = 10.0
    """Largest rotation to either side, in degrees; uniform. A patient lies a little askew, never on end."""
    flip: float = 0.5
    """Probability of a left-right flip. A side view faces either way; set 0 where the side must be told, as
    for situs inversus."""
    brightness: float = 0.15
    """Largest shift of grey, as a share of the full range; uniform to either side. Where a window is set, and
    what a collimator's border does to it, moves the grey of all tissues alike."""
    contrast: float = 0.3
    """Largest relative change of contrast around mid grey; uniform to either side. Tube voltage and window
    width."""
    gamma: float = 0.3
    """Largest change of log gamma; uniform to either side. Exposure and the detector's or film's curve bend
    grey values without changing their order."""
    noise: float = 0.03
    """Largest standard deviation of added Gaussian noise, as a share of the full range; uniform from 0. Few
    quanta: a low dose, a large animal."""
    blur: float = 0.5
    """Probability of a Gaussian blur, of 0.1 to 1.5 pixels of the crop: breathing, focal spot, scatter. More
    would wipe out the trabeculae and vessels that findings live in."""
    p_multiview: float = 1.0
    """Probability that the two views of a study are two different radiographs; 0 is the single-view baseline."""
    multiview_from: float = 0.0
    """Share of the training before which all studies give a single view: singles first, pairs later."""
    pairs: Literal["uniform", "distinct"] = "uniform"
    """Which two: any (`uniform`), or of differing projections where there are such (`distinct`)."""
    cut_on: Literal["auto", "cpu", "device"] = "auto"
    """Where crops are cut: by the loaders' processors, or where the network is; auto takes CUDA where it is. Both
    follow the same plan; greys may differ by one or two."""

    def check(self, patch: int) -> None:
        """Raises ConfigError where a crop is no whole number of patches or a range is empty."""
        for name in ("global_side", "local_side"):
            side = getattr(self, name)
            if side % patch or side < patch:
                near = max(1, round(side / patch)) * patch
                raise ConfigError(
                    f"crops.{name} {side} is no multiple of the backbone's patch, {patch}; nearest is {near}"
                )
        for name in ("global_area", "local_area", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"crops.{name} ({low}, {high}) must be two rising positive numbers")
        if self.globals_per_view < 1 or self.locals_per_view < 0:
            raise ConfigError("crops.globals_per_view must be at least 1, crops.locals_per_view at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """How patches are hidden for the patch loss."""

    probability: float = 0.5
    """Share of the teacher-view global crops in which patches are hidden at all."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Share of the patches hidden in such a crop, from and to; uniform."""
