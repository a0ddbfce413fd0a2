"""A backbone from where its weights are: a backbone folder, a weights file, timm's hub, or nowhere (random)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.config import from_json
from ..core.device import DeviceChoice, resolve_device
from ..core.errors import CheckpointError, ConfigError
from .architecture import (
    KERNEL,
    block_count,
    block_number,
    config_from_shapes,
    is_rotary,
    native_config,
    native_side,
)
from .backbone import Backbone, random_backbone, with_weights_digest
from .card import CARD, WEIGHTS, Card
from .config import BackboneConfig
from .convnet import timm_patch
from .dinov3_format import PERIODS, periods_rule, rotary_config
from .source import HUB_FILES, TELLING, TIMM, BackboneSource, SourceOptions, parse_options, parse_source
from .transfer import copy_weights, timm_state
from .transformers_format import with_facts
from .weights import (
    IMAGENET,
    ColorNormalization,
    file_metadata,
    file_state,
    published_normalization,
    published_state,
)

if TYPE_CHECKING:
    from torch import Tensor

    from .config import Resampling

log = logging.getLogger(__name__)

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
    * a weights file of a DINO, DINOv2 or DINOv3 ViT (.safetensors, or a .pth read with weights_only; a bare network or
      a whole training checkpoint, see `weights.file_state`; also as transformers stores it): the architecture is read
      off its shapes. What they do not tell is said behind the path, `PATH#heads=6,eps=1e-5,mean=0.5,std=0.5` or
      `PATH#timm=NAME`, or stands under the same names in the metadata of a safetensors file, or in the files that timm
      or transformers store beside it (config.json, preprocessor_config.json); without, such a file is refused;
    * `timm:NAME`: the published weights of a timm ViT, downloaded or found in timm's cache;
    * `random:NAME`: a timm ViT at random initialization, seed 0.

    `PATH#sha256=HEX` is refused unless the weights at the path have that sha256. A color network is made gray
    without loss: its output for a gray image is as before for the image shown as three normalized channels.

    Behind any source, `#depth=N` gives its first N blocks and last norm, and `#side=S` shows it images of S pixels,
    to whose grid its position embeddings are resampled by its rule. Both are in the card and change its digest.

    Raises CheckpointError for damaged or foreign weights and a path without any, ConfigError for an unknown name, a
    depth or side that cannot be, and a GPU that there is not.
    """
    place = resolve_device(device)
    parsed = parse_source(source)
    backbone = _own_backbone(parsed)
    if backbone is None or parsed.options.depth not in (None, len(backbone.vit.blocks)):
        weights = _weights(parsed, backbone)
        backbone = _with_weights(weights, parsed.place if parsed.kind == "file" else weights.card.label)
    if parsed.options.side:
        backbone.card = _shown_at(backbone, parsed.options.side)
    return backbone.to(place)


def source_weights(source: str | Path) -> SourceWeights:
    """The weights that `load` would put into a backbone, for another network to adopt. Raises as `load`."""
    parsed = parse_source(source)
    return _weights(parsed, _own_backbone(parsed))


def _own_backbone(parsed: BackboneSource) -> Backbone | None:
    """That of a folder, or of random weights; None for weights from elsewhere."""
    if parsed.kind == "folder":
        return _from_folder(Path(parsed.place), parsed.options.sha256)
    if parsed.kind == "random":
        return random_backbone(native_config(parsed.place), seed=0).eval()
    return None


def _weights(parsed: BackboneSource, own: Backbone | None) -> SourceWeights:
    """The weights of a source, of the blocks that it names. own: its backbone, where `_own_backbone` has one."""
    weights = _foreign_weights(parsed) if own is None else SourceWeights(own.card, timm_state(own), None)
    return _first_blocks(weights, parsed.options.depth) if parsed.options.depth else weights


def _first_blocks(weights: SourceWeights, depth: int) -> SourceWeights:
    """The weights without the blocks behind the first `depth`. Raises ConfigError where there are fewer."""
    blocks = block_count(weights.state)
    if depth > blocks:
        raise ConfigError(f"{weights.card.label}: depth {depth} of {blocks} blocks; choose 1 to {blocks}")
    if depth == blocks:
        return weights
    kept = {name: value for name, value in weights.state.items() if (block_number(name) or 0) < depth}
    card = replace(
        weights.card,
        label=f"{weights.card.label}, first {depth} of {blocks} blocks",
        config=replace(weights.card.config, depth=depth),
    )
    return replace(weights, card=card, state=kept)


