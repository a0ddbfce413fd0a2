"""Replay of a bad step names the first module, weight or gradient that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.pretrain.examples import distiller_of, write_checkpoint
from vetdino.platform.core.errors import CheckpointError
from vetdino.pretrain.bad_batches import save_bad_batch
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.replay import replay

TENSORS = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")

LAYER = "backbone.vit.blocks.1.mlp.fc1"


def broken(value: float) -> Callable[[Distiller], None]:
    """One number of one layer of the student becomes something else."""

    def change(distiller: Distiller) -> None:
        distiller.student.get_parameter(f"{LAYER}.weight")[0, 0] = value

    return change


def test_without_weights_to_begin_with_a_step_cannot_be_looked_at(run_config, micro_batches):
    save_bad_batch(run_config, 3, micro_batches)
    write_checkpoint(run_config, 4)
    with pytest.raises(CheckpointError, match="holds no whole checkpoint of step 3 or before"):
        replay(run_config, 3)


def test_a_healthy_step_has_the_losses_of_the_whole_batch_and_says_what_else_it_may_be(
    run_config, micro_batches
):
    save_bad_batch(run_config, 3, micro_batches)
    distiller = write_checkpoint(run_config, 3)
    report = replay(run_config, 3)
    assert report.healthy
    whole = CropBatch(
        *(torch.cat([getattr(part, name) for part in micro_batches], dim=1) for name in TENSORS),
        keys=micro_batches[0].keys + micro_batches[1].keys,
        is_pair=micro_batches[0].is_pair + micro_batches[1].is_pair,
    )
    temperature = run_config.distill.teacher_temperature.at(3, run_config.steps)
    for name, value in distiller(distiller.student, whole, temperature).named().items():
        assert report.losses[name] == pytest.approx(value.item(), abs=1e-4), name
    assert "step 3, 8 studies, with its own weights" in str(report)
    assert "all is finite on this machine" in str(report)


def test_a_batch_that_older_weights_can_bear_is_not_blamed(run_config, micro_batches):
    save_bad_batch(run_config, 3, micro_batches)
    write_checkpoint(run_config, 2)
    report = replay(run_config, 3)
    assert report.weights_step == 2
    assert "the weights of step 2, 1 before it" in str(report)
    assert "not the batch is to blame" in str(report)


def test_the_first_module_whose_output_is_no_number_is_named(run_config, micro_batches):
    save_bad_batch(run_config, 3, micro_batches)
    write_checkpoint(run_config, 3, broken(3e38))
    report = replay(run_config, 3)
    assert not report.healthy
    assert report.weights == ()
    # 3e38 is a number still, but not once it is multiplied and added up.
    assert report.output == f"student.{LAYER}"
    assert math.isnan(report.losses["view"])
    assert f"{LAYER}.weight" in report.parameters
    assert f"first non-finite output: student.{LAYER}\n" in str(report)


def test_weights_that_are_no_numbers_themselves_are_named(run_config, micro_batches):
    save_bad_batch(run_config, 3, micro_batches)
    write_checkpoint(run_config, 3, broken(float("nan")))
    report = replay(run_config, 3)
    assert report.weights == (f"student.{LAYER}.weight",)
    assert f"non-finite weights: student.{LAYER}.weight" in str(report)


def test_a_teacher_that_is_lost_is_told_from_a_student_that_is(run_config, micro_batches):
    save_bad_batch(run_config, 3, micro_batches)

    def change(distiller: Distiller) -> None:
        distiller.teacher.head.mlp[0].weight[0, 0] = float("inf")

    write_checkpoint(run_config, 3, change)
    assert replay(run_config, 3).output == "teacher.head.mlp.0"


def test_a_gradient_that_is_lost_behind_finite_outputs_is_found(run_config, micro_batches):
    save_bad_batch(run_config, 3, micro_batches)
    initial = distiller_of(run_config)
    # The root's slope at zero is infinite, its value is not.
    initial.student.head.mlp[1].register_forward_hook(
        lambda _, __, output: output + (output * 0).abs().sqrt()
    )
    report = replay(run_config, 3, initial)
    assert report.weights_step == 0
    assert report.output == ""
    assert report.gradient.startswith("student.head.mlp.")
    assert "head.mlp.0.weight" in report.parameters
    assert "first non-finite gradient: at the output of" in str(report)


def test_a_step_is_looked_at_in_the_precision_that_it_was_trained_in(run_config, micro_batches):
    half = replace(run_config, optim=replace(run_config.optim, precision="bfloat16"))
    save_bad_batch(half, 3, micro_batches)
    write_checkpoint(half, 3)
    whole, coarse = replay(run_config, 3).losses, replay(half, 3).losses
    assert coarse != whole
    assert coarse["view"] == pytest.approx(whole["view"], rel=0.05)
