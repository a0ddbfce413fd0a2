"""Settings of the order, the crops and the hidden patches. Imports no torch and no numpy: command lines show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderConfig:
    """In which order an epoch's studies are read: all shuffled, or a few whole shards at a time."""

    window: int = 0
    """Shards whose studies are shuffled together: shards are taken in a random order, so many at a time. 0 shuffles all
    studies at once, which costs one read at a random place for each; then `order.lanes` stays 1."""
    lanes: int = 1
    """Parts of an epoch, of equal length, that are read side by side: a batch takes equally many studies of each. It
    divides `batch` and is a multiple of every number of workers that may train; each worker reads its part of
    the lanes, and at most `order.window` shards of each at a time."""

    def check(self, batch: int) -> None:
        """Raises ConfigError if the lanes do not divide the batch, or have no window."""
        if self.window < 0 or self.lanes < 1:
            raise ConfigError(
                f"order.window {self.window} must be at least 0, order.lanes {self.lanes} at least 1"
            )
        if self.lanes > 1 and not self.window:
            raise ConfigError(
                f"order.lanes {self.lanes} has no effect while order.window is 0, which shuffles all studies; set "
                "order.window, or leave out order.lanes"
            )
        if batch % self.lanes:
            raise ConfigError(f"batch {batch} cannot be divided among order.lanes {self.lanes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """How two views become crops.

    The changes of gray are those that the same body shows from one exposure to the next. What a radiograph never
    shows is left out: hue and saturation (it has none), solarizing (it turns dense into thin), upside-down flips
    and strong shear.
    """

    global_side: int = 224
    """Side of a global crop in pixels; a multiple of the backbone's patch."""
    local_side: int = 98
    """Side of a local crop in pixels; a multiple of the backbone's patch."""
    globals_per_view: int = 2
    """Global crops of each view; the teacher sees those of one view."""
    locals_per_view: int = 10
    """Local crops of each view; only the student sees them."""
    global_area: tuple[float, float] = (0.32, 1.0)
    """Share of the view's area that a global crop covers, least and most; less if the view is too narrow. From one
    body region to the whole film, which already shows one region only."""
    local_area: tuple[float, float] = (0.05, 0.32)
    """Share of the view's area that a local crop covers, least and most: one organ or joint."""
    aspect: tuple[float, float] = (0.75, 1.3333)
    """Width over height of a crop before it becomes a square, least and most; uniform in its logarithm. Animals
    and people are of many builds, but a heart's proportions are a finding: the change stays moderate."""
    rotation: float = 10.0
    """Largest rotation to either side, in degrees; uniform. A patient lies a little askew, never on end."""
    flip: float = 0.5
    """Probability of a left-right flip. A lateral view faces either way; set 0 if left and right must be told
    apart, as for situs inversus."""
    brightness: float = 0.15
    """Largest shift of gray to either side, as a share of the full range; uniform. The window setting and a
    collimator's border in it shift the gray of all tissues alike."""
    contrast: float = 0.3
    """Largest relative change of contrast around mid gray to either side; uniform. Tube voltage and window
    width."""
    gamma: float = 0.3
    """Largest change of log gamma; uniform to either side. Exposure and the curve of the detector or film bend
    gray values without changing their order."""
    noise: float = 0.03
    """Largest standard deviation of added Gaussian noise, as a share of the full range; uniform from 0. Few
    quanta: a low dose, a large animal."""
    blur: float = 0.5
    """Probability of a Gaussian blur of 0.1 to 1.5 pixels of the crop: breathing, focal spot, scatter. More would
    wipe out the trabeculae and vessels that carry findings."""
    p_multiview: float = 1.0
    """Probability that the two views of a study are two different radiographs; 0 is the single-view baseline."""
    multiview_from: float = 0.0
    """Share of the training before which every study gives a single view: singles first, pairs later."""
    pairs: Literal["uniform", "distinct", "same_side"] = "uniform"
    """Which two views make a pair: any (`uniform`); two of different projections if there are such (`distinct`); or
    only these, and of one side of the body where both sides are known (`same_side`: CC and MLO of one breast, never of
    two); a study without such a pair gives a single view."""
    cut_on: Literal["auto", "cpu", "device"] = "auto"
    """Where crops are cut: in the loaders' processes (`cpu`) or on the network's `device`; `auto` takes the device
    if it is CUDA. Both follow the same plan; gray values may differ by one or two."""

    def check(self, patch: int) -> None:
        """Raises ConfigError if a crop's side is not a multiple of the patch or a range is empty."""
        for name in ("global_side", "local_side"):
            side = getattr(self, name)
            if side % patch or side < patch:
                near = max(1, round(side / patch)) * patch
                raise ConfigError(
                    f"crops.{name} {side} is not a multiple of the backbone's patch, {patch}; nearest is {near}"
                )
        for name in ("global_area", "local_area", "aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"crops.{name} ({low}, {high}) must be two rising positive numbers")
        if self.globals_per_view < 1 or self.locals_per_view < 0:
            raise ConfigError("crops.globals_per_view must be at least 1, crops.locals_per_view at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """How patches are hidden from the student, for the patch loss."""

    probability: float = 0.5
    """Share of the teacher-view global crops in which any patches are hidden."""
    ratio: tuple[float, float] = (0.1, 0.5)
    """Share of the patches hidden in such a crop, least and most; uniform."""
