"""An organ from one labelled slice: adaptive local prototypes (ALP), by ourselves or just as two released codes do it.

A support slice's features are pooled into cells; cells that lie almost wholly in the organ, or almost wholly outside
it, are prototypes, and a query position belongs to the side whose prototypes it resembles more. Ouyang et al.,
"Self-supervision with superpixels", arXiv 2007.09886 (the released code is `compat="alpnet"`);
Ayzenberg et al., "DINOv2 based self supervised learning for few shot medical image segmentation", arXiv 2403.03273
(`compat="levayz"`). Only tensors come in and go out: the network is elsewhere.

N support slices (shots), O organs, C channels, h x w grid of features, H x W image, P query positions, K cells of all
supports, k cells of one, S sets of prototypes, G global prototypes of a set, X channels of logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....platform.core.errors import ConfigError, DataError
from .config import Compat, PrototypeConfig

SHORTEST = 1e-4
"""A shorter vector is divided by this instead of its length: next to nothing has no direction."""
EMPTY = 1e-5
"""Added to a mask's sum before it divides (as both codes release it)."""
VOID = 255
"""A pixel of this label counts in no loss."""


@dataclass(frozen=True, slots=True)
class Used:
    """What answered for one organ: modes, and how many prototypes of all supports together.

    foreground: `gridconv+` (local prototypes and the mean), `mask` (the mean alone) or `none` (the organ is lost on
    the grid: its score is 0). background: `gridconv`, `mask` (no cell is background: its mean stands in) or `none`
    (the supports show nothing but the organ: its score is 0). local_supports: how many supports gave the organ cells.
    """

    organ: str
    foreground: str
    background: str
    foreground_prototypes: int
    background_prototypes: int
    local_supports: int


class Scores(NamedTuple):
    """logits (X, h, w), background first, before any softmax; and what answered, organ by organ."""

    logits: Tensor
    used: tuple[Used, ...]


# Masks and grids ---------------------------------------------------------------------------------


def grid_mask(mask_HW: Tensor, h: int, w: int, compat: Compat = "ours") -> Tensor:
    """(…, h, w) float: a mask (…, H, W) of zeros and ones (or shares) on the grid of features.

    `levayz` asks the pixel at each cell's upper left corner (torch's `nearest`), `alpnet` the four pixels around its
    centre (`bilinear`), `ours` all that the cell covers: its share of the mask, also where the grid does not divide
    the image.

    >>> corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> [grid_mask(corner, 1, 1, compat).item() for compat in ("levayz", "alpnet", "ours")]
    [1.0, 0.25, 0.25]
    """
    mask_HW = _real(mask_HW)
    if compat == "ours":
        rows_hH, columns_wW = (
            _coverage(*sides).to(mask_HW) for sides in ((h, mask_HW.shape[-2]), (w, mask_HW.shape[-1]))
        )
        with _full_precision(mask_HW):
            return rows_hH @ mask_HW @ columns_wW.T
    mode = {"levayz": "nearest", "alpnet": "bilinear"}[compat]
    flat_M1HW = mask_HW.reshape(-1, 1, *mask_HW.shape[-2:])
    return F.interpolate(flat_M1HW, (h, w), mode=mode).reshape(*mask_HW.shape[:-2], h, w)


def _coverage(cells: int, pixels: int) -> Tensor:
    """(cells, pixels) float64: what share of each cell every pixel fills; rows sum to 1.

    torch's own `area` widens cells to whole pixels, so that where the grid does not divide the image they overlap.
    """
    edge = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    pixel = torch.arange(pixels, dtype=torch.float64)
    start_cp = torch.maximum(edge[:-1, None], pixel)
    return (torch.minimum(edge[1:, None], pixel + 1) - start_cp).clamp(min=0) * cells / pixels


def on_image(logits_Xhw: Tensor, height: int, width: int) -> Tensor:
    """(X, height, width): scores of the grid enlarged bilinearly to the image, whose argmax is the label map."""
    return F.interpolate(logits_Xhw[None], (height, width), mode="bilinear")[0]


