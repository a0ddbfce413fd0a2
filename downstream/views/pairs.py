"""What view synthesis is taught from: views as patch tokens and small pictures, and pairs of one study.

V views, P pairs, N patches, D width of a token, S side of a picture, J projections.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import FeaturesError, ShardError
from ...platform.core.progress import Progress
from ...platform.data.shards import StudyIndex, load_manifest
from ...platform.data.study import Study, View

if TYPE_CHECKING:
    from torch import Tensor

    from ...platform.models.backbone import Backbone

PROJECTIONS = ("VD", "DV", "LLAT", "RLAT")
"""Those that are decoded into one another; a number in `Views.projection` is a place in this list."""

SMALLEST = 7
"""Shortest side of a view worth comparing, in pixels of the small picture: SSIM's window."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What the decoder is taught from and asked about: a row for each view, the views of a study together.

    keys, patients: (V,) of the study. projection: (V,) int64, a number of 0..J-1. tokens: (V, N, D) float16.
    cls: (V, D) float32. pictures: (V, S, S) uint8, letterboxed. inside: (V, S, S) bool, true off the bars.
    """

    keys: tuple[str, ...]
    patients: tuple[str, ...]
    projection: Tensor
    tokens: Tensor
    cls: Tensor
    pictures: Tensor
    inside: Tensor

    def grey(self, rows: Tensor) -> Tensor:
        """The pictures of these views, 0 black to 1 white, float32."""
        return self.pictures[rows].float() / 255

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Views({len(self)} of {len(set(self.keys))} studies)"


def gathered(
    backbone: Backbone, shards: str | Path, split: str, *, bound: int, side: int, batch: int
) -> Views:
    """Tokens and pictures (side x side) of the views of a split's studies, whole studies of `bound` views at most.

    Studies come in the order of a hash of their keys: the same ones wherever they lie in the shards. Taken are
    views of PROJECTIONS, of studies that have two of these, but for those with nothing to compare: one even
    grey, or thinner than SMALLEST once reduced. Raises ShardError for damaged shards, FeaturesError for a
    backbone that answers with NaN.
    """
    import torch

    from ...platform.models.backbone import letterboxed

    count = min(bound, sum(shard.views for shard in load_manifest(shards).of(split)))
    # Memory is taken as rows are written, so that a bound beyond what there is costs nothing.
    tokens_VND = torch.empty(
        count, (backbone.side // backbone.patch) ** 2, backbone.width, dtype=torch.float16
    )
    cls_VD = torch.empty(count, backbone.width)
    pictures_VSS = torch.empty(count, side, side, dtype=torch.uint8)
    inside_VSS = torch.empty(count, side, side, dtype=torch.bool)
    told: list[tuple[str, str, int]] = []
    usable = _usable(shards, split, count, side)
    with Progress(f"synthesis: tokens of {split}", count, unit="views") as progress:
        while group := list(islice(usable, batch)):
            rows = slice(len(told), len(told) + len(group))
            pixels = [view.pixels for _, view in group]
            tokens = backbone.tokens(backbone.prepare_many(pixels))
            tokens_VND[rows], cls_VD[rows] = tokens.patches.cpu(), tokens.cls.cpu()
            pictures_VSS[rows] = torch.from_numpy(np.stack([letterboxed(one, side) for one in pixels]))
            inside_VSS[rows] = torch.from_numpy(np.stack([_inside(one, side) for one in pixels]))
            told += [(study.key, study.patient, PROJECTIONS.index(view.projection)) for study, view in group]
            progress.advance(len(group))
        progress.total = progress.done  # the bound may not have been reached
    filled = slice(len(told))
    if not (tokens_VND[filled].isfinite().all() and cls_VD[filled].isfinite().all()):
        raise FeaturesError(f"the backbone answers views of {split} with NaN or infinity; check the backbone")
    keys, patients, projections = zip(*told, strict=True) if told else ((), (), ())
    projection_V = torch.tensor(projections, dtype=torch.int64)
    held = (table[filled] for table in (tokens_VND, cls_VD, pictures_VSS, inside_VSS))
    return Views(keys, patients, projection_V, *held)


def _usable(shards: str | Path, split: str, bound: int, side: int) -> Iterator[tuple[Study, View]]:
    """Studies with their decoded views, one by one, until a study would not fit in `bound` any more."""
    index = StudyIndex(shards, split)
    keys = index.keys()
    for place in sorted(range(len(index)), key=lambda place: hash_of(keys[place])):
        study = index.load(place)
        wanted = [number for number, view in enumerate(study.views) if view.projection in PROJECTIONS]
        if len({study.views[number].projection for number in wanted}) < 2:
            continue
        views = [view for view in (_decoded(study, number) for number in wanted) if _has_content(view, side)]
        if len({view.projection for view in views}) < 2:
            continue
        bound -= len(views)
        if bound < 0:
            return
        yield from ((study, view) for view in views)


def _decoded(study: Study, number: int) -> View:
    try:
        return study.view(number)
    except (OSError, ValueError):
        raise ShardError(
            f"study {study.key}: view {number} is no picture; ingest the archive again"
        ) from None


def _has_content(view: View, side: int) -> bool:
    from ...platform.models.backbone import letterbox_of

    *_, rows, columns = letterbox_of(*view.pixels.shape, side)
    return min(rows, columns) >= SMALLEST and view.pixels.min() < view.pixels.max()


def _inside(pixels: np.ndarray, side: int) -> np.ndarray:
    """(S, S) bool, true where the letterboxed view has pixels of its own."""
    from ...platform.models.backbone import letterbox_of

    top, left, rows, columns = letterbox_of(*pixels.shape, side)
    inside_SS = np.zeros((side, side), bool)
    inside_SS[top : top + rows, left : left + columns] = True
    return inside_SS


def hash_of(*words: object) -> int:
    """A number of 0..2^64-1 that is the same in every process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8])


