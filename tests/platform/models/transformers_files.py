"""Files of DINOv2 networks as Hugging Face publishes them (microsoft/rad-dino), at reduced width and depth."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "layer_norm_eps": 1e-4,
    "image_size": 56,
    "patch_size": 14,
}
"""As of microsoft/rad-dino, but for the sizes; 4 heads and this epsilon are what no size tells."""

PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "image_mean": [0.5307, 0.5307, 0.5307],
    "image_std": [0.2583, 0.2583, 0.2583],
    "rescale_factor": 1 / 255,
}


def published(*, gated: bool = False, registers: int = 0, grid: int = 4) -> dict[str, Tensor]:
    """The tensors of a Dinov2Model: names, order and shapes of transformers."""
    width, patch, hidden = CONFIG["hidden_size"], 14, 128 if gated else 192
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 1 + grid * grid, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, width)
    wide, narrow = ("weights_in", "weights_out") if gated else ("fc1", "fc2")
    for number in range(CONFIG["num_hidden_layers"]):
        block: dict[str, tuple[int, ...]] = {"norm1": (width,)}
        block |= {f"attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
        block |= {"attention.output.dense": (width, width), "norm2": (width,)}
        block |= {f"mlp.{wide}": ((1 + gated) * hidden, width), f"mlp.{narrow}": (width, hidden)}
        for name, shape in block.items():
            shapes[f"encoder.layer.{number}.{name}.weight"] = shape
            shapes[f"encoder.layer.{number}.{name}.bias"] = shape[:1]
        for scale in ("layer_scale1", "layer_scale2"):
            shapes[f"encoder.layer.{number}.{scale}.lambda1"] = (width,)
    shapes |= {"layernorm.weight": (width,), "layernorm.bias": (width,)}
    draws = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draws) * 0.3 for name, shape in shapes.items()}


def write(folder: Path, state: dict[str, Tensor]) -> Path:
    """A folder as it is downloaded."""
    folder.mkdir()
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder / "model.safetensors"
