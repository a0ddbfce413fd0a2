"""A Vision Transformer over gray images that gives tokens and attention.

Any plain timm ViT will do: it is built for one channel and takes images of any side that its patch divides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from .architecture import create_vit
from .blocks import block_inputs, cls_attention, forward_cls, is_plain
from .card import Card
from .config import BackboneConfig
from .letterbox import letterboxed
from .positions import add_positions
from .transfer import copy_weights

if TYPE_CHECKING:
    from timm.models.vision_transformer import Attention

    from .files import PatchSimilarity

# B images, N patches, D width, H heads; S side of an image.


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Output for a batch: cls (B, D), patches (B, N, D), N = grid rows x grid columns."""

    cls: Tensor
    patches: Tensor
    grid: tuple[int, int]

    def __repr__(self) -> str:
        return (
            f"Tokens({len(self.cls)} images, width {self.cls.shape[-1]}, grid {self.grid[0]}x{self.grid[1]})"
        )


class Backbone(nn.Module):
    """A timm ViT (`vit`), its card, and a mask token (D,) that stands in for hidden patches."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self.vit = create_vit(card.config)
        self.prefix = self.vit.num_prefix_tokens
        """CLS and register tokens, which come before the patches."""
        self.mask_token = nn.Parameter(torch.zeros(self.vit.embed_dim))

    @property
    def device(self) -> torch.device:
        """Where it computes: images are moved there, and tokens and attention stay there."""
        return self.mask_token.device

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.vit.embed_dim

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.vit.patch_embed.patch_size[0]

    @property
    def side(self) -> int:
        """Side of the image that `prepare` makes, in pixels."""
        return self.card.input_side or self.card.config.side

    def forward(self, images_B1SS: Tensor, masked_BN: Tensor | None = None, patches: bool = True) -> Tokens:
        """Tokens after the last norm, of images (B, 1, S, S) float32 as `prepare` makes them.

        masked_BN: bool; where true, the mask token replaces the embedded patch (iBOT, arXiv 2111.07832, section
        3.1). patches: False gives no patch tokens, (B, 0, D), and spares the last block's work on them, 6 % of
        that of 12 blocks.
        """
        vit = self.vit
        grid = (images_B1SS.shape[-2] // self.patch, images_B1SS.shape[-1] // self.patch)
        x = vit.patch_embed(images_B1SS)
        if masked_BN is not None:
            hidden = masked_BN.view(len(x), *x.shape[1:-1], 1)
            x = torch.where(hidden, self.mask_token.to(x.dtype), x)
        x = vit.norm_pre(vit.patch_drop(add_positions(vit, x, self.card.positions)))
        rotary = block_inputs(vit, grid, self.card.positions)
        *blocks, last = vit.blocks
        for block in blocks:
            x = block(x, *rotary)
        x = last(x, *rotary) if patches or not is_plain(last) else forward_cls(last, x, *rotary)
        x = vit.norm(x if patches else x[:, :1])
        return Tokens(cls=x[:, 0], patches=x[:, self.prefix :], grid=grid)

    def tokens(self, images_B1SS: Tensor) -> Tokens:
        """`forward` without gradient, in evaluation mode, on the backbone's device."""
        with torch.inference_mode():
            return self.eval()(images_B1SS.to(self.device))

    def attention(self, images_B1SS: Tensor | str | Path | bytes | np.ndarray, block: int = -1) -> Tensor:
        """Attention weights of one block's CLS token over the patches: (B, H, N), each row's sum <= 1.

        images_B1SS: as `prepare` makes them; or one file, or pixels (H, W) uint8, whose B is 1.

        The softmax runs over all tokens; the CLS and registers are then left out. It is computed anew from the
        block's input, since fused kernels do not give it.
        """
        if not isinstance(images_B1SS, Tensor):
            from .files import image_pixels

            images_B1SS = self.prepare_many([image_pixels(images_B1SS)])
        return self.tokens_and_attention(images_B1SS, block)[1]

    def tokens_and_attention(self, images_B1SS: Tensor, block: int = -1) -> tuple[Tokens, Tensor]:
        """`tokens` and `attention` from one pass."""
        inputs: list[tuple[Tensor, ...]] = []
        attention = cast("Attention", self.vit.blocks[block].attn)
        handle = attention.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
        try:
            tokens = self.tokens(images_B1SS)
        finally:
            handle.remove()
        with torch.inference_mode():
            weights_BH1L, _ = cls_attention(attention, *inputs[0])
            return tokens, weights_BH1L[:, :, 0, self.prefix :]

    def embed_study(self, paths: Sequence[str | Path | bytes]) -> np.ndarray:
        """The vector of the study that files form (DICOM, PNG, JPEG, TIFF; paths or their bytes), (D,) float32.

        The same that `vetdino embed` has for it: files are read as ingest reads them, a view's vector is its CLS token
        at length 1, the study's their mean at length 1. Raises DicomError for a file that gives no view, OSError, and
        FeaturesError for no files and for an output without a direction.
        """
        from .files import study_vector

        return study_vector(self, paths)

    def similarity(
        self,
        a: str | Path | bytes | np.ndarray,
        b: str | Path | bytes | np.ndarray,
        patch: int | tuple[float, float],
        k: int = 5,
    ) -> PatchSimilarity:
        """A patch of image a against all patches of image b: files, or pixels (H, W) uint8.

        patch: its number along rows, or a point (x, y) of a in fractions of its width and height. Raises ConfigError
        for a patch that there is not, DicomError, OSError.
        """
        from .files import patch_similarity

        return patch_similarity(self, a, b, patch, k)

    def prepare(self, pixels_HW: np.ndarray, side: int | None = None) -> Tensor:
        """One view (H, W) uint8 as an image (1, S, S) float32: letterboxed on black, area-resized, normalized.

        side: another S, a multiple of the patch; it gives another grid, to which `forward` resamples the position
        embeddings.
        """
        return self.prepare_many([pixels_HW], side)[0]

    def prepare_many(self, views: Sequence[np.ndarray], side: int | None = None) -> Tensor:
        """Views (H, W) uint8 of any sizes -> (B, 1, S, S) float32."""
        batch = np.stack([letterboxed(pixels, side or self.side) for pixels in views])
        return self.normalize(torch.from_numpy(batch)[:, None])

    def normalize(self, gray_uint8: Tensor) -> Tensor:
        """uint8 pixels of any shape -> float32 by the card's mean and std, on the backbone's device."""
        scaled = gray_uint8.to(self.device).float() / 255.0
        return (scaled - self.card.mean) / self.card.std


