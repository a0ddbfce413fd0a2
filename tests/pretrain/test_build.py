"""The parts of a training, with an engine that only remembers how it was made."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.pretrain.conftest import write_shards
from vetdino.platform.core.config import to_json
from vetdino.platform.core.errors import CheckpointError
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.saving import save_backbone
from vetdino.platform.training.cluster import WorkerContext
from vetdino.pretrain import build
from vetdino.pretrain.bad_steps import BadSteps
from vetdino.pretrain.batches.config import OrderConfig
from vetdino.pretrain.build import Trainer, build_trainer
from vetdino.pretrain.checkpoints import POSITION, Checkpoints, LoopState, check_resumable
from vetdino.pretrain.loop import TrainingLoop
from vetdino.pretrain.mixture import load_mixture


@pytest.fixture
def made(monkeypatch):
    """Builds a trainer on one of `world` workers."""

    def engine(student, config, *, batch, world, **settings):
        return SimpleNamespace(micro_batches=config.micro_batches(batch, world), **settings)

    monkeypatch.setattr(build, "Engine", engine)

    def make(config, rank: int = 0, world: int = 1, newest=None) -> Trainer:
        return build_trainer(config, WorkerContext(rank, world, torch.device("cpu")), newest)

    return make


def test_the_same_settings_build_the_same_student_on_every_worker(made, run_config):
    one, two = (made(run_config, rank, 2).distiller.state_dict() for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_whitened_heads_differ_from_untrained_ones_in_the_last_layer_alone(made, run_config):
    whitened = replace(run_config, distill=replace(run_config.distill, spread_head=True))
    plain, other = (made(config).distiller.student.state_dict() for config in (run_config, whitened))
    changed = {name for name in plain if not torch.equal(plain[name], other[name])}
    assert changed == {
        f"{head}.mlp.4.{kind}" for head in ("head", "patch_head") for kind in ("weight", "bias")
    }


def test_micro_batches_are_made_again_as_all_workers_computed_them(made, run_config):
    config = replace(run_config, optim=replace(run_config.optim, micro_batch=2))
    trainers = [made(config, rank, 2) for rank in (0, 1)]
    again = trainers[0].remade_micro_batches(1)
    computed = [part for trainer in trainers for part in next(iter(trainer.batches(1))).split(2)]
    assert [part.keys for part in again] == [part.keys for part in computed]
    assert all(torch.equal(a.globals_GB1SS, b.globals_GB1SS) for a, b in zip(again, computed, strict=True))


def test_lanes_give_any_number_of_workers_the_batches_of_one_and_each_can_be_made_again(
    made, run_config, small_shards
):
    config = replace(run_config, shards=(str(small_shards),), order=OrderConfig(window=2, lanes=4))
    one = made(config)
    assert one.order.shards == tuple(shard.studies for shard in load_manifest(small_shards).of("train"))
    whole = [batch.keys for batch in one.batches(1)]
    assert whole != [batch.keys for batch in made(run_config).batches(1)]
    for world in (2, 4):
        trainers = [made(config, rank, world) for rank in range(world)]
        shares = zip(*([batch.keys for batch in trainer.batches(1)] for trainer in trainers), strict=True)
        assert [sum(parts, ()) for parts in shares] == whole
        again = trainers[0].remade_micro_batches(1)
        assert sum((part.keys for part in again), ()) == whole[0]


@pytest.mark.slow
def test_heads_are_whitened_on_the_same_studies_whatever_the_order(made, run_config, small_shards):
    distill = replace(run_config.distill, spread_head=True)
    plain = replace(run_config, shards=(str(small_shards),), distill=distill)
    lanes = replace(plain, order=OrderConfig(window=1, lanes=8))
    one, two = (made(config).distiller.state_dict() for config in (plain, lanes))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_backbone_without_heads_is_frozen_at_first_and_a_resumed_training_remembers_it(
    made, run_config, tmp_path
):
    save_backbone(tmp_path / "backbone", random_backbone(run_config.backbone, 5))
    config = replace(run_config, start=str(tmp_path / "backbone"), steps=100, head_warmup=0.1)
    assert made(config).engine.frozen_steps == 10
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "position.json").write_text(json.dumps({"head_warmup": 7}))
    assert made(replace(config, start="gone"), newest=tmp_path / "step").engine.frozen_steps == 7


def test_a_resumed_training_prepares_images_as_it_began_to(made, run_config, tmp_path):
    other = random_backbone(run_config.backbone, 5, mean=0.3, std=0.6)
    save_backbone(tmp_path / "backbone", other)
    config = replace(run_config, start=str(tmp_path / "backbone"))
    began = made(config)
    state = LoopState(SimpleNamespace(state=dict), BadSteps(3))
    checkpoints = Checkpoints(config, began.worker, began.mixture, began.distiller, began.engine, state)
    position = checkpoints._position(2)
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "position.json").write_text(position)
    resumed = made(replace(config, start="gone"), newest=tmp_path / "step").distiller
    for learner in (resumed.student, resumed.teacher):
        assert (learner.backbone.card.mean, learner.backbone.card.std) == (0.3, 0.6)


def test_a_training_whose_archive_grows_meanwhile_says_which_manifest_it_began_with(
    made, run_config, tmp_path
):
    config = replace(run_config, shards=(str(write_shards(tmp_path / "shards")),))
    began = made(config)
    write_shards(tmp_path / "shards", splits={"train": 20})  # without validation studies
    grown = load_mixture(config)
    assert grown.studies("train") == 20
    loop = TrainingLoop(began, run=None, on_record=lambda step, values: None)
    assert loop.warnings == []
    (tmp_path / POSITION).write_text(loop.checkpoints._position(2))
    (tmp_path / "config.json").write_text(to_json(config))
    with pytest.raises(CheckpointError, match="where the archive has grown, with its earlier manifest"):
        check_resumable(config, tmp_path.rename(tmp_path.with_name("step_00000002")), grown)
    check_resumable(config, tmp_path.with_name("step_00000002"), began.mixture)
