"""Experiment `assess`: one image per domain through all blocks: principal components, attention, best buddies.

One PCA is fitted to all images together, so that a color means the same everywhere.
"""

# R, C rows and columns of patches; D width; H, W height and width of a frame.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....platform.core.errors import ConfigError
from ....platform.core.progress import track
from ....platform.models.backbone import Backbone, random_like
from ....platform.models.facets import KINDS, extract_facets
from ...common.figures import Tile, colors_by_name, grid, heat_map, overlay
from ..config import AssessConfig
from ..domains import Domain, shuffled_frames, usable_domains
from ..figures import curves
from ..frames import Frame, network_input
from ..method.encoding import patch_coverage
from ..method.masks import patch_shares
from ..record import ZeroshotResult
from .best_buddies import find_buddies
from .components import components_to_rgb, fit_components

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


@dataclass(frozen=True, slots=True, eq=False)
class _FrameFacets:
    """One frame in every block: facets by (block, kind), each (R, C, D); attention by block, (R, C), mean over heads;
    shares: the share of each patch that the truth covers (R, C), None where there is no truth. Blocks are 0-based."""

    frame: Frame
    facets: Mapping[tuple[int, str], np.ndarray]
    attention: Mapping[int, np.ndarray]
    shares: np.ndarray | None


def assess(domains: Sequence[Domain], backbone: Backbone, config: AssessConfig) -> ZeroshotResult:
    """Components as colors, attention maps and how well attention finds the truth, for every block.

    Raises ConfigError for a negative number of buddies, DataError where there is no domain with a frame.
    """
    if config.buddies < 0:
        raise ConfigError(f"buddies {config.buddies}: give the pairs to draw, or 0 for none")
    domains, left_out = usable_domains(domains, 1, truth=False)
    frames = [shuffled_frames(domain, config.seed)[0] for domain in domains]
    left_out |= {f"{frame.domain} auc": "it has no masks/" for frame in frames if frame.mask is None}
    label = backbone.card.label
    networks = {"backbone": backbone, "random": random_like(backbone, config.seed).eval()}
    facets = {
        row: [_frame_facets(network, frame, config) for frame in frames] for row, network in networks.items()
    }
    auc = _auc_rows(facets)
    variance, pictures = [], {}
    for kind in track(KINDS, label="assess", unit="facets"):
        for row, row_facets in facets.items():
            components = {
                block: fit_components([one.facets[block, kind] for one in row_facets])
                for block in range(len(backbone.vit.blocks))
            }
            variance += [_variance_row(kind, block + 1, row, pca) for block, (pca, _) in components.items()]
            if row == "backbone":
                pictures[f"components_{kind}"] = _component_figure(kind, row_facets, components, label)
    pictures["attention"] = _attention_figure(facets["backbone"], label, auc)
    pictures["variance"] = _block_curves(
        "Variance in three components, by block", variance, "facet", "total", "share of the variance", label
    )
    if auc:
        pictures["attention_auc"] = _block_curves(
            "Attention inside the truth, by block", auc, "domain", "auc", "AUC", label
        )
    metrics = {f"assess/auc.{one['domain']}.block{one['block']}.{one['row']}": one["auc"] for one in auc}
    metrics |= {
        f"assess/variance.{one['facet']}.block{one['block']}.{one['row']}": one["total"] for one in variance
    }
    facts = {
        "images": [frame.key for frame in frames],
        "auc": "pixels of the frame by mean attention over heads",
    }
    images = auc or [{"domain": f.domain, "image": f.name} for f in frames]
    tables: dict[str, Sequence[Mapping[str, Any]]] = {"images": images, "variance": variance}
    if config.buddies:
        buddies = find_buddies(domains, networks, config)
        metrics |= buddies.metrics
        tables |= buddies.tables
        pictures |= buddies.pictures
        facts |= buddies.facts
        left_out |= buddies.left_out
    return ZeroshotResult(metrics, tables, pictures, facts=facts, left_out=left_out)


def attention_auc(attention_RC: np.ndarray, share_RC: np.ndarray | None) -> float | None:
    """How often attention is higher at a pixel of the truth than at one outside (AUROC over pixels).

    All pixels of a patch have its attention: a patch counts by its share of the truth as positive, by the rest as
    negative. None where there is no truth, or nothing but it.
    """
    from sklearn.metrics import roc_auc_score

    if share_RC is None or not 0 < share_RC.sum() < share_RC.size:
        return None
    share, value = share_RC.ravel().astype(np.float64), attention_RC.ravel()
    truth = np.repeat([1, 0], len(share))
    return float(roc_auc_score(truth, np.tile(value, 2), sample_weight=np.concatenate([share, 1 - share])))


