"""Checkpoint folders: whole or not at all, believed only when their seal holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from vetdino.platform import checkpoint
from vetdino.platform.errors import CheckpointError


def written(root: Path, step: int, content: str = "weights") -> Path:
    draft = checkpoint.begin(root, step)
    (draft / "engine").mkdir()
    (draft / "engine" / "weights.pt").write_text(f"{content} {step}")
    (draft / "position.json").write_text("{}")
    return checkpoint.publish(root, step)


def test_where_nothing_was_written_there_is_no_newest(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "missing") is None


def test_the_newest_of_several_is_found_and_tells_its_step(tmp_path):
    for step in (5, 100, 20):
        written(tmp_path, step)
    newest = checkpoint.newest(tmp_path)
    assert newest == checkpoint.folder_of(tmp_path, 100)
    assert checkpoint.step_of(newest) == 100


def test_a_draft_is_no_checkpoint(tmp_path):
    written(tmp_path, 1)
    draft = checkpoint.begin(tmp_path, 2)
    (draft / "weights").write_text("half")
    assert checkpoint.step_of(checkpoint.newest(tmp_path)) == 1


def test_a_draft_that_a_killed_run_left_is_begun_afresh(tmp_path):
    (checkpoint.begin(tmp_path, 2) / "old").write_text("half")
    assert list(checkpoint.begin(tmp_path, 2).iterdir()) == []


def test_publishing_a_step_again_replaces_it(tmp_path):
    written(tmp_path, 3, "old")
    folder = written(tmp_path, 3, "new")
    assert (folder / "engine" / "weights.pt").read_text() == "new 3"
    checkpoint.verify(folder)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "engine" / "weights.pt").write_text("other"), "engine/weights.pt: differs"),
        (lambda folder: (folder / "position.json").unlink(), "position.json: is missing"),
        (lambda folder: (folder / checkpoint.SEAL).unlink(), "no readable seal.json"),
        (lambda folder: (folder / checkpoint.SEAL).write_text("{"), "no readable seal.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(harm, said, tmp_path):
    before, last = written(tmp_path, 1), written(tmp_path, 2)
    harm(last)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.verify(last)
    with pytest.warns(RuntimeWarning, match=f"{said}.*using the one before it"):
        assert checkpoint.newest(tmp_path) == before


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        written(tmp_path, step)
    checkpoint.prune(tmp_path, 2)
    assert sorted(map(checkpoint.step_of, tmp_path.glob("step_*"))) == [3, 10]
