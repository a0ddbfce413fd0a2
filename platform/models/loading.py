"""A backbone from where its weights are: a backbone folder, a weights file, timm's hub, or nowhere (random)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.config import from_json, nearest
from ..core.errors import CheckpointError, ConfigError
from .architecture import KERNEL, config_from_shapes, native_config
from .backbone import Backbone, random_backbone, with_weights_digest
from .card import CARD, WEIGHTS, Card
from .transfer import copy_weights
from .weights import IMAGENET, file_state, published_normalization, published_state, split_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from .config import BackboneConfig, Resampling
    from .weights import ColorNormalization

RANDOM, TIMM = "random:", "timm:"
"""Before a timm name: random weights, or the published ones."""


@dataclass(frozen=True, slots=True)
class BackboneSource:
    """What `load` is given, taken apart."""

    kind: Literal["random", "timm", "folder", "file"]
    place: str
    """A timm name, or a path."""
    sha256: str = ""
    """That of the weights at the path; "" where it is not checked."""


def load(source: str | Path) -> Backbone:
    """A backbone in evaluation mode, from one of four sources:

    * a backbone folder: its weights are checked against its card's sha256;
    * a weights file of a DINO or DINOv2 ViT (.safetensors, or a .pth read with weights_only; a bare network or a
      whole training checkpoint, see `weights.file_state`): the architecture is read off its shapes;
    * `timm:NAME`: the published weights of a timm ViT, downloaded or found in timm's cache;
    * `random:NAME`: a timm ViT at random initialization, seed 0.

    `PATH#sha256=HEX` is refused unless the weights at the path have that sha256. A color network is made gray
    without loss: its output for a gray image is as before for the image shown as three normalized channels.

    Raises CheckpointError for damaged or foreign weights and a path without any, ConfigError for an unknown name.
    """
    parsed = parse_source(source)
    match parsed.kind:
        case "folder":
            return _from_folder(Path(parsed.place), parsed.sha256)
        case "file":
            return _from_file(Path(parsed.place), parsed.sha256)
        case "timm":
            return _from_timm(parsed.place)
        case "random":
            return random_backbone(native_config(parsed.place), seed=0).eval()


def parse_source(source: str | Path) -> BackboneSource:
    """Where the weights are that a person names.

    >>> parse_source("timm:vit_small_patch16_224")
    BackboneSource(kind='timm', place='vit_small_patch16_224', sha256='')

    Raises ConfigError for a bare timm name, which does not say which weights, and for the sha256 of a name,
    CheckpointError for a path without weights.
    """
    place, sha256 = split_sha256(source)
    for prefix in (RANDOM, TIMM):
        if place.startswith(prefix):
            if sha256:
                raise ConfigError(
                    f"{source}: a timm name has no file whose sha256 could be checked; give the file"
                )
            return BackboneSource("random" if prefix == RANDOM else "timm", place.removeprefix(prefix))
    path = Path(place)
    if (path / CARD).is_file():
        return BackboneSource("folder", place, sha256)
    if path.is_file():
        return BackboneSource("file", place, sha256)
    import timm

    if timm.is_model(place):
        raise ConfigError(
            f"{place} is no path; give {RANDOM}{place} for random weights or {TIMM}{place} for the published ones"
        )
    if path.exists() or path.suffix or "/" in place:
        raise CheckpointError(
            f"{source}: no backbone here; expected a folder with {CARD}, a weights file, {TIMM}NAME or {RANDOM}NAME"
        )
    near = nearest(place, timm.list_models("*vit*"))
    raise ConfigError(
        f"{place} is no path and no timm model ({near}); give a path, {TIMM}NAME or {RANDOM}NAME"
    )


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


def _from_file(path: Path, sha256: str) -> Backbone:
    state = file_state(path, sha256)
    if "pos_embed" not in state:
        raise CheckpointError(f"{path}: holds no Vision Transformer (pos_embed is missing)")
    config = config_from_shapes(state)
    if state[KERNEL].shape[1] == 1:
        return _with_weights(Card(label=path.name, config=config), state, None, str(path))
    # DINOv2's code resamples as DINO's does where there are no registers, and by sizes, antialiased, as timm does,
    # where there are.
    card = _gray_card(path.name, config, IMAGENET, "timm" if config.registers else "dino")
    return _with_weights(card, state, IMAGENET, str(path))


def _from_timm(name: str) -> Backbone:
    config, normalization = native_config(name), published_normalization(name)
    resampling: Resampling = "dino" if "dino" in name and "_reg" not in name else "timm"
    card = _gray_card(f"{TIMM}{name}", config, normalization, resampling)
    return _with_weights(card, published_state(name), normalization, f"{TIMM}{name}")


def _gray_card(
    label: str, config: BackboneConfig, normalization: ColorNormalization, resampling: Resampling
) -> Card:
    """Mean and std over the channels: a step in the normalized gray image is as long as it was in color."""
    mean, std = (round(sum(part) / len(part), 6) for part in (normalization.mean, normalization.std))
    return Card(label=label, config=config, mean=mean, std=std, positions=resampling)


def _with_weights(
    card: Card, state: Mapping[str, Tensor], normalization: ColorNormalization | None, source: str
) -> Backbone:
    backbone = Backbone(card)
    try:
        copy_weights(backbone, state, normalization)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: not the weights of a {card.config.name}-like ViT ({error})"
        ) from error
    return with_weights_digest(backbone).eval()
