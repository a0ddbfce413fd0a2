"""The benchmarks measure the step that trains: its losses, its work, its parts; none of this is timed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step.contestants import LightlyStep, VetdinoStep, random_distiller
from benchmarks.step.measure import in_turns, time_by_part
from benchmarks.step.settings import SETTINGS, random_batch, step_flops

ROOT = Path(__file__).resolve().parents[2]

TINY, CPU = SETTINGS["tiny"], torch.device("cpu")

ENGINE = """
import os
import sys
import torch
import torch.distributed as dist
from benchmarks.step.contestants import random_distiller
from benchmarks.step.settings import DECAY, MOMENTUM, RATE, SETTINGS, TEMPERATURE, random_batch
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.distillation.config import OptimConfig
from vetdino.pretrain.distillation.engine import Engine

os.environ["LOCAL_RANK"] = "0"
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
setting = SETTINGS["tiny"]
batch, distiller = random_batch(setting, 4), random_distiller(setting)
rate = RATE * (1024 / 4) ** 0.5  # the engine scales it with the batch
config = OptimConfig(
    lr=Cosine(start=rate, end=rate),
    weight_decay=Cosine(start=DECAY, end=DECAY),
    freeze_prototypes=0.0,
    zero=0,
    precision="float32",
)
engine = Engine(distiller.student, config, batch=4, world=1, steps=9, device=torch.device("cpu"))
for step in range(3):
    engine.schedule(step)
    with engine.autocast():
        losses = distiller(engine.model, batch, TEMPERATURE)
    engine.backward(losses.total)
    distiller.update_teacher(MOMENTUM, engine.step())
    print("loss", losses.total.item())
"""

BARE = """
import sys

for name in ("ray", "deepspeed", "mlflow", "gradio"):
    sys.modules[name] = None
from vetdino.pretrain.batches import batch, crops, masks
from vetdino.pretrain.distillation import distiller, heads, losses
try:
    import deepspeed
except ImportError:
    print("deepspeed is shut out")
"""


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_step_that_is_measured_is_the_step_that_trains(tmp_path):
    ours = VetdinoStep(TINY, random_batch(TINY, 4), CPU)
    measured = [ours("float32").item() for _ in range(3)]
    lines = [line.split() for line in run(ENGINE, str(tmp_path / "meet")).splitlines()]
    trained = [float(words[1]) for words in lines if words[:1] == ["loss"]]
    assert measured == pytest.approx(trained, rel=1e-6)
    assert len(set(measured)) == 3


@pytest.mark.filterwarnings("ignore")  # lightly uses what torch deprecates
def test_lightly_is_given_the_same_step():
    pytest.importorskip("lightly", reason="an optional dependency: benchmarks/requirements.txt")
    batch = random_batch(TINY, 4)
    ours, theirs = VetdinoStep(TINY, batch, CPU), LightlyStep(TINY, batch, CPU)
    assert theirs("float32").item() == pytest.approx(ours("float32").item(), rel=1e-6)
    assert sum(p.numel() for p in theirs.parameters) == sum(p.numel() for p in ours.parameters)


@pytest.mark.slow
def test_what_training_needs_without_ray_and_deepspeed_imports_without_them():
    assert run(BARE) == "deepspeed is shut out\n"


@pytest.mark.parametrize("name", ["tiny", "dino_s16"])
def test_the_operations_of_a_step_are_those_that_pytorch_counts(name):
    setting = SETTINGS[name]
    setting = replace(setting, prototypes=64, hidden=32, bottleneck=16, depth=setting.depth or 1)
    batch, student = random_batch(setting, 2), random_distiller(setting).student
    backbone, vit = student.backbone, student.backbone.vit
    for block in vit.blocks:
        block.attn.fused_attn = False  # the counter knows no fused kernel of the CPU
    hidden = int(batch.hidden_TBN.sum())
    globals_, locals_ = (
        backbone.normalize(crops.flatten(0, 1)) for crops in (batch.globals_GB1SS, batch.locals_LB1SS)
    )
    with FlopCounterMode(display=False) as counter:
        for crops in (globals_, locals_):
            backbone(crops).patches.sum().backward()
        answered = torch.zeros(len(globals_) + len(locals_) + hidden, backbone.width, requires_grad=True)
        student.head(answered).sum().backward()
        with torch.no_grad():
            backbone(globals_[: setting.teachers * 2])
            student.head(torch.zeros(setting.teachers * 2 + hidden, backbone.width))
    found = step_flops(setting, batch, vit.embed_dim, len(vit.blocks))
    assert found == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_contestants_take_turns_and_the_first_round_does_not_count():
    calls: list[str] = []
    found = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 2, CPU)
    assert calls == ["a", "b"] * 3
    assert {name: len(seconds.wall) for name, seconds in found.items()} == {"a": 2, "b": 2}


def test_the_profile_finds_all_parts_forward_and_backward():
    ours = VetdinoStep(TINY, random_batch(TINY, 4), CPU)
    parts = time_by_part(lambda: ours("float32"), ours.learners, CPU)
    assert {"attention", "mlp", "head", "loss", "optimizer", "teacher update"} <= set(parts)
    assert parts.get("other", 0.0) < 0.2 * sum(parts.values())
    assert parts == dict(sorted(parts.items(), key=lambda part: -part[1]))
