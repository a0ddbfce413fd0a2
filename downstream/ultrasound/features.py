"""What a backbone's patches look like before anything is segmented: components, attention, best buddies, a cloud.

`assess` takes one image a domain, every facet of every block, and patches of two images that find each other;
`scatter` the patches of all domains in three dimensions. Both fit one PCA to all images together, so that a colour
means the same everywhere.
"""

# R, C rows and columns of patches; D width; P patches of all frames, or pairs of two; H, W height and width of a frame.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ...platform.core.errors import ConfigError
from ...platform.core.progress import track
from ...platform.measure.neighbors import unit
from ...platform.models.backbone import Backbone, random_like
from ...platform.models.facets import KINDS, facets_of
from .answers import Eye, Eyes, Look, ZeroshotConfig, covered_of, share_of
from .cosegmentation import saliency_of
from .descriptors import best_buddies, log_binned
from .figures import (
    OTHER,
    Couple,
    Tile,
    colours_of,
    curves,
    grid,
    heat,
    joined,
    overlay,
    projections,
)
from .frames import Domain, Frame, drawn_from, enough, picture_of
from .record import Found
from .scatter_page import Cloud, scatter_page

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

BONE = 0.5
"""A patch is bone from this share of its place on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssessConfig(ZeroshotConfig):
    """Principal components of every facet of every block, and where the CLS token looks; one image a domain."""

    buddies: int = 0
    """Pairs of patches, each the other's nearest and both salient, drawn between one image of each domain and one of
    the next (the domain's second image where there is only one domain); 0 draws none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterConfig(ZeroshotConfig):
    """Three principal components of the patches of all domains, in three dimensions."""

    images: int = 2
    """Images of each domain, as many as it has at most."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sight:
    """All that is seen of one frame: facets by (block, kind), each (R, C, D); attention by block, (R, C), mean
    over heads; share: the truth's part of each patch's place (R, C), None where there is no truth."""

    frame: Frame
    facets: Mapping[tuple[int, str], np.ndarray]
    attention: Mapping[int, np.ndarray]
    share: np.ndarray | None


def assess(domains: Sequence[Domain], backbone: Backbone, config: AssessConfig) -> Found:
    """One image a domain through all blocks: components as colours, attention, how well it finds the truth."""
    if config.buddies < 0:
        raise ConfigError(f"buddies {config.buddies}: give the pairs to draw, or 0 for none")
    domains, left_out = enough(domains, 1, truth=False)
    frames = [drawn_from(domain, config.seed)[0] for domain in domains]
    left_out |= {f"{frame.domain} auc": "it has no masks/" for frame in frames if frame.mask is None}
    networks = {"backbone": backbone, "random": random_like(backbone, config.seed).eval()}
    seen = {name: [_sight(network, frame, config) for frame in frames] for name, network in networks.items()}
    blocks = range(len(backbone.vit.blocks))
    auc = _auc_rows(seen)
    variance, pictures = [], {}
    for kind in track(KINDS, label="assess", unit="facets"):
        for row, sights in seen.items():
            told = {block: _components([sight.facets[block, kind] for sight in sights]) for block in blocks}
            variance += [_variance_row(kind, block + 1, row, pca) for block, (pca, _) in told.items()]
            if row == "backbone":
                pictures[f"components_{kind}"] = _component_grid(kind, sights, told, backbone.card.label)
    pictures["attention"] = _attention_grid(seen["backbone"], backbone.card.label, auc)
    pictures["variance"] = _variance_curves(variance, backbone.card.label)
    if auc:
        pictures["attention_auc"] = _auc_curves(auc, backbone.card.label)
    metrics = {f"assess/auc.{one['domain']}.block{one['block']}.{one['row']}": one["auc"] for one in auc}
    metrics |= {
        f"assess/variance.{one['facet']}.block{one['block']}.{one['row']}": one["total"] for one in variance
    }
    facts = {
        "images": [frame.key for frame in frames],
        "auc": "pixels of the frame by mean attention over heads",
    }
    tables = {"images": auc or [{"domain": f.domain, "image": f.name} for f in frames], "variance": variance}
    if config.buddies:
        told = _buddies_found(domains, networks, config)
        metrics |= told.metrics
        tables |= told.tables
        pictures |= told.pictures
        facts |= told.facts
        left_out |= told.left_out
    return Found(metrics, tables, pictures, facts=facts, left_out=left_out)


def scatter(domains: Sequence[Domain], backbone: Backbone, config: ScatterConfig) -> Found:
    """Patches of all domains in three components: as a table, in planes, and as a page that can be turned."""
    if config.images < 1:
        raise ConfigError(f"images {config.images}: give 1 at least")
    domains, left_out = enough(domains, 1)
    eyes = Eyes(backbone, config)
    frames = [frame for domain in domains for frame in drawn_from(domain, config.seed)[: config.images]]
    eyes.see(frames)
    looks = [eyes.own.look(frame) for frame in frames]
    pca, parts = _components([look.descriptors for look in looks])
    floor, _ = _components([eyes.random.look(frame).descriptors for frame in frames])
    shares = [look.share(frame.mask) for frame, look in zip(frames, looks, strict=True)]
    rows = _patch_rows(frames, shares, parts)
    points_P3 = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
    labels = [row["label"] for row in rows]
    colours = {"other": OTHER}
    colours |= {f"bone of {name}": c for name, c in colours_of([domain.name for domain in domains]).items()}
    bare = [name for name in colours if name not in set(labels)]
    words = [f"{row['domain']}/{row['image']}, row {row['row']}, column {row['column']}" for row in rows]
    title = f"{config.facet} of block {eyes.own.block + 1}, three components of {len(rows)} patches"
    title += f", {backbone.card.label}"
    note = f"A patch is bone where at least {BONE:.0%} of it is; the same PCA for all domains."
    axes = tuple(f"{n + 1} ({100 * v:.0f} %)" for n, v in enumerate(pca.explained_variance_ratio_))
    ratios = {"backbone": pca.explained_variance_ratio_, "random": floor.explained_variance_ratio_}
    metrics = {
        f"scatter/variance.component{n + 1}.{row}": float(value)
        for row, told in ratios.items()
        for n, value in enumerate(told)
    }
    metrics |= {f"scatter/patches.{name.replace(' ', '_')}": float(labels.count(name)) for name in colours}
    return Found(
        metrics,
        {"images": _by_image(rows), "scatter": rows},
        {"scatter": projections(title, points_P3, labels, colours)},
        pages={"scatter.html": scatter_page(title, note, Cloud(points_P3, labels, words, colours, axes))},
        facts={"images": [frame.key for frame in frames], "label": note},
        left_out=left_out,
        warnings=tuple(f"{name}: no patch is covered by half; a smaller stride may help" for name in bare),
    )


def attention_auc(attention_RC: np.ndarray, share_RC: np.ndarray | None) -> float | None:
    """How often attention is higher at a pixel of the truth than at one outside (AUROC over pixels).

    All pixels of a patch's place have its attention: a patch counts by its share of the truth as present, by the
    rest as absent. None where there is no truth, or nothing but it.
    """
    from sklearn.metrics import roc_auc_score

    if share_RC is None or not 0 < share_RC.sum() < share_RC.size:
        return None
    share, value = share_RC.ravel().astype(np.float64), attention_RC.ravel()
    truth = np.repeat([1, 0], len(share))
    return float(roc_auc_score(truth, np.tile(value, 2), sample_weight=np.concatenate([share, 1 - share])))


def _sight(network: Backbone, frame: Frame, config: ZeroshotConfig) -> _Sight:
    """One pass: every facet of every block, and the attention of each."""
    picture_1hw = picture_of(frame, network, config.short)
    blocks = tuple(range(len(network.vit.blocks)))
    facets = facets_of(
        network,
        picture_1hw[None],
        blocks=blocks,
        kinds=KINDS,
        attention=blocks,
        stride=config.stride,
        position=config.position,
    )
    covered = covered_of(facets.grid, picture_1hw.shape[-2:], frame.pixels.shape, network, config.stride)
    return _Sight(
        frame,
        {place: told[0].reshape(*facets.grid, -1).cpu().numpy() for place, told in facets.of.items()},
        {
            block: told[0].mean(0).reshape(facets.grid).cpu().numpy()
            for block, told in facets.cls_attention.items()
        },
        None if frame.mask is None else share_of(frame.mask, facets.grid, covered),
    )


def _components(descriptors: Sequence[np.ndarray]) -> tuple[PCA, list[np.ndarray]]:
    """One PCA of three components for all images (R, C, D), and each image's (R, C, 3)."""
    from sklearn.decomposition import PCA

    patches_PD = np.concatenate([one.reshape(-1, one.shape[-1]) for one in descriptors]).astype(np.float64)
    if min(patches_PD.shape) < 3:
        raise ConfigError(
            f"{patches_PD.shape[0]} patches of width {patches_PD.shape[1]}: 3 components need 3 of each"
        )
    pca = PCA(3, svd_solver="covariance_eigh").fit(patches_PD)
    parts = [pca.transform(one.reshape(-1, one.shape[-1])).reshape(*one.shape[:2], 3) for one in descriptors]
    return pca, parts


def _as_colours(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Components (R, C, 3) as red, green and blue, uint8, on one scale for all images (1st to 99th percentile)."""
    low_3, high_3 = np.percentile(np.concatenate([part.reshape(-1, 3) for part in parts]), [1, 99], axis=0)
    reach_3 = np.where(high_3 > low_3, high_3 - low_3, 1.0)
    return [np.round(np.clip((part - low_3) / reach_3, 0, 1) * 255).astype(np.uint8) for part in parts]


def agreement(inside_a_P: np.ndarray, inside_b_P: np.ndarray) -> tuple[float, float]:
    """The share of pairs whose ends are both inside the truth or both outside; and what it would be by chance.

    Chance joins the same ends at random (the expected agreement of Cohen's kappa), so that a network whose salient
    patches all lie outside is not praised for it.

    >>> agreement(np.array([True, False, False, False]), np.array([True, False, True, False]))
    (0.75, 0.5)
    """
    a, b = float(np.mean(inside_a_P)), float(np.mean(inside_b_P))
    return float(np.mean(inside_a_P == inside_b_P)), a * b + (1 - a) * (1 - b)


@dataclass(frozen=True, slots=True, eq=False)
class _Buddies:
    """All best buddies of two frames as one network sees them, by falling cosine (P,).

    places: (P, 4), row and column in one frame, row and column in the other, pixels from 0, the middle of a patch's
    place. agree, chance: as in `agreement`, None where a frame has no truth or there is no pair.
    """

    places: np.ndarray
    cosine: np.ndarray
    agree: float | None
    chance: float | None


def _buddies(eye: Eye, a: Frame, b: Frame) -> _Buddies:
    looks = [eye.look(a), eye.look(b)]
    config = eye.config.cosegment
    described = [
        log_binned(look.descriptors) if eye.config.log_binning else look.descriptors for look in looks
    ]
    a_ND, b_MD = (unit(one_RCD.reshape(-1, one_RCD.shape[2])) for one_RCD in described)
    salient = [saliency_of(look.attention, config).ravel() >= config.tau for look in looks]
    pairs_P2 = best_buddies(a_ND, b_MD, *salient)
    cosine_P = np.einsum("pd,pd->p", a_ND[pairs_P2[:, 0]], b_MD[pairs_P2[:, 1]], dtype=np.float64)
    order_P = np.argsort(-cosine_P, kind="stable")
    ends = list(zip(looks, pairs_P2[order_P].T, strict=True))
    agree = chance = None
    if len(order_P) and a.mask is not None and b.mask is not None:
        inside = [
            look.share(frame.mask).ravel()[end_P] >= BONE
            for (look, end_P), frame in zip(ends, (a, b), strict=True)
        ]
        agree, chance = agreement(*inside)
    places_P4 = np.concatenate([_middles(look, end_P) for look, end_P in ends], axis=1)
    return _Buddies(places_P4, cosine_P[order_P], agree, chance)


def _middles(look: Look, patch_P: np.ndarray) -> np.ndarray:
    """(P, 2): row and column of the middle of each patch's place, in pixels of the frame, counted from 0."""
    grid = look.descriptors.shape[:2]
    place_P2 = np.stack(np.unravel_index(patch_P, grid), axis=1)
    return (place_P2 + 0.5) * (np.array(look.covered) / grid) - 0.5


def _buddies_found(
    domains: Sequence[Domain], networks: Mapping[str, Backbone], config: AssessConfig
) -> Found:
    """Best buddies of neighbouring domains, or of one domain's first two images: figures, table, picture."""
    firsts = [drawn_from(domain, config.seed)[:2] for domain in domains]
    frames = [own[0] for own in firsts] if len(firsts) > 1 else firsts[0]
    if len(frames) < 2:
        return Found({}, {}, {}, left_out={"buddies": "1 image has none; give a second, or another domain"})
    metrics, left_out, seen = {}, {}, {}
    for row, network in networks.items():
        eye = Eye(network, config)
        for a, b in pairwise(frames):
            one = seen[row, a.key] = _buddies(eye, a, b)
            name = f"{a.domain}.with_{b.domain}.{row}"
            metrics[f"assess/buddies.{name}"] = float(len(one.cosine))
            if a.mask is None or b.mask is None:
                left_out[f"buddies_agree.{a.domain}.with_{b.domain}"] = "not both domains have masks/"
            elif one.agree is None:
                left_out[f"buddies_agree.{name}"] = f"no best buddies at tau {config.cosegment.tau:g}"
            else:
                metrics[f"assess/buddies_agree.{name}"] = one.agree
                metrics[f"assess/buddies_chance.{name}"] = one.chance
    told = [(a, b, seen["backbone", a.key], seen["random", a.key]) for a, b in pairwise(frames)]
    label, block = networks["backbone"].card.label, eye.block + 1
    title = f"Best buddies by {config.facet} of block {block}, the {config.buddies} strongest of each pair, {label}"
    note = (
        f"A pair: patches that are each other's nearest by cosine, both salient (attention of block "
        f"{eye.attention_block + 1} at least {config.cosegment.tau:g}). Truth in yellow; agree: both inside it "
        f"(half of the patch) or both outside; by chance: the same ends joined at random."
    )
    colours = colours_of([domain.name for domain in domains])
    picture = joined(title, [_couple(*one, config.buddies, colours) for one in told], note)
    table = [line for a, b, own, _ in told for line in _buddy_rows(a, b, own)]
    return Found(
        metrics, {"buddies": table}, {"buddies": picture}, facts={"buddies": note}, left_out=left_out
    )


def _buddy_rows(a: Frame, b: Frame, own: _Buddies) -> list[dict[str, Any]]:
    """A row for each pair, the strongest first; rows and columns in pixels of the frames."""
    return [
        {
            "pair": f"{a.domain} + {b.domain}",
            "number": number,
            "image_a": a.name,
            "row_a": round(float(row_a), 1),
            "column_a": round(float(column_a), 1),
            "image_b": b.name,
            "row_b": round(float(row_b), 1),
            "column_b": round(float(column_b), 1),
            "cosine": round(float(cosine), 5),
        }
        for number, ((row_a, column_a, row_b, column_b), cosine) in enumerate(
            zip(own.places, own.cosine, strict=True), start=1
        )
    ]


def _couple(
    a: Frame, b: Frame, own: _Buddies, floor: _Buddies, most: int, colours: Mapping[str, str]
) -> Couple:
    left, right = (overlay(frame.pixels, None, colours[frame.domain], frame.mask) for frame in (a, b))
    return Couple(
        left,
        right,
        ((a.key, colours[a.domain]), (b.key, colours[b.domain])),
        own.places[:most],
        f"{_in_words(own)}; random weights: {_in_words(floor)}",
    )


def _in_words(own: _Buddies) -> str:
    """How many, and how often they agree, as a figure says it."""
    words = f"{len(own.cosine)} best buddies"
    return words if own.agree is None else words + f", {own.agree:.0%} agree ({own.chance:.0%} by chance)"


def _component_grid(
    kind: str, sights: Sequence[_Sight], told: Mapping[int, tuple[PCA, list[np.ndarray]]], label: str
) -> bytes:
    coloured = {block: _as_colours(parts) for block, (_, parts) in told.items()}
    rows = _rows(sights, {block: list(pictures) for block, pictures in coloured.items()})
    title = f"{kind}: three principal components as red, green and blue, one PCA a block, {label}"
    return grid(title, rows, "left: the frame, truth in yellow")


def _attention_grid(sights: Sequence[_Sight], label: str, auc: Sequence[Mapping[str, Any]]) -> bytes:
    blocks = list(sights[0].attention)
    of = {(one["domain"], one["block"]): one["auc"] for one in auc if one["row"] == "backbone"}
    words = lambda sight, block: (
        f"AUC {value:.2f}" if (value := of.get((sight.frame.domain, block + 1))) is not None else ""
    )
    pictures = {block: [heat(sight.attention[block]) for sight in sights] for block in blocks}
    below = {block: [words(sight, block) for sight in sights] for block in blocks}
    title = (
        f"Attention of the CLS token by block, mean over heads, each from its lowest to its highest, {label}"
    )
    return grid(
        title, _rows(sights, pictures, below), "left: the frame, truth in yellow; AUC: inside the truth"
    )


def _rows(
    sights: Sequence[_Sight],
    pictures: Mapping[int, Sequence[np.ndarray]],
    below: Mapping[int, Sequence[str]] | None = None,
) -> list[tuple[str, str, list[Tile]]]:
    """A row for each frame: itself, then a picture for each block."""
    colours = colours_of([sight.frame.domain for sight in sights])
    rows = []
    for number, sight in enumerate(sights):
        frame, colour = sight.frame, colours[sight.frame.domain]
        tiles = [Tile(overlay(frame.pixels, None, colour, frame.mask), frame.name)]
        for block, by_frame in pictures.items():
            words = below[block][number] if below else ""
            tiles.append(Tile(by_frame[number], f"block {block + 1}", words))
        rows.append((frame.domain, colour, tiles))
    return rows


def _auc_curves(auc: Sequence[Mapping[str, Any]], label: str) -> bytes:
    by_row: dict[str, dict[str, list[tuple[float, float]]]] = {"backbone": {}, "random": {}}
    for one in auc:
        by_row[one["row"]].setdefault(one["domain"], []).append((one["block"], one["auc"]))
    panels = {f"backbone: {label}": by_row["backbone"], "random weights": by_row["random"]}
    return curves("Attention inside the truth, by block", panels, "block", "AUC")


def _variance_curves(variance: Sequence[Mapping[str, Any]], label: str) -> bytes:
    by_row: dict[str, dict[str, list[tuple[float, float]]]] = {"backbone": {}, "random": {}}
    for one in variance:
        by_row[one["row"]].setdefault(one["facet"], []).append((one["block"], one["total"]))
    panels = {f"backbone: {label}": by_row["backbone"], "random weights": by_row["random"]}
    return curves("Variance in three components, by block", panels, "block", "share of the variance")


def _patch_rows(
    frames: Sequence[Frame], shares: Sequence[np.ndarray], parts: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """A row for each patch: where it is, the truth's share (R, C) of it, its label and its components (R, C, 3)."""
    return [
        {
            "domain": frame.domain,
            "image": frame.name,
            "row": row + 1,
            "column": column + 1,
            "share": round(float(share), 4),
            "label": f"bone of {frame.domain}" if share >= BONE else "other",
            **{f"component_{n + 1}": round(float(x), 5) for n, x in enumerate(part_RC3[row, column])},
        }
        for frame, share_RC, part_RC3 in zip(frames, shares, parts, strict=True)
        for (row, column), share in np.ndenumerate(share_RC)
    ]


def _auc_rows(seen: Mapping[str, Sequence[_Sight]]) -> list[dict[str, Any]]:
    """A row for each network, frame and block whose attention can be held against a truth."""
    return [
        {"domain": one.frame.domain, "image": one.frame.name, "block": block + 1, "row": row, "auc": auc}
        for row, sights in seen.items()
        for one in sights
        for block, attention_RC in one.attention.items()
        if (auc := attention_auc(attention_RC, one.share)) is not None
    ]


def _variance_row(kind: str, block: int, row: str, pca: PCA) -> dict[str, Any]:
    """Which share of the variance each component holds, and all three together."""
    shares = [float(share) for share in pca.explained_variance_ratio_]
    named = {f"component_{n + 1}": share for n, share in enumerate(shares)}
    return {"facet": kind, "block": block, "row": row, **named, "total": sum(shares)}


def _by_image(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Patches and patches of bone of each image."""
    images: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        place = (row["domain"], row["image"])
        own = images.setdefault(place, {"domain": place[0], "image": place[1], "patches": 0, "bone": 0})
        own["patches"] += 1
        own["bone"] += row["label"] != "other"
    return list(images.values())
