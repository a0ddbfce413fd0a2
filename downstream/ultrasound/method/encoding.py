"""Frames as a backbone encodes them: descriptors of their patches and the CLS token's attention, of one block or more.

An encoder encodes each frame once and keeps the result.
"""

# H, W height and width of a frame as stored; h, w of the network's input; R, C rows and columns of its patches;
# D width, A heads.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ....platform.core.errors import ConfigError
from ....platform.core.progress import track
from ....platform.models.backbone import Backbone, random_like
from ....platform.models.facets import extract_facets
from ..config import ZeroshotConfig
from ..frames import Frame, network_input
from .descriptors import log_binned
from .masks import Coverage, enlarge, patch_shares
from .tokencut import FrameCut, tokencut

if TYPE_CHECKING:
    from torch import Tensor

MAX_CUT_PATCHES = 4096
"""Most patches of a frame for TokenCut, whose matrix has as many rows and columns."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """One frame as a backbone encodes it.

    block_descriptors: (R, C, D) of single patches in each of the encoder's blocks. block_attention: (A, R, C), of the
    CLS token, in each of its attention blocks. covered: where the patches lie in the frame. pixels: (H, W) uint8, the
    encoded image. cut: TokenCut's, None where it was not computed.
    """

    block_descriptors: tuple[np.ndarray, ...]
    block_attention: tuple[np.ndarray, ...]
    covered: Coverage
    pixels: np.ndarray
    cut: FrameCut | None = None

    @property
    def descriptors(self) -> np.ndarray:
        """(R, C, D) of the last of the blocks."""
        return self.block_descriptors[-1]

    @property
    def attention(self) -> np.ndarray:
        """(A, R, C) of the last of the attention blocks."""
        return self.block_attention[-1]

    def enlarge(self, mask_RC: np.ndarray) -> np.ndarray:
        """A mask of patches at the frame's size: (H, W) bool."""
        height, width = self.pixels.shape
        return enlarge(mask_RC, height, width, self.covered)

    def described(self, log_binning: bool, block: int = -1) -> np.ndarray:
        """The descriptors of one of the blocks, (R, C, D), or with log_binning those of each patch with its
        surroundings, (R, C, 17 D)."""
        descriptors_RCD = self.block_descriptors[block]
        return log_binned(descriptors_RCD) if log_binning else descriptors_RCD

    def patch_shares(self, mask_HW: np.ndarray) -> np.ndarray:
        """The share of each patch's area that a mask covers: (R, C), 0..1."""
        return patch_shares(mask_HW, self.descriptors.shape[:2], self.covered)


