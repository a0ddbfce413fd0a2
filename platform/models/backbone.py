"""A Vision Transformer that answers with tokens and with attention, from a folder, a timm name or a file.

Any timm ViT will do: it is built for one grey channel and answers at any image side that its patch divides.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MethodType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..core.config import atomic_write, from_json, to_json
from ..core.errors import CheckpointError, ConfigError
from .positions import Rule, fitted, placed
from .weights import (
    BIAS,
    IMAGENET,
    KERNEL,
    Channels,
    asked_of,
    channels_of,
    check_name,
    foreign_state,
    grey,
    pretrained_state,
)

# B images, N patches, D width, H heads; S side of an image.

WEIGHTS = "backbone.safetensors"
CARD = "card.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """Which Vision Transformer, and what it is shown."""

    name: str = "vit_small_patch14_dinov2"
    """A timm Vision Transformer; the settings below override the parts of it that they name."""
    side: int = 224
    """Side of the square image it is built for, in pixels; a multiple of the patch."""
    patch: int | None = None
    """Side of a patch in pixels; None keeps the architecture's."""
    width: int | None = None
    """Width of a token; None keeps the architecture's."""
    depth: int | None = None
    """Number of blocks; None keeps the architecture's."""
    heads: int | None = None
    """Attention heads a block; None keeps the architecture's."""
    registers: int | None = None
    """Register tokens beside the CLS (arXiv 2309.16588); None keeps the architecture's."""
    drop_path: float = 0.0
    """Rate of stochastic depth in the last block, rising linearly from 0 in the first (student only)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a backbone is, how images are prepared for it, and where it comes from."""

    label: str
    """What a person reads beside its answers, such as `random weights, seed 0`."""
    config: BackboneConfig
    mean: float = 0.5
    """Subtracted from pixels scaled to 0..1."""
    std: float = 0.25
    """Divides what is left."""
    positions: Rule = "timm"
    """How position embeddings are resampled to another grid: as the code resamples that the weights come from."""
    weights_sha256: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Recipe, command, data manifest digest, git revision: plain words, for people."""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identity of what it computes: weights, architecture and preprocessing; never its name or path."""
        told = asdict(replace(self, label="", origin={}, metrics={}))
        if told["config"]["registers"] is None:
            del told["config"]["registers"]  # cards from before there was this setting keep their digest
        if told["positions"] == "timm":
            del told["positions"]  # likewise
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What a backbone says of a batch: cls (B, D), patches (B, N, D), N = grid rows x grid columns."""

    cls: Tensor
    patches: Tensor
    grid: tuple[int, int]

    def __repr__(self) -> str:
        return (
            f"Tokens({len(self.cls)} images, width {self.cls.shape[-1]}, grid {self.grid[0]}x{self.grid[1]})"
        )


class Backbone(nn.Module):
    """A timm ViT over grey images (B, 1, S, S), float32, already normalised by `prepare`."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card
        self.vit = _vit(card.config)
        self.prefix = self.vit.num_prefix_tokens
        self.mask_token = nn.Parameter(torch.zeros(self.vit.embed_dim))

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
        return self.card.config.side

    def forward(self, images_B1SS: Tensor, masked_BN: Tensor | None = None, patches: bool = True) -> Tokens:
        """Tokens after the last norm. Where masked_BN (bool) is true, the patch is hidden from the network
        behind a learnt token (iBOT, arXiv 2111.07832, section 3.1).

        Where patches are not asked for, the answer holds none of them, and what the last block would have made
        of them is left out: 6 % of the work of 12 blocks.
        """
        vit = self.vit
        grid = (images_B1SS.shape[-2] // self.patch, images_B1SS.shape[-1] // self.patch)
        x = vit.patch_embed(images_B1SS)
        if masked_BN is not None:
            hidden = masked_BN.view(len(x), *x.shape[1:-1], 1)
            x = torch.where(hidden, self.mask_token.to(x.dtype), x)
        x = vit.norm_pre(vit.patch_drop(placed(vit, x, self.card.positions)))
        *blocks, last = vit.blocks
        for block in blocks:
            x = block(x)
        x = last(x) if patches or not _is_plain(last) else _first_token(last, x)
        x = vit.norm(x if patches else x[:, :1])
        return Tokens(cls=x[:, 0], patches=x[:, self.prefix :], grid=grid)

    def tokens(self, images_B1SS: Tensor) -> Tokens:
        """Tokens without gradient, in evaluation mode."""
        with torch.inference_mode():
            return self.eval()(images_B1SS.to(self.mask_token.device))

    def attention(self, images_B1SS: Tensor, block: int = -1) -> Tensor:
        """How much the CLS token of one block looks at each patch: (B, H, N), each row's sum <= 1.

        The softmax runs over all tokens, the CLS and registers among them, which are then left out. Queries
        and keys are computed anew from the block's input, so that fused kernels do not matter.
        """
        seen: list[Tensor] = []
        attention = self.vit.blocks[block].attn
        handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.tokens(images_B1SS)
        finally:
            handle.remove()
        with torch.inference_mode():
            (x,) = seen
            count, length, _ = x.shape
            qkv = attention.qkv(x).view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
            query, key = attention.q_norm(qkv[0][:, :, :1]), attention.k_norm(qkv[1])
            row = (query * attention.scale) @ key.transpose(-2, -1)
            return row.softmax(-1)[:, :, 0, self.prefix :]

    def prepare(self, pixels_HW: np.ndarray, side: int | None = None) -> Tensor:
        """One view as the network sees it: (1, S, S) float32, letterboxed on black, area-resized, normalised.

        Another `side`, a multiple of the patch, gives another grid; position embeddings are resampled to it.
        """
        return self.prepare_many([pixels_HW], side)[0]

    def prepare_many(self, views: Sequence[np.ndarray], side: int | None = None) -> Tensor:
        """Views (H, W) uint8 of any sizes -> (B, 1, S, S) float32."""
        batch = np.stack([letterboxed(pixels, side or self.side) for pixels in views])
        return self.normalised(torch.from_numpy(batch)[:, None])

    def normalised(self, grey_uint8: Tensor) -> Tensor:
        """uint8 grey of any shape -> float32 by the card's mean and std, on the backbone's device."""
        scaled = grey_uint8.to(self.mask_token.device).float() / 255.0
        return (scaled - self.card.mean) / self.card.std


def _forward_on_subsets(block: nn.Module, x_BLD: Tensor) -> Tensor:
    """A block's forward whose two branches are computed for a random part of the batch alone in training.

    Stochastic depth (arXiv 1603.09382) by batch subset, DINOv2 (arXiv 2304.07193), section 5: of B pictures,
    round(B * (1 - rate)), one at least, drawn anew for each branch, have it added, B over their number times
    as large. What is dropped costs nothing; the expectation is that of the whole batch. Draws come from torch's
    own generator of the device.
    """
    x_BLD = _added(x_BLD, block.drop_path1, lambda x: block.ls1(block.attn(block.norm1(x))))
    return _added(x_BLD, block.drop_path2, lambda x: block.ls2(block.mlp(block.norm2(x))))


def _added(x_BLD: Tensor, drop: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """The tokens with a branch added; only the first of them where the branch answers with fewer."""
    count = len(x_BLD)
    rate = getattr(drop, "drop_prob", 0.0) if drop.training else 0.0
    kept = max(1, round(count * (1 - rate)))
    if kept >= count:
        change = branch(x_BLD)
        return x_BLD[:, : change.shape[1]] + change
    chosen = torch.randperm(count, device=x_BLD.device)[:kept]
    change = branch(x_BLD.index_select(0, chosen)).to(x_BLD.dtype)
    return x_BLD[:, : change.shape[1]].index_add(0, chosen, change, alpha=count / kept)


def _first_token(block: nn.Module, x_BLD: Tensor) -> Tensor:
    """A block's answer for the CLS token alone: (B, 1, D). It looks at all tokens, which stay as they are."""
    x_B1D = _added(x_BLD, block.drop_path1, lambda x: block.ls1(_look_of_first(block.attn, block.norm1(x))))
    return _added(x_B1D, block.drop_path2, lambda x: block.ls2(block.mlp(block.norm2(x))))


def _look_of_first(attention: nn.Module, x_BLD: Tensor) -> Tensor:
    # The modules are called whole, not by slices of their weights: DeepSpeed brings weights where modules are called.
    count, length, _ = x_BLD.shape
    qkv = attention.qkv(x_BLD).view(count, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(qkv[0][:, :, :1]), attention.k_norm(qkv[1])
    row = ((query * attention.scale) @ key.transpose(-2, -1)).softmax(-1)
    seen = (attention.attn_drop(row) @ qkv[2]).transpose(1, 2).flatten(2)
    return attention.proj_drop(attention.proj(attention.norm(seen)))


def _is_plain(block: nn.Module) -> bool:
    """Whether `_first_token` knows what the block computes."""
    from timm.models.vision_transformer import Attention, Block

    return type(block) is Block and type(block.attn) is Attention and block.attn.gate is None


def letterboxed(pixels_HW: np.ndarray, side: int) -> np.ndarray:
    """The view inside a black square of side x side, its proportions kept, uint8.

    >>> letterboxed(np.full((10, 20), 200, np.uint8), 8)[0, 0], letterboxed(np.full((8, 8), 9, np.uint8), 8)[0, 0]
    (np.uint8(0), np.uint8(9))
    """
    height, width = pixels_HW.shape
    scale = side / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    small = cv2.resize(
        pixels_HW, (columns, rows), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    square = np.zeros((side, side), np.uint8)
    top, left = (side - rows) // 2, (side - columns) // 2
    square[top : top + rows, left : left + columns] = small
    return square


def letterbox_of(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """Where `letterboxed` puts a view of that size: (top, left, rows, columns), in pixels of the square.

    >>> letterbox_of(10, 20, 8)
    (2, 0, 4, 8)
    """
    scale = side / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    return (side - rows) // 2, (side - columns) // 2, rows, columns


def random_backbone(config: BackboneConfig, seed: int, *, mean: float = 0.5, std: float = 0.25) -> Backbone:
    """A backbone at random initialisation; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(Card(label=f"random weights, seed {seed}", config=config, mean=mean, std=std))
        nn.init.trunc_normal_(backbone.mask_token, std=0.02)
    return _carded(backbone)


def random_like(backbone: Backbone, seed: int = 0) -> Backbone:
    """The same architecture and preprocessing at random initialisation: the floor beside every figure."""
    card = backbone.card
    like = random_backbone(card.config, seed, mean=card.mean, std=card.std)
    like.card = replace(like.card, positions=card.positions)
    return like


def resized(backbone: Backbone, side: int) -> Backbone:
    """The same weights built for images of another side, position embeddings resampled; in evaluation mode."""
    card = backbone.card
    other = Backbone(replace(card, config=replace(card.config, side=side)))
    adopt(other, backbone.vit.state_dict())
    with torch.no_grad():
        other.mask_token.copy_(backbone.mask_token)
    return _carded(other).eval()


def save_backbone(folder: Path, backbone: Backbone, *, half: bool = False) -> Card:
    """Write weights (safetensors, float32 or float16) and card; the folder appears whole or not at all."""
    from safetensors.torch import save

    dtype = torch.float16 if half else torch.float32
    state = {
        name: value.detach().to("cpu", dtype).contiguous() for name, value in backbone.state_dict().items()
    }
    weights = save(state)
    card = replace(backbone.card, weights_sha256=hashlib.sha256(weights).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / WEIGHTS, weights)
    atomic_write(folder / CARD, to_json(card))
    return card


def load(source: str | Path) -> Backbone:
    """A backbone in evaluation mode, from one of four:

    * a backbone folder: its weights are checked against its card's sha256;
    * a weights file of a DINO or DINOv2 ViT (.safetensors, or a .pth read with weights_only; a bare network or a
      whole training checkpoint, see `weights.foreign_state`): the architecture is read off its shapes;
    * `timm:NAME`: the published weights of a timm ViT, fetched or found in timm's cache;
    * NAME, a timm ViT: at random initialisation.

    `PATH#sha256=HEX` is refused unless the weights at the path have that sha256. A colour network is made grey
    without loss: it answers to a grey picture as it did to the picture shown as three normalised channels.

    Raises CheckpointError for damaged or foreign weights, ConfigError for an unknown name.
    """
    place, sha256 = asked_of(source)
    path = Path(place)
    if (path / CARD).is_file():
        return _from_folder(path, sha256)
    if path.is_file():
        return _from_file(path, sha256)
    name = place.removeprefix("timm:")
    import timm

    if place == name and not timm.is_model(name) and (path.exists() or path.suffix or "/" in place):
        raise CheckpointError(
            f"{source}: no backbone here; expected a folder with {CARD}, a weights file or a timm name"
        )
    check_name(name)
    if sha256:
        raise ConfigError(f"{source}: a timm name has no file whose sha256 could be checked; give the file")
    if place != name:
        return _published(name)
    return random_backbone(BackboneConfig(name=name, side=_native_side(name)), seed=0).eval()


def timm_overrides(config: BackboneConfig) -> dict[str, Any]:
    """The settings that differ from the named architecture, in timm's words."""
    named = {
        "patch_size": config.patch,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "reg_tokens": config.registers,
    }
    return {key: value for key, value in named.items() if value is not None}


def _vit(config: BackboneConfig) -> nn.Module:
    import timm
    from timm.models.vision_transformer import Block, VisionTransformer

    check_name(config.name)
    try:
        vit = timm.create_model(
            config.name,
            pretrained=False,
            in_chans=1,
            num_classes=0,
            img_size=config.side,
            dynamic_img_size=True,
            drop_path_rate=config.drop_path,
            **timm_overrides(config),
        )
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"backbone.name {config.name!r} cannot be built so: {error}") from error
    if not isinstance(vit, VisionTransformer) or vit.cls_token is None:
        raise ConfigError(f"backbone.name {config.name!r} is no plain Vision Transformer; choose a vit_…")
    if config.side % vit.patch_embed.patch_size[0]:
        raise ConfigError(
            f"backbone.side {config.side} is no multiple of the patch, {vit.patch_embed.patch_size[0]}; "
            f"nearest is {round(config.side / vit.patch_embed.patch_size[0]) * vit.patch_embed.patch_size[0]}"
        )
    for block in vit.blocks:
        if type(block) is Block and config.drop_path:
            block.forward = MethodType(_forward_on_subsets, block)
    return vit


def _native_side(name: str) -> int:
    import timm

    return timm.get_pretrained_cfg(name).input_size[-1] if timm.is_model(name) else 224


def _carded(backbone: Backbone) -> Backbone:
    """Give the card the hash of weights that never were in a file."""
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    backbone.card = replace(backbone.card, weights_sha256=digest.hexdigest())
    return backbone


def _from_folder(folder: Path, sha256: str) -> Backbone:
    from safetensors.torch import load as load_safetensors

    card = from_json(Card, (folder / CARD).read_text(), source=str(folder / CARD))
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: cannot be read ({error.strerror})") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != card.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS}: sha256 {found[:12]}… differs from the card's {card.weights_sha256[:12]}…; "
            "the folder is damaged, copy it again"
        )
    if sha256 not in ("", found):
        raise CheckpointError(f"{folder / WEIGHTS}: its sha256 is {found[:12]}…, not {sha256[:12]}… as asked")
    backbone = Backbone(card)
    backbone.load_state_dict({name: value.float() for name, value in load_safetensors(weights).items()})
    return backbone.eval()


def _from_file(path: Path, sha256: str) -> Backbone:
    state = foreign_state(path, sha256)
    if "pos_embed" not in state:
        raise CheckpointError(f"{path}: holds no Vision Transformer (pos_embed is missing)")
    config = _config_of(state)
    if state[KERNEL].shape[1] == 1:
        return _adopted(Card(label=path.name, config=config), state, None, str(path))
    # DINOv2's code resamples as DINO's does where there are no registers, and by sizes, antialiased, as timm does,
    # where there are.
    rule = "timm" if config.registers else "dino"
    return _adopted(_colour_card(path.name, config, IMAGENET, rule), state, IMAGENET, str(path))


def _published(name: str) -> Backbone:
    config = BackboneConfig(name=name, side=_native_side(name))
    dino = "dino" in name and "_reg" not in name
    card = _colour_card(f"timm:{name}", config, channels_of(name), "dino" if dino else "timm")
    return _adopted(card, pretrained_state(name), channels_of(name), f"timm:{name}")


def _colour_card(label: str, config: BackboneConfig, channels: Channels, rule: Rule) -> Card:
    """Grey by the mean over the channels: a step in the normalised picture is as long as it was in colour."""
    mean, std = (round(sum(part) / len(part), 6) for part in (channels.mean, channels.std))
    return Card(label=label, config=config, mean=mean, std=std, positions=rule)


def _adopted(card: Card, state: Mapping[str, Tensor], channels: Channels | None, where: str) -> Backbone:
    backbone = Backbone(card)
    try:
        adopt(backbone, state, channels)
    except RuntimeError as error:
        name = card.config.name
        raise CheckpointError(f"{where}: not the weights of a {name}-like ViT ({error})") from error
    return _carded(backbone).eval()


def _config_of(state: Mapping[str, Tensor]) -> BackboneConfig:
    """The architecture of DINO's or DINOv2's weights, read off their shapes."""
    width, _, patch, _ = state[KERNEL].shape
    registers = state["reg_token"].shape[1] if "reg_token" in state else None
    name = "vit_small_patch16_224"
    if any(key.endswith("ls1.gamma") for key in state):
        hidden = [
            state[key].shape for key in ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight") if key in state
        ]
        gated = len(hidden) == 2 and hidden[0][0] == 2 * hidden[1][1]  # DINOv2's largest
        name = f"vit_{'giant' if gated else 'small'}_patch14_{'reg4_' if registers else ''}dinov2"
    return BackboneConfig(
        name=name,
        # A square grid and a CLS position: the root, rounded down, is the grid's side.
        side=math.isqrt(state["pos_embed"].shape[1]) * patch,
        patch=patch,
        width=width,
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        # Shapes do not tell it; 64 numbers a head is what all of DINO's and DINOv2's have.
        heads=max(1, width // 64),
        registers=registers,
    )


def plain_state(backbone: Backbone) -> dict[str, Tensor]:
    """A backbone's tensors under the names that `adopt` takes."""
    return {**backbone.vit.state_dict(), "mask_token": backbone.mask_token.detach()}


def adopt(backbone: Backbone, state: Mapping[str, Tensor], channels: Channels | None = None) -> None:
    """Take over the weights of another ViT of the same width, depth and registers; names are timm's.

    A three-channel patch embedding is folded to grey: exactly, for the card's mean and std, where `channels` says
    how its pictures were normalised; else by its sum over channels (`weights.grey`). Position embeddings are
    resampled to the grid by the card's rule. Heads are left behind. Raises RuntimeError, of one line, where a
    tensor is missing, left over or of another shape.
    """
    vit = backbone.vit
    wanted = vit.state_dict()
    taken = {name: value for name, value in state.items() if name in wanted}
    missing = sorted(set(wanted) - set(taken))
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    if missing or len(blocks) != len(vit.blocks):
        lacks = f"{missing[0]} is missing" if missing else f"{len(blocks)} blocks, not {len(vit.blocks)}"
        raise RuntimeError(lacks)
    ours = ("blocks.", "norm.", "norm_pre.", "patch_embed.", "reg_token")
    left = sorted(name for name in state if name.startswith(ours) and name not in wanted)
    if left:
        raise RuntimeError(f"{left[0]} has no place")
    if "pos_embed" in taken:
        taken |= fitted(vit, taken, backbone.card.positions)
    if taken[KERNEL].shape[1] == 3:
        taken |= _grey(backbone, taken, channels)
    for name, value in wanted.items():
        if value.shape != taken[name].shape:
            raise RuntimeError(f"{name} is {tuple(taken[name].shape)}, not {tuple(value.shape)}")
    vit.load_state_dict(taken)
    if "mask_token" in state and state["mask_token"].numel() == len(backbone.mask_token):
        backbone.mask_token.data.copy_(state["mask_token"].flatten())


def _grey(backbone: Backbone, taken: Mapping[str, Tensor], channels: Channels | None) -> dict[str, Tensor]:
    """The patch embedding folded to one channel. Its constant goes into the bias, or, where the architecture
    has none, into the positions of the patches, to which it is added next."""
    kernel, constant_D = grey(taken[KERNEL], channels, backbone.card.mean, backbone.card.std)
    if BIAS in taken:
        return {KERNEL: kernel, BIAS: taken[BIAS] + constant_D}
    positions_1LD = taken["pos_embed"].clone()
    positions_1LD[:, 0 if backbone.vit.no_embed_class else backbone.prefix :] += constant_D
    return {KERNEL: kernel, "pos_embed": positions_1LD}
