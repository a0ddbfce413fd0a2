"""One backbone: vectors, patch tokens and attention of views; the views of all requests share its passes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.core.vectors import mean_vectors
from ...platform.measure.descriptors import Descriptor
from ...platform.measure.extraction import view_vectors
from ...platform.models.similarity import PatchGrid
from ..config import RANDOM, ServiceConfig
from .batching import Batcher, OnBatch

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

# B views, D dimensions, N patches, H heads.


@dataclass(frozen=True, slots=True, eq=False)
class EncodedView:
    """A backbone's output for one view: patch tokens (N, D) and CLS attention (H, N), float32; and the patch grid."""

    tokens: np.ndarray
    attention: np.ndarray
    grid: PatchGrid

    @property
    def size(self) -> int:
        """Bytes of both."""
        return self.tokens.nbytes + self.attention.nbytes

    def __repr__(self) -> str:
        return f"EncodedView({len(self.tokens)} patches, {len(self.attention)} heads)"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneInfo:
    """What GET /v1/info tells of a backbone.

    digest: of weights and preprocessing. vectors: digest of its vectors, which a gallery has, too; dimensions: theirs.
    side, patch: of the square image for patches and attention, in pixels; width: of a patch token.
    """

    label: str
    digest: str
    vectors: str
    dimensions: int
    width: int
    side: int
    patch: int
    heads: int
    blocks: int
    device: str

    @property
    def patches(self) -> int:
        """Number of patches of a view."""
        return (self.side // self.patch) ** 2


class ModelPort(Protocol):
    """A backbone as the engine uses it: in this process, or a deployment of Ray Serve."""

    card: BackboneInfo

    async def vectors(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Views (H, W) uint8 as vectors of length 1, (B, D) float32. Raises FeaturesError, RefusedError."""

    async def encode(self, views: Sequence[np.ndarray]) -> list[EncodedView]:
        """Patch tokens and attention of views. Raises RefusedError."""

    async def alive(self) -> bool:
        """Whether it answers."""

    def close(self) -> None:
        """Ends its threads."""


def check_side(side: int, backbone: Backbone) -> None:
    """Raises ConfigError for a side of the input that the backbone's patches do not divide."""
    if side < 1 or side % backbone.patch:
        raise ConfigError(
            f"side {side} is not a multiple of {backbone.patch}, the patch size of {backbone.card.label}"
        )


class LocalModel:
    """A backbone in this process; one thread computes, the views of all requests share its passes.

    Raises ConfigError where the patches do not divide `config.side`.
    """

    def __init__(self, backbone: Backbone, descriptor: Descriptor, config: ServiceConfig) -> None:
        self.on_batch: OnBatch = lambda size, seconds: None
        self.backbone, self.descriptor = backbone, descriptor
        self.side = config.side or backbone.side
        check_side(self.side, backbone)
        self.timeout_s = config.limits.inference_s
        blocks: Any = backbone.vit.blocks
        probe = view_vectors(backbone, [np.zeros((8, 8), np.uint8)], descriptor)
        self.card = BackboneInfo(
            label=backbone.card.label,
            digest=backbone.card.digest,
            vectors=descriptor.digest(backbone.card.digest),
            dimensions=probe.shape[1],
            width=backbone.width,
            side=self.side,
            patch=backbone.patch,
            heads=blocks[-1].attn.num_heads,
            blocks=len(blocks),
            device=str(backbone.device),
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backbone")
        batching: dict[str, Any] = {
            "most": config.batch,
            "wait_s": config.wait_ms / 1000,
            "queue": config.limits.queue,
            "on_batch": lambda size, seconds: self.on_batch(size, seconds),
        }
        self._vectors = Batcher[np.ndarray, np.ndarray](self._run_vectors, self._thread, **batching)
        self._encode = Batcher[np.ndarray, EncodedView](self._run_encode, self._thread, **batching)

    @property
    def waiting(self) -> int:
        """Views that wait for a pass."""
        return self._vectors.waiting + self._encode.waiting

    async def vectors(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `ModelPort.vectors`."""
        return np.stack(await self._vectors.submit(views, self.timeout_s))

    async def encode(self, views: Sequence[np.ndarray]) -> list[EncodedView]:
        """See `ModelPort.encode`."""
        return await self._encode.submit(views, self.timeout_s)

    async def alive(self) -> bool:
        """Whether its thread still takes work."""
        return not self._thread._shutdown

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run_vectors(self, views: list[np.ndarray]) -> Sequence[np.ndarray | Exception]:
        try:
            return list(view_vectors(self.backbone, views, self.descriptor))
        except FeaturesError as error:
            if len(views) == 1:
                return [error]
            return [result for view in views for result in self._run_vectors([view])]

    def _run_encode(self, views: list[np.ndarray]) -> list[EncodedView]:
        images = self.backbone.prepare_many(views, self.side)
        tokens, attention = self.backbone.tokens_and_attention(images)
        return [
            EncodedView(patches, heads, self._grid(view))
            for patches, heads, view in zip(
                tokens.patches.float().cpu().numpy(), attention.float().cpu().numpy(), views, strict=True
            )
        ]

    def _grid(self, view: np.ndarray) -> PatchGrid:
        height, width = view.shape
        return PatchGrid(height=height, width=width, side=self.side, patch=self.backbone.patch)

    def __repr__(self) -> str:
        return f"LocalModel({self.card.label}, side {self.side})"


def load_backbones(config: ServiceConfig) -> list[Backbone]:
    """The backbones of the service, in the order given. Raises ConfigError or CheckpointError."""
    from ...platform.models.backbone import random_like
    from ...platform.models.loading import load

    if not config.backbones or str(config.backbones[0]) == RANDOM:
        raise ConfigError("a backbone folder is needed first; `random` may follow it")
    first = load(config.backbones[0], config.device)
    others = config.backbones[1:]
    return [
        first,
        *(random_like(first) if str(name) == RANDOM else load(name, config.device) for name in others),
    ]


def load_backbone(config: ServiceConfig, number: int) -> Backbone:
    """The number-th of `load_backbones`, and no other but the one whose architecture random weights have."""
    chosen = config.backbones[number]
    if str(chosen) == RANDOM and number:
        return load_backbones(replace(config, backbones=(config.backbones[0], RANDOM)))[1]
    return load_backbones(replace(config, backbones=(chosen,)))[0]


def study_vector(vectors_BD: np.ndarray) -> np.ndarray:
    """The vector of a study from its views': their mean, made length 1, (D,) float32. As in a feature table."""
    return mean_vectors(vectors_BD, [0], "the study")[0]
