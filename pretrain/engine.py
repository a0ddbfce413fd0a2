"""DeepSpeed around the student: parameter groups, schedules, the step, and its part of a checkpoint."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .distiller import Learner
from .schedules import Cosine


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW over parameter groups, and how DeepSpeed divides it."""

    lr: Cosine = field(default_factory=lambda: Cosine(start=1e-3, end=1e-6, warmup=0.1))
    """Learning rate at a batch of 1,024 studies; multiplied by the square root of batch / 1,024."""
    weight_decay: Cosine = field(default_factory=lambda: Cosine(start=0.04, end=0.4))
    """Decay of matrices; biases, norms, tokens and position embeddings have none."""
    layer_decay: float = 0.9
    """Factor on the learning rate from each block to the one before it."""
    patch_embed: float = 0.2
    """Factor on the learning rate of the patch embedding."""
    clip: float = 3.0
    """Largest global norm of the gradient."""
    freeze_prototypes: float = 0.01
    """Share of the steps during which the heads' prototypes stay as they are."""
    zero: Literal[0, 1, 2] = 2
    """DeepSpeed's ZeRO stage: 1 divides the optimiser's state among workers, 2 the gradients too."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the matrix products; parameters, teacher and losses stay float32."""


@dataclass(frozen=True, slots=True)
class Group:
    """What a parameter group is multiplied with."""

    lr: float
    decays: bool
    prototypes: bool


def groups_of(student: Learner, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameter groups in a fixed order, each with its `rule`.

    Layer-wise decay as in BEiT (arXiv 2106.08254), section 3.3: block b of n has layer_decay ** (n - b),
    the embeddings layer_decay ** (n + 1) times the patch embedding's own factor, heads 1.
    """
    depth = len(student.backbone.vit.blocks)
    groups: dict[Group, list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        plain = name.rsplit(".", 1)[-1]
        decays = parameter.ndim > 1 and plain not in ("cls_token", "pos_embed", "mask_token", "reg_token")
        rule = Group(_lr_factor(name, depth, config), decays, plain == "prototypes_KW")
        groups.setdefault(rule, []).append(parameter)
    return [{"params": parameters, "rule": rule} for rule, parameters in groups.items()]


def _lr_factor(name: str, depth: int, config: OptimConfig) -> float:
    if not name.startswith("backbone.vit."):
        return 1.0
    inner = name.removeprefix("backbone.vit.")
    if inner.startswith("blocks."):
        return config.layer_decay ** (depth - int(inner.split(".")[1]))
    if inner.startswith("norm."):
        return 1.0
    own = config.patch_embed if inner.startswith("patch_embed.") else 1.0
    return own * config.layer_decay ** (depth + 1)


class Engine:
    """The student under DeepSpeed on one worker of a process group that already exists."""

    def __init__(
        self,
        student: Learner,
        config: OptimConfig,
        *,
        batch: int,
        world: int,
        steps: int,
        device: torch.device,
    ) -> None:
        prepare_deepspeed(device)
        import deepspeed

        self.config, self.steps, self.device = config, steps, device
        self.scale = math.sqrt(batch / 1024)
        groups = groups_of(student, config)
        self.rules = [group.pop("rule") for group in groups]
        self.group_sizes = [len(group["params"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)
        for block in student.backbone.vit.blocks:
            # Where gradients flow, plain products beat the fused kernel on a CPU (2-5 times in bfloat16).
            block.attn.fused_attn = device.type == "cuda"
        self.inner, *_ = deepspeed.initialize(
            model=student.to(device),
            optimizer=optimizer,
            dist_init_required=False,
            config={
                "train_batch_size": batch,
                "train_micro_batch_size_per_gpu": batch // world,
                "zero_optimization": {"stage": config.zero},
                "gradient_clipping": config.clip,
                "torch_autocast": {"enabled": config.precision == "bfloat16", "dtype": "bfloat16"},
                "steps_per_print": 2**62,
            },
        )

    def schedule(self, step: int) -> dict[str, float]:
        """Set this step's learning rate and decay; their values, by name."""
        lr = self.config.lr.at(step, self.steps) * self.scale
        decay = self.config.weight_decay.at(step, self.steps)
        frozen = step < self.config.freeze_prototypes * self.steps
        for group, rule in zip(self.inner.optimizer.param_groups, self.rules, strict=True):
            group["lr"] = 0.0 if rule.prototypes and frozen else lr * rule.lr
            group["weight_decay"] = decay if rule.decays else 0.0
        return {"lr": lr, "weight_decay": decay}

    def step(self, loss: Tensor) -> None:
        """Backward, clip, update."""
        self.inner.backward(loss)
        self.inner.step()

    def autocast(self) -> torch.autocast:
        """The same precision for what runs outside DeepSpeed, such as the teacher."""
        on = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)

    def save(self, folder: Path) -> None:
        """Student and optimiser state, one part per worker; all workers call this together."""
        self.inner.save_checkpoint(str(folder), tag="engine")

    def load(self, folder: Path) -> None:
        """Back to what `save` left, on the same number of workers."""
        self.inner.load_checkpoint(str(folder), tag="engine")


def prepare_deepspeed(device: torch.device) -> None:
    """Tell DeepSpeed where it runs before it looks for itself.

    Left alone it may train on the CPU with a mere warning, and on a CPU it compiles for 80 s an extension
    for shared memory that Ray's workers do not use.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed.ops

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
