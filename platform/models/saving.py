"""A backbone as a folder: its weights and its card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from ..core.config import to_json
from ..core.errors import CheckpointError
from ..core.files import atomic_write
from .card import CARD, WEIGHTS, Card

if TYPE_CHECKING:
    from .backbone import Backbone


WeightType: TypeAlias = Literal["float32", "float16"]
"""Type of the weights in a folder; they are computed with in float32."""


def save_backbone(folder: Path, backbone: Backbone, dtype: WeightType = "float32") -> Card:
    """Write weights (safetensors) and card; returns the card with the weights' sha256. Raises as `write_folder`."""
    return write_folder(folder, backbone.card, backbone.state_dict(), dtype)


def write_folder(folder: Path, card: Card, state: Mapping[str, Tensor], dtype: WeightType) -> Card:
    """Write tensors (safetensors, those of numbers with a point as `dtype`) and card; the card with their sha256.

    Each file is written to a temporary name first; the card, written last, makes the folder a backbone. Raises
    CheckpointError where a weight is too large for float16.
    """
    from safetensors.torch import save

    tensors = {name: _stored(name, value, dtype) for name, value in state.items()}
    weights = save(tensors)
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / WEIGHTS, weights)
    atomic_write(folder / CARD, to_json(card))
    return card


def _stored(name: str, value: Tensor, dtype: WeightType) -> Tensor:
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    stored = value.to(getattr(torch, dtype))
    if not stored.isfinite().all() and value.isfinite().all():
        raise CheckpointError(f"{name} holds numbers too large for {dtype}; write float32 weights instead")
    return stored
