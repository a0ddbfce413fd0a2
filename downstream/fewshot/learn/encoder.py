"""A backbone whose slice features can be trained: frozen weights, LoRA layers, an adapter for neighboring slices.

Ayzenberg et al., arXiv 2403.03273, section 3. The trained weights are small and are saved without the backbone, beside
a card that names the backbone they belong to.
"""

# n slices, K a slice with its neighbors, X channels of the adapter; S, T image sides as the network sees them;
# C channels, h, w grid of features.

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
from ..method.slices import resized, standardized, with_coordinates
from ..method.token_features import TokenFeatures, image_batches
from .config import LearnConfig
from .lora import add_lora, weight_sharing_copy

if TYPE_CHECKING:
    from ....platform.models.backbone import Backbone

WEIGHTS, CARD = "learnt.safetensors", "learnt.json"


class Adapter(nn.Module):
    """A slice and its two neighbors as one image: 1x1 convolution, instance norm, mean over the channels.

    It starts as the slice itself, normalized by its own mean and standard deviation.
    """

    def __init__(self, neighbors: int, channels: int) -> None:
        super().__init__()
        weight_XK11 = torch.zeros(channels, neighbors, 1, 1)
        weight_XK11[:, neighbors // 2] = 1
        # No bias: the instance norm would remove it.
        self.weight_XK11 = nn.Parameter(weight_XK11)

    def forward(self, images_nKST: Tensor) -> Tensor:
        """(n, 1, S, T)."""
        mixed_nXST = F.conv2d(images_nKST.to(self.weight_XK11), self.weight_XK11)
        return F.instance_norm(mixed_nXST).mean(dim=1, keepdim=True)


class TrainableEncoder(nn.Module):
    """Slice features under autograd; called like any other `SliceFeatures`.

    Shares the backbone's weights and never changes them. Body coordinates are appended to the trained features and are
    not trained.
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
        self.backbone = weight_sharing_copy(backbone)
        if self.learn.rank:
            add_lora(self.backbone, self.learn.rank, torch.Generator().manual_seed(seed))
        self.adapter: Adapter | None = None
        if self.learn.neighbours:
            self.adapter = Adapter(self.learn.neighbours, self.learn.channels).to(backbone.device)
        self.features = TokenFeatures(self.backbone, self.slices, blank=backbone)

    def forward(self, volume: Volume, slices: Sequence[int]) -> Tensor:
        """Features (n, C, h, w) float32 on the CPU with body coordinates, no gradient. Raises as `TokenFeatures`."""
        images_nKST = self.network_input(with_neighbors(standardized(volume), slices, self.learn.neighbours))
        with torch.no_grad():
            parts = image_batches(images_nKST, self.backbone.device)
            features = torch.cat([self.tokens(part_bKST).cpu() for part_bKST in parts])
        return with_coordinates(features, volume, slices, self.slices.coordinates)

    def network_input(self, slices_nKHW: np.ndarray) -> Tensor:
        """(n, K, S, T): standardized slices (n, H, W), or with neighbors (n, K, H, W), at the network's image side."""
        rows = slices_nKHW.reshape(-1, *slices_nKHW.shape[-2:])
        images = resized(rows, self.features.side, self.backbone.patch)
        return images.view(len(slices_nKHW), -1, *images.shape[2:])

    def tokens(self, images_nKST: Tensor) -> Tensor:
        """Features (n, C, h, w) float32 on the backbone's device, under autograd, without body coordinates."""
        return self.features.encode(images_nKST if self.adapter is None else self.adapter(images_nKST))

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained, always in the same order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def trained_state(self) -> dict[str, Tensor]:
        """Name -> a copy of each trained parameter, detached, on the CPU."""
        return {
            name: parameter.detach().cpu().clone()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Copies in what `trained_state` returned. Raises CheckpointError if names or shapes differ."""
        parameters = {name: value for name, value in self.named_parameters() if value.requires_grad}
        if parameters.keys() != state.keys() or any(
            value.shape != state[name].shape for name, value in parameters.items()
        ):
            raise CheckpointError("trained weights of another architecture; train again with this backbone")
        for name, value in parameters.items():
            value.copy_(state[name])

    def save(self, folder: Path | str) -> None:
        """Writes the trained weights and their card to `folder`, each file atomically, the weights last."""
        from safetensors.torch import save

        weights = save(self.trained_state())
        card = EncoderCard(
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
        count = sum(parameter.numel() for parameter in self.trainable_parameters())
        return f"TrainableEncoder({self.card.label}, rank {self.learn.rank}, {count} trainable parameters)"


def with_neighbors(image_ZHW: np.ndarray, slices: Sequence[int], neighbors: int) -> np.ndarray:
    """(n, K, H, W): each slice between its neighbors, alone if `neighbors` is 0; beyond the ends the last one repeats.

    >>> with_neighbors(np.arange(4)[:, None, None], [0, 2], neighbors=3)[:, :, 0, 0]
    array([[0, 0, 1],
           [1, 2, 3]])
    """
    aside = max(neighbors, 1) // 2
    index_nK = np.asarray(slices)[:, None] + np.arange(-aside, aside + 1)
    return image_ZHW[np.clip(index_nK, 0, len(image_ZHW) - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderCard:
    """learnt.json, beside trained weights."""

    backbone: str
    """Digest of the backbone that they belong to."""
    label: str
    learn: LearnConfig
    slices: SliceConfig
    seed: int
    weights_sha256: str


def load_encoder(
    backbone: Backbone, folder: Path | str, slices: SliceConfig | None = None
) -> TrainableEncoder:
    """A backbone with the weights that `TrainableEncoder.save` wrote.

    slices: other coordinate weights with the same features; None: as trained. Raises CheckpointError if the folder is
    damaged or belongs to another backbone, ConfigError if `slices` gives other features than in training.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    try:
        text, weights = (folder / CARD).read_text(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}); give a folder that `vetdino fewshot train` wrote"
        ) from None
    card = from_json(EncoderCard, text, source=str(folder / CARD))
    if card.backbone != backbone.card.digest:
        raise CheckpointError(
            f"{folder}: trained with {card.label} ({card.backbone[:12]}…), not with {backbone.card.label} "
            f"({backbone.card.digest[:12]}…); give that backbone, or train with this one"
        )
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS}: differs from its card; the folder is damaged, train again"
        )
    encoder = TrainableEncoder(backbone, card.learn, _matching_slices(card.slices, slices, folder), card.seed)
    try:
        encoder.load_trained_state(load(weights))
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged ({error}); train again") from None
    return encoder


def _matching_slices(trained: SliceConfig, wanted: SliceConfig | None, folder: Path) -> SliceConfig:
    """The wanted slice settings (default: those of the training). Raises ConfigError if they change the features."""
    wanted = wanted or trained
    for name in ("grid", "side", "stride", "enlarged", "layers", "scales", "debias"):
        same = "blocks" if name == "layers" else name
        if getattr(wanted, same) != getattr(trained, same):
            raise ConfigError(
                f"slices.{name} is {getattr(wanted, name)}, {folder} was trained with {getattr(trained, name)}; "
                "use the same value"
            )
    return wanted
