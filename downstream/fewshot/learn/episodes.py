"""Self-supervised episodes: a superpixel of a slice, augmented twice, is the organ of one training step.

Ouyang et al., arXiv 2007.09886, section 3.2; Ayzenberg et al., arXiv 2403.03273, use them, too. One slice, one of its
superpixels (see `superpixels`), two augmentations of both (see `augmentation`): the support and the query.
"""

# Z slices of a scan, H, W rows and columns, K a slice with its neighbors.

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....platform.core.errors import DataError
from ...volumes.volume import Volumes
from ..method.slices import IntensityScale, intensity_scale
from .augmentation import AugmentedSlice, augmented_pair
from .config import EpisodeConfig
from .encoder import with_neighbors
from .superpixels import superpixels

EMPTY_SLICES = 1000
"""After so many slices in a row without a superpixel, drawing gives up."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """Support and query of one training step, and the scan, slice and superpixel that they were cut from."""

    number: int
    scan: str
    slice: int
    superpixel: int
    support: AugmentedSlice
    query: AugmentedSlice

    def __repr__(self) -> str:
        return f"Episode({self.number}, scan {self.scan}, slice {self.slice}, superpixel {self.superpixel})"


@dataclass(frozen=True, slots=True, eq=False)
class _CachedScan:
    """A scan as training needs it. organs: class numbers in each slice; None if the scan has no labels."""

    image_ZHW: np.ndarray
    intensity: IntensityScale
    organs: tuple[frozenset[int], ...] | None


class EpisodeScans:
    """Scans of a prepared folder, each loaded once, and superpixels, cut once per slice.

    Both stay in memory as uint8: a scan of 100 slices of 256 x 256 pixels takes at most 13 MB.
    """

    def __init__(self, volumes: Volumes, config: EpisodeConfig) -> None:
        self.volumes, self.config = volumes, config
        self._scans: dict[str, _CachedScan] = {}
        self._superpixels: dict[tuple[str, int], np.ndarray] = {}

    def scan(self, name: str) -> _CachedScan:
        """One scan. Raises DataError for a damaged file and for a scan with one gray value."""
        if name not in self._scans:
            volume = self.volumes.load(name)
            organs = None
            if volume.labels_ZHW is not None:
                organs = tuple(frozenset(map(int, np.unique(labels_HW))) for labels_HW in volume.labels_ZHW)
            # Gray values are integers in the prepared folder; uint8 loses nothing.
            self._scans[name] = _CachedScan(
                volume.image_ZHW.astype(np.uint8), intensity_scale(volume), organs
            )
        return self._scans[name]

    def superpixels(self, name: str, z: int) -> np.ndarray:
        """(H, W) of one slice, see `superpixels`."""
        if (name, z) not in self._superpixels:
            labels_HW = superpixels(self.scan(name).image_ZHW[z], self.config)
            self._superpixels[name, z] = labels_HW.astype(np.min_scalar_type(int(labels_HW.max())))
        return self._superpixels[name, z]

    def __repr__(self) -> str:
        return f"EpisodeScans({len(self._scans)} scans, {len(self._superpixels)} slices cut)"


class Episodes:
    """Episodes by number: episode n depends on the seed, n and the scans only, not on what was drawn before.

    exclude: class numbers whose slices are never drawn (Setting II of arXiv 2007.09886; none: Setting I). Scans without
    labels may show them and are left out if there are such classes. neighbors: as `LearnConfig.neighbours`. Raises
    DataError if no slice is left.
    """

    def __init__(
        self,
        scans: EpisodeScans,
        names: Sequence[str],
        seed: Sequence[int],
        exclude: Sequence[int] = (),
        neighbors: int = 0,
    ) -> None:
        self.scans, self.seed, self.neighbors = scans, tuple(seed), neighbors
        excluded = frozenset(exclude)
        self.slices: list[tuple[str, int]] = []
        for name in names:
            organs = scans.scan(name).organs
            if excluded and organs is None:
                log.warning("%s: has no labels and may show an excluded organ; not trained on", name)
                continue
            for z in range(len(scans.scan(name).image_ZHW)):
                if not organs or not excluded & organs[z]:
                    self.slices.append((name, z))
        if not self.slices:
            classes = ", ".join(scans.volumes.classes.get(n, str(n)) for n in sorted(excluded))
            raise DataError(
                f"{scans.volumes.folder}: no slice of {len(names)} scans is without {classes}; make the groups "
                "smaller, or train with --setting I"
            )

    def __getitem__(self, number: int) -> Episode:
        """The number-th episode. Raises DataError if `EMPTY_SLICES` slices in a row have no superpixel."""
        random = np.random.default_rng([*self.seed, number])
        for _ in range(EMPTY_SLICES):
            name, z = self.slices[random.integers(len(self.slices))]
            labels_HW = self.scans.superpixels(name, z)
            if labels_HW.max():
                break
        else:
            raise DataError(
                f"{self.scans.volumes.folder}: {EMPTY_SLICES} slices in a row without a superpixel of "
                f"{self.scans.config.min_size} pixels; lower --episodes.min-size"
            )
        superpixel = 1 + int(random.integers(labels_HW.max()))
        scan = self.scans.scan(name)
        slice_KHW = scan.intensity.apply(with_neighbors(scan.image_ZHW, [z], self.neighbors)[0])
        pair = augmented_pair(slice_KHW, labels_HW == superpixel, self.scans.config, random)
        return Episode(number, name, z, superpixel, *pair)

    def __len__(self) -> int:
        """Number of slices that may be drawn."""
        return len(self.slices)

    def __repr__(self) -> str:
        return f"Episodes({len({name for name, _ in self.slices})} scans, {len(self.slices)} slices)"
