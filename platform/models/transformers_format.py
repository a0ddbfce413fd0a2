"""DINOv2 and DINOv3 networks as Hugging Face's transformers stores them (`Dinov2Model`, `DINOv3ViTModel`): names, and
the files beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CheckpointError
from .dinov3_format import COMPUTED, PERIODS
from .positions import BASE
from .source import SourceOptions

KERNEL = r"embeddings\.patch_embeddings\.(projection\.)?weight$"
"""In every network of this format, at the end of the tensor's name; with `projection` DINOv2's."""

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
"""Files beside the weights: the architecture, and how images are prepared."""

RENAMED = {
    r"^embeddings\.(cls_token|mask_token)$": r"\1",
    r"^embeddings\.register_tokens$": "reg_token",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.(projection\.)?": "patch_embed.proj.",
    r"^(encoder\.)?layer\.(\d+)\.": r"blocks.\2.",
    r"\.attention\.(output\.dense|o_proj)\.": ".attn.proj.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
    r"\.mlp\.weights_in\.": ".mlp.fc1.",
    r"\.mlp\.(weights_out|down_proj)\.": ".mlp.fc2.",
    r"\.mlp\.gate_proj\.": ".mlp.fc1_g.",
    r"^layernorm\.": "norm.",
}
"""Names of transformers -> timm's. Queries, keys and values are three tensors there and one here."""

DINOV2 = ("attention.query", "attention.key", "attention.value")
DINOV3 = ("q_proj", "k_proj", "v_proj")
"""The names of these three."""


def timm_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network in this format, under timm's names; those of any other file as they are.

    Raises CheckpointError where the queries of a block have no keys or values. DINOv3's keys have no bias.
    """
    roots = [match[1] for name in tensors if (match := re.search(rf"^(.*?){KERNEL}", name))]
    if not roots:
        return dict(tensors)
    root = min(roots, key=len)
    own = {name.removeprefix(root): value for name, value in tensors.items() if name.startswith(root)}
    rotary = any(name.endswith(".attention.q_proj.weight") for name in own)
    names, renamed = DINOV3 if rotary else DINOV2, {}
    for name, value in own.items():
        match = re.fullmatch(rf"(.*layer\.\d+)\.attention\.({'|'.join(names)})\.(weight|bias)", name)
        if match is None:
            renamed[_timm_name(name, own)] = value
        elif match[2] == names[0]:
            parts = [f"{match[1]}.attention.{part}.{match[3]}" for part in names]
            there = {parts[1]: torch.zeros_like(value)} | own if rotary and match[3] == "bias" else own
            missing = [part for part in parts if part not in there]
            if missing:
                raise CheckpointError(f"{root}{missing[0]} is missing")
            renamed[_timm_name(f"{match[1]}.attn.qkv.{match[3]}", own)] = torch.cat(
                [there[part] for part in parts]
            )
    return renamed | ({PERIODS: COMPUTED} if rotary else {})


def with_facts(path: Path, options: SourceOptions) -> SourceOptions:
    """The options, and where a person says nothing of them what the files beside the weights say: heads and epsilon in
    config.json, mean and std in preprocessor_config.json."""
    facts = _json(path.parent / CONFIG)
    if not re.search("dinov2|dinov3_vit", str(facts.get("model_type", ""))):
        return options
    theta = facts.get("rope_theta", BASE)
    if theta != BASE:
        raise CheckpointError(
            f"{path.parent / CONFIG}: rope_theta is {theta}, DINOv3 is published with {BASE:g}"
        )
    images = _json(path.parent / PREPROCESSOR)
    try:
        heads, eps = facts.get("num_attention_heads"), facts.get("layer_norm_eps")
        stated = SourceOptions(
            heads=None if heads is None else int(heads),
            eps=None if eps is None else float(eps),
            mean=tuple(map(float, images["image_mean"])) if "image_mean" in images else None,
            std=tuple(map(float, images["image_std"])) if "image_std" in images else None,
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path.parent}: {CONFIG} or {PREPROCESSOR} is damaged ({error})") from None
    names = [name for name in ("heads", "eps") if getattr(options, name) is None]
    if options.mean is None and stated.mean is not None and stated.std is not None:
        names += ["mean", "std"]
    return replace(options, **{name: getattr(stated, name) for name in names})


def _timm_name(name: str, tensors: Mapping[str, Tensor]) -> str:
    wide = ".mlp.fc1_x." if name.replace(".up_proj.", ".gate_proj.") in tensors else ".mlp.fc1."
    name = name.replace(".mlp.up_proj.", wide)
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
