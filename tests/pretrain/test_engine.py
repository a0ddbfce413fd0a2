"""Parameter groups: which rate and which decay each parameter has."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vetdino.platform.backbone import BackboneConfig, random_backbone
from vetdino.pretrain.distiller import Learner
from vetdino.pretrain.engine import OptimConfig, groups_of
from vetdino.pretrain.heads import HeadConfig

BACKBONE = BackboneConfig(name="vit_small_patch14_reg4_dinov2", side=32, patch=8, width=32, depth=2, heads=2)

CONFIG = OptimConfig(layer_decay=0.5, patch_embed=0.2)


@pytest.fixture(scope="module")
def student() -> Learner:
    head = HeadConfig(prototypes=12, hidden=16, bottleneck=8)
    return Learner(random_backbone(BACKBONE, 0), head, patches=True)


@pytest.fixture(scope="module")
def rule_of(student):
    """Name -> rule."""
    by_id = {
        id(parameter): group["rule"] for group in groups_of(student, CONFIG) for parameter in group["params"]
    }
    return {name: by_id[id(parameter)] for name, parameter in student.named_parameters()}


def test_every_parameter_is_in_exactly_one_group(student):
    ids = [id(parameter) for group in groups_of(student, CONFIG) for parameter in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(student.parameters()))


def test_groups_keep_their_order(student):
    rules = [[group["rule"] for group in groups_of(student, CONFIG)] for _ in range(2)]
    assert rules[0] == rules[1]
    assert len(set(rules[0])) == len(rules[0])


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("backbone.vit.patch_embed.proj.weight", 0.2 * 0.5**3),
        ("backbone.vit.pos_embed", 0.5**3),
        ("backbone.vit.cls_token", 0.5**3),
        ("backbone.vit.reg_token", 0.5**3),
        ("backbone.vit.blocks.0.attn.qkv.weight", 0.5**2),
        ("backbone.vit.blocks.1.mlp.fc1.bias", 0.5),
        ("backbone.vit.norm.weight", 1.0),
        ("backbone.mask_token", 1.0),
        ("head.mlp.0.weight", 1.0),
        ("patch_head.prototypes_KW", 1.0),
    ],
)
def test_the_rate_falls_from_the_heads_to_the_patches(rule_of, name, factor):
    assert rule_of[name].lr == pytest.approx(factor)


def test_matrices_decay_and_biases_norms_scales_tokens_and_positions_do_not(rule_of):
    decaying = {name for name, rule in rule_of.items() if rule.decays}
    expected = {
        name
        for name in rule_of
        if name.endswith(
            ("qkv.weight", "attn.proj.weight", "fc1.weight", "fc2.weight", "patch_embed.proj.weight")
        )
        or (".mlp." in name and "head" in name and name.endswith("weight"))
        or name.endswith("prototypes_KW")
    }
    assert decaying == expected


def test_only_the_prototypes_are_frozen_at_first(rule_of):
    assert {name for name, rule in rule_of.items() if rule.prototypes} == {
        "head.prototypes_KW",
        "patch_head.prototypes_KW",
    }


def test_without_layer_decay_all_but_the_patches_have_one_rate(student):
    rules = {group["rule"].lr for group in groups_of(student, replace(CONFIG, layer_decay=1.0))}
    assert rules == {1.0, 0.2}


def test_the_engines_step_is_clipped_adamw_with_each_groups_rate_and_decay():
    # DeepSpeed wants a process group and warns as it is imported: it runs in a process of its own.
    script = Path(__file__).with_name("by_hand.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LOCAL_RANK": "0"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "equal"
