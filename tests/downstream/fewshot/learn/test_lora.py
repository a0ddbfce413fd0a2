"""LoRA layers: the frozen layer at the start, a rank-R change after that, and only named layers replaced."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vetdino.downstream.fewshot.learn.lora import TARGETS, LoraLinear, add_lora, weight_sharing_copy
from vetdino.platform.core.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def frozen() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(6, 4)


def test_a_new_layer_is_the_frozen_layer(frozen):
    x = torch.randn(3, 6, generator=generator())
    assert torch.equal(LoraLinear(frozen, 2, generator())(x), frozen(x))


def test_the_output_is_wx_plus_b_a_x(frozen):
    layer = LoraLinear(frozen, 2, generator())
    with torch.no_grad():
        layer.up_CR.copy_(torch.arange(8.0).view(4, 2))
    x = torch.randn(3, 6, generator=generator())
    expected = x @ (frozen.weight + layer.up_CR @ layer.down_RC).T + frozen.bias
    torch.testing.assert_close(layer(x), expected)
    assert torch.linalg.matrix_rank(layer.up_CR @ layer.down_RC) == 2


def test_the_start_has_standard_deviation_one_over_rank():
    layer = LoraLinear(nn.Linear(5000, 4), 4, generator())
    assert layer.down_RC.detach().std().item() == pytest.approx(1 / 4, rel=0.02)


def test_the_copy_shares_weight_memory_and_requires_no_gradient(tiny):
    copy = weight_sharing_copy(tiny)
    assert copy is not tiny
    for one, other in zip(copy.parameters(), tiny.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()
        assert not one.requires_grad


def test_every_target_of_every_block_is_replaced_and_nothing_else(tiny):
    copy = weight_sharing_copy(tiny)
    add_lora(copy, 2, generator())
    replaced = [name for name, module in copy.named_modules() if isinstance(module, LoraLinear)]
    assert len(replaced) == 4 * len(tiny.vit.blocks)
    assert all(name.startswith("vit.blocks.") and name.endswith(TARGETS) for name in replaced)
    assert not any(isinstance(module, LoraLinear) for module in tiny.modules())


def test_a_network_without_such_layers_is_refused():
    vit = SimpleNamespace(blocks=[nn.Sequential(nn.Linear(2, 2))])
    other = SimpleNamespace(vit=vit, card=SimpleNamespace(config=SimpleNamespace(name="strange_net")))
    with pytest.raises(ConfigError, match="strange_net"):
        add_lora(other, 2, generator())
