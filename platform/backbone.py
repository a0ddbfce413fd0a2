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

from .config import atomic_write, from_json, to_json
from .errors import CheckpointError, ConfigError

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
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(x)))
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
    return random_backbone(card.config, seed, mean=card.mean, std=card.std)


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
    """A backbone in evaluation mode, from one of three:

    a backbone folder (its weights are checked against its card's sha256); a weights file (.safetensors, or
    a .pth read with weights_only) of a DINO or DINOv2 ViT, whose architecture is read off its shapes; the
    name of a timm ViT, at random initialisation.

    Raises CheckpointError for damaged or foreign weights, ConfigError for an unknown name.
    """
    path = Path(source)
    if (path / CARD).is_file():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    if path.exists() or path.suffix or "/" in str(source):
        raise CheckpointError(
            f"{source}: no backbone here; expected a folder with {CARD}, a weights file or a timm name"
        )
    return random_backbone(BackboneConfig(name=str(source), side=_native_side(str(source))), seed=0).eval()


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

    _check_name(config.name)
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


def _check_name(name: str) -> None:
    import timm

    if not timm.is_model(name):
        from difflib import get_close_matches

        near = get_close_matches(name, timm.list_models("*vit*"), 1)
        raise ConfigError(
            f"backbone.name {name!r} is no timm model" + (f"; nearest is {near[0]!r}" if near else "")
        )


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


def _from_folder(folder: Path) -> Backbone:
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
    backbone = Backbone(card)
    backbone.load_state_dict({name: value.float() for name, value in load_safetensors(weights).items()})
    return backbone.eval()


def _from_file(path: Path) -> Backbone:
    state = foreign_state(path)
    if "patch_embed.proj.weight" not in state or "pos_embed" not in state:
        raise CheckpointError(f"{path}: holds no Vision Transformer (patch_embed.proj.weight is missing)")
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    dinov2 = any(name.endswith("ls1.gamma") for name in state)
    registers = next(
        (state[name].shape[1] for name in ("register_tokens", "reg_token") if name in state), None
    )
    plain, registered = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
    config = BackboneConfig(
        name=(registered if registers else plain) if dinov2 else "vit_small_patch16_224",
        # A square grid and a CLS position: the root, rounded down, is the grid's side.
        side=math.isqrt(state["pos_embed"].shape[1]) * patch,
        patch=patch,
        width=width,
        depth=depth,
        # Shapes do not tell it; 64 numbers a head is what all of DINO's and DINOv2's have.
        heads=max(1, width // 64),
        registers=registers,
    )
    backbone = Backbone(Card(label=path.name, config=config))
    try:
        adopt(backbone, state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not the weights of a {config.name}-like ViT ({error})") from error
    return _carded(backbone).eval()


def foreign_state(path: Path) -> dict[str, Tensor]:
    """The backbone's tensors of a weights file, prefixes such as `teacher.backbone.` taken off."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as plain weights ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not weights by name")
    for wrapper in ("teacher", "model", "state_dict"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    return _unprefixed(state)


def pretrained_state(name: str) -> dict[str, Tensor]:
    """The published weights of a timm ViT, fetched from timm's hub or found in its cache.

    Raises ConfigError for an unknown name, CheckpointError where there are none or they cannot be fetched.
    """
    import timm

    _check_name(name)
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # timm, its hub and the network each have errors of their own
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"timm:{name}: its weights cannot be fetched ({first}); fetch them on a machine with a network and "
            "give the file instead"
        ) from error
    return dict(vit.state_dict())


def plain_state(backbone: Backbone) -> dict[str, Tensor]:
    """A backbone's tensors under the names that `adopt` takes."""
    return _unprefixed(backbone.state_dict())


def _unprefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for name, value in state.items():
        for prefix in ("module.", "teacher.", "backbone.", "vit."):
            name = name.removeprefix(prefix)
        plain[name] = value
    return plain


def adopt(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    """Take over the weights of another ViT of the same width, depth and registers.

    A three-channel patch embedding is folded to grey (its sum over channels: a grey picture shown three
    times gives the same answer), position embeddings are resampled to the grid (bicubic, antialiased). Heads
    are left behind. Raises RuntimeError, of one line, where a tensor is missing, left over or of another shape.
    """
    vit = backbone.vit
    wanted = vit.state_dict()
    # DINOv2's own files call them so.
    state = {"reg_token" if name == "register_tokens" else name: value for name, value in state.items()}
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
    kernel = taken["patch_embed.proj.weight"]
    if kernel.shape[1] == 3:
        taken["patch_embed.proj.weight"] = kernel.sum(1, keepdim=True)
    if taken["pos_embed"].shape != vit.pos_embed.shape:
        _fit_positions(backbone, taken)
    for name, value in wanted.items():
        if value.shape != taken[name].shape:
            raise RuntimeError(f"{name} is {tuple(taken[name].shape)}, not {tuple(value.shape)}")
    vit.load_state_dict(taken)
    if "mask_token" in state and state["mask_token"].numel() == len(backbone.mask_token):
        backbone.mask_token.data.copy_(state["mask_token"].flatten())


def _fit_positions(backbone: Backbone, taken: dict[str, Tensor]) -> None:
    """Resample the patches' position embeddings to the grid. Where the prefix tokens have embeddings of their
    own on one side alone, they are added to those tokens: the same answer under another name."""
    from timm.layers import resample_abs_pos_embed

    vit = backbone.vit
    positions_1LD = taken["pos_embed"]
    wanted = 0 if vit.no_embed_class else backbone.prefix
    found = _prefix_of(positions_1LD.shape[1], backbone.prefix)
    if found != wanted:
        names = [name for name in ("cls_token", "reg_token") if name in taken]
        prefix_1PD = torch.cat([taken[name] for name in names], dim=1)
        prefix_1PD[:, :found] += positions_1LD[:, :found]
        split = prefix_1PD.split([taken[name].shape[1] for name in names], dim=1)
        taken.update(zip(names, split, strict=True))
        zeros = positions_1LD.new_zeros(1, wanted, positions_1LD.shape[2])
        positions_1LD = torch.cat([zeros, positions_1LD[:, found:]], dim=1)
    taken["pos_embed"] = resample_abs_pos_embed(
        positions_1LD, new_size=vit.patch_embed.grid_size, num_prefix_tokens=wanted
    )


def _prefix_of(positions: int, prefix: int) -> int:
    """How many of the position embeddings are not of a square of patches: all prefix tokens', the CLS's or none.

    >>> _prefix_of(16 + 5, 5), _prefix_of(16 + 1, 5), _prefix_of(16, 5)
    (5, 1, 0)
    """
    for count in (prefix, 1, 0):
        if positions > count and math.isqrt(positions - count) ** 2 == positions - count:
            return count
    raise RuntimeError(f"pos_embed has {positions} rows, which is no square of patches")
