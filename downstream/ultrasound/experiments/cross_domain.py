"""Experiment `cross-domain`: does co-segmentation of two domains together find as much as each domain alone?

After the seed paper "Robustness of self-supervised ViT features in b-mode images".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ....platform.core.errors import ConfigError
from ....platform.core.progress import track
from ....platform.models.backbone import Backbone
from ..config import CrossDomainConfig
from ..domains import Domain, setup_difference, shuffled_frames, usable_domains
from ..figures import Bar, bars
from ..frames import Frame
from ..method.comparison import ROWS, SetMasks, compare_rows
from ..method.encoding import EncoderPair
from ..method.scores import SetSummary
from ..record import ZeroshotResult
from .sets import MEASURES, SetResults, by_place, examples_figure, summary_bar


def cross_domain(domains: Sequence[Domain], backbone: Backbone, config: CrossDomainConfig) -> ZeroshotResult:
    """Co-segments each pair of domains together, as many images of each, and every domain alone.

    Raises ConfigError for fewer than 2 images, DataError where fewer than two domains have enough.
    """
    if config.images < 2:
        raise ConfigError(f"images {config.images}: a domain alone needs 2 at least")
    domains, left_out = usable_domains(domains, config.images, domains_needed=2)
    encoders = EncoderPair(backbone, config)
    by_domain = {domain.name: shuffled_frames(domain, config.seed)[: config.images] for domain in domains}
    encoders.encode_all([frame for frames in by_domain.values() for frame in frames])
    results = SetResults(config)
    for name, frames in track(by_domain.items(), label="alone", unit="domains"):
        results.add(name, "alone", frames, compare_rows(frames, *encoders.encode(frames), config))
    examples: dict[str, tuple[Sequence[Frame], SetMasks]] = {}
    shown = (0, 1, config.images, config.images + 1)
    for a, b in track(list(combinations(domains, 2)), label="cross-domain", unit="pairs"):
        frames = (*by_domain[a.name], *by_domain[b.name])
        set_masks = compare_rows(frames, *encoders.encode(frames), config)
        name = f"{a.name} + {b.name}"
        results.add(name, "", frames, set_masks, {a.name: f"with {b.name}", b.name: f"with {a.name}"})
        examples[name] = ([frames[place] for place in shown], set_masks.part(shown))
    summaries = by_place(results.summaries)
    pairs = _pair_rows(domains, summaries)
    pictures = {"examples": examples_figure("Two domains together, two images of each", examples)}
    for measure, label in MEASURES.items():
        pictures[measure] = bars(
            f"Two domains together: {label} of each, {backbone.card.label}",
            label,
            list(_pair_bars(domains, summaries, measure)),
            "bars: co-segmentation; pale: the same images of the domain alone; lines: standard deviation over images",
        )
    return results.outcome("cross-domain", pictures, left_out, {"pairs": pairs}, _mean_changes(pairs))


def _pair_rows(
    domains: Sequence[Domain], summaries: Mapping[tuple[str, str, str], SetSummary]
) -> list[dict[str, Any]]:
    """For each pair, its domains and each row: Dice together and alone, with what differs between the domains."""
    rows = []
    for a, b in combinations(domains, 2):
        for one, other in ((a, b), (b, a)):
            for row in ROWS:
                if (one.name, "alone", row) not in summaries:
                    continue
                together = summaries[one.name, f"with {other.name}", row].dice
                alone = summaries[one.name, "alone", row].dice
                rows.append(
                    {
                        "domain": one.name,
                        "with": other.name,
                        "setup": setup_difference(a, b),
                        "row": row,
                        "dice": together,
                        "dice_alone": alone,
                        "change": together - alone,
                    }
                )
    return rows


def _mean_changes(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean Dice of a row over the pairs that differ in the same way, and its mean change from the domains alone."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for pair in pairs:
        groups.setdefault((pair["setup"].replace(" ", "_"), pair["row"]), []).append(pair)
    return {
        f"{metric}.setup.{setup}.{row}": float(np.mean([pair[column] for pair in members]))
        for (setup, row), members in groups.items()
        for metric, column in (("dice", "dice"), ("dice_change", "change"))
    }


def _pair_bars(
    domains: Sequence[Domain], summaries: Mapping[tuple[str, str, str], SetSummary], measure: str
) -> Iterator[Bar]:
    """For each pair four bars: either domain together with the other, and alone."""
    for a, b in combinations(domains, 2):
        group = f"{a.name} + {b.name} ({setup_difference(a, b)})"
        for one, other in ((a, b), (b, a)):
            for part in (f"with {other.name}", "alone"):
                yield summary_bar(summaries[one.name, part, "cosegment"], summaries, measure, group)
