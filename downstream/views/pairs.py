"""Training data of view synthesis: views as patch tokens and small pictures, and pairs of views of one study.

V views, P pairs, N patches, D width of a token, S side of a picture, J projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import FeaturesError, ShardError
from ...platform.core.progress import Progress
from ...platform.core.seeds import stable_hash
from ...platform.data.index import StudyIndex
from ...platform.data.manifest import load_manifest
from ...platform.data.study import Study, View
from ...platform.models.letterbox import letterbox_region, letterboxed

if TYPE_CHECKING:
    from torch import Tensor

    from ...platform.models.backbone import Backbone

SYNTHESIZED = ("VD", "DV", "LLAT", "RLAT")
"""Projections that are decoded into one another; `ViewTensors.projection` holds places in this list."""

SMALLEST = 7
"""Shortest side of a view worth comparing, in pixels of the small picture: SSIM's window."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewTensors:
    """Views as inputs and targets of the decoder, one row each, the views of a study adjacent.

    keys, patients: (V,) of the study. projection: (V,) int64, a number of 0..J-1. tokens: (V, N, D) float16.
    cls: (V, D) float32. pictures: (V, S, S) uint8, letterboxed. inside: (V, S, S) bool, false on the bars.
    """

    keys: tuple[str, ...]
    patients: tuple[str, ...]
    projection: Tensor
    tokens: Tensor
    cls: Tensor
    pictures: Tensor
    inside: Tensor

    def gray(self, rows: Tensor) -> Tensor:
        """The pictures of these views, 0 black to 1 white, float32."""
        return self.pictures[rows].float() / 255

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"ViewTensors({len(self)} of {len(set(self.keys))} studies)"


