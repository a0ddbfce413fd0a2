"""Experiment `scatter`: patches of all domains in three principal components: a table, planes, and a page to turn.

One PCA is fitted to all images together, so that a place means the same everywhere.
"""

# R, C rows and columns of patches; P patches of all frames.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....platform.core.errors import ConfigError
from ....platform.models.backbone import Backbone
from ...common.figures import colors_by_name
from ..config import ScatterConfig
from ..domains import Domain, shuffled_frames, usable_domains
from ..figures import OTHER_COLOR, projections
from ..frames import Frame
from ..method.encoding import EncoderPair
from ..record import ZeroshotResult
from .components import fit_components
from .scatter_page import PointCloud, scatter_page

BONE = 0.5
"""A patch is bone where the truth covers at least this share of it."""


def scatter(domains: Sequence[Domain], backbone: Backbone, config: ScatterConfig) -> ZeroshotResult:
    """The cloud of all patches, labeled by domain where they are bone.

    Raises ConfigError for no image per domain or too few patches, DataError where no domain has masks.
    """
    if config.images < 1:
        raise ConfigError(f"images {config.images}: give 1 at least")
    domains, left_out = usable_domains(domains, 1)
    encoders = EncoderPair(backbone, config)
    frames = [frame for domain in domains for frame in shuffled_frames(domain, config.seed)[: config.images]]
    encoders.encode_all(frames)
    encoded, random = encoders.encode(frames)
    pca, components = fit_components([one.descriptors for one in encoded])
    random_pca, _ = fit_components([one.descriptors for one in random])
    shares = [one.patch_shares(frame.truth) for frame, one in zip(frames, encoded, strict=True)]
    rows = _patch_rows(frames, shares, components)
    points_P3 = np.concatenate([one.reshape(-1, 3) for one in components])
    labels = [row["label"] for row in rows]
    colors = {"other": OTHER_COLOR}
    colors |= {
        f"bone of {name}": c for name, c in colors_by_name([domain.name for domain in domains]).items()
    }
    missing = [name for name in colors if name not in set(labels)]
    texts = [f"{row['domain']}/{row['image']}, row {row['row']}, column {row['column']}" for row in rows]
    title = f"{config.facet} of block {encoders.backbone.block + 1}, three components of {len(rows)} patches"
    title += f", {backbone.card.label}"
    note = f"A patch is bone where at least {BONE:.0%} of it is; the same PCA for all domains."
    x, y, z = (f"{n + 1} ({100 * share:.0f} %)" for n, share in enumerate(pca.explained_variance_ratio_))
    ratios = {"backbone": pca.explained_variance_ratio_, "random": random_pca.explained_variance_ratio_}
    metrics = {
        f"scatter/variance.component{n + 1}.{row}": float(value)
        for row, ratio in ratios.items()
        for n, value in enumerate(ratio)
    }
    metrics |= {f"scatter/patches.{name.replace(' ', '_')}": float(labels.count(name)) for name in colors}
    cloud = PointCloud(points_P3, labels, texts, colors, (x, y, z))
    return ZeroshotResult(
        metrics,
        {"images": _image_rows(rows), "scatter": rows},
        {"scatter": projections(title, points_P3, labels, colors)},
        pages={"scatter.html": scatter_page(title, note, cloud)},
        facts={"images": [frame.key for frame in frames], "label": note},
        left_out=left_out,
        warnings=tuple(f"{name}: no patch is covered by half; a smaller stride may help" for name in missing),
    )


def _patch_rows(
    frames: Sequence[Frame], shares: Sequence[np.ndarray], components: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """A row for each patch: its place, the truth's share (R, C) of it, its label and its components (R, C, 3)."""
    return [
        {
            "domain": frame.domain,
            "image": frame.name,
            "row": row + 1,
            "column": column + 1,
            "share": round(float(share), 4),
            "label": f"bone of {frame.domain}" if share >= BONE else "other",
            **{f"component_{n + 1}": round(float(x), 5) for n, x in enumerate(one_RC3[row, column])},
        }
        for frame, share_RC, one_RC3 in zip(frames, shares, components, strict=True)
        for (row, column), share in np.ndenumerate(share_RC)
    ]


def _image_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each image: its patches, and how many of them are bone."""
    images: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row["domain"], row["image"])
        image = images.setdefault(key, {"domain": key[0], "image": key[1], "patches": 0, "bone": 0})
        image["patches"] += 1
        image["bone"] += row["label"] != "other"
    return list(images.values())