def pairs_of(views: Views) -> Tensor:
    """All ordered pairs (P, 2) of views of one study whose projections differ, source first, as rows of `views`."""
    import torch

    pairs = []
    projection_V = views.projection.tolist()
    for _, group in groupby(range(len(views)), key=lambda row: views.keys[row]):
        pairs += [(i, j) for i, j in permutations(group, 2) if projection_V[i] != projection_V[j]]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def drawn_pairs(views: Views, pairs_P2: Tensor, seed: int, epoch: int) -> Tensor:
    """One pair of each study in the order of an epoch, (studies, 2): a function of seed, epoch and keys alone."""
    of_study: dict[str, list[int]] = {}
    for place, source in enumerate(pairs_P2[:, 0].tolist()):
        of_study.setdefault(views.keys[source], []).append(place)
    order = sorted(of_study, key=lambda key: hash_of(seed, epoch, key, "order"))
    return pairs_P2[[of_study[key][hash_of(seed, epoch, key) % len(of_study[key])] for key in order]]


def mean_pictures(views: Views) -> Tensor:
    """Each projection's mean picture over what lies inside the letterboxes, (J, S, S) float32 in 0..1.

    Where no view of a projection has pixels stands the mean over all places; without views, black.
    """
    return _pictures(views, lambda x_VX: x_VX.nanmean(0))


def median_pictures(views: Views) -> Tensor:
    """The same of medians (of two in the middle, the lower): the constant answer of least absolute error."""
    return _pictures(views, lambda x_VX: x_VX.nanmedian(0).values)


def _pictures(views: Views, typical: Callable[[Tensor], Tensor]) -> Tensor:
    """`typical`: (V, X) float64, NaN where there is nothing to see -> (X,)."""
    import torch

    pictures = []
    for number in range(len(PROJECTIONS)):
        rows = (views.projection == number).nonzero()[:, 0]
        if not len(rows):
            pictures.append(torch.zeros(views.pictures.shape[1:]))
            continue
        seen_VX = views.grey(rows).double().where(views.inside[rows], torch.nan).flatten(1)
        picture_X = typical(seen_VX)
        overall = typical(seen_VX.flatten()[:, None])
        pictures.append(picture_X.where(~picture_X.isnan(), overall).view(views.pictures.shape[1:]).float())
    return torch.stack(pictures)
