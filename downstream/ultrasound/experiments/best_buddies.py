"""Best buddies of two frames, and whether both ends of them lie inside the truth.

After Amir et al., 2112.05814, section 4.3.
"""

# R, C rows and columns of patches; D width; N, M patches of two frames; P pairs of patches.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ....platform.measure.neighbors import unit_vectors
from ....platform.models.backbone import Backbone
from ...common.figures import JoinedFrames, colors_by_name, joined_frames, overlay
from ..config import AssessConfig
from ..domains import Domain, shuffled_frames
from ..frames import Frame
from ..method.descriptors import best_buddies
from ..method.encoding import EncodedFrame, FrameEncoder
from ..method.voting import saliency_map
from ..record import ZeroshotResult

INSIDE = 0.5
"""A patch is inside the truth where the truth covers at least this share of it."""


@dataclass(frozen=True, slots=True, eq=False)
class _FrameBuddies:
    """All best buddies of two frames by one network, by falling cosine (P,).

    points: (P, 4), row and column in one frame, row and column in the other, pixels from 0, the centers of patches.
    agree, chance: as in `agreement`, None where a frame has no truth or there is no pair.
    """

    points: np.ndarray
    cosine: np.ndarray
    agree: float | None
    chance: float | None

    def text(self) -> str:
        """How many, and how often they agree, for a figure."""
        count = f"{len(self.cosine)} best buddies"
        return (
            count if self.agree is None else f"{count}, {self.agree:.0%} agree ({self.chance:.0%} by chance)"
        )


def find_buddies(
    domains: Sequence[Domain], networks: Mapping[str, Backbone], config: AssessConfig
) -> ZeroshotResult:
    """Best buddies of neighboring domains, or of one domain's first two images: metrics, table, figure."""
    first_two = [shuffled_frames(domain, config.seed)[:2] for domain in domains]
    frames = [frames[0] for frames in first_two] if len(first_two) > 1 else list(first_two[0])
    if len(frames) < 2:
        return ZeroshotResult(
            {}, {}, {}, left_out={"buddies": "1 image has none; give a second, or another domain"}
        )
    encoders = {row: FrameEncoder(network, config) for row, network in networks.items()}
    buddies = {
        row: [_frame_buddies(encoder, a, b) for a, b in pairwise(frames)] for row, encoder in encoders.items()
    }
    metrics, left_out = {}, {}
    for row, row_buddies in buddies.items():
        for (a, b), one in zip(pairwise(frames), row_buddies, strict=True):
            name = f"{a.domain}.with_{b.domain}.{row}"
            metrics[f"assess/buddies.{name}"] = float(len(one.cosine))
            if a.mask is None or b.mask is None:
                left_out[f"buddies_agree.{a.domain}.with_{b.domain}"] = "not both domains have masks/"
            elif one.agree is None or one.chance is None:
                left_out[f"buddies_agree.{name}"] = f"no best buddies at tau {config.cosegment.tau:g}"
            else:
                metrics[f"assess/buddies_agree.{name}"] = one.agree
                metrics[f"assess/buddies_chance.{name}"] = one.chance
    encoder = encoders["backbone"]
    note = (
        f"A pair: patches that are each other's nearest by cosine, both salient (attention of block "
        f"{encoder.attention_block + 1} at least {config.cosegment.tau:g}). Truth in yellow; agree: both inside it "
        f"(half of the patch) or both outside; by chance: the same ends joined at random."
    )
    figure = joined_frames(
        f"Best buddies by {config.facet} of block {encoder.block + 1}, the {config.buddies} strongest of each pair, "
        f"{encoder.backbone.card.label}",
        _joined_pairs(frames, buddies["backbone"], buddies["random"], config.buddies),
        note,
    )
    table = [
        line
        for (a, b), one in zip(pairwise(frames), buddies["backbone"], strict=True)
        for line in _table_rows(a, b, one)
    ]
    return ZeroshotResult(
        metrics, {"buddies": table}, {"buddies": figure}, facts={"buddies": note}, left_out=left_out
    )


def agreement(inside_a_P: np.ndarray, inside_b_P: np.ndarray) -> tuple[float, float]:
    """(share of pairs whose ends are both inside the truth or both outside, the same by chance).

    Chance joins the same ends at random (the expected agreement of Cohen's kappa), so that a network whose salient
    patches all lie outside gets no credit for it.

    >>> agreement(np.array([True, False, False, False]), np.array([True, False, True, False]))
    (0.75, 0.5)
    """
    a, b = float(np.mean(inside_a_P)), float(np.mean(inside_b_P))
    return float(np.mean(inside_a_P == inside_b_P)), a * b + (1 - a) * (1 - b)


def _frame_buddies(encoder: FrameEncoder, a: Frame, b: Frame) -> _FrameBuddies:
    encoded = [encoder.encode(a), encoder.encode(b)]
    config = encoder.config.cosegment
    described = [one.described(encoder.config.log_binning) for one in encoded]
    a_ND, b_MD = (unit_vectors(one_RCD.reshape(-1, one_RCD.shape[2])) for one_RCD in described)
    salient_a, salient_b = (saliency_map(one.attention, config).ravel() >= config.tau for one in encoded)
    pairs_P2 = best_buddies(a_ND, b_MD, salient_a, salient_b)
    cosine_P = np.einsum("pd,pd->p", a_ND[pairs_P2[:, 0]], b_MD[pairs_P2[:, 1]], dtype=np.float64)
    order_P = np.argsort(-cosine_P, kind="stable")
    ends = list(zip(encoded, pairs_P2[order_P].T, strict=True))
    agree = chance = None
    if len(order_P) and a.mask is not None and b.mask is not None:
        inside = [
            one.patch_shares(frame.truth).ravel()[end_P] >= INSIDE
            for (one, end_P), frame in zip(ends, (a, b), strict=True)
        ]
        agree, chance = agreement(*inside)
    points_P4 = np.concatenate([_patch_centers(one, end_P) for one, end_P in ends], axis=1)
    return _FrameBuddies(points_P4, cosine_P[order_P], agree, chance)


def _patch_centers(encoded: EncodedFrame, patch_P: np.ndarray) -> np.ndarray:
    """(P, 2): row and column of the center of each patch, in pixels of the frame, counted from 0."""
    grid = encoded.descriptors.shape[:2]
    place_P2 = np.stack(np.unravel_index(patch_P, grid), axis=1)
    return encoded.covered.centers(place_P2, grid)


def _table_rows(a: Frame, b: Frame, buddies: _FrameBuddies) -> list[dict[str, Any]]:
    """A row for each pair of patches, the strongest first; rows and columns in pixels of the frames."""
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
            zip(buddies.points, buddies.cosine, strict=True), start=1
        )
    ]


def _joined_pairs(
    frames: Sequence[Frame], buddies: Sequence[_FrameBuddies], random: Sequence[_FrameBuddies], most: int
) -> list[JoinedFrames]:
    """Neighboring frames with their strongest buddies, at most `most`, for the figure."""
    colors = colors_by_name([frame.domain for frame in frames])
    joined = []
    for (a, b), one, baseline in zip(pairwise(frames), buddies, random, strict=True):
        left, right = (overlay(frame.pixels, None, colors[frame.domain], frame.mask) for frame in (a, b))
        titles = ((a.key, colors[a.domain]), (b.key, colors[b.domain]))
        below = f"{one.text()}; random weights: {baseline.text()}"
        joined.append(JoinedFrames(left, right, titles, one.points[:most], below))
    return joined