def _frame_facets(network: Backbone, frame: Frame, config: AssessConfig) -> _FrameFacets:
    """One pass: every facet of every block, and the attention of each."""
    input_1hw = network_input(frame, network, config.short)
    blocks = tuple(range(len(network.vit.blocks)))
    facets = extract_facets(
        network,
        input_1hw[None],
        blocks=blocks,
        kinds=KINDS,
        attention=blocks,
        stride=config.stride,
        position=config.position,
    )
    covered = patch_coverage(facets.grid, input_1hw.shape[-2:], frame.pixels.shape, network, config.stride)
    return _FrameFacets(
        frame,
        {
            place: vectors[0].reshape(*facets.grid, -1).cpu().numpy()
            for place, vectors in facets.features.items()
        },
        {
            block: attention[0].mean(0).reshape(facets.grid).cpu().numpy()
            for block, attention in facets.cls_attention.items()
        },
        None if frame.mask is None else patch_shares(frame.mask, facets.grid, covered),
    )


def _auc_rows(facets: Mapping[str, Sequence[_FrameFacets]]) -> list[dict[str, Any]]:
    """A row for each network, frame with truth and block."""
    return [
        {"domain": one.frame.domain, "image": one.frame.name, "block": block + 1, "row": row, "auc": auc}
        for row, row_facets in facets.items()
        for one in row_facets
        for block, attention_RC in one.attention.items()
        if (auc := attention_auc(attention_RC, one.shares)) is not None
    ]


def _variance_row(kind: str, block: int, row: str, pca: PCA) -> dict[str, Any]:
    """The share of the variance that each component holds, and all three together."""
    shares = [float(share) for share in pca.explained_variance_ratio_]
    by_component = {f"component_{n + 1}": share for n, share in enumerate(shares)}
    return {"facet": kind, "block": block, "row": row, **by_component, "total": sum(shares)}


def _component_figure(
    kind: str,
    facets: Sequence[_FrameFacets],
    components: Mapping[int, tuple[PCA, list[np.ndarray]]],
    label: str,
) -> bytes:
    images = {block: components_to_rgb(by_frame) for block, (_, by_frame) in components.items()}
    title = f"{kind}: three principal components as red, green and blue, one PCA a block, {label}"
    return grid(title, _block_tiles(facets, images), "left: the frame, truth in yellow")


def _attention_figure(facets: Sequence[_FrameFacets], label: str, auc: Sequence[Mapping[str, Any]]) -> bytes:
    values = {(one["domain"], one["block"]): one["auc"] for one in auc if one["row"] == "backbone"}
    blocks = list(facets[0].attention)
    images = {block: [heat_map(one.attention[block]) for one in facets] for block in blocks}
    below = {
        block: [
            f"AUC {values[one.frame.domain, block + 1]:.2f}"
            if (one.frame.domain, block + 1) in values
            else ""
            for one in facets
        ]
        for block in blocks
    }
    title = (
        f"Attention of the CLS token by block, mean over heads, each from its lowest to its highest, {label}"
    )
    return grid(
        title, _block_tiles(facets, images, below), "left: the frame, truth in yellow; AUC: inside the truth"
    )


def _block_tiles(
    facets: Sequence[_FrameFacets],
    images: Mapping[int, Sequence[np.ndarray]],
    below: Mapping[int, Sequence[str]] | None = None,
) -> list[tuple[str, str, list[Tile]]]:
    """A row for each frame: itself, then an image for each block."""
    colors = colors_by_name([one.frame.domain for one in facets])
    rows = []
    for number, one in enumerate(facets):
        frame, color = one.frame, colors[one.frame.domain]
        tiles = [Tile(overlay(frame.pixels, None, color, frame.mask), frame.name)]
        for block, by_frame in images.items():
            tiles.append(Tile(by_frame[number], f"block {block + 1}", below[block][number] if below else ""))
        rows.append((frame.domain, color, tiles))
    return rows


def _block_curves(
    title: str, rows: Sequence[Mapping[str, Any]], name: str, value: str, ylabel: str, label: str
) -> bytes:
    """Values by block: a panel for the backbone and one for random weights, a curve for each `name`."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {"backbone": {}, "random": {}}
    for one in rows:
        panels[one["row"]].setdefault(one[name], []).append((one["block"], one[value]))
    return curves(
        title, {f"backbone: {label}": panels["backbone"], "random weights": panels["random"]}, "block", ylabel
    )