class FrameEncoder:
    """Encodes frames with a backbone by the settings of an experiment, each frame once."""

    def __init__(self, backbone: Backbone, config: ZeroshotConfig, tokencut: bool = False) -> None:
        """tokencut: also compute TokenCut's masks. Raises ConfigError for a block or head that it does not have."""
        self.backbone = backbone
        self.config = config
        self.tokencut = tokencut
        several = config.cosegment.vote == "consensus"
        self.blocks = block_indices(config.block, backbone, several)
        self.attention_blocks = block_indices(config.attention_block, backbone, several)
        self.block, self.attention_block = self.blocks[-1], self.attention_blocks[-1]
        blocks: Any = backbone.vit.blocks  # timm's, whose attributes are not typed
        heads, chosen = blocks[self.attention_block].attn.num_heads, config.cosegment.heads
        if chosen and max(chosen) >= heads:
            raise ConfigError(f"cosegment.heads is {chosen}, but there are {heads} heads, counted from 0")
        self._encoded: dict[str, EncodedFrame] = {}

    def encode(self, frame: Frame) -> EncodedFrame:
        """A frame's descriptors and attention, from memory where it was encoded before."""
        if frame.key not in self._encoded:
            input_1hw = network_input(frame, self.backbone, self.config.short)
            self._encoded[frame.key] = self.encode_input(input_1hw, frame.pixels)
        return self._encoded[frame.key]

    def encode_input(self, input_1hw: Tensor, pixels_HW: np.ndarray) -> EncodedFrame:
        """An input that was made of a frame; `pixels` are the same image as uint8, at the frame's size."""
        config = self.config
        facets = extract_facets(
            self.backbone,
            input_1hw[None],
            blocks=self.blocks,
            kinds=tuple(dict.fromkeys((config.facet, "key"))),
            attention=self.attention_blocks,
            stride=config.stride,
            position=config.position,
        )
        grid = facets.grid

        def vectors(block: int, kind: str) -> np.ndarray:
            return facets.features[block, kind][0].reshape(*grid, -1).cpu().numpy()

        with_cut = self.tokencut and grid[0] * grid[1] <= MAX_CUT_PATCHES
        return EncodedFrame(
            block_descriptors=tuple(vectors(block, config.facet) for block in self.blocks),
            block_attention=tuple(
                facets.cls_attention[block][0].reshape(-1, *grid).cpu().numpy()
                for block in self.attention_blocks
            ),
            covered=patch_coverage(grid, input_1hw.shape[-2:], pixels_HW.shape, self.backbone, config.stride),
            pixels=pixels_HW,
            cut=tokencut(vectors(self.block, "key"), config.tokencut.tau) if with_cut else None,
        )

    def __repr__(self) -> str:
        return f"FrameEncoder({self.backbone.card.label}, {len(self._encoded)} frames encoded)"


class EncoderPair:
    """A backbone, and the same architecture at random weights as its baseline."""

    def __init__(self, backbone: Backbone, config: ZeroshotConfig) -> None:
        self.backbone = FrameEncoder(backbone, config, tokencut=True)
        self.random = FrameEncoder(random_like(backbone, config.seed).eval(), config)

    def encode(self, frames: Sequence[Frame]) -> tuple[list[EncodedFrame], list[EncodedFrame]]:
        """(frames encoded by the backbone, the same by random weights)."""
        return [self.backbone.encode(frame) for frame in frames], [
            self.random.encode(frame) for frame in frames
        ]

    def encode_all(self, frames: Sequence[Frame]) -> None:
        """Encodes frames ahead of the sets that hold them, with a progress bar."""
        for frame in track(frames, label="encode", unit="frames"):
            self.encode([frame])


def patch_coverage(
    grid: tuple[int, int],
    input_size: tuple[int, ...],
    frame_size: tuple[int, ...],
    backbone: Backbone,
    stride: int | None,
) -> Coverage:
    """Where the patches of a network's input lie in the frame that it was made of."""
    step = stride or backbone.patch
    spans = [
        ((count - 1) * step + backbone.patch) / side for count, side in zip(grid, input_size, strict=True)
    ]
    height, width = (min(side, span * side) for span, side in zip(spans, frame_size, strict=True))
    margins = [
        (backbone.patch - step) / 2 / pixels * side
        for pixels, side in zip(input_size, frame_size, strict=True)
    ]
    return Coverage(height, width, *margins)


def block_indices(block: int | None, backbone: Backbone, several: bool) -> tuple[int, ...]:
    """0-based indices of a block that settings count from 1; None is the last, or with `several` the last quarter of
    all blocks, rounded up. Raises ConfigError."""
    blocks = len(backbone.vit.blocks)
    if block is None and several:
        return tuple(range(blocks - math.ceil(blocks / 4), blocks))
    return (block_index(block, backbone),)


def block_index(block: int | None, backbone: Backbone) -> int:
    """0-based index of a block that settings count from 1; None is the last. Raises ConfigError."""
    blocks = len(backbone.vit.blocks)
    if block is None:
        return blocks - 1
    if not 1 <= block <= blocks:
        raise ConfigError(f"block {block}: the backbone has blocks 1 to {blocks}")
    return block - 1
