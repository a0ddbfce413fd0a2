"""Features of slices from a Vision Transformer: normalized patch tokens of chosen layers and scales."""

# n selected slices, S, T sides as the network sees them, L tokens; C channels, h, w grid; R directions.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ....platform.core.errors import ConfigError
from ....platform.models.blocks import block_inputs
from ....platform.models.facets import embed_patches
from ....platform.models.positions import add_positions
from ...volumes.volume import Volume
from .config import SliceConfig
from .slices import intensity_scale, resized, with_coordinates

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone


GPU_BATCH = 16
"""Slices that a GPU takes at once."""


class TokenFeatures:
    """A backbone's normalized patch tokens: `SliceFeatures`.

    blank: the backbone whose features of a blank slice give the directions that `debias` removes; None: `backbone`.
    For a backbone in training it is the frozen start, so that these directions do not change on the way.
    """

    def __init__(
        self, backbone: Backbone, config: SliceConfig | None = None, blank: Backbone | None = None
    ) -> None:
        self.backbone = backbone
        self.config = config or SliceConfig()
        self.stride = self.config.stride or backbone.patch
        needed = backbone.patch + (self.config.grid - 1) * self.stride
        self.side = self.config.side or backbone.card.input_side or needed
        self._blank = blank or backbone
        self._directions: dict[tuple[int, int], Tensor] = {}
        _check_fit(self.config, backbone)

    def __call__(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        """Features (n, C, h, w) float32 on the CPU, coordinates appended; a slice's do not depend on the others
        (on a GPU but for rounding, see `image_batches`).

        Raises DataError for a constant scan.
        """
        values_nHW = intensity_scale(volume).apply(volume.image_ZHW[list(slices)])
        images_n1ST = resized(values_nHW, self.side, self.backbone.patch)
        with torch.no_grad():
            parts = image_batches(images_n1ST, self.backbone.device)
            features = torch.cat([self.encode(part_b1ST).cpu() for part_b1ST in parts])
        return with_coordinates(features, volume, slices, self.config.coordinates)

    def encode(self, images_n1ST: Tensor) -> Tensor:
        """(n, C, h, w) float32 on the backbone's device, under autograd, of images as `resized` makes them.

        Coordinates are not included: they do not come from the network and are not trained.
        """
        features = torch.cat([self._at_scale(scale, images_n1ST) for scale in self.config.scales], dim=1)
        if self.config.enlarged:
            features = F.interpolate(features, (self.config.enlarged,) * 2, mode="bilinear")
        return features

    def _at_scale(self, scale: float, images_n1ST: Tensor) -> Tensor:
        """(n, C, h, w): tokens of the images at a multiple of their size, resampled to the grid of scale 1."""
        sides = images_n1ST.shape[2:]
        if scale != 1:
            # As many whole strides as fit best.
            steps = [round((side * scale - self.backbone.patch) / self.stride) for side in sides]
            size = [self.backbone.patch + self.stride * max(0, step) for step in steps]
            images_n1ST = F.interpolate(images_n1ST, size, mode="bilinear", antialias=True)
        features = patch_tokens(self.backbone, images_n1ST, self.config.blocks, self.stride)
        if self.config.debias:
            directions_CR = self._blank_directions(*images_n1ST.shape[2:]).to(features)
            along = torch.einsum("nchw,cr->nrhw", features, directions_CR)
            features = features - torch.einsum("nrhw,cr->nchw", along, directions_CR)
        features = on_even_cells(features, images_n1ST.shape[2:], self.backbone.patch, self.stride)
        if scale == 1:
            return features
        cells = [(side - self.backbone.patch) // self.stride + 1 for side in sides]
        return F.interpolate(features, cells, mode="bilinear", antialias=True)

    def _blank_directions(self, height: int, width: int) -> Tensor:
        """(C, debias): right singular vectors of a blank slice's features, the strongest first."""
        if (height, width) not in self._directions:
            with torch.no_grad():
                blank_11ST = torch.zeros(1, 1, height, width)
                blank_1Chw = patch_tokens(self._blank, blank_11ST, self.config.blocks, self.stride)
            blank_LC = blank_1Chw[0].flatten(1).T.cpu()
            if self.config.debias >= min(blank_LC.shape):
                raise ConfigError(
                    f"slices.debias is {self.config.debias}; features have {min(blank_LC.shape)} directions, keep some"
                )
            _, _, directions_RC = torch.linalg.svd(blank_LC, full_matrices=False)
            self._directions[height, width] = directions_RC[: self.config.debias].T
        return self._directions[height, width]

    def __repr__(self) -> str:
        return f"TokenFeatures({self.backbone.card.label}, side {self.side}, stride {self.stride})"


class LayerTokens:
    """Tokens of several blocks from one pass, for a choice among them: `SliceFeatures` without coordinates.

    Channels go block by block, within a block scale by scale. depth: blocks of the network.
    """

    def __init__(self, backbone: Backbone, config: SliceConfig, blocks: Sequence[int]) -> None:
        self.features = TokenFeatures(backbone, replace(config, layers=tuple(blocks), coordinates=0.0))
        self.backbone, self.depth = backbone, len(backbone.vit.blocks)
        self.counts = (len(config.scales), len(blocks))

    def __call__(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        """(n, blocks * scales * C, h, w) float32 on the CPU. Raises as `TokenFeatures` does."""
        return self.features(volume, slices).unflatten(1, (*self.counts, -1)).transpose(1, 2).flatten(1, 3)

    def __repr__(self) -> str:
        return f"LayerTokens({self.features}, {self.counts[1]} blocks)"


def on_even_cells(features_nChw: Tensor, sides: Sequence[int], patch: int, stride: int) -> Tensor:
    """Features of patches that overlap, bilinearly on cells that divide an image of these sides evenly: (n, C, h, w).

    The centers of overlapping patches leave half a patch at each edge, those of cells half a cell, and masks, body
    coordinates and scores are laid on cells. Cells beyond the outermost centers take the nearest patch. Patches side by
    side are such cells: their features come back as they are.
    """
    if stride == patch:
        return features_nChw
    places = []
    for side, cells in zip(sides, features_nChw.shape[2:], strict=True):
        centers = (torch.arange(cells, device=features_nChw.device) + 0.5) * side / cells
        number = ((centers - patch / 2) / stride).clamp(0, cells - 1)
        places.append(
            number / max(cells - 1, 1) * 2 - 1
        )  # -1 and 1: the centers of the first and the last patch
    y_hw, x_hw = torch.meshgrid(*places, indexing="ij")
    grid_nhw2 = torch.stack([x_hw, y_hw], dim=-1).to(features_nChw).expand(len(features_nChw), -1, -1, -1)
    return F.grid_sample(features_nChw, grid_nhw2, mode="bilinear", align_corners=True)


def image_batches(images_nKST: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Images in the parts in which a network on this device takes them.

    One by one on a CPU: the rounding of a batch's products depends on its size, and a slice's features are to be the
    same to the last bit in any company. A GPU would idle; there they go in batches and differ by that rounding.
    """
    return images_nKST.split(1 if device.type == "cpu" else GPU_BATCH)


def patch_tokens(backbone: Backbone, images_n1ST: Tensor, layers: Sequence[int], stride: int) -> Tensor:
    """(n, C, h, w) float32: patch tokens of each layer after the network's last norm, concatenated along channels.

    Under autograd, on the backbone's device, in evaluation mode (no dropout, in training neither). Patches lie
    `stride` pixels apart.
    """
    vit = backbone.eval().vit
    wanted = [layer % len(vit.blocks) for layer in layers]
    patches_nhwC = embed_patches(backbone, images_n1ST, stride)
    height, width = patches_nhwC.shape[1:3]
    x_nLC = vit.norm_pre(add_positions(vit, patches_nhwC, backbone.card.positions))
    rotary = block_inputs(vit, (height, width), backbone.card.positions)
    normed = {}
    for number, block in enumerate(vit.blocks[: max(wanted) + 1]):
        x_nLC = block(x_nLC, *rotary)
        if number in wanted:
            normed[number] = vit.norm(x_nLC[:, backbone.prefix :])
    features_nLC = torch.cat([normed[number] for number in wanted], dim=2).float()
    return features_nLC.mT.unflatten(2, (height, width)).contiguous()


def _check_fit(config: SliceConfig, backbone: Backbone) -> None:
    """Raises ConfigError for a layer or a stride that the backbone does not have."""
    depth, stride = len(backbone.vit.blocks), config.stride
    for layer in config.blocks:
        if not -depth <= layer < depth:
            raise ConfigError(
                f"slices.layers: there is no block {layer}; this backbone has {depth}, 0 to {depth - 1} or "
                f"-{depth} to -1"
            )
    if stride and backbone.patch % stride:
        raise ConfigError(
            f"slices.stride {stride} does not divide the patch, {backbone.patch}; choose one that does"
        )
