"""View synthesis: how much of another view of the study do the patch tokens of one view hold?

VET-DINO (arXiv 2505.15248) shows pictures of it; here it is measured. A light decoder (`decoder`) learns on the
train split to paint the study's view of another projection at low resolution. It stands beside floors:

* `mean_image` and `median_image` of the wanted projection, the best that one picture for all can do;
* `neighbour`: that projection's view in the train study whose own source view is nearest by its CLS token;
* `stranger`: what the same decoder paints from another patient's view. A decoder that paints one good picture for
  all is as far above the mean as it likes and not above its stranger: this difference alone is about the tokens.

What the weights have learnt shows against the same decoder on the tokens of random weights: ask the random
source too.

V views, P pairs, B pairs of a batch, S side of a picture, J projections, C columns of figures.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.measure.metrics import Figure, Measured, bootstrap_interval
from ...platform.measure.neighbors import nearest
from .pairs import (
    PROJECTIONS,
    Views,
    drawn_pairs,
    gathered,
    hash_of,
    mean_pictures,
    median_pictures,
    pairs_of,
)

if TYPE_CHECKING:
    from torch import Tensor, device

    from ..common.sources import Source
    from .decoder import Decoder

MIRRORED = ("VD-DV", "DV-VD", "LLAT-RLAT", "RLAT-LLAT")
"""Rows whose two views look along one axis, which is easy; the row `crossed` is all but these."""

FLOORS = ("mean_image", "median_image", "neighbour", "stranger")

COLUMNS = tuple(
    name
    for metric in ("psnr", "ssim")
    for name in (
        metric,
        *(f"{metric}_{floor}" for floor in FLOORS),
        *(f"{metric}_minus_{floor}" for floor in FLOORS),
    )
)
"""Metrics of a row: the decoder's, the floors', and by how much the decoder is better than each floor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisConfig:
    """How the decoder is built and taught, and on how much; the defaults take 2 minutes of one core a source."""

    side: int = 64
    """Side of the pictures that are painted and compared, in pixels; a multiple of 8."""
    train_views: int = 2000
    """Most views of train; their tokens stay in memory, as float16. A thousand views take 35 MiB where there are
    144 patches of width 128, 375 MiB where there are 256 of width 768."""
    val_views: int = 200
    """Most views of val."""
    test_views: int = 1600
    """Most views of test."""
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
    """Most passes over the train studies; a pass takes one pair of each."""
    patience: int = 8
    """Passes without a smaller loss on val after which training stops."""
    batch: int = 16
    """Pairs of a step, and views of a pass through the backbone."""
    lr: float = 1e-3
    """Highest learning rate of AdamW."""
    weight_decay: float = 0.05
    """Of AdamW."""
    ssim_weight: float = 0.2
    """Of 1 - SSIM beside the mean absolute error in the loss."""
    panels: int = 8
    """Most rows of the picture, one test pair each; 0 draws none."""