def copy_mask(masks_NHW: Tensor, height: int, width: int) -> Tensor:
    """(height, width) bool, the floor: what the supports show where they show it, whatever the query is.

    With several supports a pixel is organ where at least half of them say so. Another size is reached by the nearest
    pixel.
    """
    voted_HW = (_real(masks_NHW).mean(dim=0) >= 0.5).float()
    return F.interpolate(voted_HW[None, None], (height, width), mode="nearest-exact")[0, 0].bool()


# Prediction --------------------------------------------------------------------------------------


def predict(
    query_CHW: Tensor,
    supports_NCHW: Tensor,
    masks_NHW: Tensor,
    config: PrototypeConfig | None = None,
    *,
    training: bool = False,
    organ: str = "the organ",
) -> Scores:
    """Scores (2, h, w) of background and organ at every position of a query slice (1-way, N-shot).

    query: features (C, h, w); supports: (N, C, h, w); masks: (N, H, W) bool or 0 and 1, on the image. The maths runs
    in float32 at least, under autograd, on the features' device. Raises DataError for a mask empty in all supports
    (`organ` names it), shapes that do not fit and features that are not finite; ConfigError for a window larger
    than the grid. Source: arXiv 2007.09886; see `PrototypeConfig.compat`.
    """
    config = config or PrototypeConfig()
    _check(query_CHW, supports_NCHW, masks_NHW)
    _refuse_empty((masks_NHW > 0.5)[None], [organ])
    grid_1Nhw = grid_mask((masks_NHW > 0.5).to(query_CHW.device), *query_CHW.shape[-2:], config.compat)[None]
    sets = sets_of(supports_NCHW, grid_1Nhw, [organ], config, training=training)
    background_1hw, foreground_1hw = scores(query_CHW[None], sets).squeeze(2)
    return Scores(torch.cat([background_1hw, foreground_1hw]), sets.used)


def predict_all(
    query_CHW: Tensor,
    supports_NCHW: Tensor,
    labels_NHW: Tensor,
    classes: Sequence[int] | Mapping[int, str],
    config: PrototypeConfig | None = None,
    *,
    training: bool = False,
) -> Scores:
    """Scores (O + 1, h, w) of background and every class of `classes`, in their order, in one pass.

    labels: (N, H, W) class numbers; numbers not asked for are background. A class is compared with its own
    background, in which the other organs lie too, as `predict` would; but cells are pooled, and compared with the
    query, once for all classes. Channel 0 is the classes' mean background score, every other one that mean plus what
    the class is ahead of its own background. So argmax over channels is the class that is furthest ahead of its
    background, or background where none is ahead, and for one class the answer is that of `predict`, number for
    number. Raises as `predict` does; the DataError names the classes that no support shows.
    """
    config = config or PrototypeConfig()
    names = [
        f"class {number}" + (f" ({classes[number]})" if isinstance(classes, Mapping) else "")
        for number in classes
    ]
    if not names:
        raise DataError("no class to look for; name at least one")
    _check(query_CHW, supports_NCHW, labels_NHW)
    numbers_O = torch.tensor(list(classes), device=labels_NHW.device)
    masks_ONHW = labels_NHW == numbers_O[:, None, None, None]
    _refuse_empty(masks_ONHW, names)
    grid_ONhw = grid_mask(masks_ONHW.to(query_CHW.device), *query_CHW.shape[-2:], config.compat)
    sets = sets_of(supports_NCHW, grid_ONhw, names, config, training=training)
    background_Ohw, foreground_Ohw = scores(query_CHW[None], sets).squeeze(2)
    shared_hw = background_Ohw.mean(dim=0)
    # In this order nothing is rounded for one class, whose background the mean is.
    return Scores(torch.cat([shared_hw[None], foreground_Ohw + (shared_hw - background_Ohw)]), sets.used)


def _check(query_CHW: Tensor, supports_NCHW: Tensor, masks_NHW: Tensor) -> None:
    if query_CHW.ndim != 3 or supports_NCHW.shape[1:] != query_CHW.shape or not len(supports_NCHW):
        raise DataError(
            f"query features {tuple(query_CHW.shape)} and support features {tuple(supports_NCHW.shape)} must be "
            "(C, h, w) and (N, C, h, w), N at least 1; take both from the same encoder at the same side"
        )
    if masks_NHW.ndim != 3 or len(masks_NHW) != len(supports_NCHW):
        raise DataError(
            f"support masks {tuple(masks_NHW.shape)} must be (N, H, W), one for each of the "
            f"{len(supports_NCHW)} support slices"
        )


