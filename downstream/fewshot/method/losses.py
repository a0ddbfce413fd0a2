"""The two losses of an episode: segmentation of the query, and prototype alignment back to the supports."""

# N support slices, C channels, h x w grid of features, H x W image, X channels of logits.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import PrototypeConfig
from .grid import at_least_float32, upsample
from .prototypes import MASK_EPSILON, check_shapes, prototype_scores, prototype_sets

IGNORE_INDEX = 255
"""Pixels of this label are left out of the segmentation loss."""


def segmentation_loss(logits_Xhw: Tensor, label_HW: Tensor, config: PrototypeConfig | None = None) -> Tensor:
    """Cross-entropy of the upsampled logits; background weighs `background_weight`, every organ 1.

    label: (H, W) channel numbers 0 .. X - 1, or 255 to ignore a pixel; 0 if all are ignored. The mean is over the
    weights, as in both released codes (arXiv 2007.09886, 2403.03273).
    """
    config = config or PrototypeConfig()
    logits_Xhw = at_least_float32(logits_Xhw)
    weight_X = torch.ones(len(logits_Xhw), dtype=logits_Xhw.dtype, device=logits_Xhw.device)
    weight_X[0] = config.background_weight
    logits_XHW = upsample(logits_Xhw, *label_HW.shape)
    label_HW = label_HW.to(logits_XHW.device).long()
    total = F.cross_entropy(
        logits_XHW[None], label_HW[None], weight_X, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    counted = label_HW[label_HW != IGNORE_INDEX]
    return total / weight_X[counted].sum().clamp(min=MASK_EPSILON)


def alignment_loss(
    query_CHW: Tensor,
    supports_NCHW: Tensor,
    masks_NHW: Tensor,
    logits_2hw: Tensor,
    config: PrototypeConfig | None = None,
) -> Tensor:
    """Prototype alignment: the query, with the mask predicted for it, must segment its supports.

    The argmax of logits (2, h, w) is the mask, with the window of training; all supports are segmented at once. Plain
    cross-entropy on the image, mean over pixels and supports, as released (arXiv 2007.09886). A prediction without
    organ is no error: it scores 0 for the organ everywhere, and the supports' pixels pull it up.
    """
    config = config or PrototypeConfig()
    check_shapes(query_CHW, supports_NCHW, masks_NHW)
    predicted_1hw = logits_2hw.argmax(dim=0).to(query_CHW.dtype)[None]
    sets = prototype_sets(query_CHW[None], predicted_1hw, config, training=True)
    logits_2Nhw = prototype_scores(supports_NCHW, sets)
    logits_N2HW = F.interpolate(logits_2Nhw.transpose(0, 1), masks_NHW.shape[1:], mode="bilinear")
    return F.cross_entropy(logits_N2HW, (masks_NHW > 0.5).to(logits_N2HW.device).long())
