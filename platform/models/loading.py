"""A backbone from where its weights are: a backbone folder, a weights file, timm's hub, or nowhere (random)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.config import from_json
from ..core.device import DeviceChoice, resolve_device
from ..core.errors import CheckpointError, ConfigError
from .architecture import KERNEL, config_from_shapes, native_config, native_side
from .backbone import Backbone, random_backbone, with_weights_digest
from .card import CARD, WEIGHTS, Card
from .config import BackboneConfig
from .source import HUB_FILES, TIMM, BackboneSource, FileOptions, parse_source
from .transfer import copy_weights, timm_state
from .weights import (
    IMAGENET,
    ColorNormalization,
    file_state,
    published_normalization,
    published_state,
)

if TYPE_CHECKING:
    from torch import Tensor

    from .config import Resampling

CLASSIFIER = "head.weight"
"""timm's name of the last layer of a network that was trained to classify."""

HUB_CONFIG = "config.json"
"""What timm's hub says of weights, in the same folder."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceWeights:
    """Weights under timm's names, and what is known of them, before they are in a network.

    normalization: how the color images were normalized that a kernel of three channels was shown; None where the
    kernel has one channel and images are normalized as the card says.
    """

    card: Card
    state: Mapping[str, Tensor]
    normalization: ColorNormalization | None

    def __repr__(self) -> str:
        return f"SourceWeights({self.card.label}, {len(self.state)} tensors)"


def load(source: str | Path, device: DeviceChoice = "cpu") -> Backbone:
    """A backbone in evaluation mode on a device, from one of four sources:

    * a backbone folder: its weights are checked against its card's sha256;
    * a weights file of a DINO or DINOv2 ViT (.safetensors, or a .pth read with weights_only; a bare network or a
      whole training checkpoint, see `weights.file_state`): the architecture is read off its shapes. What they do not
      tell is said behind the path, `PATH#heads=6,eps=1e-5,mean=0.5,std=0.5` or `PATH#timm=NAME`, or stands in the
      config.json of timm's hub beside it; without, such a file is refused;
    * `timm:NAME`: the published weights of a timm ViT, downloaded or found in timm's cache;
    * `random:NAME`: a timm ViT at random initialization, seed 0.

    `PATH#sha256=HEX` is refused unless the weights at the path have that sha256. A color network is made gray
    without loss: its output for a gray image is as before for the image shown as three normalized channels.

    Raises CheckpointError for damaged or foreign weights and a path without any, ConfigError for an unknown name and a
    GPU that there is not.
    """
    place = resolve_device(device)
    parsed = parse_source(source)
    match parsed.kind:
        case "folder":
            backbone = _from_folder(Path(parsed.place), parsed.sha256)
        case "random":
            backbone = random_backbone(native_config(parsed.place), seed=0).eval()
        case _:
            weights = _foreign_weights(parsed)
            backbone = _with_weights(weights, weights.card.label if parsed.kind == "timm" else parsed.place)
    return backbone.to(place)


def source_weights(source: str | Path) -> SourceWeights:
    """The weights that `load` would put into a backbone, for another network to adopt. Raises as `load`."""
    parsed = parse_source(source)
    if parsed.kind in ("folder", "random"):
        backbone = load(source)
        return SourceWeights(backbone.card, timm_state(backbone), None)
    return _foreign_weights(parsed)


def _foreign_weights(parsed: BackboneSource) -> SourceWeights:
    if parsed.kind == "timm":
        return _timm_weights(parsed.place)
    path = Path(parsed.place)
    try:
        return _file_weights(path, parsed.sha256, parsed.options)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _from_folder(folder: Path, sha256: str) -> Backbone:
    from safetensors.torch import load as load_safetensors

    card = from_json(Card, (folder / CARD).read_text(), source=str(folder / CARD))
    path = folder / WEIGHTS
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    actual = hashlib.sha256(weights).hexdigest()
    if actual != card.weights_sha256:
        raise CheckpointError(
            f"{path}: sha256 {actual[:12]}… differs from the card's {card.weights_sha256[:12]}…; "
            "the folder is damaged, copy it again"
        )
    if sha256 not in ("", actual):
        raise CheckpointError(f"{path}: its sha256 is {actual[:12]}…, not {sha256[:12]}… as given")
    backbone = Backbone(card)
    backbone.load_state_dict({name: value.float() for name, value in load_safetensors(weights).items()})
    return backbone.eval()


def _file_weights(path: Path, sha256: str, options: FileOptions) -> SourceWeights:
    """Raises CheckpointError for a file without a Vision Transformer, ConfigError for one of which too little
    is known."""
    state = file_state(path, sha256)
    for part in ("pos_embed", "blocks."):
        if not any(name.startswith(part) for name in state):
            raise CheckpointError(f"{path}: holds no Vision Transformer ({part.rstrip('.')} is missing)")
    architecture, normalization = _hub_facts(path)
    if options.timm:
        architecture, normalization = options.timm, published_normalization(options.timm)
    if architecture:
        side = native_side(state)
        config = BackboneConfig(name=architecture, side=side, heads=options.heads, eps=options.eps)
        resampling = _published_resampling(architecture)
    else:
        config = config_from_shapes(state, options.heads, options.eps)
        # DINOv2's code resamples as DINO's does where there are no registers, and by sizes, antialiased, as timm
        # does, where there are.
        resampling = "timm" if config.registers or CLASSIFIER in state else "dino"
    if options.mean and options.std:
        normalization = ColorNormalization(mean=options.mean, std=options.std)
    gray = state[KERNEL].shape[1] == 1
    if gray and not options.mean:
        raise ConfigError(
            "its patch embedding takes one gray channel, and nothing says how images were normalized; add "
            "#mean=M,std=S to the path (ours have 0.5 and 0.25), or give the backbone folder that it was in"
        )
    if normalization is None and CLASSIFIER in state:
        raise ConfigError(
            "it holds a classifier, so it is not DINO's or DINOv2's, and nothing says how images were normalized; add "
            "#timm=NAME to the path for an architecture of timm, or #mean=M/M/M,std=S/S/S"
        )
    card = _gray_card(path.name, config, normalization or IMAGENET, "timm" if gray else resampling)
    return SourceWeights(card, state, None if gray else _of_channels(normalization or IMAGENET))


def _hub_facts(path: Path) -> tuple[str, ColorNormalization | None]:
    """(timm's architecture, normalization) that timm's hub says beside its weights; ("", None) where it does not."""
    import timm

    if path.name not in HUB_FILES:
        return "", None
    try:
        facts = json.loads((path.parent / HUB_CONFIG).read_text())
        name, published = facts["architecture"], facts["pretrained_cfg"]
        normalization = ColorNormalization(mean=tuple(published["mean"]), std=tuple(published["std"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "", None
    return (name, normalization) if timm.is_model(name) else ("", None)


def _timm_weights(name: str) -> SourceWeights:
    config, normalization = native_config(name), published_normalization(name)
    card = _gray_card(f"{TIMM}{name}", config, normalization, _published_resampling(name))
    return SourceWeights(card, published_state(name), normalization)


def _published_resampling(name: str) -> Resampling:
    return "dino" if "dino" in name and "_reg" not in name else "timm"


def _of_channels(normalization: ColorNormalization) -> ColorNormalization:
    """One number said for all channels, for each of three."""
    mean, std = (part * 3 if len(part) == 1 else part for part in (normalization.mean, normalization.std))
    return ColorNormalization(mean=mean, std=std)


def _gray_card(
    label: str, config: BackboneConfig, normalization: ColorNormalization, resampling: Resampling
) -> Card:
    """Mean and std over the channels: a step in the normalized gray image is as long as it was in color."""
    mean, std = (round(sum(part) / len(part), 6) for part in (normalization.mean, normalization.std))
    return Card(label=label, config=config, mean=mean, std=std, positions=resampling)


def _with_weights(weights: SourceWeights, source: str) -> Backbone:
    backbone = Backbone(weights.card)
    try:
        copy_weights(backbone, weights.state, weights.normalization)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: not the weights of a {weights.card.config.name}-like ViT ({error})"
        ) from error
    return with_weights_digest(backbone).eval()