def load_view_tensors(
    backbone: Backbone, shards: str | Path, split: str, *, most: int, side: int, batch: int
) -> ViewTensors:
    """Tokens and pictures (side x side) of a split's views: whole studies, at most `most` views.

    Studies come in the order of a hash of their keys: the same ones wherever they are in the shards. Used are views
    of SYNTHESIZED projections, of studies that have two of these, except views with nothing to compare: of one even
    gray, or thinner than SMALLEST once resized. Raises ShardError for damaged shards, FeaturesError for a backbone
    with non-finite outputs.
    """
    import torch

    count = min(most, sum(shard.views for shard in load_manifest(shards).of(split)))
    # Memory is used as rows are written, so that a limit beyond what there is costs nothing.
    tokens_VND = torch.empty(
        count, (backbone.side // backbone.patch) ** 2, backbone.width, dtype=torch.float16
    )
    cls_VD = torch.empty(count, backbone.width)
    pictures_VSS = torch.empty(count, side, side, dtype=torch.uint8)
    inside_VSS = torch.empty(count, side, side, dtype=torch.bool)
    rows: list[tuple[str, str, int]] = []
    views = _usable_views(shards, split, count, side)
    with Progress(f"synthesis: tokens of {split}", count, unit="views") as progress:
        while group := list(islice(views, batch)):
            block = slice(len(rows), len(rows) + len(group))
            pixels = [view.pixels for _, view in group]
            tokens = backbone.tokens(backbone.prepare_many(pixels))
            tokens_VND[block], cls_VD[block] = tokens.patches.cpu(), tokens.cls.cpu()
            pictures_VSS[block] = torch.from_numpy(np.stack([letterboxed(one, side) for one in pixels]))
            inside_VSS[block] = torch.from_numpy(np.stack([_inside(one, side) for one in pixels]))
            rows += [(study.key, study.patient, SYNTHESIZED.index(view.projection)) for study, view in group]
            progress.advance(len(group))
        progress.total = progress.done  # the limit may not have been reached
    filled = slice(len(rows))
    if not (tokens_VND[filled].isfinite().all() and cls_VD[filled].isfinite().all()):
        raise FeaturesError(f"non-finite outputs of the backbone on views of {split}; check the backbone")
    return ViewTensors(
        keys=tuple(key for key, _, _ in rows),
        patients=tuple(patient for _, patient, _ in rows),
        projection=torch.tensor([projection for _, _, projection in rows], dtype=torch.int64),
        tokens=tokens_VND[filled],
        cls=cls_VD[filled],
        pictures=pictures_VSS[filled],
        inside=inside_VSS[filled],
    )


def _usable_views(shards: str | Path, split: str, most: int, side: int) -> Iterator[tuple[Study, View]]:
    """Studies with their decoded views, one by one, until a study has more views than are left of `most`."""
    index = StudyIndex(shards, split)
    for row in _rows_with_pairs(index):
        study = index.load(row)
        wanted = [number for number, view in enumerate(study.views) if view.projection in SYNTHESIZED]
        views = [view for view in (_decoded(study, number) for number in wanted) if _has_content(view, side)]
        if len({view.projection for view in views}) < 2:
            continue
        most -= len(views)
        if most < 0:
            return
        yield from ((study, view) for view in views)


def _rows_with_pairs(index: StudyIndex) -> np.ndarray:
    """The studies with two SYNTHESIZED projections, in the order of a hash of their keys."""
    hashes, rows = [], []
    for row, (key, projections) in enumerate(index.each("key", "projections")):
        if len(set(projections.split()).intersection(SYNTHESIZED)) > 1:
            hashes.append(stable_hash(key))
            rows.append(row)
    return np.array(rows, np.int64)[np.argsort(np.array(hashes, np.uint64), kind="stable")]


def _decoded(study: Study, number: int) -> View:
    try:
        return study.view(number)
    except (OSError, ValueError):
        raise ShardError(
            f"study {study.key}: view {number} is no picture; ingest the archive again"
        ) from None


def _has_content(view: View, side: int) -> bool:
    *_, rows, columns = letterbox_region(view.pixels.shape[0], view.pixels.shape[1], side)
    return min(rows, columns) >= SMALLEST and bool(view.pixels.min() < view.pixels.max())


def _inside(pixels: np.ndarray, side: int) -> np.ndarray:
    """(S, S) bool, true where the letterboxed view has pixels of its own."""
    top, left, rows, columns = letterbox_region(pixels.shape[0], pixels.shape[1], side)
    inside_SS = np.zeros((side, side), bool)
    inside_SS[top : top + rows, left : left + columns] = True
    return inside_SS


def study_pairs(views: ViewTensors) -> Tensor:
    """All ordered pairs (P, 2) of views of one study with different projections, source first, as rows of `views`."""
    import torch

    pairs: list[tuple[int, int]] = []
    projection_V = views.projection.tolist()
    for _, group in groupby(range(len(views)), key=lambda row: views.keys[row]):
        pairs += [(i, j) for i, j in permutations(group, 2) if projection_V[i] != projection_V[j]]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def epoch_pairs(views: ViewTensors, pairs_P2: Tensor, seed: int, epoch: int) -> Tensor:
    """One pair of each study in the order of an epoch, (studies, 2): a function of seed, epoch and keys alone."""
    by_study: dict[str, list[int]] = {}
    for place, source in enumerate(pairs_P2[:, 0].tolist()):
        by_study.setdefault(views.keys[source], []).append(place)
    order = sorted(by_study, key=lambda key: stable_hash(seed, epoch, key, "order"))
    return pairs_P2[[by_study[key][stable_hash(seed, epoch, key) % len(by_study[key])] for key in order]]


def mean_pictures(views: ViewTensors) -> Tensor:
    """Each projection's mean picture over what is inside the letterboxes, (J, S, S) float32 in 0..1.

    Where no view of a projection has pixels, it is their mean over all places; without views, black.
    """
    return _typical_pictures(views, lambda x_VX: x_VX.nanmean(0))


def median_pictures(views: ViewTensors) -> Tensor:
    """The same with medians (of two in the middle, the lower): the constant picture of least absolute error."""
    return _typical_pictures(views, lambda x_VX: x_VX.nanmedian(0).values)


def _typical_pictures(views: ViewTensors, typical: Callable[[Tensor], Tensor]) -> Tensor:
    """`typical`: (V, X) float64, NaN on the bars -> (X,)."""
    import torch

    pictures = []
    for number in range(len(SYNTHESIZED)):
        rows = (views.projection == number).nonzero()[:, 0]
        if not len(rows):
            pictures.append(torch.zeros(views.pictures.shape[1:]))
            continue
        gray_VX = views.gray(rows).double().where(views.inside[rows], torch.nan).flatten(1)
        picture_X = typical(gray_VX)
        overall = typical(gray_VX.flatten()[:, None])
        pictures.append(picture_X.where(~picture_X.isnan(), overall).view(views.pictures.shape[1:]).float())
    return torch.stack(pictures)
