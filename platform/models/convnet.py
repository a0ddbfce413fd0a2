"""Convolutional networks of timm over gray images, as students of a distillation; the folder that timm can load.

Everything else here (`embed`, `evaluate`, the app, …) takes Vision Transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.config import from_json
from ..core.errors import CheckpointError, ConfigError
from .architecture import check_name
from .backbone import Tokens
from .card import CARD, WEIGHTS, Card
from .config import BackboneConfig
from .letterbox import letterboxed
from .saving import WeightType, write_folder

# B images, N cells of the last feature map, S side of an image.


class ConvNet(nn.Module):
    """A timm CNN (`net`) for one gray channel, without a classifier, and its card.

    `Tokens.cls` are its pooled features, what `net` itself returns; `Tokens.patches` is its last feature map, which may
    have another width.
    """

    def __init__(self, card: Card) -> None:
        super().__init__()
        import timm

        check_name(card.config.name)
        try:
            self.net = timm.create_model(card.config.name, pretrained=False, in_chans=1, num_classes=0)
        except (TypeError, RuntimeError, AssertionError) as error:
            raise ConfigError(f"{card.config.name} cannot be built so: {error}") from error
        self.card = card
        with torch.no_grad():
            tokens = self.eval()(torch.zeros(1, 1, card.config.side, card.config.side))
        self.width, self.patch_width = tokens.cls.shape[-1], tokens.patches.shape[-1]
        self.train()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.net.parameters()).device

    @property
    def side(self) -> int:
        """Side of the images that it is shown, in pixels."""
        return self.card.input_side or self.card.config.side

    @property
    def batch_norms(self) -> bool:
        """Whether it has layers that look at the whole batch."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.net.modules())

    def share_batch_norms(self) -> None:
        """Let batch norms look at the batch of all ranks, which are on GPUs; names of tensors stay."""
        from timm.layers import convert_sync_batchnorm

        self.net = convert_sync_batchnorm(self.net)

    def forward(self, images_B1SS: Tensor, masked_BN: None = None, patches: bool = True) -> Tokens:
        """Pooled features and last feature map of images as `normalize` makes them; masked_BN: None.

        Raises ConfigError for a network whose feature map is none of channels, rows and columns.
        """
        assert masked_BN is None
        features = self.net.forward_features(images_B1SS)  # type: ignore[operator]
        pooled = self.net.forward_head(features, pre_logits=True)  # type: ignore[operator]
        if features.ndim != 4 or features.shape[1] != getattr(self.net, "num_features", None):
            raise ConfigError(
                f"{self.card.config.name} is neither a Vision Transformer with a CLS token nor a CNN; choose a vit_…, "
                "or a network such as resnet18, convnext_atto or mobilenetv3_small_100"
            )
        rows, columns = features.shape[2:]
        return Tokens(cls=pooled, patches=features.flatten(2).transpose(1, 2), grid=(rows, columns))

    def tokens(self, images_B1SS: Tensor) -> Tokens:
        """`forward` without gradient, in evaluation mode, on the network's device."""
        with torch.inference_mode():
            return self.eval()(images_B1SS.to(self.device))

    def prepare_many(self, views: Sequence[np.ndarray]) -> Tensor:
        """Views (H, W) uint8 of any sizes -> (B, 1, S, S) float32, as `Backbone.prepare_many`."""
        batch = np.stack([letterboxed(pixels, self.side) for pixels in views])
        return self.normalize(torch.from_numpy(batch)[:, None])

    def normalize(self, gray_uint8: Tensor) -> Tensor:
        """uint8 pixels of any shape -> float32 by the card's mean and std, on the network's device."""
        return (gray_uint8.to(self.device).float() / 255.0 - self.card.mean) / self.card.std


def random_convnet(config: BackboneConfig, seed: int) -> ConvNet:
    """A CNN at random initialization; the same seed gives the same weights. Raises ConfigError as `ConvNet`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNet(Card(label=f"random weights, seed {seed}", config=config))


def published_convnet(config: BackboneConfig) -> ConvNet:
    """A CNN with the weights that timm publishes, its first layer summed over colors by timm.

    Raises ConfigError, and CheckpointError where they cannot be downloaded.
    """
    import timm

    network = random_convnet(config, 0)
    try:
        published = timm.create_model(config.name, pretrained=True, in_chans=1, num_classes=0)
    except Exception as error:  # timm, its hub and the network each have errors of their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"timm:{config.name}: its weights cannot be downloaded ({reason})") from error
    network.net.load_state_dict(published.state_dict())
    return network


def save_convnet(folder: Path, network: ConvNet, dtype: WeightType = "float32") -> Card:
    """Write weights, under timm's own names, and card; returns the card with the weights' sha256."""
    return write_folder(folder, network.card, network.net.state_dict(), dtype)


def load_convnet(folder: Path) -> ConvNet:
    """What `save_convnet` wrote, in evaluation mode. Raises CheckpointError where the folder is damaged."""
    from safetensors.torch import load

    card = from_json(Card, (folder / CARD).read_text(), source=str(folder / CARD))
    weights = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS}: its sha256 is not the card's; the folder is damaged, copy it again"
        )
    network = ConvNet(card)
    floats = {
        name: value.float() if value.is_floating_point() else value for name, value in load(weights).items()
    }
    network.net.load_state_dict(floats)
    return network.eval()


def timm_patch(name: str) -> int | None:
    """Side in pixels of the patch of a timm Vision Transformer; None for another network. Raises ConfigError for an
    unknown name."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    from .rotary import is_dinov3

    check_name(name)
    with torch.device("meta"):
        model: Any = timm.create_model(name, num_classes=0)
    if not isinstance(model, VisionTransformer) and not is_dinov3(model):
        return None
    return model.patch_embed.patch_size[0]


def of_side(network: ConvNet, side: int) -> ConvNet:
    """The same network, shown images of another side."""
    network.card = replace(network.card, config=replace(network.card.config, side=side), input_side=None)
    return network
