"""The benchmark of the planner runs the engine that trains, and its prediction is near; nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.plan.__main__ import case_config
from benchmarks.plan.engine import random_batch

ROOT = Path(__file__).resolve().parents[2]


def test_a_case_names_its_settings():
    optim = case_config("small/8/bfloat16/micro/again").optim
    assert (optim.precision, optim.micro_batch, optim.checkpoint_activations, optim.zero) == (
        "bfloat16",
        4,
        True,
        0,
    )
    assert case_config("small/8").optim.precision == "float32"


def test_a_batch_hides_as_much_as_on_average():
    batch = random_batch(case_config("small/64"))
    assert batch.globals_GB1SS.shape == (4, 64, 1, 128, 128)
    assert batch.hidden_TBN.float().mean().item() == pytest.approx(0.15, abs=0.02)


@pytest.mark.slow
def test_the_prediction_is_near_the_engines_step(tmp_path):
    out = tmp_path / "plan.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.plan",
        "--cases",
        "small/8",
        "--steps",
        "2",
        "--out",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())["small/8"]
    assert "small/8" in done.stdout
    assert abs(result["error"]["memory_mib"]) < 0.4
    assert result["measured"]["seconds"] > 0
