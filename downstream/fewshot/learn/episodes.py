"""Lessons without labels: a piece of a slice that looks like one thing, seen twice, is an organ for one step.

Self-supervised episodes of Ouyang et al., arXiv 2007.09886, section 3.2, as Ayzenberg et al., arXiv 2403.03273, use
them too: superpixels (Felzenszwalb and Huttenlocher, IJCV 2004) within the body; one slice, one of its superpixels,
two independent augmentations of both, the support and the query.
"""

# Z slices of a scan, H, W rows and columns, K a slice with its neighbours.

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ....platform.core.errors import DataError
from ...volumes.volume import Volumes
from ..method.slices import Greys, body_of, greys_of
from .config import EpisodeConfig
from .learnable import stacked

TRIES = 10
"""How often an augmentation that moves the whole mask out of the slice is drawn again."""

EMPTY_SLICES = 1000
"""So many slices in a row without a superpixel, and the scans are given up."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One view of a slice and of what is looked for in it.

    image: float32 (H, W), or (K, H, W) where a slice comes with its neighbours; mask: bool (H, W), never empty.
    """

    image: np.ndarray
    mask: np.ndarray

    def __repr__(self) -> str:
        return f"Look({'x'.join(map(str, self.image.shape))}, {int(self.mask.sum())} pixels)"


# Superpixels -------------------------------------------------------------------------------------


def superpixels(slice_HW: np.ndarray, config: EpisodeConfig | None = None) -> np.ndarray:
    """(H, W) int32: 1, 2, … for the superpixels within the body, 0 elsewhere; no number is missing.

    slice: greys as prepared, 0 to 255, which is also what the published pseudo-labels were cut from: at that scale
    `min_size` decides, and `scale` next to nothing. All 0 where a slice has one value.
    """
    from skimage.segmentation import felzenszwalb

    config = config or EpisodeConfig()
    slice_HW = np.asarray(slice_HW, np.float64)
    if slice_HW.min() == slice_HW.max():
        return np.zeros(slice_HW.shape, np.int32)
    parts_HW = felzenszwalb(slice_HW, scale=config.scale, sigma=config.sigma, min_size=config.min_size)
    inside_HW = np.where(body_of(slice_HW), parts_HW + 1, 0)
    enough = np.bincount(inside_HW.ravel()) >= config.min_size / 2
    enough[0] = False
    numbers = np.where(enough, np.cumsum(enough), 0)
    return numbers[inside_HW].astype(np.int32)


