"""What a person reads: the figures of the plan, the verdict, every assumption."""

from __future__ import annotations

import pytest

from tests.pretrain.planning.test_plan import with_memory
from tests.pretrain.planning.test_step_work import tiny
from vetdino.pretrain.planning.config import PlanConfig
from vetdino.pretrain.planning.page import plan_page
from vetdino.pretrain.planning.plan import training_plan


def test_the_page_shows_the_plan():
    plan = training_plan(tiny(), PlanConfig(gpus=2, gpu="h100", studies=800, price=2.0))
    lines = plan_page(plan).splitlines()
    rows = {line[:34].strip(): line[34:].split() for line in lines}
    assert rows["total"] == [f"{memory.total / 2**30:.2f}" for memory in plan.memory]
    assert rows["epoch"][:2] == ["100", "steps"]
    assert rows["whole training"][:2] == ["900", "steps"]
    assert float(rows["cost of the training"][0]) == pytest.approx(
        2 * 2 * 900 * plan.step_seconds / 3600, abs=0.006
    )
    assert "Fits: " in plan_page(plan)
    assumed = [line for line in lines if line.startswith("* ")]
    facts = ("67 TFLOP/s", "30%", "3,350 GB/s", "450 GB/s", "600 studies", "315 kB", "2 a GPU hour")
    assert all(any(fact in line for line in assumed) for fact in facts)


def test_without_studies_there_is_no_epoch_and_without_a_price_no_cost():
    page = plan_page(training_plan(tiny(), PlanConfig(gpu="h100")))
    assert "epoch" not in page
    assert "cost" not in page


def test_the_verdict_says_what_would_fit(monkeypatch):
    plan = training_plan(tiny(), PlanConfig())
    with_memory(monkeypatch, plan.memory[0].total - plan.hardware.reserved - 1)
    assert "Nearest that does: --optim.micro-batch 4" in plan_page(training_plan(tiny(), PlanConfig()))
    with_memory(monkeypatch, (plan.memory[0].total - plan.hardware.reserved) * 1.05)
    assert "Fits narrowly" in plan_page(training_plan(tiny(), PlanConfig()))
    with_memory(monkeypatch, 1000)
    assert "take more or larger GPUs" in plan_page(training_plan(tiny(), PlanConfig()))
