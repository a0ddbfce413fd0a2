"""Episode training: logged, resumable at any step, and refused in a folder of something else."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vetdino.downstream.fewshot.learn import training
from vetdino.downstream.fewshot.learn.encoder import WEIGHTS
from vetdino.downstream.fewshot.learn.losses import episode_losses
from vetdino.downstream.fewshot.learn.trained import load_trained_encoders
from vetdino.downstream.fewshot.learn.training import STATE, train
from vetdino.platform.core.errors import CheckpointError, DataError, TrainingError
from vetdino.platform.core.run_folder import history
from vetdino.platform.models.backbone import random_like

pytestmark = pytest.mark.slow


def weight_files(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob(f"*/{WEIGHTS}"))}


def test_a_training_is_logged(finished):
    lines = history(finished)
    assert [line["step"] for line in lines] == [3, 6, 7]
    for name in ("loss", "segmentation", "alignment", "lr", "seconds a step"):
        assert np.isfinite([line[f"fold_1_organs_1/{name}"] for line in lines]).all()
    with (finished / "encoders.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fold"], row["organs"], row["steps"]) for row in rows] == [
        ("0", "liver", "7"),
        ("1", "liver", "7"),
    ]
    # 2 of 5 slices are without a liver; the scan without labels is not drawn from.
    assert {row["slices"] for row in rows} == {"2"}


@pytest.mark.parametrize("at", [0, 2, 4, 7, 11])
def test_stopped_at_any_step_and_resumed_it_ends_the_same_bit_for_bit(
    tiny, finished, quick, volumes_class, tmp_path, monkeypatch, at
):
    calls = iter(range(1000))

    def interrupted(*arguments):
        if next(calls) == at:
            raise KeyboardInterrupt
        return episode_losses(*arguments)

    monkeypatch.setattr(training, "episode_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(volumes_class(), tiny, quick, tmp_path / "out")
    with pytest.raises(CheckpointError, match="run it again"):
        load_trained_encoders(tmp_path / "out", tiny)
    train(volumes_class(), tiny, quick, tmp_path / "out")
    assert weight_files(tmp_path / "out") == weight_files(finished)
    for one, other in zip(history(tmp_path / "out"), history(finished), strict=True):
        timeless = [name for name in one if name != "time" and not name.endswith("seconds a step")]
        assert [one[name] for name in timeless] == [other[name] for name in timeless]


def test_blocks_beyond_the_layers_are_left_as_they_are(tiny, quick, volumes_class, tmp_path):
    config = replace(quick, slices=replace(quick.slices, layers=(0,)))
    train(volumes_class(), tiny, config, tmp_path / "out")
    assert weight_files(tmp_path / "out")


def test_a_finished_training_is_not_repeated(tiny, finished, quick, volumes_class, monkeypatch):
    before = weight_files(finished)
    monkeypatch.setattr(training, "episode_losses", lambda *_: pytest.fail("a step was taken"))
    train(volumes_class(), tiny, quick, finished)
    assert weight_files(finished) == before


def test_a_folder_of_another_training_is_refused(tiny, finished, quick, volumes_class):
    with pytest.raises(DataError, match="other settings"):
        train(volumes_class(), tiny, replace(quick, lr=0.02), finished)
    with pytest.raises(DataError, match="other backbone"):
        train(volumes_class(), random_like(tiny, 4), quick, finished)


def test_a_folder_of_something_else_is_refused_and_untouched(tiny, quick, volumes_class, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        train(volumes_class(), tiny, quick, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_state_is_named(tiny, finished, quick, volumes_class, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    state = tmp_path / "out" / "fold_0_organs_1" / STATE
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{STATE}: damaged"):
        train(volumes_class(), tiny, quick, tmp_path / "out")


def test_a_diverging_loss_stops_with_the_slice_that_gave_it(tiny, quick, volumes_class, tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+, scan \d, slice \d"):
        train(volumes_class(), tiny, replace(quick, lr=1e30), tmp_path / "out")