def random_backbone(config: BackboneConfig, seed: int, *, mean: float = 0.5, std: float = 0.25) -> Backbone:
    """A backbone at random initialization; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(Card(label=f"random weights, seed {seed}", config=config, mean=mean, std=std))
        nn.init.trunc_normal_(backbone.mask_token, std=0.02)
    return with_weights_digest(backbone)


def random_like(backbone: Backbone, seed: int = 0) -> Backbone:
    """The same architecture, on the same device, at random initialization: the baseline of every metric."""
    card = backbone.card
    like = random_backbone(card.config, seed, mean=card.mean, std=card.std)
    like.card = replace(like.card, positions=card.positions, input_side=card.input_side)
    return like.to(backbone.device)


def resized(backbone: Backbone, side: int) -> Backbone:
    """The same weights built for images of another side, position embeddings resampled; in evaluation mode."""
    card = backbone.card
    other = Backbone(replace(card, config=replace(card.config, side=side), input_side=None))
    copy_weights(other, backbone.vit.state_dict())
    with torch.no_grad():
        other.mask_token.copy_(backbone.mask_token)
    return with_weights_digest(other).eval().to(backbone.device)


def with_weights_digest(backbone: Backbone) -> Backbone:
    """The backbone, its card with a digest of its tensors in place of a file's sha256."""
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    backbone.card = replace(backbone.card, weights_sha256=digest.hexdigest())
    return backbone