def _refuse_empty(masks_ONHW: Tensor, names: Sequence[str]) -> None:
    missing = [name for name, seen in zip(names, masks_ONHW.flatten(1).any(dim=1), strict=True) if not seen]
    if missing:
        raise DataError(
            f"empty support mask: {', '.join(missing)} in none of {masks_ONHW.shape[1]} support slices; "
            "choose support slices that show it"
        )


# Prototypes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """The prototypes of some supports, gathered in sets, each of which answers with one score.

    cells: (K, C) unit vectors, pooled once for all sets. members: (S, K) bool, the cells of each set. means: (S, G, C)
    unit vectors; present: (S, G) bool, which of them the set holds. The first O sets are the organs' backgrounds;
    then come the organs' foregrounds, equally many for each, of whose scores the largest counts. tau: factor of every
    cosine with them.
    """

    cells: Tensor
    members: Tensor
    means: Tensor
    present: Tensor
    tau: float
    used: tuple[Used, ...]

    def __repr__(self) -> str:
        return f"Sets({len(self.used)} organs, {len(self.cells)} cells)"


def sets_of(
    supports_NCHW: Tensor,
    grid_ONhw: Tensor,
    names: Sequence[str],
    config: PrototypeConfig,
    *,
    training: bool = False,
) -> Sets:
    """The prototypes of O organs, whose masks are already on the grid (shares 0..1).

    Raises ConfigError for a window that is larger than the grid.
    """
    supports_NChw = _real(supports_NCHW)
    grid_ONhw = grid_ONhw.to(supports_NChw)
    window = config.pooling_window(training)
    cells_NkC = _pooled(supports_NChw, window, config).flatten(2).mT
    organ_ONk = _pooled(grid_ONhw, window, config).flatten(2) > config.foreground_share
    gate_ONk = _pooled(grid_ONhw, config.gate_window(training), config).flatten(2)
    open_ON = (gate_ONk >= config.foreground_share).any(dim=2)
    ground_OK = (_pooled(1 - grid_ONhw, window, config) > config.background_share).flatten(1)
    with _full_precision(supports_NChw):
        front = _foreground(supports_NChw, grid_ONhw, organ_ONk, open_ON, config.compat)
        back = _background(supports_NChw, 1 - grid_ONhw, ground_OK, room=front.present.shape[1])
    return Sets(
        cells=_unit(cells_NkC.flatten(0, 1)),
        members=torch.cat([back.members, front.members]),
        means=_unit(torch.cat([back.means, front.means])),
        present=torch.cat([back.present, front.present]),
        tau=config.cosine_factor(training),
        used=_used(names, len(supports_NChw), back, front),
    )


class _Part(NamedTuple):
    """Foregrounds or backgrounds alone: `members`, `means` (not yet unit vectors) and `present` as in `Sets`.

    A mean of nothing is a zero vector: its cosine with everything is 0, and so is the score of a set of it alone.
    """

    members: Tensor
    means: Tensor
    present: Tensor


def _foreground(
    supports_NChw: Tensor, grid_ONhw: Tensor, organ_ONk: Tensor, open_ON: Tensor, compat: Compat
) -> _Part:
    """gridconv+ where the gate is open, else mask; several supports pooled as the compat does.

    In both released codes a support on whose grid the organ is lost speaks too, with cosine 0.
    """
    shots, size_ON = len(supports_NChw), grid_ONhw.sum(dim=(2, 3))
    sum_ONC = torch.einsum("nchw,onhw->onc", supports_NChw, grid_ONhw)
    mean_ONC = sum_ONC / (size_ON[..., None] + EMPTY)
    if compat == "levayz":  # every support is a set of its own, with its own gate
        own_NN = torch.eye(shots, dtype=torch.bool, device=organ_ONk.device)
        members_ONNk = (organ_ONk & open_ON[..., None])[:, None] & own_NN[..., None]
        present_S1 = torch.ones_like(open_ON).reshape(-1, 1)
        return _Part(members_ONNk.flatten(0, 1).flatten(1), mean_ONC.flatten(0, 1)[:, None], present_S1)
    open_O1 = open_ON.any(dim=1, keepdim=True)
    members_OK = (organ_ONk & open_O1[..., None]).flatten(1)
    if compat == "ours":  # all pixels of all supports make one mean
        mean_O1C = sum_ONC.sum(dim=1, keepdim=True) / (size_ON.sum(dim=1)[:, None, None] + EMPTY)
        return _Part(members_OK, mean_O1C, torch.ones_like(open_O1))
    # alpnet: beside local prototypes stand the means of all supports; without them, the mean of these alone.
    first_N = torch.arange(shots, device=open_ON.device) == 0
    mean_ONC = torch.where(open_O1[..., None], mean_ONC, mean_ONC.mean(dim=1, keepdim=True))
    return _Part(members_OK, mean_ONC, open_O1 | first_N)


def _background(supports_NChw: Tensor, ground_ONhw: Tensor, members_OK: Tensor, room: int) -> _Part:
    """gridconv over the cells of all supports; where an organ leaves none, the mean of all background instead.

    Shares that fill less than a millionth of the grid are what rounding left, and no background.
    """
    size_O1 = ground_ONhw.sum(dim=(1, 2, 3))[:, None]
    mean_OC = torch.einsum("nchw,onhw->oc", supports_NChw, ground_ONhw) / (size_O1 + EMPTY)
    mean_OC = torch.where(size_O1 > 1e-6 * ground_ONhw[0].numel(), mean_OC, 0.0)
    first_G = torch.arange(room, device=members_OK.device) == 0
    present_OG = ~members_OK.any(dim=1, keepdim=True) & first_G
    return _Part(members_OK, mean_OC[:, None].expand(-1, room, -1), present_OG)


def _used(names: Sequence[str], shots: int, back: _Part, front: _Part) -> tuple[Used, ...]:
    cells_OENk = front.members.reshape(len(names), -1, shots, front.members.shape[1] // shots)
    back_means_O, front_means_O = (
        (part.present & (part.means != 0).any(dim=2)).reshape(len(names), -1).sum(dim=1)
        for part in (back, front)
    )
    counts_O5 = torch.stack(
        [
            back.members.sum(dim=1),
            back_means_O,
            cells_OENk.flatten(1).sum(dim=1),
            front_means_O,
            cells_OENk.any(dim=3).flatten(1).sum(dim=1),
        ],
        dim=1,
    )
    return tuple(
        Used(
            organ=name,
            foreground="gridconv+" if cells else "mask" if means else "none",
            background="gridconv" if ground else "mask" if stand_in else "none",
            foreground_prototypes=cells + means,
            background_prototypes=ground + stand_in,
            local_supports=local,
        )
        for name, (ground, stand_in, cells, means, local) in zip(names, counts_O5.tolist(), strict=True)
    )


def _pooled(values: Tensor, window: int, config: PrototypeConfig) -> Tensor:
    """Means of (A, B, h, w) over windows side by side; see `PrototypeConfig.compat` for the edge."""
    if window > min(values.shape[2:]):
        raise ConfigError(
            f"prototypes: a window of {window} cells on a grid of {values.shape[2]} x {values.shape[3]}; "
            "choose a smaller prototypes.window and training_window, or a larger image"
        )
    return F.avg_pool2d(values, window, ceil_mode=config.compat == "ours", count_include_pad=False)


def _unit(x: Tensor) -> Tensor:
    """u(x) = x / max(|x|, 1e-4) along the last axis."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=SHORTEST)


