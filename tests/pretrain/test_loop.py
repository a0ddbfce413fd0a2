"""The training of one worker and of two, broken off and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vetdino.platform.runs import history

SETTINGS = {
    "centring": {"distill.patch_weight": 1.0, "optim.zero": 0},
    "sinkhorn": {"distill.targets": "sinkhorn", "distill.patch_weight": 1.0, "optim.zero": 2},
    "spread": {"distill.targets": "sinkhorn", "distill.spread_weight": 0.1, "optim.zero": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one(folder, tiny, launched) -> Path:
    """What one worker leaves."""
    launched([(tiny(folder / "one" / name, changes), None) for name, changes in SETTINGS.items()], 1)
    return folder / "one"


@pytest.fixture(scope="module")
def two(folder, tiny, launched) -> Path:
    """What two workers leave, with the same global batch."""
    launched([(tiny(folder / "two" / name, changes), None) for name, changes in SETTINGS.items()], 2)
    return folder / "two"


def losses(run: Path, name: str) -> list[float]:
    return [line[f"loss/{name}"] for line in history(run) if f"loss/{name}" in line]


@pytest.mark.parametrize("name", ["centring", "sinkhorn"])
def test_two_workers_have_the_losses_of_one(name, one, two):
    for term in ("total", "view", "patch"):
        print(name, term, losses(one / name, term), losses(two / name, term))
        assert losses(two / name, term) == pytest.approx(losses(one / name, term), abs=1e-5)
