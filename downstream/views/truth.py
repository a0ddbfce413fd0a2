"""The ground truth of generated views: which organs each pixel shows, and where in the animal they lie.

`vetdino phantom` writes a map beside every view: the organs that each pixel's ray passes, and the point of the
densest of them. Shards know a study by a keyed hash alone; with the same key the names of the maps give the same
hashes, so a view is matched to its map without keeping or printing any identifier.

K organs, N patches of a view; h, w sides of a map. Lengths are cm. On the detector u runs to the right and v down
from the middle of the picture; in the animal x runs to its left, y dorsal, z cranial.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import ConfigError, DataError
from ...platform.data.study import Study, View
from ...platform.models.letterbox import letterbox_region

if TYPE_CHECKING:
    from scipy.spatial import cKDTree


@dataclass(frozen=True, slots=True, eq=False)
class ViewTruth:
    """The map of one generated view: what the rays of its pixels pass.

    organs: (K,) names; masks: (K, h, w) bool. points: (h, w, 3) float32 cm in the animal, of the densest organ
    along the ray, NaN outside the animal. step: pixels of the exposed picture for one pixel of the map. frame,
    center, pixel: of the rays, as the generator's `Rays` have them.
    """

    organs: tuple[str, ...]
    masks: np.ndarray
    points: np.ndarray
    step: int
    frame: np.ndarray
    center: np.ndarray
    pixel: float

    @property
    def projection(self) -> str:
        """The projection whose ideal frame is nearest to this one, which is a little tilted."""
        from ...platform.phantom.dog.studies import FRAMES

        return max(FRAMES, key=lambda name: float((self.frame * np.array(FRAMES[name])).sum()))

    def on_detector(self, points_N3: np.ndarray) -> np.ndarray:
        """Where points of the animal lie on the detector, (N, 2) cm: u, v."""
        return ((points_N3 - self.center) @ self.frame.T)[:, :2]

    def exposed_size(self, view: View) -> tuple[float, float]:
        """Rows and columns of the picture as it was exposed, from the view's size and spacing."""
        down, across = _spacing(view)
        rows, columns = view.pixels.shape
        return rows * down / (10 * self.pixel), columns * across / (10 * self.pixel)

    def map_edges(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Edges of the map's rows and columns on the detector, (h + 1,) and (w + 1,) cm."""
        rows, columns = (
            (np.arange(count + 1) * self.step - round(size) / 2) * self.pixel
            for count, size in zip(self.masks.shape[1:], self.exposed_size(view), strict=True)
        )
        return rows, columns

    def fits(self, view: View) -> bool:
        """Whether this can be the view's map: its projection, and a spacing that gives the size of the map.

        An archive writes the pixel spacing with five decimals, and it differs between a study's views; so the map of
        another view would ask for a picture of another size, or of a fractional number of pixels.
        """
        if view.spacing is None or view.projection not in (self.projection, "UNKNOWN", "LATERAL"):
            return False
        if view.projection == "LATERAL" and self.projection not in ("LLAT", "RLAT"):
            return False
        for size, count in zip(self.exposed_size(view), self.masks.shape[1:], strict=True):
            whole, rounding = round(size), 6e-6 / (10 * self.pixel)
            if abs(size - whole) > 0.02 + size * rounding:
                return False
            if -(-(whole - self.step // 2) // self.step) != count:
                return False
        return True

    def __repr__(self) -> str:
        _, height, width = self.masks.shape
        return f"ViewTruth({self.projection}, {len(self.organs)} organs, {height}x{width})"


class TruthArchive:
    """The maps of an archive of generated studies, by the keys of the studies in its shards."""

    def __init__(self, archive: Path, secret: Path) -> None:
        """archive: written by `vetdino phantom`; secret: the key file that its shards were ingested with.

        Raises ConfigError where either is missing.
        """
        from ...platform.ingest.pseudonyms import pseudonym

        self.folder = Path(archive) / "truth"
        if not self.folder.is_dir():
            raise ConfigError(f"{archive}: no truth in it; give the folder that `vetdino phantom` left")
        try:
            key = Path(secret).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{secret}: the key of the pseudonyms cannot be read ({error.strerror}); give the secret that the "
                "shards were ingested with"
            ) from None
        by_study: dict[str, list[tuple[int, Path]]] = {}
        for path in self.folder.glob("*.npz"):
            study, _, number = path.stem.rpartition("_")
            by_study.setdefault(study, []).append((int(number), path))
        # As `platform.ingest` hashes a StudyInstanceUID; from here on there are no clear names.
        self._maps = {pseudonym(key, f"study:{study}"): sorted(maps) for study, maps in by_study.items()}

    def __contains__(self, key: object) -> bool:
        return key in self._maps

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def __repr__(self) -> str:
        return f"TruthArchive({len(self)} studies)"

    def views(self, study: Study) -> list[tuple[View, ViewTruth | None]]:
        """Each view, decoded, with the only map that fits it; None where none or several do.

        Raises DataError for a damaged map.
        """
        maps = [self._read(study.key, path) for _, path in self._maps[study.key]]
        pairs = []
        for view in (stored.decode() for stored in study.views):
            fitting = [truth for truth in maps if truth.fits(view)]
            pairs.append((view, fitting[0] if len(fitting) == 1 else None))
        return pairs

    def _read(self, key: str, path: Path) -> ViewTruth:
        try:
            with np.load(path, allow_pickle=False) as data:
                organs, shape = data["organs"].tolist(), data["shape"].tolist()
                bits = np.unpackbits(data["masks"], count=len(organs) * shape[0] * shape[1])
                return ViewTruth(
                    organs=tuple(organs),
                    masks=bits.reshape(len(organs), *shape).astype(bool),
                    points=data["points"].astype(np.float32),
                    step=int(data["step"]),
                    frame=data["frame"],
                    center=data["centre"],
                    pixel=float(data["pixel"]),
                )
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            raise DataError(  # without the file's name, which is an identifier
                f"{self.folder}: a map of study {key} is damaged; run `vetdino phantom` into a new folder"
            ) from None


@dataclass(frozen=True, slots=True, eq=False)
class PatchTruth:
    """The ground truth of a view's patches, row by row from the top left.

    down, across: (n + 1,) cm, edges of the rows and columns of patches on the detector. points: (N, 3) cm in the
    animal, of the densest organ behind the patch's middle, NaN outside the animal or the picture. animal: (N,)
    share of the patch that shows the animal; organs: (K, N) share that shows each organ.
    """

    truth: ViewTruth
    down: np.ndarray
    across: np.ndarray
    points: np.ndarray
    animal: np.ndarray
    organs: np.ndarray
    box: np.ndarray
    """(2, 2) cm: least and greatest (u, v) of the animal on the detector."""
    tree: cKDTree = field(repr=False)
    """All points of the map, for asking whether this view shows an organ near a point of the animal."""

    @property
    def centers(self) -> np.ndarray:
        """Middles of the patches on the detector, (N, 2) cm: u, v."""
        v, u = (_middles(edges) for edges in (self.down, self.across))
        return np.stack(np.broadcast_arrays(u[None, :], v[:, None]), axis=-1).reshape(-1, 2)

    @property
    def inside(self) -> np.ndarray:
        """Numbers of the patches whose middle shows the animal."""
        return np.flatnonzero(np.isfinite(self.points[:, 0]))

    def relative(self) -> np.ndarray:
        """The position of each patch within the animal's outline, (N, 3) in [0, 1] along x, y, z; NaN along the ray.

        It needs the outline and the projection alone, so a baseline may use it.
        """
        relative_N3 = np.full((len(self.points), 3), np.nan)
        share_N2 = (self.centers - self.box[0]) / (self.box[1] - self.box[0])
        for axis, sign, share_N in zip(*_detector_axes(self.truth), share_N2.T, strict=True):
            relative_N3[:, axis] = share_N if sign > 0 else 1 - share_N
        return relative_N3

    def from_relative(self, relative_Q3: np.ndarray) -> np.ndarray:
        """Where relative positions lie on this detector, (Q, 2) cm; half-way along an unknown axis."""
        axes, signs = _detector_axes(self.truth)
        share_Q2 = np.nan_to_num(relative_Q3[:, axes], nan=0.5)
        share_Q2 = np.where(signs > 0, share_Q2, 1 - share_Q2)
        return self.box[0] + share_Q2 * (self.box[1] - self.box[0])

    def __repr__(self) -> str:
        return (
            f"PatchTruth({self.truth.projection}, {len(self.inside)} of {len(self.points)} show the animal)"
        )


def patch_truth(view: View, truth: ViewTruth, side: int, patch: int) -> PatchTruth:
    """The truth of the patches of a view, letterboxed to side x side pixels and cut into patches of patch x patch.

    A pixel of the map stands for a square of the exposed picture, so that shares are exact sums of overlaps, whatever
    the sizes of picture, stored view, letterbox and map.
    """
    from scipy.spatial import cKDTree

    rows, columns = view.pixels.shape
    top, left, tall, wide = letterbox_region(rows, columns, side)
    edges = np.arange(side // patch + 1) * patch
    row_spacing, column_spacing = _spacing(view)
    down = ((edges - top) / tall - 0.5) * rows * row_spacing / 10
    across = ((edges - left) / wide - 0.5) * columns * column_spacing / 10
    map_down, map_across = truth.map_edges(view)
    animal_hw = np.isfinite(truth.points[..., 0])
    over_v, over_u = _overlap(down, map_down), _overlap(across, map_across)
    layers = np.concatenate([animal_hw[None], truth.masks & animal_hw]).astype(np.float32)
    shares = (over_v @ layers @ over_u.T).reshape(len(layers), -1)
    animal_v, animal_u = np.nonzero(animal_hw)
    low = map_across[animal_u.min()], map_down[animal_v.min()]
    high = map_across[animal_u.max() + 1], map_down[animal_v.max() + 1]
    return PatchTruth(
        truth=truth,
        down=down,
        across=across,
        points=_points_at(truth.points, (map_down, map_across), (_middles(down), _middles(across))),
        animal=shares[0],
        organs=shares[1:],
        box=np.array([low, high]),
        tree=cKDTree(truth.points[animal_hw]),
    )


def _spacing(view: View) -> tuple[float, float]:
    assert view.spacing is not None  # a view without spacing fits no map
    return view.spacing


def _middles(edges: np.ndarray) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2


def _overlap(edges: np.ndarray, finer: np.ndarray) -> np.ndarray:
    """The share of each interval of the first edges that each interval of the second covers, (n, h) float32."""
    upper = np.minimum(edges[1:, None], finer[None, 1:])
    lower = np.maximum(edges[:-1, None], finer[None, :-1])
    return ((upper - lower).clip(0) / np.diff(edges)[:, None]).astype(np.float32)


def _points_at(
    points: np.ndarray, edges: tuple[np.ndarray, np.ndarray], places: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """The points of a map at all pairs of (v, u) places, (N, 3); NaN beyond the map. edges: of its rows and columns."""
    row, column = (
        np.searchsorted(edge, place, side="right") - 1 for edge, place in zip(edges, places, strict=True)
    )
    height, width, _ = points.shape
    beyond = ((row < 0) | (row >= height))[:, None] | ((column < 0) | (column >= width))[None, :]
    picked = points[row.clip(0, height - 1)][:, column.clip(0, width - 1)].astype(np.float64)
    picked[beyond] = np.nan
    return picked.reshape(-1, 3)


def _detector_axes(truth: ViewTruth) -> tuple[np.ndarray, np.ndarray]:
    """(axes, signs) of the animal that u and v run along, (2,) each."""
    axes = np.abs(truth.frame[:2]).argmax(axis=1)
    return axes, np.sign(truth.frame[:2][[0, 1], axes])