def _shown_at(backbone: Backbone, side: int) -> Card:
    """The card of a backbone that is shown images of another side. Raises ConfigError for half a patch."""
    card, patch = backbone.card, backbone.patch
    if side % patch:
        raise ConfigError(
            f"{card.label}: side {side} is no multiple of the patch, {patch}; "
            f"nearest is {max(1, round(side / patch)) * patch}"
        )
    label = card.label if side == backbone.side else f"{card.label}, {side} px"
    return replace(card, label=label, input_side=side)


def _foreign_weights(parsed: BackboneSource) -> SourceWeights:
    if parsed.kind == "timm":
        return _timm_weights(parsed.place)
    path = Path(parsed.place)
    try:
        return _file_weights(path, parsed.options)
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
    try:
        backbone = Backbone(card)
    except ConfigError as error:
        if timm_patch(card.config.name) is None:
            raise ConfigError(
                f"{folder}: holds a {card.config.name}, and this takes Vision Transformers; load it with timm "
                "(docs/tutorials/distill.md shows how), or distill into a vit_…"
            ) from None
        raise error
    backbone.load_state_dict({name: value.float() for name, value in load_safetensors(weights).items()})
    return backbone.eval()


def _file_weights(path: Path, options: SourceOptions) -> SourceWeights:
    """Raises CheckpointError for a file without a Vision Transformer, ConfigError for one of which too little
    is known."""
    state = file_state(path, options.sha256)
    options = _with_metadata(path, options)
    if path.name in HUB_FILES:
        options = with_facts(path, options)
    for part in ("blocks.",) if PERIODS in state else ("pos_embed", "blocks."):
        if not any(name.startswith(part) for name in state):
            raise CheckpointError(f"{path}: holds no Vision Transformer ({part.rstrip('.')} is missing)")
    architecture, normalization = _hub_facts(path)
    if options.timm:
        architecture, normalization = options.timm, published_normalization(options.timm)
    config, resampling = _file_architecture(state, architecture, options)
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
    card = _gray_card(path.name, config, normalization or IMAGENET, resampling)
    if not architecture and (assumed := _assumed(config, options)):
        log.warning(
            "%s: taken as a network of DINO, DINOv2 or DINOv3, with %s; where it is another, say so: PATH#timm=NAME, "
            "or PATH#heads=N,eps=E,mean=M,std=S",
            path.name,
            assumed,
        )
        card = replace(card, origin={"assumed": assumed})
    return SourceWeights(card, state, None if gray else _of_channels(normalization or IMAGENET))


def _file_architecture(
    state: Mapping[str, Tensor], name: str, options: SourceOptions
) -> tuple[BackboneConfig, Resampling]:
    """What the tensors of a file are of, and the rule of its positions. name: timm's, where it is known."""
    if PERIODS in state:
        if name:
            config = replace(native_config(name), heads=options.heads, eps=options.eps)
        else:
            config = rotary_config(state, options.heads, options.eps)
        return config, periods_rule(state)
    gray = state[KERNEL].shape[1] == 1
    if name:
        config = BackboneConfig(name=name, side=native_side(state), heads=options.heads, eps=options.eps)
        return config, "timm" if gray else _published_resampling(name)
    config = config_from_shapes(state, options.heads, options.eps)
    # DINOv2's code resamples as DINO's does where there are no registers, and by sizes, antialiased, as timm does,
    # where there are.
    return config, "timm" if gray or config.registers or CLASSIFIER in state else "dino"


def _assumed(config: BackboneConfig, options: SourceOptions) -> str:
    """What is taken from the publications of DINO and its successors, since neither tensors nor options tell it."""
    parts = {
        "heads": f"{config.heads} heads",
        "eps": f"eps {1e-5 if is_rotary(config.name) else 1e-6:g}",
        "mean": "ImageNet's mean and std",
    }
    return ", ".join(text for name, text in parts.items() if not getattr(options, name))


def _with_metadata(path: Path, options: SourceOptions) -> SourceOptions:
    """The options, and those that a safetensors file has in its metadata where a person says nothing of them."""
    texts = {name: text for name, text in file_metadata(path).items() if name in TELLING}
    there = parse_options(texts, "its metadata")
    silent = {name: getattr(there, name) for name in texts if not getattr(options, name)}
    return replace(options, **silent)


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
    return "dino" if "dino" in name and "_reg" not in name and not is_rotary(name) else "timm"


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
