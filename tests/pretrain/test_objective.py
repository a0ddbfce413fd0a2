"""Both objectives of the training loop; whole distillations in it: a ViT and a CNN, resumed exactly, on two workers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.pretrain.feature_distillation.examples import tiny_distillation, write_teacher
from tests.pretrain.left import record, weights
from vetdino.platform.core.config import from_json
from vetdino.platform.core.run_folder import history
from vetdino.platform.models.card import CARD, WEIGHTS, Card
from vetdino.platform.models.loading import load
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.config import FeatureDistillationConfig
from vetdino.pretrain.distillation.distiller import Distiller
from vetdino.pretrain.feature_distillation.config import StudentConfig
from vetdino.pretrain.feature_distillation.distiller import FeatureDistiller
from vetdino.pretrain.objective import Objective
from vetdino.pretrain.replay import replay_run

KINDS = {
    "vit": {"backbone.drop_path": 0.2, "optim.precision": "bfloat16"},
    "cnn": {"optim.precision": "bfloat16"},
}

CNN = {"student": "resnet10t", "backbone": StudentConfig()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("distillations")


@pytest.fixture(scope="module")
def make(folder, shards) -> Callable[..., FeatureDistillationConfig]:
    """The settings of a distillation below the folder."""
    teacher = write_teacher(folder / "teacher")
    return lambda name, changes=None, **top: tiny_distillation(teacher, shards, folder / name, changes, **top)


@pytest.fixture(scope="module")
def resumed(folder, make, launched) -> Path:
    """Of a ViT and of a CNN a distillation undisturbed, and one stopped after step 4 and resumed."""
    for kind, changes in KINDS.items():
        top = CNN if kind == "cnn" else {}
        whole = make(f"{kind}-whole", changes, **top, dtype="float16" if kind == "vit" else "float32")
        broken = make(f"{kind}-broken", changes, **top)
        launched([(whole, None), (broken, 4), (broken, None)], 1)
    return folder


@pytest.mark.parametrize("kind", [Distiller, FeatureDistiller])
def test_an_objective_has_every_method_with_its_parameters(kind):
    wanted = [name for name, value in vars(Objective).items() if inspect.isfunction(value) and name[0] != "_"]
    assert {"step_targets", "losses", "after_step", "network", "saved_state"} < set(wanted)
    for name in set(wanted) - {"load_state_dict"}:
        found = inspect.signature(getattr(kind, name)).parameters
        assert list(found) == list(inspect.signature(getattr(Objective, name)).parameters), name
    assert isinstance(kind.identity, property)
    assert kind.loss_names[0] == "total"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_resumed_distillation_is_the_uninterrupted_one_bit_for_bit(kind, resumed):
    whole, broken = resumed / f"{kind}-whole", resumed / f"{kind}-broken"
    one, two = weights(whole, 6), weights(broken, 6)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert any(name.startswith("student.exp_avg.") for name in one)
    assert record(whole) == record(broken)
    seen = [json.loads((run / "rank0.json").read_text()) for run in (whole, broken)]
    assert seen[0][3:] == seen[1]  # the resumed part begins after the checkpoint of step 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_record_has_losses_agreement_speed_and_the_probe(kind, resumed):
    lines = history(resumed / f"{kind}-whole")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for name in ("loss/total", "loss/cls", "loss/patch", "health/cls_cosine", "speed/studies_per_second"):
        assert all(np.isfinite(line[name]) for line in lines), name
    assert lines[-1]["loss/total"] < lines[0]["loss/total"]
    assert "probe/auroc_macro" in lines[-1]
    assert not any("teacher_entropy" in name or "alarm" in name for line in lines for name in line)


@pytest.mark.slow
def test_a_vit_is_exported_as_a_backbone_folder_that_gives_its_own_tokens(resumed):
    run = resumed / "vit-whole"
    backbone = load(run / "backbone")
    assert (backbone.width, backbone.side, backbone.patch) == (
        32,
        48,
        8,
    )  # one and a half times the crops' side
    assert backbone.card.origin["teacher"] == "teacher"
    assert {"probe/auroc_macro", "probe/effective_rank"} <= set(backbone.card.metrics)
    stored = load_file(run / "backbone" / WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    trained = weights(run, 6)["student.weight.backbone.vit.blocks.1.attn.qkv.weight"]
    kept = backbone.vit.blocks[1].attn.qkv.weight.detach().flatten()
    assert torch.equal(kept, trained.half().float())
    assert not any("projection" in name for name in stored)


@pytest.mark.slow
def test_a_cnn_is_exported_for_timm_with_its_running_statistics(resumed):
    folder = resumed / "cnn-whole" / "backbone"
    card = from_json(Card, (folder / CARD).read_text())
    model = timm.create_model(card.config.name, in_chans=1, num_classes=0).eval()
    model.load_state_dict(load_file(folder / "backbone.safetensors"))
    assert model(torch.zeros(1, 1, card.config.side, card.config.side)).shape == (1, 512)
    state = model.state_dict()
    counts = [value for name, value in state.items() if name.endswith("num_batches_tracked")]
    assert {int(value) for value in counts} == {6}  # one batch a step, the same in training as after a resume


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(make, launched):
    runs = [make(f"workers-{count}", {"optim.zero": zero}) for count, zero in ((1, 0), (2, 2))]
    for count, run in enumerate(runs, start=1):
        launched([(run, None)], count)
    one, two = (history(run.out.path) for run in runs)
    for name in ("loss/total", "health/cls_cosine"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], abs=1e-4)


@pytest.mark.slow
def test_a_student_is_divided_among_workers_and_its_export_is_whole(make, launched):
    config = make("zero3", {"optim.zero": 3, "probe.every": 0})
    launched([(config, None)], 2)
    backbone = load(config.out.path / "backbone")
    trained = weights(config.out.path, 6)["student.weight.backbone.vit.blocks.1.attn.qkv.weight"]
    assert torch.equal(backbone.vit.blocks[1].attn.qkv.weight.detach().flatten(), trained)


@pytest.mark.slow
def test_another_teacher_or_a_pretrainings_folder_is_no_place_to_resume(make, launched, folder, tiny):
    config = make("moved", {"probe.every": 0})
    launched([(config, 4)], 1)
    write_teacher(folder / "teacher2", seed=2)
    (folder / "teacher").rename(folder / "kept")
    (folder / "teacher2").rename(folder / "teacher")
    try:
        launched([(config, None)], 1)
    finally:
        (folder / "teacher").rename(folder / "teacher2")
        (folder / "kept").rename(folder / "teacher")
    failure = (config.out.path / "failure.txt").read_text()
    assert failure.startswith("CheckpointError")
    assert "with other weights of its teacher" in failure
    other = tiny(config.out.path, {"probe.every": 0})
    launched([(other, None)], 1)
    assert (
        "is of a distillation, which `vetdino distill` continues"
        in (config.out.path / "failure.txt").read_text()
    )


@pytest.mark.slow
def test_a_bad_step_of_a_distillation_is_skipped_kept_and_replayed(make, launched):
    changes = {"optim.lr": Cosine(start=1e30, end=1e30), "optim.clip": 1e30, "probe.every": 0}
    config = make("diverging", changes, checkpoint_every=1, keep=6)
    launched([(config, None)], 1)
    assert "finite for 5 steps in a row; `vetdino replay" in (config.out.path / "failure.txt").read_text()
    step = min(int(path.stem.removeprefix("step_")) for path in (config.out.path / "bad").glob("*.json"))
    report = replay_run(config.out.path, step)
    assert set(report.losses) == {"total", "cls", "patch", "cls_cosine", "patch_cosine"}
    assert not report.healthy
