"""Layer-wise rates and decay, against a loop and against timm's own grouping."""

from __future__ import annotations

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.training.parameter_groups import GroupRule, layers_above, parameter_groups

CONFIG = BackboneConfig(name="vit_small_patch14_reg4_dinov2", side=32, patch=8, width=32, depth=3, heads=2)


class Network(nn.Module):
    """A backbone under a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = random_backbone(CONFIG, 0)
        self.head = nn.Linear(32, 2)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


def rules(network: Network, layer_decay: float = 0.5, **settings) -> dict[str, GroupRule]:
    """Name of a parameter -> rule of its group."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, layer_decay, **settings)
    return {names[id(parameter)]: group["rule"] for group in groups for parameter in group["params"]}


def test_a_network_that_learns_nothing_has_no_groups():
    still = Network()
    still.requires_grad_(False)
    assert parameter_groups(still, 0.5) == []


def test_every_trainable_parameter_is_in_exactly_one_group(network):
    ids = [id(parameter) for group in parameter_groups(network, 0.5) for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in network.parameters())


def test_what_is_frozen_is_in_no_group():
    network = Network()
    network.backbone.mask_token.requires_grad_(False)
    assert "backbone.mask_token" not in rules(network)


def test_a_rule_has_one_group_and_groups_keep_their_order(network):
    first, second = ([group["rule"] for group in parameter_groups(network, 0.5)] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("backbone.vit.patch_embed.proj.weight", 0.2 * 0.5**4),
        ("backbone.vit.patch_embed.proj.bias", 0.2 * 0.5**4),
        ("backbone.vit.pos_embed", 0.5**4),
        ("backbone.vit.cls_token", 0.5**4),
        ("backbone.vit.reg_token", 0.5**4),
        ("backbone.mask_token", 0.5**4),
        ("backbone.vit.blocks.0.attn.qkv.weight", 0.5**3),
        ("backbone.vit.blocks.2.mlp.fc1.bias", 0.5),
        ("backbone.vit.norm.weight", 1.0),
        ("head.weight", 1.0),
    ],
)
def test_the_rate_falls_from_the_head_to_the_patches(network, name, factor):
    assert rules(network, patch_embed=0.2)[name].lr_factor == pytest.approx(factor)


def test_matrices_decay_and_biases_norms_scales_tokens_and_positions_do_not(network):
    decaying = {name for name, rule in rules(network).items() if rule.decays}
    linear = (
        "qkv.weight",
        "attn.proj.weight",
        "fc1.weight",
        "fc2.weight",
        "head.weight",
        "embed.proj.weight",
    )
    assert decaying == {name for name, _ in network.named_parameters() if name.endswith(linear)}


def test_parameters_of_another_kind_have_groups_of_their_own(network):
    kinds = rules(network, 1.0, kind=lambda name: name.partition(".")[0])
    assert {rule.kind for rule in kinds.values()} == {"backbone", "head"}
    assert kinds["head.weight"] != kinds["backbone.vit.blocks.0.attn.qkv.weight"]
    assert len({rule for rule in rules(network, 1.0).values()}) == 2


def test_timm_groups_alike_but_for_the_rate_of_the_last_block(network):
    ours, vit = rules(network, 0.75), network.backbone.vit
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    timms = param_groups_layer_decay(
        vit, 0.05, no_weight_decay_list=list(vit.no_weight_decay()), layer_decay=0.75
    )
    for group in timms:
        for parameter in group["params"]:
            name = names[id(parameter)]
            # Counted from the last block, which timm lets learn as fast as the norm after it.
            step_slower = 1.0 if "vit.norm." in name else 0.75
            assert ours[name].lr_factor == pytest.approx(group["lr_scale"] * step_slower)
            assert ours[name].decays == (group["weight_decay"] > 0)


def test_only_a_backbones_last_norm_counts_as_head():
    assert [layers_above(f"backbone.vit.{name}.weight", 2) for name in ("norm", "fc_norm", "norm_pre")] == [
        0,
        0,
        3,
    ]


def test_an_optimizer_takes_the_groups(network):
    groups = parameter_groups(network, 0.5)
    assert len(torch.optim.AdamW(groups).param_groups) == len(groups)
