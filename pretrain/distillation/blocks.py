"""How the student's transformer blocks are computed: attention kernel, compilation, activation checkpointing."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import OptimConfig


def prepare_blocks(student: nn.Module, config: OptimConfig, device: torch.device) -> None:
    """Choose how blocks are computed on this device; names of parameters stay. student: has a `Backbone` as `backbone`;
    another network has no blocks."""
    vit: Any = getattr(student.get_submodule("backbone"), "vit", None)
    if vit is None:
        return
    if config.compile:
        # All blocks share one function; each has its own drop rate, two lengths of sequence, with and without
        # gradient. Past the limit (8) torch would go on without compiling.
        from torch._dynamo import config as limits

        limits.recompile_limit = max(limits.recompile_limit, 4 * len(vit.blocks) + 8)
    for block in vit.blocks:
        # With gradients, plain products beat the fused kernel on a CPU (2-5 times in bfloat16).
        attention: Any = block.attn
        attention.fused_attn = device.type == "cuda"
        if config.compile:
            block.forward = torch.compile(block.forward, dynamic=False)
        if config.checkpoint_activations:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
