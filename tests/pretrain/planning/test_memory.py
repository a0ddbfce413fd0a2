"""Bytes of a worker by ZeRO stage: what is whole, what is a worker's part."""

from __future__ import annotations

import pytest

from vetdino.pretrain.planning.memory import BUCKET, checkpoint_bytes, sent_bytes, worker_memory
from vetdino.pretrain.planning.step_work import StepWork

WORK = StepWork(studies=4, flops=1.0, activation_bytes=1000, student=800, backbone=500, centers=10)
WHOLE = 4 * 800


def test_without_zero_a_worker_holds_everything():
    memory = worker_memory(WORK, 0, workers=8, reserved=7)
    assert (memory.weights, memory.gradients, memory.moments) == (WHOLE, WHOLE, 2 * WHOLE)
    assert (memory.teacher, memory.activations, memory.reserved) == (WHOLE + 40, 1100, 7)
    assert memory.total == 5 * WHOLE + 40 + 1100 + 7


def test_each_stage_divides_more():
    stages = [worker_memory(WORK, stage, workers=8, reserved=0) for stage in range(4)]
    assert [stage.moments for stage in stages] == [2 * WHOLE, *[2 * WHOLE // 8] * 3]
    gradients = [stage.gradients - (BUCKET if number else 0) for number, stage in enumerate(stages)]
    assert gradients == [WHOLE, WHOLE + WHOLE // 8, WHOLE // 8, WHOLE // 8]
    assert len({(stage.teacher, stage.activations) for stage in stages}) == 1


@pytest.mark.parametrize(
    ("zero", "micro_batches", "passes"), [(0, 4, 2), (1, 4, 3), (2, 1, 3), (2, 4, 9), (3, 1, 3), (3, 4, 21)]
)
def test_bytes_sent_by_stage(zero, micro_batches, passes):
    assert sent_bytes(800, zero, 4, micro_batches) == WHOLE * passes * 3 // 4
    assert sent_bytes(800, zero, 1, micro_batches) == 0


def test_a_checkpoint_holds_weights_moments_and_teacher():
    assert checkpoint_bytes(WORK) == 4 * WHOLE + 40
