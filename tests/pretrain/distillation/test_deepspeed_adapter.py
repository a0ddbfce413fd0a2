"""DeepSpeed's settings and hooks; training under every ZeRO stage is in test_engine.py."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from vetdino.platform.core.errors import ConfigError
from vetdino.pretrain.distillation.config import OptimConfig
from vetdino.pretrain.distillation.deepspeed_adapter import (
    _deepspeed_config,
    _return_tuples,
    prepare_deepspeed,
)


def test_micro_batches_times_workers_are_the_batch():
    config = _deepspeed_config(OptimConfig(micro_batch=4), batch=64, world=2)
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 8
    assert config["train_batch_size"] == 64


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_gradient_is_summed_in_half_precision(precision):
    config = _deepspeed_config(OptimConfig(precision=precision), batch=8, world=1)
    assert config["torch_autocast"]["enabled"] == (precision == "bfloat16")
    assert config["torch_autocast"]["lower_precision_safe_modules"] == []


def test_without_the_library_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setattr("vetdino.platform.core.extras.has_extra", lambda library: False)
    with pytest.raises(ConfigError, match=r"vetdino\[train\]"):
        prepare_deepspeed(torch.device("cpu"))


@dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


class Inner(nn.Module):
    def forward(self, x):
        return Pair(x, x + 1)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Inner()

    def forward(self, x):
        inner = self.backbone(x)
        return Pair(inner.second, inner.first)


def test_hooks_between_see_tuples_and_callers_dataclasses():
    student, seen = Outer(), []
    restore = _return_tuples(student)
    for module in (student, student.backbone):
        module.register_forward_hook(lambda module, _, output: seen.append(type(output)))
    restore()
    output = student(torch.ones(1))
    assert seen == [tuple, tuple]
    assert isinstance(output, Pair)
    assert (output.first.item(), output.second.item()) == (2.0, 1.0)