def synthesis(
    source: Source,
    shards: str | Path,
    config: SynthesisConfig | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Measured:
    """PSNR (dB) and SSIM on the test split by ordered pair of projections, beside the floors.

    Rows are `all`, `crossed` (all but MIRRORED) and each of `VD-LLAT`, ...; metrics are COLUMNS: means over a
    row's pairs, inside the letterbox of the true view, with 95 % intervals by bootstrap over patients, paired
    for the differences. Equal arguments give equal figures.

    Raises ConfigError for a source without a backbone or settings that quarrel, FeaturesError where a patient
    is in two splits or the backbone answers with NaN, ShardError for damaged shards.
    """
    config = config or SynthesisConfig()
    _check(source, config)
    bounds = {"train": config.train_views, "val": config.val_views, "test": config.test_views}
    how = {"side": config.side, "batch": config.batch}
    views = {
        name: gathered(source.backbone, shards, name, bound=bound, **how) for name, bound in bounds.items()
    }
    _check_patients(views)
    pairs = {split: pairs_of(part) for split, part in views.items()}
    left_out = _left_out(views, pairs, config.min_pairs)
    facts = _facts(views, pairs)
    test = views["test"]
    asked_P2 = pairs["test"][[row not in left_out for row in _rows(test, pairs["test"])]]
    if not len(asked_P2):
        return Measured((), left_out, facts)
    decoder, taught = _taught(views, pairs, config, seed, source.backbone.mask_token.device)
    contest = _Contest(
        decoder,
        views["train"],
        test,
        asked_P2,
        neighbours=_neighbours(views, pairs["train"], asked_P2),
        strangers=_strangers(test, asked_P2),
    )
    patients_P = [test.patients[place] for place in asked_P2[:, 0].tolist()]
    values_PC = np.concatenate([_values(pictures) for pictures in contest.pictures(config.batch)])
    figures = _figures(source.name, contest.rows, patients_P, values_PC, resamples, seed)
    panel = (
        {f"synthesis_{source.name}.png": contest.panel(config.panels, source.label)} if config.panels else {}
    )
    return Measured(tuple(figures), left_out, {**facts, **taught}, panel)


def _check(source: Source, config: SynthesisConfig) -> None:
    from .decoder import CELL

    if source.backbone is None:
        raise ConfigError(
            f"source '{source.name}' has no backbone, and synthesis decodes patch tokens; leave one of the two out"
        )
    if config.side < 2 * CELL or config.side % CELL:
        raise ConfigError(f"synthesis.side is {config.side}; choose a multiple of {CELL}, such as 64")
    if config.width % config.heads:
        raise ConfigError(
            f"synthesis.width {config.width} is no multiple of synthesis.heads {config.heads}; change one"
        )
    for name in ("train_views", "test_views", "min_pairs", "layers", "epochs", "batch"):
        if getattr(config, name) < 1:
            raise ConfigError(f"synthesis.{name} is {getattr(config, name)}; it must be at least 1")


def _check_patients(views: Mapping[str, Views]) -> None:
    patients = {split: set(part.patients) for split, part in views.items()}
    for one, other in combinations(patients, 2):
        if both := len(patients[one] & patients[other]):
            raise FeaturesError(
                f"{both} patients are in both {one} and {other}, and the decoder would be asked what it was taught; "
                "split by patient with `vetdino ingest`"
            )


def _rows(views: Views, pairs_P2: Tensor) -> list[str]:
    """The name of each pair's row, such as VD-LLAT."""
    names = [PROJECTIONS[number] for number in views.projection.tolist()]
    return [f"{names[source]}-{names[target]}" for source, target in pairs_P2.tolist()]


def _left_out(views: Mapping[str, Views], pairs: Mapping[str, Tensor], fewest: int) -> dict[str, str]:
    """row -> why it cannot be measured."""
    counts = {split: Counter(_rows(views[split], part)) for split, part in pairs.items()}
    patients: dict[str, set[str]] = {}
    for row, source in zip(_rows(views["test"], pairs["test"]), pairs["test"][:, 0].tolist(), strict=True):
        patients.setdefault(row, set()).add(views["test"].patients[source])
    reasons = {}
    for row in map("-".join, permutations(PROJECTIONS, 2)):
        train, test = counts["train"][row], counts["test"][row]
        if min(train, test) < fewest:
            reasons[row] = f"{train} pairs in train and {test} in test, {fewest} are needed in each"
        elif len(patients[row]) < 2:
            reasons[row] = "1 patient in test, 2 are needed"
    return reasons


def _facts(views: Mapping[str, Views], pairs: Mapping[str, Tensor]) -> dict[str, str | int | float]:
    facts = {}
    for split, part in views.items():
        facts[f"{split}_studies"] = len(set(part.keys))
        facts[f"{split}_pairs"] = len(pairs[split])
    return {**facts, "test_patients": len(set(views["test"].patients))}


def _taught(
    views: Mapping[str, Views], pairs: Mapping[str, Tensor], config: SynthesisConfig, seed: int, where: device
) -> tuple[Decoder, dict[str, str | int | float]]:
    """The decoder with the weights that were best on val, and how it came to them."""
    import torch

    from .decoder import Decoder, fit

    train = views["train"]
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(seed)
        decoder = Decoder(
            train.tokens,
            median_pictures(train),
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            dropout=config.dropout,
        ).to(where)
        fitted = fit(
            decoder,
            train,
            lambda epoch: drawn_pairs(train, pairs["train"], seed, epoch),
            views["val"],
            pairs["val"],
            epochs=config.epochs,
            patience=config.patience,
            batch=config.batch,
            lr=config.lr,
            weight_decay=config.weight_decay,
            ssim_weight=config.ssim_weight,
        )
    return decoder, {
        "decoder_parameters": decoder.parameter_count,
        "epochs": fitted.epochs,
        "kept_epoch": fitted.best,
        "kept_because": "best on val" if len(pairs["val"]) else "the last, as val has no pairs",
    }


def _neighbours(views: Mapping[str, Views], bank_P2: Tensor, asked_P2: Tensor) -> Tensor:
    """For each pair asked, (P,): the train view of the wanted projection in the study whose view of the source's
    projection is nearest by cosine of the CLS token; its first one where it has several."""
    import torch

    train, test = views["train"], views["test"]
    banks: dict[str, dict[int, int]] = {}
    for row, (source, target) in zip(_rows(train, bank_P2), bank_P2.tolist(), strict=True):
        banks.setdefault(row, {}).setdefault(source, target)
    rows_P = np.array(_rows(test, asked_P2))
    found_P = torch.empty(len(asked_P2), dtype=torch.int64)
    for row in np.unique(rows_P):
        places = np.flatnonzero(rows_P == row)
        sources, targets = list(banks[row]), torch.tensor(list(banks[row].values()))
        _, nearest_B1 = nearest(train.cls[sources].numpy(), test.cls[asked_P2[places, 0]].numpy(), 1)
        found_P[places] = targets[nearest_B1[:, 0]]
    return found_P


def _strangers(views: Views, asked_P2: Tensor) -> Tensor:
    """For each pair asked, (P,): a view of the source's projection of another patient among the row's own sources,
    the next one in the order of a hash."""
    import torch

    sources_P, rows_P = asked_P2[:, 0].tolist(), np.array(_rows(views, asked_P2))
    found_P = torch.empty(len(asked_P2), dtype=torch.int64)
    for row in np.unique(rows_P):
        places = [int(place) for place in np.flatnonzero(rows_P == row)]
        ring = sorted(
            {sources_P[place] for place in places}, key=lambda view: (hash_of(views.keys[view]), view)
        )
        at = {view: turn for turn, view in enumerate(ring)}
        for place in places:
            own = sources_P[place]
            after = ring[at[own] + 1 :] + ring[: at[own]]
            found_P[place] = next(view for view in after if views.patients[view] != views.patients[own])
    return found_P


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """Pictures (B, S, S), 0 black to 1 white, of some pairs: the truth, where it is, and what is said of it."""

    source: Tensor
    truth: Tensor
    inside: Tensor
    said: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Contest:
    """The decoder and the floors before the pairs (P, 2) of `test`, with each pair's neighbour (P,), a row of
    `train`, and stranger (P,), a row of `test`."""

    decoder: Decoder
    train: Views
    test: Views
    pairs: Tensor
    neighbours: Tensor
    strangers: Tensor

    @property
    def rows(self) -> list[str]:
        return _rows(self.test, self.pairs)

    def pictures(self, batch: int, places: Sequence[int] | None = None) -> Iterator[_Pictures]:
        """What is said of the pairs, or of those at `places`, a batch at a time."""
        import torch

        places_P = torch.arange(len(self.pairs)) if places is None else torch.tensor(places)
        means_JSS, medians_JSS = mean_pictures(self.train), median_pictures(self.train)
        for places_B in places_P.split(batch):
            pairs_B2, neighbour_B = self.pairs[places_B], self.neighbours[places_B]
            source_B, target_B = pairs_B2.T
            wanted_B = self.test.projection[target_B]
            # What a neighbour's letterbox does not show is not held against it.
            neighbour_BSS = torch.where(
                self.train.inside[neighbour_B], self.train.grey(neighbour_B), means_JSS[wanted_B]
            )
            yield _Pictures(
                source=self.test.grey(source_B),
                truth=self.test.grey(target_B),
                inside=self.test.inside[target_B],
                said={
                    "decoder": self.decoder.painted(self.test, pairs_B2),
                    "mean_image": means_JSS[wanted_B],
                    "median_image": medians_JSS[wanted_B],
                    "neighbour": neighbour_BSS,
                    "stranger": self.decoder.painted(
                        self.test, torch.stack([self.strangers[places_B], target_B], dim=1)
                    ),
                },
            )

    def panel(self, most: int, title: str) -> bytes:
        """A PNG: for one pair of each row, the view given, the one wanted, and what is said of it."""
        places = _shown(self.test, self.pairs, self.rows, most)
        (pictures,) = self.pictures(len(places), places)
        return _drawn(pictures, [self.rows[place] for place in places], title)


def _values(pictures: _Pictures) -> np.ndarray:
    """COLUMNS of each pair, (B, C) float64."""
    from .decoder import psnr, ssim

    truth_BSS = pictures.truth.double()
    columns = []
    for metric in (psnr, ssim):
        decoded, *floors = (
            metric(said.double(), truth_BSS, pictures.inside).numpy() for said in pictures.said.values()
        )
        columns += [decoded, *floors, *(decoded - floor for floor in floors)]
    return np.stack(columns, axis=1)


def _figures(
    source: str, rows_P: Sequence[str], patients_P: Sequence[str], values_PC: np.ndarray, n: int, seed: int
) -> Iterator[Figure]:
    """Means over each row's pairs."""
    rows, patients = np.array(rows_P), np.array(patients_P)
    single = [row for row in map("-".join, permutations(PROJECTIONS, 2)) if row in rows_P]
    groups = {"all": np.full(len(rows), True), "crossed": ~np.isin(rows, MIRRORED)}
    groups |= {row: rows == row for row in single}
    for row, inside_P in groups.items():
        value_PC = values_PC[inside_P]
        if not len(value_PC):
            continue
        low_C, high_C = bootstrap_interval(
            lambda weight_RP, value_PC=value_PC: weight_RP @ value_PC / weight_RP.sum(1, keepdims=True),
            patients[inside_P],
            n,
            seed,
        )
        count = len(value_PC)
        for metric, value, low, high in zip(COLUMNS, value_PC.mean(0), low_C, high_C, strict=True):
            yield Figure(metric, row, source, float(value), float(low), float(high), count, count)


def _shown(views: Views, pairs_P2: Tensor, rows_P: Sequence[str], most: int) -> list[int]:
    """Places of the pairs to draw: of each row, crossed ones first, one study that a hash chooses."""
    first: dict[str, int] = {}
    keys = [views.keys[place] for place in pairs_P2[:, 0].tolist()]
    for place in sorted(range(len(keys)), key=lambda place: (hash_of(rows_P[place], keys[place]), place)):
        first.setdefault(rows_P[place], place)
    order = sorted(first, key=lambda row: (row in MIRRORED, row))
    return [first[row] for row in order[:most]]


def _drawn(pictures: _Pictures, rows: Sequence[str], title: str) -> bytes:
    """The grid as PNG: a line for each pair, PSNR and SSIM under what is said; the truth's bars are black."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    values_BC = _values(pictures)
    sheet = Sheet(figsize=(11.0, 0.8 + 1.75 * len(rows)), dpi=100, layout="constrained")
    sheet.suptitle(f"The other view from one view's tokens: {title}", fontsize=11)
    axes = sheet.subplots(len(rows), 2 + len(pictures.said), squeeze=False)
    names = ("source", "truth", *(name.replace("_", " ") for name in pictures.said))
    shown = (pictures.source, pictures.truth, *(said * pictures.inside for said in pictures.said.values()))
    for line, (row, axes_line) in enumerate(zip(rows, axes, strict=True)):
        source, target = row.split("-")
        captions = [source, target] + [
            f"{values_BC[line, COLUMNS.index('psnr') + place]:.1f} dB, "
            f"{values_BC[line, COLUMNS.index('ssim') + place]:.2f}"
            for place in range(len(pictures.said))
        ]
        for ax, name, grey_BSS, caption in zip(axes_line, names, shown, captions, strict=True):
            ax.imshow(grey_BSS[line].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_xlabel(caption, fontsize=8)
            if not line:
                ax.set_title(name, fontsize=10)
    written = io.BytesIO()
    FigureCanvasAgg(sheet).print_png(written)
    return written.getvalue()
