"""Decoded views beside their baselines: for each pair, the true view and what decoder and baselines make of it.

P pairs, B pairs of a batch, S side of a picture, J projections, C columns of figures.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...platform.core.seeds import stable_hash
from ...platform.measure.neighbors import nearest
from .decoder import Decoder, psnr, ssim
from .pairs import SYNTHESIZED, ViewTensors, mean_pictures, median_pictures

MIRRORED = ("VD-DV", "DV-VD", "LLAT-RLAT", "RLAT-LLAT")
"""Rows whose two views look along one axis, which is easy; the row `crossed` is all but these."""

BASELINES = ("mean_image", "median_image", "neighbour", "stranger")

COLUMNS = tuple(
    name
    for metric in ("psnr", "ssim")
    for name in (
        metric,
        *(f"{metric}_{baseline}" for baseline in BASELINES),
        *(f"{metric}_minus_{baseline}" for baseline in BASELINES),
    )
)
"""Metrics of a row: the decoder's, the baselines', and by how much the decoder is better than each baseline."""


@dataclass(frozen=True, slots=True, eq=False)
class ComparedPictures:
    """Pictures (B, S, S), 0 black to 1 white, of some pairs: source, truth, where it is, and predictions by name."""

    source: Tensor
    truth: Tensor
    inside: Tensor
    predictions: Mapping[str, Tensor]

    def values(self) -> np.ndarray:
        """COLUMNS of each pair, (B, C) float64."""
        truth_BSS = self.truth.double()
        columns = []
        for metric in (psnr, ssim):
            decoded, *baselines = (
                metric(picture_BSS.double(), truth_BSS, self.inside).numpy()
                for picture_BSS in self.predictions.values()
            )
            columns += [decoded, *baselines, *(decoded - baseline for baseline in baselines)]
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The decoder and the baselines on the pairs (P, 2) of `test`.

    neighbors: (P,) rows of `train`; strangers: (P,) rows of `test`, as `nearest_targets` and `other_patients` give.
    """

    decoder: Decoder
    train: ViewTensors
    test: ViewTensors
    pairs: Tensor
    neighbors: Tensor
    strangers: Tensor

    @property
    def rows(self) -> list[str]:
        """The name of each pair's row."""
        return pair_rows(self.test, self.pairs)

    def pictures(self, batch: int, places: Sequence[int] | None = None) -> Iterator[ComparedPictures]:
        """The pictures of all pairs, or of those at `places`, a batch at a time."""
        places_P = torch.arange(len(self.pairs)) if places is None else torch.tensor(places)
        means_JSS, medians_JSS = mean_pictures(self.train), median_pictures(self.train)
        for places_B in places_P.split(batch):
            pairs_B2, neighbor_B = self.pairs[places_B], self.neighbors[places_B]
            source_B, target_B = pairs_B2.T
            projection_B = self.test.projection[target_B]
            # Where the neighbor's letterbox has bars, the mean stands in: it has no pixels to compare there.
            neighbor_BSS = torch.where(
                self.train.inside[neighbor_B], self.train.gray(neighbor_B), means_JSS[projection_B]
            )
            stranger_pairs_B2 = torch.stack([self.strangers[places_B], target_B], dim=1)
            yield ComparedPictures(
                source=self.test.gray(source_B),
                truth=self.test.gray(target_B),
                inside=self.test.inside[target_B],
                predictions={
                    "decoder": self.decoder.predict(self.test, pairs_B2),
                    "mean_image": means_JSS[projection_B],
                    "median_image": medians_JSS[projection_B],
                    "neighbour": neighbor_BSS,
                    "stranger": self.decoder.predict(self.test, stranger_pairs_B2),
                },
            )

    def panel(self, most: int, title: str) -> bytes:
        """A PNG: for one pair of each row, the source, the truth, and the predictions."""
        places = _example_places(self.test, self.pairs, self.rows, most)
        (pictures,) = self.pictures(len(places), places)
        return _drawn(pictures, [self.rows[place] for place in places], title)


def pair_rows(views: ViewTensors, pairs_P2: Tensor) -> list[str]:
    """The name of each pair's row, such as VD-LLAT."""
    names = [SYNTHESIZED[number] for number in views.projection.tolist()]
    return [f"{names[source]}-{names[target]}" for source, target in pairs_P2.tolist()]


