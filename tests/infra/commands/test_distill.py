"""`vetdino distill`: what is refused before Ray starts, and a job that is stopped and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pretrain.conftest import launcher, write_shards
from tests.pretrain.feature_distillation.examples import tiny_distillation, write_teacher
from tests.pretrain.left import record, weights
from tests.pretrain.test_job import ROOT, ended, finished, gone, step_reached, words_of
from vetdino.infra import cli
from vetdino.platform.core.config import from_json
from vetdino.platform.models.loading import load
from vetdino.pretrain.config import FeatureDistillationConfig


def command_of(config: FeatureDistillationConfig) -> list[str]:
    """The settings as a person types them, teacher and student first."""
    words = words_of(config)
    for name in ("--teacher", "--student"):
        place = words.index(name)
        del words[place : place + 2]
    return ["distill", config.teacher, config.student, *words]


def refused(capsys, *arguments: str) -> str:
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return line


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def teacher(tmp_path) -> Path:
    return write_teacher(tmp_path / "teacher")


@pytest.mark.parametrize(
    ("student", "more", "said"),
    [
        ("vit_tiny_patch16_22", [], "student: vit_tiny_patch16_22 is no path and no timm model"),
        ("vit_tiny_patch16_224", ["--crops.global-side", "70"], "crops.global_side 70 is not a multiple of"),
        ("vit_tiny_patch16_224", ["--embed-side", "50"], "embed_side 50 is not a multiple of the student's patch, 8"),
        ("vit_tiny_patch16_224", ["--teacher-side", "30"], "teacher_side 30 is not a multiple of the teacher's patch"),
        ("vit_tiny_patch16_224", ["--batch", "17"], "batch 17 is more than the 16 training studies; lower it"),
        ("gone/backbone.pth", [], "gone/backbone.pth has its weights and architecture; --backbone.patch is for a bare"),
        ("resnet10t", [], "resnet10t is no Vision Transformer; leave out --backbone.patch"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(
    student, more, said, teacher, shards, tmp_path, capsys
):
    config = tiny_distillation(teacher, shards, tmp_path / "out", student=student)
    line = refused(capsys, *command_of(config), *more)
    assert said in line
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 2}, "resnet10t has batch norms, which 2 workers share on GPUs only; set --workers 1"),
        ({"optim.micro_batch": 4}, "resnet10t has batch norms, which optim.micro_batch 4 would change"),
        ({"optim.zero": 3}, "optim.zero 3, optim.compile and optim.checkpoint_activations are for Vision"),
    ],
)
def test_what_a_cnn_cannot_is_refused(changes, said, teacher, shards, tmp_path, capsys):
    base = tiny_distillation(teacher, shards, tmp_path / "out", student="resnet10t")
    config = tiny_distillation(
        teacher, shards, tmp_path / "out", changes, student="resnet10t", backbone=type(base.backbone)()
    )
    assert said in refused(capsys, *command_of(config))


def test_a_missing_teacher_is_refused_and_the_config_can_be_printed(shards, tmp_path, capsys):
    config = tiny_distillation(tmp_path / "gone", shards, tmp_path / "out")
    assert "teacher: " in refused(capsys, *command_of(config))
    assert cli.main([*command_of(config), "--print-config"]) == 0
    assert from_json(FeatureDistillationConfig, capsys.readouterr().out) == config


@pytest.mark.slow
def test_a_job_stopped_by_sigterm_and_resumed_is_the_undisturbed_one(teacher, shards, tmp_path):
    plan = {"steps": 60, "checkpoint_every": 10, "loaders": 1}
    config = tiny_distillation(teacher, shards, tmp_path / "job", {"probe.every": 0}, **plan)

    def start(config: FeatureDistillationConfig) -> subprocess.Popen[str]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            [sys.executable, "-m", "vetdino", *command_of(config)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    process = start(config)
    step_reached(replace(config, out=config.out.path), 12, process)  # type: ignore[arg-type]
    lock = config.out.path.with_name(".job.lock")
    assert lock.is_file()
    process.terminate()  # to the command alone
    code, _, err = ended(process)
    assert code == 143
    assert not lock.exists()
    assert gone(process.pid)
    assert err.splitlines()[-1] == "vetdino: stopped; run the same command with --resume to continue"
    out, err = finished(start(replace(config, resume=True)))
    assert out.splitlines()[-1] == str(config.out.path / "backbone")
    bars = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {"per_second", "seconds_left", "loss", "cosine"} <= set(bars[-1])
    assert bars[-1]["progress"] == "distill"
    whole = tiny_distillation(teacher, shards, tmp_path / "whole", {"probe.every": 0}, **plan)
    with launcher(tmp_path / "log.txt", {}) as launched:
        launched([(whole, None)], 1)
    one, two = weights(whole.out.path, 60), weights(config.out.path, 60)
    assert all(value.equal(two[name]) for name, value in one.items())
    assert record(whole.out.path) == record(config.out.path)
    assert load(config.out.path / "backbone").card.weights_sha256
