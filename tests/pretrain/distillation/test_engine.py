"""Rate and decay of each parameter; steps, guards and checkpoints under every ZeRO stage."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.distillation.config import HeadConfig, OptimConfig
from vetdino.pretrain.distillation.distiller import Learner
from vetdino.pretrain.distillation.engine import student_groups

pytestmark = pytest.mark.slow

BACKBONE = BackboneConfig(name="vit_small_patch14_reg4_dinov2", side=32, patch=8, width=32, depth=2, heads=2)

HEAD = HeadConfig(prototypes=12, hidden=16, bottleneck=8)

CONFIG = OptimConfig(layer_decay=0.5, patch_embed=0.2)


@pytest.fixture(scope="module")
def student() -> Learner:
    return Learner(random_backbone(BACKBONE, 0), HEAD, patches=True)


@pytest.fixture(scope="module")
def rule_of(student):
    """Name -> rule."""
    by_id = {
        id(parameter): group["rule"]
        for group in student_groups(student, CONFIG)
        for parameter in group["params"]
    }
    return {name: by_id[id(parameter)] for name, parameter in student.named_parameters()}


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
        ("backbone.mask_token", 0.5**3),
        ("head.mlp.0.weight", 1.0),
        ("patch_head.prototypes_KW", 1.0),
    ],
)
def test_the_rate_falls_from_the_heads_to_the_patches(rule_of, name, factor):
    assert rule_of[name].lr_factor == pytest.approx(factor)


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
    assert {name for name, rule in rule_of.items() if rule.kind == "prototypes"} == {
        "head.prototypes_KW",
        "patch_head.prototypes_KW",
    }


def test_without_layer_decay_all_but_the_patches_have_one_rate(student):
    rules = {group["rule"].lr_factor for group in student_groups(student, replace(CONFIG, layer_decay=1.0))}
    assert rules == {1.0, 0.2}


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> Path:
    """What `engine_trials` left: DeepSpeed wants process groups and warns as it is imported."""
    folder = tmp_path_factory.mktemp("trials")
    script = Path(__file__).with_name("engine_trials.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


STAGES = [(world, zero) for world in (1, 2) for zero in (0, 1, 2, 3)]


def left(trials: Path, trial: str, world: int, zero: int) -> dict[str, torch.Tensor]:
    return load_file(trials / f"{trial}_{world}_{zero}.safetensors")


def last(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights after the last of four steps."""
    return {name.removeprefix("4/"): value for name, value in weights.items() if name.startswith("4/")}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.parametrize(("world", "zero"), STAGES)
def test_steps_are_those_of_clipped_adamw_with_each_groups_rate_and_decay(world, zero, trials):
    found, expected = left(trials, "plain", world, zero), load_file(trials / "by_hand.safetensors")
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


@pytest.mark.parametrize(("world", "zero"), STAGES)
def test_prototypes_stay_as_they_are_while_they_are_frozen(world, zero, trials):
    weights = left(trials, "plain", world, zero)
    begun, *after = (weights[f"{step}/head.prototypes_KW"] for step in range(5))
    assert [torch.equal(begun, value) for value in after] == [True, True, False, False]


@pytest.mark.parametrize(("world", "zero"), STAGES)
def test_neither_a_bad_step_nor_a_resume_changes_anything(world, zero, trials):
    # Between the two bad steps it is saved and loaded: training goes on from a checkpoint bit for bit.
    found = left(trials, "resumed", world, zero)
    assert found.pop("bad").tolist() == [0, 1, 0, 0, 1, 0]
    assert_equal(found, last(left(trials, "plain", world, zero)))


@pytest.mark.parametrize(("world", "zero"), STAGES)
def test_a_checkpoint_holds_the_moment_it_was_asked_for_though_training_went_on(world, zero, trials):
    weights = merged(trials / f"checkpoint_{world}_{zero}", "weight")
    expected = left(trials, "plain", world, zero)
    for name, value in weights.items():
        assert torch.equal(value, expected[f"2/{name}"].flatten()), name
    assert load_file(trials / f"checkpoint_{world}_{zero}" / "teacher.safetensors").keys() == {"weight"}


@pytest.mark.parametrize(("world", "zero"), STAGES)
def test_the_mean_over_parts_is_the_step_of_the_large_batch(world, zero, trials):
    found, expected = left(trials, "micro_batches", world, zero), last(left(trials, "plain", world, zero))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_steps_with_blocks_computed_again_are_the_same(zero, trials):
    found = left(trials, "recomputed", 1, zero)
    lots = found.pop("sizes").tolist()
    assert_equal(found, last(left(trials, "plain", 1, zero)))
    assert sum(lots) == sum(value.numel() for value in found.values())
    assert len(lots) == (6 if zero == 3 else 1)  # embeddings, two blocks, the last norm, two heads


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_checkpoint_is_loaded_on_another_number_of_workers_and_under_another_stage(zero, trials):
    before = trials / f"checkpoint_2_{(zero + 1) % 4}"
    for kind in ("weight", "exp_avg", "exp_avg_sq"):
        assert_equal(merged(trials / f"again_{zero}", kind), merged(before, kind))
    found = {name: value.flatten() for name, value in left(trials, "elsewhere", 1, zero).items()}
    assert_equal(found, merged(before, "weight"))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_checkpoint_of_another_architecture_is_refused(zero, trials):
    assert "prototypes_KW has 91 numbers, here it has 84; set" in (trials / f"refused_{zero}.txt").read_text()


def merged(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Name -> all numbers of one kind in a row, from the files of all workers."""
    runs: dict[str, dict[int, torch.Tensor]] = {}
    for path in (folder / "engine").glob("*.safetensors"):
        for key, value in load_file(path).items():
            if key.startswith(f"{kind} "):
                _, name, start = key.split()
                runs.setdefault(name, {})[int(start)] = value
    return {name: torch.cat([run[start] for start in sorted(run)]) for name, run in sorted(runs.items())}
