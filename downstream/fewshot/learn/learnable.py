"""A backbone whose features of slices can be trained: frozen weights, low-rank additions, neighbouring slices.

Ayzenberg et al., arXiv 2403.03273, section 3. What is learnt is small and is kept without the backbone; it knows
whose it is.
"""

# n slices that are asked, K a slice with its neighbours, X channels of the adapter; S, T sides as a network sees them;
# C channels, h, w grid.

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....platform.core.config import from_json, to_json
from ....platform.core.errors import CheckpointError, ConfigError
from ....platform.core.files import atomic_write
from ...volumes.volume import Volume
from ..method.config import SliceConfig
from ..method.slices import TokenFeatures, resized, standardised, with_places
from .config import LearnConfig
from .lora import add_lora, sharing

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

WEIGHTS, CARD = "learnt.safetensors", "learnt.json"


class Adapter(nn.Module):
    """A slice and its two neighbours as one picture: 1x1 convolution, instance norm, mean of its channels.

    It begins as the slice itself, its greys normalised by its own mean and deviation.
    """

    def __init__(self, neighbours: int, channels: int) -> None:
        super().__init__()
        weight_XK11 = torch.zeros(channels, neighbours, 1, 1)
        weight_XK11[:, neighbours // 2] = 1
        # Without a constant: the norm would take it away.
        self.weight_XK11 = nn.Parameter(weight_XK11)

    def forward(self, images_nKST: Tensor) -> Tensor:
        """(n, 1, S, T)."""
        mixed_nXST = F.conv2d(images_nKST.to(self.weight_XK11), self.weight_XK11)
        return F.instance_norm(mixed_nXST).mean(dim=1, keepdim=True)


class Learnable(nn.Module):
    """Features of slices under autograd; called as any other source of them, `SliceFeatures`.

    The backbone's weights are shared with the one that is given and never change. Places in the body (`coordinates`)
    are added behind what is learnt, and learn nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        learn: LearnConfig | None = None,
        slices: SliceConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.learn, self.slices, self.seed = learn or LearnConfig(), slices or SliceConfig(), seed
        self.card = backbone.card
        self.backbone = sharing(backbone)
        if self.learn.rank:
            add_lora(self.backbone, self.learn.rank, torch.Generator().manual_seed(seed))
        self.adapter: Adapter | None = None
        if self.learn.neighbours:
            self.adapter = Adapter(self.learn.neighbours, self.learn.channels).to(backbone.mask_token.device)
        self.features = TokenFeatures(self.backbone, self.slices, blank=backbone)

    def forward(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        """Features (n, C, h, w) float32 on the CPU, without gradient, places added. Raises as `TokenFeatures` does."""
        images_nKST = self.sees(stacked(standardised(volume), slices, self.learn.neighbours))
        with torch.no_grad():
            features = torch.cat([self.tokens(image_KST[None]).cpu() for image_KST in images_nKST])
        return with_places(features, volume, slices, self.slices.coordinates)

    def sees(self, slices_nKHW: np.ndarray) -> Tensor:
        """(n, K, S, T): standardised slices, (n, H, W) or with their neighbours (n, K, H, W), at the network's side."""
        rows = slices_nKHW.reshape(-1, *slices_nKHW.shape[-2:])
        images = resized(rows, self.features.side, self.backbone.patch)
        return images.view(len(slices_nKHW), -1, *images.shape[2:])

    def tokens(self, images_nKST: Tensor) -> Tensor:
        """Features (n, C, h, w) float32 on the backbone's device, under autograd, without places."""
        return self.features.seen(images_nKST if self.adapter is None else self.adapter(images_nKST))

    def trainable(self) -> list[nn.Parameter]:
        """What learns, always in the same order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def learnt(self) -> dict[str, Tensor]:
        """What has been learnt by name, detached, on the CPU; a copy."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def relearn(self, learnt: Mapping[str, Tensor]) -> None:
        """Takes over what `learnt` gave. Raises CheckpointError where names or shapes differ."""
        own = {name: value for name, value in self.named_parameters() if value.requires_grad}
        if own.keys() != learnt.keys() or any(own[name].shape != learnt[name].shape for name in own):
            raise CheckpointError("learnt weights of another architecture; train again with this backbone")
        for name, value in own.items():
            value.copy_(learnt[name])

    def save(self, folder: Path | str) -> None:
        """Leaves what was learnt and whose it is in `folder`; the weights come last, each file whole or not at all."""
        from safetensors.torch import save

        weights = save(self.learnt())
        card = _Card(
            backbone=self.card.digest,
            label=self.card.label,
            learn=self.learn,
            slices=self.slices,
            seed=self.seed,
            weights_sha256=hashlib.sha256(weights).hexdigest(),
        )
        atomic_write(Path(folder) / CARD, to_json(card))
        atomic_write(Path(folder) / WEIGHTS, weights)

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.trainable())
        return f"Learnable({self.card.label}, rank {self.learn.rank}, {count} numbers learn)"


def stacked(image_ZHW: np.ndarray, slices: Sequence[int], neighbours: int) -> np.ndarray:
    """(n, K, H, W): each slice between its neighbours, alone where there are 0; the outermost repeat.

    >>> stacked(np.arange(4)[:, None, None], [0, 2], neighbours=3)[:, :, 0, 0]
    array([[0, 0, 1],
           [1, 2, 3]])
    """
    aside = max(neighbours, 1) // 2
    places_nK = np.asarray(slices)[:, None] + np.arange(-aside, aside + 1)
    return image_ZHW[np.clip(places_nK, 0, len(image_ZHW) - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Card:
    """What lies beside learnt weights."""

    backbone: str
    """Digest of the backbone that they belong to."""
    label: str
    learn: LearnConfig
    slices: SliceConfig
    seed: int
    weights_sha256: str


def learnable_from(backbone: Backbone, folder: Path | str, slices: SliceConfig | None = None) -> Learnable:
    """A backbone with what `Learnable.save` left. slices: other places behind the same features; None: as trained.

    Raises CheckpointError where the folder is damaged or belongs to another backbone, ConfigError where `slices` make
    other features than those that were trained.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    try:
        text, weights = (folder / CARD).read_text(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}); `vetdino fewshot train` leaves such a folder"
        ) from None
    card = from_json(_Card, text, source=str(folder / CARD))
    if card.backbone != backbone.card.digest:
        raise CheckpointError(
            f"{folder}: learnt with {card.label} ({card.backbone[:12]}…), not with {backbone.card.label} "
            f"({backbone.card.digest[:12]}…); give that backbone, or train with this one"
        )
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS}: differs from its card; the folder is damaged, train again"
        )
    learnable = Learnable(backbone, card.learn, _same_features(card.slices, slices, folder), card.seed)
    try:
        learnable.relearn(load(weights))
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged ({error}); train again") from None
    return learnable


def _same_features(trained: SliceConfig, asked: SliceConfig | None, folder: Path) -> SliceConfig:
    """What is asked for, where it differs from what was trained in its places alone."""
    asked = asked or trained
    for name in ("grid", "side", "stride", "enlarged", "layers", "debias"):
        if getattr(asked, name) != getattr(trained, name):
            raise ConfigError(
                f"slices.{name} is {getattr(asked, name)}, {folder} was trained with {getattr(trained, name)}; "
                "give the same"
            )
    return asked
