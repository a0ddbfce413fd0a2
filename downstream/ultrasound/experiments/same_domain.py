"""Experiment `same-domain`: how well co-segmentation finds the truth as a set of one domain grows.

After the seed paper "Robustness of self-supervised ViT features in b-mode images" (DINO keys, co-segmentation
after Amir et al., arXiv 2112.05814).
"""

from __future__ import annotations

from collections.abc import Sequence

from ....platform.core.errors import ConfigError
from ....platform.core.progress import track
from ....platform.models.backbone import Backbone
from ..config import SameDomainConfig
from ..domains import Domain, shuffled_frames, usable_domains
from ..figures import bars
from ..method.comparison import compare_rows
from ..method.encoding import EncoderPair
from ..record import ZeroshotResult
from .sets import MEASURES, SetResults, by_place, examples_figure, summary_bar


def same_domain(domains: Sequence[Domain], backbone: Backbone, config: SameDomainConfig) -> ZeroshotResult:
    """Co-segments sets of growing size of every domain.

    Raises ConfigError for a set of fewer than 2 images, DataError where no domain has enough.
    """
    sizes = sorted(set(config.sizes))
    if not sizes or sizes[0] < 2:
        raise ConfigError(f"sizes {list(config.sizes)}: a set holds 2 images at least")
    domains, left_out = usable_domains(domains, sizes[0])
    encoders = EncoderPair(backbone, config)
    by_domain = {domain.name: shuffled_frames(domain, config.seed)[: sizes[-1]] for domain in domains}
    encoders.encode_all([frame for frames in by_domain.values() for frame in frames])
    sets = [(name, size) for name, frames in by_domain.items() for size in sizes if size <= len(frames)]
    left_out |= {
        f"{name} n{size}": f"it has {len(frames)} usable images"
        for name, frames in by_domain.items()
        for size in sizes
        if size > len(frames)
    }
    results = SetResults(config)
    masks = {}
    for name, size in track(sets, label="same-domain", unit="sets"):
        frames = by_domain[name][:size]
        masks[name, size] = compare_rows(frames, *encoders.encode(frames), config)
        results.add(name, f"n{size}", frames, masks[name, size])
    shown = {name: max(size for other, size in sets if other == name and size <= 5) for name in by_domain}
    examples = {name: (by_domain[name][:size], masks[name, size]) for name, size in shown.items()}
    pictures = {"examples": examples_figure("Same domain, sets of up to 5 images", examples)}
    for measure, label in MEASURES.items():
        pictures[measure] = _bars(results, measure, label, backbone.card.label)
    return results.outcome("same-domain", pictures, left_out)


def _bars(results: SetResults, measure: str, label: str, backbone_label: str) -> bytes:
    """A bar for each domain and size of set."""
    summaries = by_place(results.summaries)
    return bars(
        f"Same domain: {label} by the number of images, {backbone_label}",
        label,
        [
            summary_bar(one, summaries, measure, f"{one.part[1:]} images")
            for one in summaries.values()
            if one.row == "cosegment"
        ],
        "bars: co-segmentation, lines: standard deviation over images",
    )
