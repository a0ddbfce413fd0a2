"""A notice is due once, until a checkpoint was written after it."""

from __future__ import annotations

import torch

from vetdino.platform.training.cluster import WorkerContext
from vetdino.pretrain.preemption import Preemption


def test_each_machine_more_is_a_notice_once_it_was_saved():
    numbers = iter([0, 1, 1, 1, 2, 2])
    worker = WorkerContext(0, 1, torch.device("cpu"), lambda: next(numbers))
    preemption = Preemption(worker)
    assert [preemption.is_due() for _ in range(3)] == [False, True, True]
    preemption.saved()
    assert [preemption.is_due() for _ in range(2)] == [False, True]
    preemption.saved()
    assert not preemption.is_due()


def test_without_anybody_who_knows_nothing_is_due():
    assert not Preemption(WorkerContext(0, 1, torch.device("cpu"))).is_due()
