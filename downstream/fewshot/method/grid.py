"""Masks and scores between the pixels of an image and the coarser grid of features."""

# N masks, X channels, H, W pixels, h, w cells of the grid.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import Compat


def grid_mask(mask_HW: Tensor, h: int, w: int, compat: Compat = "ours") -> Tensor:
    """(…, h, w) float: a mask (…, H, W) of zeros and ones (or shares) on the grid of features.

    `levayz` takes the pixel at each cell's upper left corner (torch's `nearest`), `alpnet` the four pixels around its
    center (`bilinear`), `ours` the share of the cell that the mask covers, also where the grid does not divide the
    image.

    >>> corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    >>> [grid_mask(corner, 1, 1, compat).item() for compat in ("levayz", "alpnet", "ours")]
    [1.0, 0.25, 0.25]
    """
    mask_HW = at_least_float32(mask_HW)
    if compat == "ours":
        height, width = mask_HW.shape[-2:]
        rows_hH, columns_wW = _coverage(h, height).to(mask_HW), _coverage(w, width).to(mask_HW)
        with no_autocast(mask_HW):
            return rows_hH @ mask_HW @ columns_wW.T
    mode = {"levayz": "nearest", "alpnet": "bilinear"}[compat]
    flat_M1HW = mask_HW.reshape(-1, 1, *mask_HW.shape[-2:])
    return F.interpolate(flat_M1HW, (h, w), mode=mode).reshape(*mask_HW.shape[:-2], h, w)


def _coverage(cells: int, pixels: int) -> Tensor:
    """(cells, pixels) float64: what share of each cell every pixel fills; rows sum to 1.

    torch's own `area` widens cells to whole pixels, so that they overlap where the grid does not divide the image.
    """
    edge = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells
    pixel = torch.arange(pixels, dtype=torch.float64)
    start_cp = torch.maximum(edge[:-1, None], pixel)
    return (torch.minimum(edge[1:, None], pixel + 1) - start_cp).clamp(min=0) * cells / pixels


def upsample(scores_Xhw: Tensor, height: int, width: int) -> Tensor:
    """(X, height, width): scores of the grid enlarged bilinearly to the image."""
    return F.interpolate(scores_Xhw[None], (height, width), mode="bilinear")[0]


def copied_mask(masks_NHW: Tensor, height: int, width: int) -> Tensor:
    """(height, width) bool: the support's own mask, the baseline that ignores the query.

    With several supports a pixel is foreground where at least half of them say so. Another size is resampled to the
    nearest pixel.
    """
    majority_HW = (at_least_float32(masks_NHW).mean(dim=0) >= 0.5).float()
    return F.interpolate(majority_HW[None, None], (height, width), mode="nearest-exact")[0, 0].bool()


def at_least_float32(x: Tensor) -> Tensor:
    """As float32, unless it is float64: half precision has too few digits for prototypes and cosines."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor) -> torch.autocast:
    """Context in which products keep their factors' precision, also where a training runs the network in halves."""
    return torch.autocast(x.device.type, enabled=False)
