"""Batches of bad steps are saved as they were computed, and come back the same."""

from __future__ import annotations

import json

import pytest
import torch

from tests.pretrain.examples import write_checkpoint
from vetdino.platform.core.config import digest
from vetdino.platform.core.errors import TrainingError
from vetdino.pretrain.bad_batches import MOST, load_bad_batch, save_bad_batch

TENSORS = ("globals_GB1SS", "locals_LB1SS", "hidden_TBN")


def test_a_batch_written_aside_comes_back_as_it_was(run_config, micro_batches):
    write_checkpoint(run_config, 2)
    path = save_bad_batch(run_config, 3, micro_batches)
    assert path == run_config.out / "bad" / "step_00000003.json"
    description = json.loads(path.read_text())
    assert description == {
        "step": 3,
        "studies": [list(part.keys) for part in micro_batches],
        "pairs": [list(part.is_pair) for part in micro_batches],
        "crops": True,
        "config": digest(run_config),
        "checkpoint": "step_00000002",
        "replay": f"vetdino replay {run_config.out} --step 3",
    }
    found = load_bad_batch(run_config, 3)
    assert len(found) == 2
    for back, part in zip(found, micro_batches, strict=True):
        assert (back.keys, back.is_pair) == (part.keys, part.is_pair)
        for name in TENSORS:
            assert torch.equal(getattr(back, name), getattr(part, name))
            assert getattr(back, name).dtype == getattr(part, name).dtype
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "step_00000003.json",
        "step_00000003.safetensors",
    ]


def test_of_many_bad_steps_the_crops_of_the_first_are_kept_and_the_studies_of_all(run_config, micro_batches):
    paths = [save_bad_batch(run_config, step, micro_batches) for step in range(MOST + 2)]
    assert [path.with_suffix(".safetensors").exists() for path in paths] == [True] * MOST + [False] * 2
    assert [json.loads(path.read_text())["crops"] for path in paths] == [True] * MOST + [False] * 2
    assert json.loads(paths[0].read_text())["checkpoint"] is None


def test_a_step_that_was_not_kept_is_refused_and_those_that_were_are_named(run_config, micro_batches):
    with pytest.raises(TrainingError, match="holds no batch of step 7; no bad batch was kept"):
        load_bad_batch(run_config, 7)
    save_bad_batch(run_config, 3, micro_batches)
    with pytest.raises(TrainingError, match="holds no batch of step 7; there are 3"):
        load_bad_batch(run_config, 7)


def test_a_damaged_batch_is_refused(run_config, micro_batches):
    path = save_bad_batch(run_config, 3, micro_batches).with_suffix(".safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="is damaged"):
        load_bad_batch(run_config, 3)
