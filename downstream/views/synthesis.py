"""View synthesis: how much of another view of the study do the patch tokens of one view hold?

VET-DINO (arXiv 2505.15248) shows pictures of it; here it is measured. A light decoder (`decoder`) learns on the
train split to predict the study's view of another projection at low resolution. Its baselines:

* `mean_image` and `median_image` of the target projection, the best that one picture for all can be;
* `neighbour`: the target view of the train study whose source view is nearest by its CLS token;
* `stranger`: what the same decoder predicts from another patient's view. A decoder that predicts one good picture for
  all can be far above the mean, but not above its stranger: this difference alone is about the tokens.

What pretraining adds shows against the same decoder on tokens of random weights: measure the random source, too.

P pairs, C columns of figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.measure.bootstrap import bootstrap_interval
from ...platform.measure.results import Measurements, MetricValue
from .comparison import COLUMNS, MIRRORED, Comparison, nearest_targets, other_patients, pair_rows
from .config import SynthesisConfig
from .decoder import Decoder, fit_decoder
from .pairs import (
    SYNTHESIZED,
    ViewTensors,
    epoch_pairs,
    load_view_tensors,
    median_pictures,
    study_pairs,
)

if TYPE_CHECKING:
    from ..common.sources import Source

ROWS = tuple(map("-".join, permutations(SYNTHESIZED, 2)))
"""Ordered pairs of projections, such as VD-LLAT."""


def synthesis(
    source: Source,
    shards: str | Path,
    config: SynthesisConfig | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Measurements:
    """PSNR (dB) and SSIM on the test split by ordered pair of projections, beside the baselines.

    Rows are `all`, `crossed` (all but MIRRORED) and each of ROWS; metrics are COLUMNS: means over a row's pairs,
    inside the letterbox of the true view, with 95 % intervals by bootstrap over patients, paired for the differences.
    Equal arguments give equal figures.

    Raises ConfigError for a source without a backbone or settings out of range, FeaturesError where a patient
    is in two splits or the backbone has non-finite outputs, ShardError for damaged shards.
    """
    config = config or SynthesisConfig()
    if source.backbone is None:
        raise ConfigError(
            f"source '{source.name}' has no backbone, and synthesis decodes patch tokens; leave one of the two out"
        )
    config.check()
    limits = {"train": config.train_views, "val": config.val_views, "test": config.test_views}
    views = {
        split: load_view_tensors(
            source.backbone, shards, split, most=most, side=config.side, batch=config.batch
        )
        for split, most in limits.items()
    }
    _check_patients(views)
    pairs = {split: study_pairs(part) for split, part in views.items()}
    left_out = _left_out(views, pairs, config.min_pairs)
    facts = _facts(views, pairs)
    train, test = views["train"], views["test"]
    test_P2 = pairs["test"][[row not in left_out for row in pair_rows(test, pairs["test"])]]
    if not len(test_P2):
        return Measurements((), left_out, facts)
    decoder, fit_facts = _fitted_decoder(views, pairs, config, seed, source.backbone.device)
    comparison = Comparison(
        decoder,
        train,
        test,
        test_P2,
        neighbors=nearest_targets(train, test, pairs["train"], test_P2),
        strangers=other_patients(test, test_P2),
    )
    patients_P = [test.patients[place] for place in test_P2[:, 0].tolist()]
    values_PC = np.concatenate([pictures.values() for pictures in comparison.pictures(config.batch)])
    figures = _figures(source.name, comparison.rows, patients_P, values_PC, resamples, seed)
    pictures = {}
    if config.panels:
        pictures[f"synthesis_{source.name}.png"] = comparison.panel(config.panels, source.label)
    return Measurements(tuple(figures), left_out, {**facts, **fit_facts}, pictures)


def _check_patients(views: Mapping[str, ViewTensors]) -> None:
    patients = {split: set(part.patients) for split, part in views.items()}
    for one, other in combinations(patients, 2):
        if both := len(patients[one] & patients[other]):
            raise FeaturesError(
                f"{both} patients are in both {one} and {other}, and the decoder would be tested on what it has seen; "
                "split by patient with `vetdino ingest`"
            )


def _left_out(views: Mapping[str, ViewTensors], pairs: Mapping[str, Tensor], fewest: int) -> dict[str, str]:
    """row -> why it cannot be measured."""
    rows = {split: pair_rows(views[split], part) for split, part in pairs.items()}
    counts = {split: Counter(names) for split, names in rows.items()}
    patients: dict[str, set[str]] = {}
    for row, source in zip(rows["test"], pairs["test"][:, 0].tolist(), strict=True):
        patients.setdefault(row, set()).add(views["test"].patients[source])
    reasons = {}
    for row in ROWS:
        train, test = counts["train"][row], counts["test"][row]
        if min(train, test) < fewest:
            reasons[row] = f"{train} pairs in train and {test} in test, {fewest} are needed in each"
        elif len(patients[row]) < 2:
            reasons[row] = "1 patient in test, 2 are needed"
    return reasons


def _facts(views: Mapping[str, ViewTensors], pairs: Mapping[str, Tensor]) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {}
    for split, part in views.items():
        facts[f"{split}_studies"] = len(set(part.keys))
        facts[f"{split}_pairs"] = len(pairs[split])
    return {**facts, "test_patients": len(set(views["test"].patients))}


def _fitted_decoder(
    views: Mapping[str, ViewTensors],
    pairs: Mapping[str, Tensor],
    config: SynthesisConfig,
    seed: int,
    where: torch.device,
) -> tuple[Decoder, dict[str, str | int | float]]:
    """The decoder with the weights that were best on val, and facts of its training."""
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
        fit = fit_decoder(
            decoder,
            train,
            lambda epoch: epoch_pairs(train, pairs["train"], seed, epoch),
            views["val"],
            pairs["val"],
            config,
        )
    return decoder, {
        "decoder_parameters": decoder.parameter_count,
        "epochs": fit.epochs,
        "kept_epoch": fit.best,
        "kept_because": "best on val" if len(pairs["val"]) else "the last, as val has no pairs",
    }


def _figures(
    source: str,
    rows_P: Sequence[str],
    patients_P: Sequence[str],
    values_PC: np.ndarray,
    resamples: int,
    seed: int,
) -> Iterator[MetricValue]:
    """Means over each row's pairs."""
    rows, patients = np.array(rows_P), np.array(patients_P)
    groups = {"all": np.full(len(rows), True), "crossed": ~np.isin(rows, MIRRORED)}
    groups |= {row: rows == row for row in ROWS if row in rows_P}
    for row, group_P in groups.items():
        value_PC = values_PC[group_P]
        if not len(value_PC):
            continue
        low_C, high_C = bootstrap_interval(
            partial(_weighted_means, value_PC),
            patients[group_P].tolist(),
            resamples,
            seed,
        )
        count = len(value_PC)
        for metric, value, low, high in zip(COLUMNS, value_PC.mean(0), low_C, high_C, strict=True):
            yield MetricValue(metric, row, source, float(value), float(low), float(high), count, count)


def _weighted_means(value_PC: np.ndarray, weight_RP: np.ndarray) -> np.ndarray:
    return weight_RP @ value_PC / weight_RP.sum(1, keepdims=True)
