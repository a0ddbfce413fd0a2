"""The step on fake tensors is the step on real ones: its products, its memory; and the specification's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vetdino.platform.models import backbone as backbone_module
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.blocks import prepare_blocks
from vetdino.pretrain.distillation.config import HeadConfig
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.planning.step_work import AllocationCounter, collect_before_blocks, step_work
from vetdino.pretrain.recipes import recipe


def tiny(**optim) -> PretrainConfig:
    small = recipe("small")
    return replace(
        small,
        backbone=BackboneConfig(name="vit_tiny_patch16_224", side=64, width=48, depth=2, heads=3),
        crops=replace(small.crops, global_side=64, local_side=32),
        distill=replace(
            small.distill,
            head=HeadConfig(prototypes=96, hidden=64, bottleneck=32),
            contrast_weight=0.5,
            spread_weight=0.0,
        ),
        optim=replace(small.optim, **{"precision": "float32", **optim}),
        batch=8,
        workers=1,
    )


def real_step(config: PretrainConfig) -> tuple[int, int]:
    """Floating-point operations and most bytes of the step itself on the CPU, with gradients in place."""
    crops, studies = config.crops, config.batch
    distiller = Distiller(random_backbone(config.backbone, 0), config.distill)
    if config.optim.checkpoint_activations:
        collect_before_blocks(distiller)
    prepare_blocks(distiller.student, config.optim, torch.device("cpu"))
    for parameter in distiller.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hidden = torch.zeros(crops.globals_per_view * studies * 16, dtype=torch.bool)
    hidden[: int(len(hidden) * 0.5 * 0.3)] = True
    batch = CropBatch(
        torch.zeros((4, studies, 1, 64, 64), dtype=torch.uint8),
        torch.zeros((4, studies, 1, 32, 32), dtype=torch.uint8),
        hidden.view(crops.globals_per_view, studies, 16),
        ("",) * studies,
        (True,) * studies,
    )
    enabled = config.optim.precision == "bfloat16"
    micro_batches = batch.split(config.optim.micro_batches(studies, 1))
    counter = AllocationCounter([*distiller.parameters(), *distiller.buffers()])
    with counter, FlopCounterMode(display=False) as flops, torch.autocast("cpu", torch.bfloat16, enabled):
        targets = distiller.make_targets(micro_batches, 0.05, [None] * len(micro_batches))
        for micro_batch, wanted in zip(micro_batches, targets, strict=True):
            distiller.losses(distiller.student, micro_batch, wanted).total.backward()
    return flops.get_total_flops(), counter.peak


@pytest.mark.parametrize(
    "optim",
    [{}, {"precision": "bfloat16"}, {"checkpoint_activations": True}],
    ids=["float32", "bf16", "again"],
)
def test_work_and_memory_are_those_of_the_step_itself(optim):
    config = tiny(**optim)
    flops, peak = real_step(config)
    work = step_work(config, "cpu")
    assert work.flops == flops
    assert work.activation_bytes == pytest.approx(
        peak, rel=0.05 if config.optim.checkpoint_activations else 0.02
    )
    assert work.studies == 8


def test_micro_batches_cost_the_same_products_and_less_memory():
    whole, halves = step_work(tiny(), "cpu"), step_work(tiny(micro_batch=4), "cpu")
    assert halves.flops == pytest.approx(real_step(tiny(micro_batch=4))[0], rel=0.02)
    assert halves.flops == pytest.approx(whole.flops, rel=0.01)
    assert 0.5 < halves.activation_bytes / whole.activation_bytes < 0.75


def test_blocks_computed_twice_keep_less_and_compute_more():
    once, again = step_work(tiny(), "cuda"), step_work(tiny(checkpoint_activations=True), "cuda")
    assert again.activation_bytes < 0.8 * once.activation_bytes
    assert 1.1 < again.flops / once.flops < 1.4


def test_a_gpu_keeps_no_attention_matrices():
    """Four times the tokens: the CPU keeps a matrix of tokens by tokens for each head, a GPU does not."""
    config = tiny()
    large = replace(
        config,
        backbone=replace(config.backbone, side=256),
        crops=replace(config.crops, global_side=256, locals_per_view=0),
    )
    cpu, gpu = (step_work(large, device).activation_bytes for device in ("cpu", "cuda"))
    matrices = 2 * 8 * 4 * 3 * 257**2 * 4  # blocks, studies, crops, heads, tokens, float32
    assert cpu - gpu > 0.5 * matrices


def test_parameters_are_counted():
    config = tiny()
    student = Distiller(random_backbone(config.backbone, 0), config.distill).student
    work = step_work(config, "cpu")
    assert work.student == sum(parameter.numel() for parameter in student.parameters())
    assert work.backbone == sum(parameter.numel() for parameter in student.backbone.parameters())
    assert work.centers == 0
    centering = replace(config, distill=replace(config.distill, targets="centring"))
    assert step_work(centering, "cpu").centers == 2 * 96


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gigaflops"), [("s", 305), ("b", 1168), ("l", 4100)])
def test_the_specifications_work_of_a_study(name, gigaflops, monkeypatch):
    """Without stochastic depth, and with all tokens of the last block, as the specification counts them."""
    monkeypatch.setattr(backbone_module, "is_plain", lambda block: False)
    config = recipe(f"multi_view_{name}14")
    config = replace(config, backbone=replace(config.backbone, drop_path=0.0), batch=2, workers=1)
    assert step_work(config, "cpu").flops_a_study / 1e9 == pytest.approx(gigaflops, rel=0.03)