def _real(x: Tensor) -> Tensor:
    """As float32, where it is not float64: halves hold too few digits for what follows."""
    return x if x.dtype == torch.float64 else x.float()


def _full_precision(x: Tensor) -> torch.autocast:
    """Products stay as precise as their factors, also where a training runs the network in halves."""
    return torch.autocast(x.device.type, enabled=False)


# Scores ------------------------------------------------------------------------------------------


def scores(queries_QCHW: Tensor, sets: Sets) -> Tensor:
    """(2, O, Q, h, w): background and foreground scores of every organ at every position of Q slices of features.

    A set's score is the mean of d_k = tau cos(q, p_k) over its prototypes, weighted by softmax_k(d) (arXiv
    2007.09886); of one prototype alone that is tau cos. An organ's foreground is the largest of its sets'. Raises
    DataError where a score is not finite.
    """
    queries_QCHW = _real(queries_QCHW)
    with _full_precision(queries_QCHW):
        score_SP = _attended(_unit(queries_QCHW.permute(0, 2, 3, 1).flatten(0, 2)), sets)
    if not torch.isfinite(score_SP.detach()).all():
        raise DataError("scores that are not finite: the features hold NaN or infinity; look at their images")
    organs = len(sets.used)
    front_OP = score_SP[organs:].unflatten(0, (organs, -1)).amax(dim=1)
    queries, _, height, width = queries_QCHW.shape
    return torch.stack([score_SP[:organs], front_OP]).unflatten(2, (queries, height, width))


