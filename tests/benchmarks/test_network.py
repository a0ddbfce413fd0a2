"""The benchmark of what workers send counts the bytes of the engine that trains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.network.__main__ import case_config

ROOT = Path(__file__).resolve().parents[2]


def test_a_case_has_two_workers_and_halves_a_share_into_micro_batches():
    config = case_config("small", 8, True, 2)
    assert (config.batch, config.workers, config.optim.zero, config.optim.micro_batch) == (8, 2, 2, 2)
    assert config.optim.micro_batches(config.batch, config.workers) == 2
    config.check()


@pytest.mark.slow
@pytest.mark.skipif(
    bool(os.geteuid()) or not (shutil.which("unshare") and shutil.which("ip")),
    reason="needs root and a namespace",
)
def test_workers_send_what_the_plan_says(tmp_path):
    out = tmp_path / "network.json"
    words = ["--recipe", "small", "--studies", "4", "--stages", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.network", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["2"]
    assert found["predicted_mb"] == pytest.approx(found["sent_mb"], rel=0.05)
    assert found["memory_mib"] > 50
