"""Consistency: does a backbone see the patient through every projection? Four measures, with baselines and ceilings.

Retrieval finds the other view of a study among those of all other patients, as the vectors lie and after a linear map
that train studies were fitted with. Leak decodes the projection, and how a
file was made, from the vectors, beside findings. On generated studies, whose ground truth is known, also patches (do
the tokens of one view find the same place of the animal in another?) and attention (does a head attend to an organ,
and the same head to the same organ from the side?).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import ConfigError, DataError, FeaturesError
from ...platform.core.location import Location
from ...platform.core.progress import track
from ...platform.data.index import StudyIndex
from ...platform.data.study import Study, View
from ...platform.measure.results import Measurements
from .attention import OrganOverlap, attention_figures, organ_overlap
from .attention_panel import attention_panel
from .config import ConsistencyConfig
from .correspondence import PatchMatches, patch_figures, patch_matches
from .intervals import PatientBootstrap, merged
from .leak import leak
from .linear_retrieval import linear_retrieval
from .retrieval import retrieval
from .stability import UPRIGHT
from .tokenized import TokenizedView, tokenized_views
from .truth import TruthArchive, ViewTruth
from .vectors import chosen_keys, key_hash, pair_name, view_vectors

if TYPE_CHECKING:
    from ..common.sources import Source

PANEL_VIEWS = 4
"""Views in the picture of attention: of two studies, one from above and one from the side each."""


def consistency(
    source: Source,
    shards: str | Path,
    config: ConsistencyConfig | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Measurements:
    """All four measures of a source on the test split; what does not apply to a source is named in `left_out`.

    Rows are pairs of projections (`VD-LLAT`, both directions together; `all`: those of two different projections),
    organs, or what is decoded. Of every figure `present` counts patients and `known` items: queries, patches, views.
    Chance, baselines and ceilings are columns of their own, such as `recall_at_10_chance`. Studies are chosen by a
    hash of their keys. Raises FeaturesError for an empty test split or a patient in two splits, ConfigError and
    DataError for truth that is missing or of other studies.
    """
    config = config or ConsistencyConfig()
    features = source.features(level="view")
    most = {"train": config.train_studies, "val": config.train_studies, "test": config.studies}
    views = {split: view_vectors(features, shards, split, count, seed) for split, count in most.items()}
    if not len(views["test"].features):
        raise FeaturesError(f"{shards}: no studies in the test split; ingest more patients")
    bootstrap = PatientBootstrap(source.name, resamples, seed)
    measured = merged(
        [
            retrieval(views["test"], bootstrap),
            linear_retrieval(views, bootstrap),
            leak(views, config.strengths, bootstrap),
            against_truth(source, shards, config, bootstrap),
        ]
    )
    return replace(measured, resamples=bootstrap.kept)


def against_truth(
    source: Source, shards: str | Path, config: ConsistencyConfig, bootstrap: PatientBootstrap
) -> Measurements:
    """Patches and attention, where the truth is given and the source has patches."""
    if config.truth is None:
        reason = "no truth given (consistency.truth); it comes with generated studies"
        return Measurements((), {"patches": reason, "attention": reason})
    if source.backbone is None and not source.digest.startswith("pixels"):
        reason = f"{source.label} have no patches"
        return Measurements((), {"patches": reason, "attention": reason})
    truths = open_truth(shards, config)
    matches: dict[str, list[tuple[str, PatchMatches]]] = defaultdict(list)
    overlaps: list[OrganOverlap] = []
    panel_views: list[TokenizedView] = []
    patch_sizes: list[float] = []
    counts: Counter[str] = Counter()
    for study, pairs in _studies_with_truth(source, shards, config, truths, bootstrap.seed):
        views = tokenized_views(source.backbone, pairs, config.pixel_side, config.pixel_patch)
        counts.update(truth_studies=1, truth_views=len(views), views_without_truth=len(pairs) - len(views))
        patch_sizes += [float(np.diff(view.patches.across).mean()) for view in views]
        random = np.random.default_rng(key_hash(study.key, bootstrap.seed))
        for one, other in permutations(views, 2):
            pair = pair_name(one.projection, other.projection)
            matched = patch_matches(one, other, radius=config.radius_cm, most=config.patches, random=random)
            matches[pair].append((study.patient, matched))
        if source.backbone is not None:
            overlaps += [organ_overlap(study.key, study.patient, view) for view in views]
            panel_views += _one_of_each_kind(views) if len(panel_views) < PANEL_VIEWS else []
    attention = Measurements((), {"attention": "it has no heads"})
    if overlaps:
        attention = attention_figures(overlaps, bootstrap)
    pictures = {}
    if panel_views:
        heads = _best_heads(attention)
        pictures[f"attention_{source.name}.png"] = attention_panel(panel_views, heads, source.label)
    # The size of a patch on the animal explains the ceiling.
    sizes = {"patch_cm": round(float(np.median(patch_sizes)), 2)} if patch_sizes else {}
    facts = Measurements((), {}, {**counts, **sizes}, pictures)
    return merged([patch_figures(matches, bootstrap), attention, facts])


def open_truth(shards: str | Path, config: ConsistencyConfig) -> TruthArchive:
    """The ground truth. Raises ConfigError where it is missing, DataError where it is of none of the test studies."""
    assert config.truth is not None
    secret = config.secret or Location(f"{shards}.secret")
    secret = Location(secret)
    if not secret.is_local:
        raise ConfigError(
            f"{shards}: the key of its pseudonyms is not beside a URL; give its file with --consistency.secret"
        )
    truths = TruthArchive(Path(config.truth), Path(secret))
    index = StudyIndex(shards, "test")
    if not (index.find(truths) >= 0).any():
        raise DataError(
            f"{config.truth}: holds the truth of none of the {len(index)} test studies under this secret; give the "
            "archive and the key file that the shards were made from"
        )
    return truths


def _studies_with_truth(
    source: Source, shards: str | Path, config: ConsistencyConfig, truths: TruthArchive, seed: int
) -> Iterator[tuple[Study, list[tuple[View, ViewTruth | None]]]]:
    """The chosen test studies, each view with its map."""
    index = StudyIndex(shards, "test")
    rows = {key: int(row) for key, row in zip(truths, index.find(truths), strict=True) if row >= 0}
    keys = chosen_keys(rows, config.truth_studies, seed)
    for key in track(keys, label=f"truth, {source.name}", unit="studies"):
        study = index.load(rows[key])
        yield study, truths.views(study)


def _one_of_each_kind(views: Sequence[TokenizedView]) -> list[TokenizedView]:
    """A view from above and one from the side, where there are both."""
    above = [view for view in views if view.projection in UPRIGHT]
    side = [view for view in views if view.projection not in UPRIGHT]
    return [above[0], side[0]] if above and side else []


def _best_heads(attention: Measurements) -> dict[str, tuple[int, float]]:
    """organ -> (best head, its AUC), of the organs that have both figures."""
    values = {(figure.metric, figure.finding): figure.value for figure in attention.values}
    return {
        organ: (int(head), values["attention_auc", organ])
        for (metric, organ), head in values.items()
        if metric == "attention_best_head" and ("attention_auc", organ) in values
    }