def _attended(query_PC: Tensor, sets: Sets) -> Tensor:
    """(S, P): softmax-weighted mean of tau cos over each set's prototypes.

    Cosines with cells are taken once, and all sets weigh with the same exponentials: |d| <= tau, so exp(d - tau)
    neither overflows nor vanishes, and no (S, P, K) table is needed.
    """
    tau = sets.tau
    near_PK = tau * query_PC @ sets.cells.T
    near_PSG = tau * torch.einsum("pc,sgc->psg", query_PC, sets.means)
    weight_PK, weight_PSG = (near_PK - tau).exp(), (near_PSG - tau).exp() * sets.present
    members_KS = sets.members.T.to(near_PK)
    over_PS = (weight_PK * near_PK) @ members_KS + (weight_PSG * near_PSG).sum(dim=2)
    under_PS = weight_PK @ members_KS + weight_PSG.sum(dim=2)
    return (over_PS / under_PS).T


# Losses ------------------------------------------------------------------------------------------


def segmentation_loss(logits_Xhw: Tensor, label_HW: Tensor, config: PrototypeConfig | None = None) -> Tensor:
    """Cross-entropy of the enlarged scores, background weighing `background_weight` and every organ 1.

    label: (H, W) channel numbers 0 .. X - 1; 255 counts nowhere, and where nothing counts the loss is 0. The mean is
    over weights, as in both released codes.
    """
    config = config or PrototypeConfig()
    logits_Xhw = _real(logits_Xhw)
    weight_X = torch.ones(len(logits_Xhw), dtype=logits_Xhw.dtype, device=logits_Xhw.device)
    weight_X[0] = config.background_weight
    logits_XHW = on_image(logits_Xhw, *label_HW.shape)
    label_HW = label_HW.to(logits_XHW.device).long()
    total = F.cross_entropy(logits_XHW[None], label_HW[None], weight_X, ignore_index=VOID, reduction="sum")
    counted_HW = label_HW[label_HW != VOID]
    return total / weight_X[counted_HW].sum().clamp(min=EMPTY)


def alignment_loss(
    query_CHW: Tensor,
    supports_NCHW: Tensor,
    masks_NHW: Tensor,
    logits_2hw: Tensor,
    config: PrototypeConfig | None = None,
) -> Tensor:
    """Prototype alignment: the query, with the mask predicted for it, must segment its supports again.

    The argmax of logits (2, h, w) becomes the mask, with the window of training; all supports are asked at once. Plain
    cross-entropy on the image, mean over pixels and supports, as released (arXiv 2007.09886). A prediction
    without organ scores 0 for it everywhere and is no error: the supports' pixels then say that there is one.
    """
    config = config or PrototypeConfig()
    _check(query_CHW, supports_NCHW, masks_NHW)
    predicted_11hw = logits_2hw.argmax(dim=0).to(query_CHW.dtype)[None, None]
    sets = sets_of(query_CHW[None], predicted_11hw, ["the predicted organ"], config, training=True)
    logits_2Nhw = scores(supports_NCHW, sets).squeeze(1)
    logits_N2HW = F.interpolate(logits_2Nhw.transpose(0, 1), masks_NHW.shape[1:], mode="bilinear")
    return F.cross_entropy(logits_N2HW, (masks_NHW > 0.5).to(logits_N2HW.device).long())
