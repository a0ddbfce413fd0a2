"""The loss of one episode, used in training and in test-time training.

Ayzenberg et al., arXiv 2403.03273, section 3.2; Wang et al., arXiv 1908.06391, section 3.4, for the alignment loss.
"""

# C channels, h, w grid of features, K a slice with its neighbors, S, T image sides of the network, H, W pixels.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..method.config import PrototypeConfig
from ..method.losses import alignment_loss, segmentation_loss
from ..method.prototypes import predict
from .augmentation import AugmentedSlice
from .encoder import TrainableEncoder


class EpisodeLosses(NamedTuple):
    """Losses of one episode, scalars under autograd."""

    segmentation: Tensor
    alignment: Tensor

    @property
    def total(self) -> Tensor:
        return self.segmentation + self.alignment


def episode_losses(
    encoder: TrainableEncoder, support: AugmentedSlice, query: AugmentedSlice, prototypes: PrototypeConfig
) -> EpisodeLosses:
    """Segmentation loss of the query by the support's prototypes, and alignment loss of the reverse direction.

    Pools with `prototypes.training_window`. Raises DataError if features are not finite.
    """
    images_2KST = encoder.network_input(np.stack([support.image, query.image]))
    support_Chw, query_Chw = encoder.tokens(images_2KST)
    masks_1HW = torch.from_numpy(support.mask)[None]
    logits_2hw = predict(query_Chw, support_Chw[None], masks_1HW, prototypes, training=True)
    return EpisodeLosses(
        segmentation_loss(logits_2hw, torch.from_numpy(query.mask), prototypes),
        alignment_loss(query_Chw, support_Chw[None], masks_1HW, logits_2hw, prototypes),
    )
