"""What is known of a backbone beside its weights: architecture, preparation of images, origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from .config import BackboneConfig, Resampling

WEIGHTS = "backbone.safetensors"
CARD = "card.json"
"""The two files of a backbone folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a backbone is, how images are prepared for it, and where it comes from."""

    label: str
    """What a person reads beside its results, such as `random weights, seed 0`."""
    config: BackboneConfig
    mean: float = 0.5
    """Subtracted from pixels scaled to 0..1."""
    std: float = 0.25
    """Divides what is left."""
    input_side: int | None = None
    """Side of the images that it is shown, in pixels; None: the one it is built for."""
    positions: Resampling = "timm"
    """How position embeddings are resampled to another grid, or rotary ones computed: as in the code that the weights
    come from."""
    weights_sha256: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Recipe, command, data manifest digest, git revision: plain words, for people."""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identity of what it computes: weights, architecture and preprocessing; never its name or path."""
        identity = asdict(replace(self, label="", origin={}, metrics={}))
        # Cards from before there were these settings keep their digest.
        for name in ("registers", "eps"):
            if identity["config"][name] is None:
                del identity["config"][name]
        if self.input_side in (None, self.config.side):
            del identity["input_side"]
        if identity["positions"] == "timm":
            del identity["positions"]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
