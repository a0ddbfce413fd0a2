"""Networks, images and published tensors that the tests of models share."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from dataclasses import replace

import numpy as np
import timm
import torch

from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.weights import ColorNormalization

DINO = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=64, depth=2, heads=2)

DINOV2 = replace(DINO, name="vit_small_patch14_reg4_dinov2")
"""With registers, layer scale, and position embeddings for the patches alone."""

REGISTERED = replace(DINO, registers=3)
"""Registers in an architecture that has none: here position embeddings are theirs too."""


def images_of(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def published(
    *, width: int = 64, depth: int = 3, patch: int = 16, grid: int = 4, dinov2: bool = False, registers: int = 0,
    gated: bool = False, seed: int = 0,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """A network's tensors as DINO or DINOv2 publish them: their names, their order, their shapes."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, grid * grid + 1, width)}
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    if dinov2:
        shapes["mask_token"] = (1, width)
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    hidden = 8 * int(width * 4 * 2 / 3 / 8) if gated else 4 * width
    wide, narrow = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    for number in range(depth):
        block = {
            "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
            wide: ((2 if gated else 1) * hidden, width), narrow: (width, hidden),
        }  # fmt: skip
        for name, shape in block.items():
            shapes[f"blocks.{number}.{name}.weight"] = shape
            shapes[f"blocks.{number}.{name}.bias"] = shape[:1]
        if dinov2:
            shapes |= {f"blocks.{number}.{name}.gamma": (width,) for name in ("ls1", "ls2")}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draws) * 0.1 for name, shape in shapes.items()}


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def training_of_dino(teacher: dict[str, torch.Tensor]) -> dict:
    """A whole checkpoint of DINO's training: the student is wrapped for DDP, the teacher is not; heads, optimizer
    with a learning rate out of a NumPy table, the command line as argparse left it."""
    head = {"head.mlp.0.weight": torch.zeros(8, 64), "head.last_layer.weight_g": torch.ones(5, 1)}
    return {
        "student": prefixed("module.", prefixed("backbone.", {k: v + 1 for k, v in teacher.items()}) | head),
        "teacher": prefixed("backbone.", teacher) | head,
        "optimizer": {
            "state": {0: {"step": 5, "exp_avg": torch.zeros(3)}},
            "param_groups": [
                {"lr": np.float64(1e-4), "weight_decay": np.linspace(0, 1, 3)[1], "params": [0]}
            ],
        },
        "epoch": 800,
        "args": Namespace(
            arch="vit_small", patch_size=8, global_crops_scale=(0.4, 1.0), gpu=0, dist_url="env://"
        ),
        "dino_loss": {"center": torch.zeros(1, 5)},
        "fp16_scaler": {"scale": 65536.0, "growth_interval": 2000},
    }


def chunked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As DINOv2's training names the blocks: in chunks of two, the number in the whole behind the chunk's."""
    return {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", k): v for k, v in state.items()
    }


def in_color(
    name: str, channels: ColorNormalization, shown_HW: np.ndarray, state: dict | None = None, **settings
):
    """A timm model of color pictures, and its tokens (1, L, D) of a grey one shown as three channels."""
    vit = timm.create_model(name, num_classes=0, **settings).eval()
    if state is not None:
        vit.load_state_dict({key: state[key] for key in vit.state_dict()})
    grey = torch.from_numpy(shown_HW).float().expand(1, 3, -1, -1) / 255
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (channels.mean, channels.std))
    with torch.inference_mode():
        return vit, vit.forward_features((grey - mean) / std)


def cubic(t: float) -> float:
    """Keys' kernel with a = -0.75, as PyTorch's bicubic has it."""
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def dino_by_loops(native_RCD: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Sample i of a new axis lies at (i + 0.5) * native / (grid + 0.1) - 0.5 of the old one; its four neighbours
    count by the cubic kernel, those outside are the border's."""
    rows, columns, width = native_RCD.shape
    found = torch.zeros(*grid, width, dtype=torch.float64)
    for i in range(grid[0]):
        y = (i + 0.5) * rows / (grid[0] + 0.1) - 0.5
        for j in range(grid[1]):
            x = (j + 0.5) * columns / (grid[1] + 0.1) - 0.5
            for r in range(math.floor(y) - 1, math.floor(y) + 3):
                for c in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = native_RCD[min(max(r, 0), rows - 1), min(max(c, 0), columns - 1)].double()
                    found[i, j] += cubic(y - r) * cubic(x - c) * value
    return found.float()
