"""Bad steps: counted, written aside, and looked at again until the module that began it is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vetdino.platform.core.config import digest
from vetdino.platform.core.errors import CheckpointError, TrainingError
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.training import checkpoint
from vetdino.pretrain.bad_batches import MOST, load_bad_batch, save_bad_batch
from vetdino.pretrain.bad_steps import BadSteps, too_many_bad_steps
from vetdino.pretrain.batches.batch import CropBatch
from vetdino.pretrain.batches.loader import CropDataset, crop_loader
from vetdino.pretrain.batches.order import StudyOrder
from vetdino.pretrain.checkpoints import newest_checkpoint_at
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.replay import replay

CHANGES = {"distill.patch_weight": 1.0, "distill.spread_weight": 0.1}

TENSORS = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")

LAYER = "backbone.vit.blocks.1.mlp.fc1"


@pytest.fixture
def config(tmp_path, tiny) -> PretrainConfig:
    return tiny(tmp_path / "run", CHANGES)


@pytest.fixture(scope="module")
def parts(shards, tiny) -> list[CropBatch]:
    """The batch of step 3 as two workers have it."""
    made = tiny(Path("nowhere"), CHANGES)
    dataset = CropDataset(str(shards), made.crops, made.distill.masks, 4, made.seed)
    order = StudyOrder(len(dataset), made.batch, made.seed)
    of_rank = lambda rank: crop_loader(dataset, order, first=3, steps=4, rank=rank, world=2, processes=0)
    return [next(iter(of_rank(rank))) for rank in (0, 1)]


def distiller_of(config: PretrainConfig) -> Distiller:
    torch.manual_seed(0)
    return Distiller(random_backbone(config.backbone, 0), config.distill)


def kept(
    config: PretrainConfig, step: int, change: Callable[[Distiller], None] = lambda _: None
) -> Distiller:
    """A checkpoint of fresh weights, changed; as engine and loop write it."""
    distiller = distiller_of(config)
    with torch.no_grad():
        change(distiller)
    root = config.out / "checkpoints"
    draft = checkpoint.begin(root, step)
    state = {name: value.contiguous() for name, value in distiller.state_dict().items()}
    followers = {name: value for name, value in state.items() if not name.startswith("student.")}
    save_file(followers, draft / "teacher.safetensors")
    rows = {f"weight {name} 0": p.detach().view(-1) for name, p in distiller.student.named_parameters()}
    (draft / "engine").mkdir()
    save_file(rows | {"step": torch.tensor(float(step))}, draft / "engine" / "worker0000.safetensors")
    checkpoint.publish(root, step)
    return distiller


def broken(value: float) -> Callable[[Distiller], None]:
    """One number of one layer of the student becomes something else."""

    def change(distiller: Distiller) -> None:
        distiller.student.get_parameter(f"{LAYER}.weight")[0, 0] = value

    return change


def test_steps_that_are_not_bad_are_not_counted():
    bad = BadSteps(limit=1)
    assert bad.count(0, []) == []
    assert bad.count(0, [0.0, 0.0]) == []
    assert (bad.total, bad.in_a_row, bad.too_many) == (0, 0, False)


def test_bad_steps_are_counted_in_a_row_over_records():
    bad = BadSteps(limit=3)
    assert bad.count(10, [1.0, 0.0, 1.0, 1.0]) == [10, 12, 13]
    assert not bad.too_many
    assert bad.count(14, [1.0, 0.0, 0.0]) == [14]
    # It was so within the record, whatever came after it.
    assert bad.too_many
    assert (bad.total, bad.in_a_row) == (4, 0)


def test_a_resumed_count_goes_on_where_it_stood():
    bad, later = BadSteps(limit=3), BadSteps(limit=3)
    bad.count(0, [1.0, 0.0, 1.0, 1.0])
    later.load(json.loads(json.dumps(bad.state())))
    for count in (bad, later):
        count.count(4, [1.0])
    assert later.state() == bad.state()
    assert later.too_many


def test_what_a_person_is_told_names_the_command_that_looks_at_it(config):
    said = str(too_many_bad_steps(config, 12, 5))
    assert said.startswith("step 12: the loss or a gradient was not finite for 5 steps in a row")
    assert f"`vetdino replay {config.out} --step 12`" in said


def test_a_batch_written_aside_comes_back_as_it_was(config, parts):
    kept(config, 2)
    path = save_bad_batch(config, 3, parts)
    assert path == config.out / "bad" / "step_00000003.json"
    told = json.loads(path.read_text())
    assert told == {
        "step": 3,
        "studies": [list(part.keys) for part in parts],
        "pairs": [list(part.is_pair) for part in parts],
        "crops": True,
        "config": digest(config),
        "checkpoint": "step_00000002",
        "replay": f"vetdino replay {config.out} --step 3",
    }
    found = load_bad_batch(config, 3)
    assert len(found) == 2
    for back, part in zip(found, parts, strict=True):
        assert (back.keys, back.is_pair) == (part.keys, part.is_pair)
        for name in TENSORS:
            assert torch.equal(getattr(back, name), getattr(part, name))
            assert getattr(back, name).dtype == getattr(part, name).dtype
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "step_00000003.json",
        "step_00000003.safetensors",
    ]


def test_of_many_bad_steps_the_crops_of_the_first_are_kept_and_the_studies_of_all(config, parts):
    paths = [save_bad_batch(config, step, parts) for step in range(MOST + 2)]
    assert [path.with_suffix(".safetensors").exists() for path in paths] == [True] * MOST + [False] * 2
    assert [json.loads(path.read_text())["crops"] for path in paths] == [True] * MOST + [False] * 2
    assert json.loads(paths[0].read_text())["checkpoint"] is None


def test_a_step_that_was_not_kept_is_refused_and_those_that_were_are_named(config, parts):
    with pytest.raises(TrainingError, match="holds no batch of step 7; no bad batch was kept"):
        load_bad_batch(config, 7)
    save_bad_batch(config, 3, parts)
    with pytest.raises(TrainingError, match="holds no batch of step 7; there are 3"):
        load_bad_batch(config, 7)


def test_a_damaged_batch_is_refused(config, parts):
    path = save_bad_batch(config, 3, parts).with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="is damaged"):
        load_bad_batch(config, 3)


def test_a_step_begins_from_its_own_checkpoint_or_the_newest_whole_one_before(config):
    assert newest_checkpoint_at(config, 9) is None
    for step in (2, 4, 6):
        kept(config, step)
    assert [newest_checkpoint_at(config, step).name[-1] for step in (2, 3, 4, 9)] == ["2", "2", "4", "6"]
    assert newest_checkpoint_at(config, 1) is None
    (config.out / "checkpoints" / "step_00000004" / "teacher.safetensors").write_bytes(b"")
    assert newest_checkpoint_at(config, 5).name == "step_00000002"


def test_without_weights_to_begin_with_a_step_cannot_be_looked_at(config, parts):
    save_bad_batch(config, 3, parts)
    kept(config, 4)
    with pytest.raises(CheckpointError, match="holds no whole checkpoint of step 3 or before"):
        replay(config, 3)


def test_a_healthy_step_has_the_losses_of_the_whole_batch_and_says_what_else_it_may_be(config, parts):
    save_bad_batch(config, 3, parts)
    distiller = kept(config, 3)
    report = replay(config, 3)
    assert report.healthy
    whole = CropBatch(
        *(torch.cat([getattr(part, name) for part in parts], dim=1) for name in TENSORS),
        keys=parts[0].keys + parts[1].keys,
        is_pair=parts[0].is_pair + parts[1].is_pair,
    )
    temperature = config.distill.teacher_temperature.at(3, config.steps)
    for name, value in distiller(distiller.student, whole, temperature).named().items():
        assert report.losses[name] == pytest.approx(value.item(), abs=1e-4), name
    assert "step 3, 8 studies, with its own weights" in str(report)
    assert "all is finite on this machine" in str(report)


def test_a_batch_that_older_weights_can_bear_is_not_blamed(config, parts):
    save_bad_batch(config, 3, parts)
    kept(config, 2)
    report = replay(config, 3)
    assert report.weights_step == 2
    assert "the weights of step 2, 1 before it" in str(report)
    assert "not the batch is to blame" in str(report)


def test_the_first_module_whose_output_is_no_number_is_named(config, parts):
    save_bad_batch(config, 3, parts)
    kept(config, 3, broken(3e38))
    report = replay(config, 3)
    assert not report.healthy
    assert report.weights == ()
    # 3e38 is a number still, but not once it is multiplied and added up.
    assert report.output == f"student.{LAYER}"
    assert math.isnan(report.losses["view"])
    assert f"{LAYER}.weight" in report.parameters
    assert f"first non-finite output: student.{LAYER}\n" in str(report)


def test_weights_that_are_no_numbers_themselves_are_named(config, parts):
    save_bad_batch(config, 3, parts)
    kept(config, 3, broken(float("nan")))
    report = replay(config, 3)
    assert report.weights == (f"student.{LAYER}.weight",)
    assert f"non-finite weights: student.{LAYER}.weight" in str(report)


def test_a_teacher_that_is_lost_is_told_from_a_student_that_is(config, parts):
    save_bad_batch(config, 3, parts)

    def change(distiller: Distiller) -> None:
        distiller.teacher.head.mlp[0].weight[0, 0] = float("inf")

    kept(config, 3, change)
    assert replay(config, 3).output == "teacher.head.mlp.0"


def test_a_gradient_that_is_lost_behind_finite_outputs_is_found(config, parts):
    save_bad_batch(config, 3, parts)
    initial = distiller_of(config)
    # The root's slope at zero is infinite, its value is not.
    initial.student.head.mlp[1].register_forward_hook(
        lambda _, __, output: output + (output * 0).abs().sqrt()
    )
    report = replay(config, 3, initial)
    assert report.weights_step == 0
    assert report.output == ""
    assert report.gradient.startswith("student.head.mlp.")
    assert "head.mlp.0.weight" in report.parameters
    assert "first non-finite gradient: at the output of" in str(report)


def test_a_step_is_looked_at_in_the_precision_that_it_was_trained_in(config, parts):
    half = replace(config, optim=replace(config.optim, precision="bfloat16"))
    save_bad_batch(half, 3, parts)
    kept(half, 3)
    whole, coarse = replay(config, 3).losses, replay(half, 3).losses
    assert coarse != whole
    assert coarse["view"] == pytest.approx(whole["view"], rel=0.05)