# Augmentation ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Warp:
    """Where each pixel of a look is found in the slice (x_HW, y_HW float32), and what becomes of its grey."""

    x_HW: np.ndarray
    y_HW: np.ndarray
    gamma: float

    def mask(self, mask_HW: np.ndarray) -> np.ndarray:
        """The nearest pixel's word; nothing lies beyond the slice."""
        moved_HW = cv2.remap(mask_HW.astype(np.uint8), self.x_HW, self.y_HW, cv2.INTER_NEAREST)
        return moved_HW.astype(bool)

    def image(self, image: np.ndarray) -> np.ndarray:
        """(H, W) or (K, H, W): bilinear, the edge goes on beyond the slice; greys keep their range."""
        if image.ndim == 3:
            return np.stack([self.image(slice_HW) for slice_HW in image])
        moved_HW = cv2.remap(
            image.astype(np.float32), self.x_HW, self.y_HW, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        low, high = float(moved_HW.min()), float(moved_HW.max())
        if high == low:
            return moved_HW
        return low + (high - low) * ((moved_HW - low) / (high - low)) ** np.float32(self.gamma)


def two_looks(
    image: np.ndarray, mask_HW: np.ndarray, config: EpisodeConfig | None, random: np.random.Generator
) -> tuple[Look, Look]:
    """Two independent augmentations of a slice and a mask: support and query.

    image: (H, W), or (K, H, W) with neighbours, which move alike. Raises DataError for an empty mask.
    """
    config = config or EpisodeConfig()
    mask_HW = np.asarray(mask_HW).astype(bool)
    if image.shape[-2:] != mask_HW.shape:
        raise DataError(f"a slice of {image.shape[-2:]} pixels and a mask of {mask_HW.shape} do not fit")
    if not mask_HW.any():
        raise DataError("an empty mask teaches nothing; take a slice or superpixel that shows something")
    return _look(image, mask_HW, config, random), _look(image, mask_HW, config, random)


def _look(image: np.ndarray, mask_HW: np.ndarray, config: EpisodeConfig, random: np.random.Generator) -> Look:
    """One augmentation; one that only changes greys where the mask leaves the slice again and again."""
    for _ in range(TRIES):
        warp = _warp(mask_HW.shape, config, random)
        moved_HW = warp.mask(mask_HW)
        if moved_HW.any():
            return Look(warp.image(image), moved_HW)
    rows_HW, columns_HW = np.indices(mask_HW.shape, np.float32)
    return Look(_Warp(columns_HW, rows_HW, warp.gamma).image(image), mask_HW)


def _warp(shape: tuple[int, int], config: EpisodeConfig, random: np.random.Generator) -> _Warp:
    """Slant, turn, size and shift about the slice's middle and the elastic field, in one: greys are mixed once."""
    turn, slant, *shift_2 = random.uniform(-1, 1, 4)
    zoom, gamma = random.uniform(*config.zoom), random.uniform(*config.gamma)
    field_2HW = random.uniform(-1, 1, (2, *shape)).astype(np.float32)
    angle, slope = math.radians(turn * config.rotation), math.tan(math.radians(slant * config.shear))
    turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    # From a look's pixel back to the slice's.
    back = np.linalg.inv(zoom * turned @ np.array([[1, slope], [0, 1]])).astype(np.float32)
    middle_2 = (np.array(shape[::-1], np.float32) - 1) / 2
    start_2 = middle_2 + np.array(shift_2, np.float32) * np.float32(config.shift)
    rows_HW, columns_HW = np.indices(shape, np.float32)
    from_2HW = np.einsum("ab,bhw->ahw", back, np.stack([columns_HW - start_2[0], rows_HW - start_2[1]]))
    smooth_2HW = [cv2.GaussianBlur(field_HW, (0, 0), config.elastic_sigma) for field_HW in field_2HW]
    x_HW, y_HW = from_2HW + middle_2[:, None, None] + np.float32(config.elastic_alpha) * np.stack(smooth_2HW)
    return _Warp(x_HW.astype(np.float32), y_HW.astype(np.float32), float(gamma))


# Episodes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One step's lesson and question. number: which of the training's; the rest: where it was cut from."""

    number: int
    scan: str
    slice: int
    superpixel: int
    support: Look
    query: Look

    def __repr__(self) -> str:
        return f"Episode({self.number}, scan {self.scan}, slice {self.slice}, superpixel {self.superpixel})"


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A scan as training needs it. organs: for each slice the class numbers it shows; None where nobody labelled it."""

    image_ZHW: np.ndarray
    greys: Greys
    organs: tuple[frozenset[int], ...] | None


class Shelf:
    """Scans of a prepared folder, each read once, and superpixels, each slice's cut once.

    Both stay in memory as the bytes that they are: a scan of 100 slices of 256 x 256 pixels takes 13 MB at most.
    """

    def __init__(self, volumes: Volumes, config: EpisodeConfig) -> None:
        self.volumes, self.config = volumes, config
        self._scans: dict[str, _Kept] = {}
        self._superpixels: dict[tuple[str, int], np.ndarray] = {}

    def scan(self, name: str) -> _Kept:
        """Raises DataError for a damaged file and for a scan of one value."""
        if name not in self._scans:
            volume = self.volumes.load(name)
            organs = None
            if volume.labels_ZHW is not None:
                organs = tuple(frozenset(map(int, np.unique(labels_HW))) for labels_HW in volume.labels_ZHW)
            # Greys are bytes in the prepared folder; nothing is lost.
            self._scans[name] = _Kept(volume.image_ZHW.astype(np.uint8), greys_of(volume), organs)
        return self._scans[name]

    def superpixels(self, name: str, z: int) -> np.ndarray:
        """(H, W) of one slice, as `superpixels`."""
        if (name, z) not in self._superpixels:
            parts_HW = superpixels(self.scan(name).image_ZHW[z], self.config)
            self._superpixels[name, z] = parts_HW.astype(np.min_scalar_type(int(parts_HW.max())))
        return self._superpixels[name, z]

    def __repr__(self) -> str:
        return f"Shelf({len(self._scans)} scans, {len(self._superpixels)} slices cut)"


class Episodes:
    """Episode number n of a training: it follows from the seed, n and the scans alone, whatever was drawn before.

    never: class numbers whose slices are never drawn (Setting II of arXiv 2007.09886; none: Setting I). Scans that
    nobody labelled may show them, and are left out where there are such classes. neighbours: as `LearnConfig`'s.
    Raises DataError where no slice is left.
    """

    def __init__(
        self,
        shelf: Shelf,
        names: Sequence[str],
        seed: Sequence[int],
        never: Sequence[int] = (),
        neighbours: int = 0,
    ) -> None:
        self.shelf, self.seed, self.neighbours = shelf, tuple(seed), neighbours
        hidden = frozenset(never)
        self.places: list[tuple[str, int]] = []
        for name in names:
            kept = shelf.scan(name)
            if hidden and kept.organs is None:
                log.warning("%s: without labels, may show what must not be seen; not trained on", name)
                continue
            for z in range(len(kept.image_ZHW)):
                if not hidden or not hidden & kept.organs[z]:
                    self.places.append((name, z))
        if not self.places:
            told = ", ".join(shelf.volumes.classes.get(number, str(number)) for number in sorted(hidden))
            raise DataError(
                f"{shelf.volumes.folder}: no slice of {len(names)} scans is without {told}; make the groups smaller, "
                "or train with --setting I"
            )

    def __getitem__(self, number: int) -> Episode:
        """Raises DataError where slice after slice has no superpixel."""
        random = np.random.default_rng([*self.seed, number])
        for _ in range(EMPTY_SLICES):
            name, z = self.places[random.integers(len(self.places))]
            parts_HW = self.shelf.superpixels(name, z)
            if parts_HW.max():
                break
        else:
            raise DataError(
                f"{self.shelf.volumes.folder}: {EMPTY_SLICES} slices in a row without a superpixel of "
                f"{self.shelf.config.min_size} pixels; lower --episodes.min-size"
            )
        chosen = 1 + int(random.integers(parts_HW.max()))
        kept = self.shelf.scan(name)
        slice_KHW = kept.greys.of(stacked(kept.image_ZHW, [z], self.neighbours)[0])
        looks = two_looks(slice_KHW, parts_HW == chosen, self.shelf.config, random)
        return Episode(number, name, z, chosen, *looks)

    def __len__(self) -> int:
        """Slices that may be drawn."""
        return len(self.places)

    def __repr__(self) -> str:
        return f"Episodes({len({name for name, _ in self.places})} scans, {len(self.places)} slices)"
