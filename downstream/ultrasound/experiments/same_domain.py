"""Experiment `same-domain`: how well co-segmentation finds the truth as a set of one domain grows.

After the seed paper "Robustness of self-supervised ViT features in b-mode images" (DINO keys, co-segmentation
after Amir et al., arXiv 2112.05814).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from ....platform.core.errors import ConfigError
from ....platform.core.progress import track
from ....platform.models.backbone import Backbone
from ..config import SameDomainConfig
from ..domains import Domain, shuffled_frames, usable_domains
from ..figures import bars
from ..frames import Frame
from ..method.comparison import compare_rows
from ..method.encoding import EncoderPair
from ..method.scores import SeedSummary, SetSummary, summarize_seeds
from ..record import ZeroshotResult
from .sets import MEASURES, SetResults, Summary, by_place, examples_figure, summary_bar


def same_domain(domains: Sequence[Domain], backbone: Backbone, config: SameDomainConfig) -> ZeroshotResult:
    """Co-segments sets of growing size of every domain, drawn once or by several seeds.

    Raises ConfigError for a set of fewer than 2 images or no seed, DataError where no domain has enough.
    """
    sizes = sorted(set(config.sizes))
    if not sizes or sizes[0] < 2:
        raise ConfigError(f"sizes {list(config.sizes)}: a set holds 2 images at least")
    if config.seeds < 1:
        raise ConfigError(f"seeds {config.seeds}: the sets are drawn at least once")
    domains, left_out = usable_domains(domains, sizes[0])
    left_out |= {
        f"{domain.name} n{size}": f"it has {len(domain.frames)} usable images"
        for domain in domains
        for size in sizes
        if size > len(domain.frames)
    }
    encoders = EncoderPair(backbone, config)
    draws = [_draw(domains, config, number) for number in range(config.seeds)]
    frames = {frame.key: frame for _, by_domain in draws for one in by_domain.values() for frame in one}
    encoders.encode_all(list(frames.values()))
    sets = [
        (number, name, size)
        for number, (_, by_domain) in enumerate(draws)
        for name, frames in by_domain.items()
        for size in sizes
        if size <= len(frames)
    ]
    results = SetResults(config)
    examples = {}
    for number, name, size in track(sets, label="same-domain", unit="sets"):
        draw_config, by_domain = draws[number]
        chosen = by_domain[name][:size]
        masks = compare_rows(chosen, *encoders.encode(chosen), draw_config)
        results.add(name, _part(size, draw_config.seed, config), chosen, masks)
        if number == 0 and size <= max(5, sizes[0]):
            examples[name] = (chosen, masks)  # the largest of these stays
    pictures = {"examples": examples_figure("Same domain, sets of up to 5 images", examples)}
    over_seeds = _over_seeds(results.summaries, sizes, config) if config.seeds > 1 else []
    for measure, label in MEASURES.items():
        rest = (measure, label, backbone.card.label, config.seeds)
        pictures[measure] = _bars(over_seeds, *rest) if over_seeds else _bars(results.summaries, *rest)
    tables = {"seeds": [asdict(one) for one in over_seeds]} if over_seeds else {}
    return results.outcome("same-domain", pictures, left_out, tables, _metrics(over_seeds))


def _draw(
    domains: Sequence[Domain], config: SameDomainConfig, number: int
) -> tuple[SameDomainConfig, dict[str, tuple[Frame, ...]]]:
    """(the settings of one draw, the frames of each domain in its order, as many as the largest set takes)."""
    seed = config.seed + number
    cosegment = replace(config.cosegment, seed=config.cosegment.seed + number)
    drawn = {domain.name: shuffled_frames(domain, seed)[: max(config.sizes)] for domain in domains}
    return replace(config, seed=seed, cosegment=cosegment), drawn


def _part(size: int, seed: int, config: SameDomainConfig) -> str:
    """The name of a set of this size in tables."""
    return f"n{size}" if config.seeds == 1 else f"n{size} seed{seed}"


def _over_seeds(
    summaries: Sequence[SetSummary], sizes: Sequence[int], config: SameDomainConfig
) -> list[SeedSummary]:
    """Mean, spread and worst of each size over the seeds."""
    seeds = range(config.seed, config.seed + config.seeds)
    parts = {f"n{size}": {_part(size, seed, config) for seed in seeds} for size in sizes}
    return summarize_seeds(
        {size: [one for one in summaries if one.part in members] for size, members in parts.items()}
    )


def _metrics(summaries: Sequence[SeedSummary]) -> dict[str, float]:
    """Name -> mean, standard deviation or worst over seeds."""
    return {
        f"{measure}.{one.domain}.{one.part}.{one.row}.seeds_{figure}": getattr(one, measure + ending)
        for one in summaries
        for measure in MEASURES
        for figure, ending in (("mean", ""), ("std", "_std"), ("worst", "_worst"))
    }


def _bars(
    all_summaries: Sequence[Summary],
    measure: str,
    label: str,
    backbone_label: str,
    seeds: int,
) -> bytes:
    """A bar for each domain and size of set."""
    summaries = by_place(all_summaries)
    return bars(
        f"Same domain: {label} by the number of images, {backbone_label}",
        label,
        [
            summary_bar(one, summaries, measure, f"{one.part[1:]} images")
            for one in summaries.values()
            if one.row == "cosegment"
        ],
        f"bars: co-segmentation, lines: standard deviation over {'images' if seeds == 1 else f'{seeds} draws of sets'}",
    )
