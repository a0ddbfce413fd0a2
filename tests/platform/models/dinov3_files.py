"""Files of DINOv3 networks as DINOv3, transformers and timm publish them, at reduced width and depth; and timm's own
network of a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor

WIDTH, HEADS, DEPTH, PATCH = 48, 3, 3, 8

CONFIG = {
    "architectures": ["DINOv3ViTModel"],
    "model_type": "dinov3_vit",
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": DEPTH,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "image_size": 224,
    "patch_size": PATCH,
}
"""As of facebook/dinov3-vits16-pretrain-lvd1689m, but for the sizes."""

PREPROCESSOR = {
    "image_processor_type": "DINOv3ViTImageProcessorFast",
    "image_mean": [0.43, 0.411, 0.296],
    "image_std": [0.213, 0.156, 0.143],
    "rescale_factor": 1 / 255,
}
"""As of the networks for satellite images, whose mean and std no tensor tells."""


def published(*, gated: bool = False, biased: bool = True, seed: int = 0) -> dict[str, Tensor]:
    """A network's tensors as DINOv3 publishes them (dinov3_vits16_pretrain_lvd1689m-*.pth): names, order, shapes.

    Weights are large enough that attention is far from uniform. biased: or zeros, as those that were distilled have.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "storage_tokens": (1, 4, WIDTH),
        "mask_token": (1, WIDTH),
        "rope_embed.periods": (WIDTH // HEADS // 4,),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
    }
    hidden = 4 * WIDTH
    mlp = {"w1": (hidden, WIDTH), "w2": (hidden, WIDTH), "w3": (WIDTH, hidden)}
    for number in range(DEPTH):
        layers = {"norm1": (WIDTH,), "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        layers |= {"norm2": (WIDTH,)}
        layers |= (
            {f"mlp.{name}": shape for name, shape in mlp.items()}
            if gated
            else {"mlp.fc1": (hidden, WIDTH), "mlp.fc2": (WIDTH, hidden)}
        )
        for name, shape in layers.items():
            shapes[f"blocks.{number}.{name}.weight"] = shape
            shapes[f"blocks.{number}.{name}.bias"] = shape[:1]
        shapes[f"blocks.{number}.attn.qkv.bias_mask"] = (3 * WIDTH,)
        shapes |= {f"blocks.{number}.{scale}.gamma": (WIDTH,) for scale in ("ls1", "ls2")}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    draws = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=draws) * 0.3 for name, shape in shapes.items()}
    # The periods are a buffer that went through bfloat16; the keys' bias is drawn as any and masked.
    exponents = torch.arange(len(state["rope_embed.periods"])) * 2 / (WIDTH // HEADS // 2)
    state["rope_embed.periods"] = (100.0**exponents).bfloat16()
    for name in state:
        if name.endswith("bias_mask"):
            state[name] = torch.cat([torch.ones(WIDTH), torch.zeros(WIDTH), torch.ones(WIDTH)])
        if name.endswith("qkv.bias") and not biased:
            state[name] = torch.zeros(3 * WIDTH)
    return state


def of_timm(state: dict[str, Tensor], *, biased: bool = True) -> dict[str, Tensor]:
    """The same network as timm's hub stores it: by timm's own conversion."""
    eva = timm_network(state, biased=biased, periods=False)
    return {name: value.clone() for name, value in eva.state_dict().items()}


def timm_network(
    state: dict[str, Tensor], *, side: int = 32, biased: bool = True, periods: bool = True
) -> torch.nn.Module:
    """timm's network for color, with the tensors of DINOv3's file by timm's own conversion.

    periods: those of the file, as DINOv3's code takes them; timm computes its own.
    """
    gated = "blocks.0.mlp.w1.weight" in state
    name = f"vit_small_{'plus_' if gated else ''}patch16_dinov3{'_qkvb' if biased else ''}"
    eva = timm.create_model(
        name,
        num_classes=0,
        img_size=side,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
    )
    eva.load_state_dict(checkpoint_filter_fn(dict(state), eva))
    if periods:
        eva.rope.periods.copy_(state["rope_embed.periods"])
    return eva.eval()


def of_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network as transformers stores it: no mask of biases, no bias of keys, no periods."""
    renamed = {}
    names = {
        r"^(cls_token|mask_token)$": r"embeddings.\1",
        r"^storage_tokens$": "embeddings.register_tokens",
        r"^patch_embed\.proj\.": "embeddings.patch_embeddings.",
        r"^blocks\.": "layer.",
        r"\.attn\.proj\.": ".attention.o_proj.",
        r"\.ls([12])\.gamma$": r".layer_scale\1.lambda1",
        r"\.mlp\.(fc1|w2)\.": ".mlp.up_proj.",
        r"\.mlp\.(fc2|w3)\.": ".mlp.down_proj.",
        r"\.mlp\.w1\.": ".mlp.gate_proj.",
    }
    for name, value in state.items():
        if name.endswith(("bias_mask", "periods")):
            continue
        if ".qkv." in name:
            block, _, kind = name.partition(".attn.qkv.")
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                if (letter, kind) != ("k", "bias"):
                    number = block.removeprefix("blocks.")
                    renamed[f"layer.{number}.attention.{letter}_proj.{kind}"] = part.clone()
            continue
        for pattern, replacement in names.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = value[None] if name == "embeddings.mask_token" else value
    return renamed


def write(folder: Path, state: dict[str, Tensor], config: dict | None = None) -> Path:
    """A folder of transformers as it is downloaded."""
    folder.mkdir()
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder / "model.safetensors"
