"""Other people's weights: what a file or timm's hub holds of a Vision Transformer, under timm's names.

A file is only ever read as plain tensors: nothing in it runs.
"""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CheckpointError, ConfigError

# C colour channels, D width, P side of a patch.

KERNEL = "patch_embed.proj.weight"
BIAS = "patch_embed.proj.bias"

SHA256 = "#sha256="

RENAMED = {
    r"^register_tokens$": "reg_token",
    # Trained in chunks of blocks: chunk, then the block's number in the whole.
    r"^blocks\.\d+\.(?=\d+\.)": "blocks.",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}
"""DINOv2's own names -> timm's."""


@dataclass(frozen=True, slots=True)
class Channels:
    """How the colour pictures were normalised that a network learnt from: (value in 0..1 - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Channels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""DINO's, DINOv2's and most others'."""


def asked_of(source: str | Path) -> tuple[str, str]:
    """A place, and the sha256 that its weights shall have ("" where none is asked for).

    >>> asked_of("dino.pth")
    ('dino.pth', '')
    >>> place, sha256 = asked_of("dino.pth#sha256=" + 32 * "5E")
    >>> place, sha256[:8]
    ('dino.pth', '5e5e5e5e')
    """
    place, asked, sha256 = str(source).partition(SHA256)
    if asked and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(
            f"{source}: a sha256 has 64 hexadecimal digits, here are {len(sha256)} characters; "
            f"write PATH{SHA256}HEX as `sha256sum PATH` prints it"
        )
    return place, sha256.lower()


def foreign_state(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of the Vision Transformer in a weights file, float32, under timm's names.

    Safetensors, or a pickle read with weights_only. The network may lie as deep as it likes under names and
    prefixes (`teacher`, `student`, `module.`, `backbone.`, `model`, `state_dict`); of a teacher and a student the
    teacher is taken, which both papers evaluate. Of what is no tensor, the settings (argparse) and numbers (NumPy)
    of a training's checkpoint are let through and thrown away.

    Raises CheckpointError where the file has another sha256 than asked for, is damaged, would run code or holds
    no Vision Transformer.
    """
    if sha256:
        _check_sha256(path, sha256)
    held = _held(path)
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{path}: holds a {type(held).__name__}, not weights by name")
    tensors = dict(_tensors(held))
    roots = [name.removesuffix(KERNEL) for name in tensors if re.search(rf"(^|\.){re.escape(KERNEL)}$", name)]
    if not roots:
        raise CheckpointError(f"{path}: holds no Vision Transformer ({KERNEL} is missing)")
    root = min(roots, key=lambda root: ("teacher" not in root, "student" in root, len(root), root))
    state = {name.removeprefix(root): value for name, value in tensors.items() if name.startswith(root)}
    beside = root.removesuffix("vit.") + "mask_token"  # ours lies beside the network
    if beside in tensors:
        state["mask_token"] = tensors[beside]
    return {_renamed(name): value.float() for name, value in state.items()}


def pretrained_state(name: str) -> dict[str, Tensor]:
    """The published weights of a timm ViT, fetched from timm's hub or found in its cache.

    Raises ConfigError for an unknown name, CheckpointError where there are none or they cannot be fetched.
    """
    import timm

    check_name(name)
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # timm, its hub and the network each have errors of their own
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"timm:{name}: its weights cannot be fetched ({first}); fetch them on a machine with a network and "
            "give the file instead"
        ) from error
    return dict(vit.state_dict())


def channels_of(name: str) -> Channels:
    """How timm shows pictures to the published weights of a name."""
    import timm

    published = timm.get_pretrained_cfg(name)
    return Channels(mean=tuple(published.mean), std=tuple(published.std))


def check_name(name: str) -> None:
    """Raises ConfigError, with the nearest name, where timm has no such model."""
    import timm

    if not timm.is_model(name):
        from difflib import get_close_matches

        near = get_close_matches(name, timm.list_models("*vit*"), 1)
        raise ConfigError(
            f"backbone.name {name!r} is no timm model" + (f"; nearest is {near[0]!r}" if near else "")
        )


def grey(kernel_DCPP: Tensor, channels: Channels | None, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """A patch embedding for colour as one for grey pictures: kernel (D, 1, P, P), and a constant (D,) to add.

    Exact for a grey picture shown as all of the channels: with x = (g - mean) / std what the grey kernel is
    shown, a channel was shown (g - m) / s = x std / s + (mean - m) / s; there is no padding, so the second part
    is the same for every patch. Without `channels` they were all shown x itself.
    """
    if channels is None:
        return kernel_DCPP.sum(1, keepdim=True), kernel_DCPP.new_zeros(len(kernel_DCPP))
    mean_C, std_C = (torch.tensor(part, dtype=torch.float64) for part in (channels.mean, channels.std))
    kernel = kernel_DCPP.double()
    kernel_DPP = torch.einsum("dcpq,c->dpq", kernel, std / std_C)
    constant_D = torch.einsum("dcpq,c->d", kernel, (mean - mean_C) / std_C)
    return kernel_DPP[:, None].to(kernel_DCPP.dtype), constant_D.to(kernel_DCPP.dtype)


def _held(path: Path) -> Any:
    """What a file holds, read without running anything in it."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it holds {refused[1]}; save its tensors alone" if refused else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read as plain weights ({why})") from error


def _harmless() -> list[Any]:
    """What a published training checkpoint holds beside tensors: its command line, and a learning rate that
    came from a NumPy table. Neither runs anything when it is read."""
    scalar = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # NumPy 1, NumPy 2
    return [Namespace, *named, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]


def _tensors(held: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in held.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _renamed(name: str) -> str:
    for pattern, ours in RENAMED.items():
        name = re.sub(pattern, ours, name)
    return name


def _check_sha256(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"{path}: its sha256 is {found[:12]}…, not {sha256[:12]}… as asked; fetch the file again"
        )
