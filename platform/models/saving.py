"""A backbone as a folder: its weights and its card."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..core.config import to_json
from ..core.files import atomic_write
from .card import CARD, WEIGHTS, Card

if TYPE_CHECKING:
    from .backbone import Backbone


def save_backbone(folder: Path, backbone: Backbone) -> Card:
    """Write weights (safetensors, float32) and card; returns the card with the weights' sha256.

    Each file is written to a temporary name first; the card, written last, makes the folder a backbone.
    """
    from safetensors.torch import save

    state = backbone.state_dict()
    weights = save(
        {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in state.items()}
    )
    card = replace(backbone.card, weights_sha256=hashlib.sha256(weights).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / WEIGHTS, weights)
    atomic_write(folder / CARD, to_json(card))
    return card
