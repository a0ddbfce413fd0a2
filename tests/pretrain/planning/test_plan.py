"""A plan: the arithmetic from work to time, what fits, what is advised, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.pretrain.planning.test_step_work import tiny
from vetdino.platform.core.errors import ConfigError, ShardError
from vetdino.platform.core.location import Location
from vetdino.platform.data.manifest import VERSION, Manifest, Shard, save_manifest
from vetdino.pretrain.planning import plan as plan_module
from vetdino.pretrain.planning.config import PlanConfig
from vetdino.pretrain.planning.hardware import GPUS
from vetdino.pretrain.planning.plan import STUDY_BYTES, training_plan


def with_memory(monkeypatch, size: float) -> None:
    """The GPU of the plan has so many bytes, none of them reserved."""
    gpu = replace(GPUS["a100"], memory=int(size), reserved=0)
    monkeypatch.setattr(plan_module, "hardware", lambda name, workers: gpu)


def test_time_is_work_over_speed():
    plan = training_plan(tiny(), PlanConfig(gpus=2, gpu="h100", peak_share=0.5))
    assert plan.work.studies == 4
    assert plan.compute_seconds == pytest.approx(plan.work.flops / (67e12 * 0.5))
    assert plan.network_seconds == pytest.approx(plan.sent / 450e9)
    assert plan.sent == 4 * plan.work.student  # an all-reduce between two
    assert plan.studies_a_second == pytest.approx(8 / plan.step_seconds)
    assert plan.fits
    assert plan.advice == ()
    assert plan.archive is None


def test_more_than_a_machine_uses_the_network():
    config = replace(tiny(), batch=32)
    plan = training_plan(config, PlanConfig(gpus=16, network=8.0))
    assert plan.network_seconds == pytest.approx(plan.sent / 1e9)


def test_loaders_follow_the_speed():
    plan = training_plan(tiny(), PlanConfig(gpu="h100"))
    assert plan.cuts_on == "device"
    assert plan.loaders == -(-plan.studies_a_second // 600)


def test_studies_and_bytes_are_those_of_the_shards(tmp_path):
    shards = (Shard("a.tar", "train", 30, 90, 7000, "0" * 64), Shard("b.tar", "test", 9, 9, 500, "0" * 64))
    save_manifest(tmp_path, Manifest(VERSION, "x", (), shards, {}, "0" * 64))
    here = replace(tiny(), shards=(Location(tmp_path),))
    archive = training_plan(here, PlanConfig()).archive
    assert archive is not None
    assert (archive.studies, archive.bytes, archive.counted) == (30, 7500, True)
    with pytest.raises(ShardError, match=r"manifest\.json"):
        training_plan(replace(tiny(), shards=(Location(tmp_path / "none"),)), PlanConfig())


def test_without_shards_their_size_is_assumed():
    archive = training_plan(tiny(), PlanConfig(studies=100)).archive
    assert archive is not None
    assert (archive.studies, archive.bytes, archive.counted) == (100, 100 * STUDY_BYTES, False)


def test_what_does_not_fit_gets_the_nearest_that_does(monkeypatch):
    whole = training_plan(tiny(), PlanConfig()).memory[0].total - GPUS["a100"].reserved
    with_memory(monkeypatch, whole)
    assert training_plan(tiny(), PlanConfig()).fits
    with_memory(monkeypatch, whole - 1)
    plan = training_plan(tiny(), PlanConfig())
    assert not plan.fits
    assert plan.advice == ("--optim.micro-batch 4",)
    size = int(plan.advice[0].split()[1])
    assert training_plan(tiny(micro_batch=size), PlanConfig()).fits


def test_where_nothing_helps_nothing_is_advised(monkeypatch):
    with_memory(monkeypatch, 1000)
    plan = training_plan(tiny(), PlanConfig())
    assert (plan.fits, plan.advice) == (False, ())


@pytest.mark.parametrize(
    ("optim", "plan", "fact"),
    [
        ({"precision": "bfloat16"}, PlanConfig(gpu="v100"), "--optim.precision float32"),
        ({}, PlanConfig(gpus=3), "batch 8 cannot be divided among workers 3"),
        ({"compile": True}, PlanConfig(gpu="cpu"), "optim.compile"),
        ({}, PlanConfig(peak_share=1.5), "peak_share 1.5"),
        ({}, PlanConfig(network=0), "network 0"),
        ({}, PlanConfig(gpus=-1), "gpus"),
    ],
)
def test_contradictions_are_refused(optim, plan, fact):
    with pytest.raises(ConfigError, match=fact):
        training_plan(tiny(**optim), plan)
