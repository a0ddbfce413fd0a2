"""Weights from elsewhere: what a file or timm's hub holds of a Vision Transformer, under timm's names.

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

from ..core.errors import CheckpointError
from .architecture import KERNEL, check_name, published_config
from .dinov3_format import rotary_tensors
from .transformers_format import timm_tensors

# C color channels, D width, P side of a patch.

RENAMED = {
    r"^register_tokens$": "reg_token",
    # Trained in chunks of blocks: chunk, then the block's number in the whole.
    r"^blocks\.\d+\.(?=\d+\.)": "blocks.",
    r"\.mlp\.w12\.": ".mlp.fc1.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
}
"""DINOv2's own names -> timm's."""


@dataclass(frozen=True, slots=True)
class ColorNormalization:
    """How the color images were normalized that a network learnt from: (value in 0..1 - mean) / std, by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = ColorNormalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""That of DINO, DINOv2 and most others."""


def file_state(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of the Vision Transformer in a weights file, float32, under timm's names.

    The file is safetensors, or a pickle read with weights_only, in the format of DINO, DINOv2, DINOv3, timm or
    transformers. Of a network of DINOv3 there is `dinov3_format.PERIODS`, too.
    The network may lie at any depth under names and prefixes (`teacher`, `student`, `module.`, `backbone.`, `model`,
    `state_dict`); of a teacher and a student the teacher is taken, which both papers evaluate. Of a training
    checkpoint's other content, settings (argparse) and numbers (NumPy) are let through and thrown away.

    Raises CheckpointError where the file has another sha256 than the given one, is damaged, would run code or holds
    no Vision Transformer.
    """
    if sha256:
        _check_sha256(path, sha256)
    content = _read(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not weights by name")
    tensors = dict(_tensors(content))
    try:
        return _network_state(timm_tensors(tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _network_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one network among those of a file."""
    roots = [name.removesuffix(KERNEL) for name in tensors if re.search(rf"(^|\.){re.escape(KERNEL)}$", name)]
    if not roots:
        raise CheckpointError(f"holds no Vision Transformer ({KERNEL} is missing)")
    root = min(roots, key=lambda root: ("teacher" not in root, "student" in root, len(root), root))
    state = {name.removeprefix(root): value for name, value in tensors.items() if name.startswith(root)}
    mask_token = root.removesuffix("vit.") + "mask_token"  # a `Backbone` has it beside its `vit`
    if mask_token in tensors:
        state["mask_token"] = tensors[mask_token]
    return {_timm_name(name): value.float() for name, value in rotary_tensors(state).items()}


def file_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of its tensors; nothing for another file."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def published_state(name: str) -> dict[str, Tensor]:
    """The published weights of a timm ViT, downloaded from timm's hub or found in its cache.

    Raises ConfigError for an unknown name, CheckpointError where there are none or they cannot be downloaded.
    """
    import timm

    check_name(name)
    try:
        vit = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # timm, its hub and the network each have errors of their own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"timm:{name}: its weights cannot be downloaded ({reason}); {_download_advice(name)}"
        ) from error
    return rotary_tensors(vit.state_dict())


def published_normalization(name: str) -> ColorNormalization:
    """How timm normalizes images for the published weights of a model."""
    published = published_config(name)
    return ColorNormalization(mean=tuple(published.mean), std=tuple(published.std))


def _download_advice(name: str) -> str:
    """What a person without a network does to have a model's weights."""
    published = published_config(name)
    if published.hf_hub_id:
        file, page = (
            published.hf_hub_filename or "model.safetensors",
            f"https://huggingface.co/{published.hf_hub_id}",
        )
    elif published.url:
        page, _, file = str(published.url).rpartition("/")
    else:
        return f"give another name, or the PATH of a weights file; random:{name} has random weights"
    return f"download {file} from {page} where there is a network, copy it here and give its PATH instead"


def gray_patch_embedding(
    kernel_DCPP: Tensor, normalization: ColorNormalization | None, mean: float, std: float
) -> tuple[Tensor, Tensor]:
    """A patch embedding for color as one for gray images: kernel (D, 1, P, P), and a constant (D,) to add.

    Exact for a gray image g shown as all of the channels: with x = (g - mean) / std what the gray kernel is shown,
    a channel with mean m and std s was shown (g - m) / s = x std / s + (mean - m) / s; there is no padding, so the
    second part is the same for every patch. Without a normalization all channels were shown x itself.
    """
    if normalization is None:
        return kernel_DCPP.sum(1, keepdim=True), kernel_DCPP.new_zeros(len(kernel_DCPP))
    mean_C, std_C = (
        torch.tensor(part, dtype=torch.float64) for part in (normalization.mean, normalization.std)
    )
    kernel = kernel_DCPP.double()
    kernel_DPP = torch.einsum("dcpq,c->dpq", kernel, std / std_C)
    constant_D = torch.einsum("dcpq,c->d", kernel, (mean - mean_C) / std_C)
    return kernel_DPP[:, None].to(kernel_DCPP.dtype), constant_D.to(kernel_DCPP.dtype)


def _read(path: Path) -> Any:
    """The content of a file, read without running anything in it."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_harmless_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it holds {refused[1]}; save its tensors alone" if refused else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read as plain weights ({why})") from error


def _harmless_types() -> list[Any]:
    """Types that a published training checkpoint holds beside tensors: its command line, and a learning rate that
    came from a NumPy table. Neither runs anything when it is read."""
    scalar = np.float64(0).__reduce__()[0]
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # NumPy 1, NumPy 2
    return [Namespace, *named, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]


def _tensors(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name}.")


def _timm_name(name: str) -> str:
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name


def _check_sha256(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise CheckpointError(
            f"{path}: its sha256 is {actual[:12]}…, not {sha256[:12]}… as given; fetch the file again"
        )