def nearest_targets(train: ViewTensors, test: ViewTensors, train_P2: Tensor, test_P2: Tensor) -> Tensor:
    """For each test pair, (P,): the target view of the train pair of the same row with the nearest source view.

    Nearest by cosine of the CLS token; where a source has several targets, the first.
    """
    banks: dict[str, dict[int, int]] = {}
    for row, (source, target) in zip(pair_rows(train, train_P2), train_P2.tolist(), strict=True):
        banks.setdefault(row, {}).setdefault(source, target)
    rows_P = np.array(pair_rows(test, test_P2))
    target_P = torch.empty(len(test_P2), dtype=torch.int64)
    for row in np.unique(rows_P):
        places = np.flatnonzero(rows_P == row)
        sources, targets = list(banks[row]), torch.tensor(list(banks[row].values()))
        _, nearest_B1 = nearest(train.cls[sources].numpy(), test.cls[test_P2[places, 0]].numpy(), 1)
        target_P[places] = targets[nearest_B1[:, 0]]
    return target_P


def other_patients(views: ViewTensors, pairs_P2: Tensor) -> Tensor:
    """For each pair, (P,): another patient's view of the source's projection, a source of the same row.

    The next one in the order of a hash.
    """
    sources_P, rows_P = pairs_P2[:, 0].tolist(), np.array(pair_rows(views, pairs_P2))
    stranger_P = torch.empty(len(pairs_P2), dtype=torch.int64)
    for row in np.unique(rows_P):
        places = [int(place) for place in np.flatnonzero(rows_P == row)]
        ring = sorted(
            {sources_P[place] for place in places}, key=lambda view: (stable_hash(views.keys[view]), view)
        )
        position = {view: number for number, view in enumerate(ring)}
        for place in places:
            source = sources_P[place]
            following = ring[position[source] + 1 :] + ring[: position[source]]
            stranger_P[place] = next(
                view for view in following if views.patients[view] != views.patients[source]
            )
    return stranger_P


def _example_places(views: ViewTensors, pairs_P2: Tensor, rows_P: Sequence[str], most: int) -> list[int]:
    """Places of the pairs to draw: of each row, crossed ones first, one study chosen by a hash."""
    first: dict[str, int] = {}
    keys = [views.keys[place] for place in pairs_P2[:, 0].tolist()]
    for place in sorted(range(len(keys)), key=lambda place: (stable_hash(rows_P[place], keys[place]), place)):
        first.setdefault(rows_P[place], place)
    order = sorted(first, key=lambda row: (row in MIRRORED, row))
    return [first[row] for row in order[:most]]


def _drawn(pictures: ComparedPictures, rows: Sequence[str], title: str) -> bytes:
    """A grid as PNG: a line for each pair, PSNR and SSIM under the predictions; the truth's bars are black."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    values_BC = pictures.values()
    canvas = Canvas(figsize=(11.0, 0.8 + 1.75 * len(rows)), dpi=100, layout="constrained")
    canvas.suptitle(f"The other view from one view's tokens: {title}", fontsize=11)
    axes = canvas.subplots(len(rows), 2 + len(pictures.predictions), squeeze=False)
    names = ("source", "truth", *(name.replace("_", " ") for name in pictures.predictions))
    predictions = (picture_BSS * pictures.inside for picture_BSS in pictures.predictions.values())
    shown = (pictures.source, pictures.truth, *predictions)
    for line, (row, axes_line) in enumerate(zip(rows, axes, strict=True)):
        source, target = row.split("-")
        captions = [source, target] + [
            f"{values_BC[line, COLUMNS.index('psnr') + place]:.1f} dB, "
            f"{values_BC[line, COLUMNS.index('ssim') + place]:.2f}"
            for place in range(len(pictures.predictions))
        ]
        for ax, name, gray_BSS, caption in zip(axes_line, names, shown, captions, strict=True):
            ax.imshow(gray_BSS[line].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_xlabel(caption, fontsize=8)
            if not line:
                ax.set_title(name, fontsize=10)
    png = io.BytesIO()
    FigureCanvasAgg(canvas).print_png(png)
    return png.getvalue()
