"""Checkpoint folders: whole or not at all, believed only when their seal holds."""

from __future__ import annotations

import resource
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vetdino.platform.core.errors import CheckpointError
from vetdino.platform.training import checkpoint
from vetdino.platform.training.checkpoint import AsyncWriter


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


def test_the_best_is_kept_beside_the_newest(tmp_path):
    for step in (1, 2, 3, 10):
        written(tmp_path, step)
    checkpoint.prune(tmp_path, 1, best=2)
    assert sorted(map(checkpoint.step_of, tmp_path.glob("step_*"))) == [2, 10]
    checkpoint.prune(tmp_path, 1, best=10)
    assert sorted(map(checkpoint.step_of, tmp_path.glob("step_*"))) == [10]


def test_a_kill_while_one_is_removed_leaves_no_half_of_it_and_the_next_draft_clears_up(tmp_path, monkeypatch):
    for step in (1, 2):
        written(tmp_path, step)
    whole = shutil.rmtree

    def killed(folder, **options):
        (next(path for path in sorted(Path(folder).iterdir()) if path.is_file())).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.prune(tmp_path, 1)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", whole)
    for folder in tmp_path.glob("step_*"):
        checkpoint.verify(folder)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".gone_step_00000001", "step_00000002"]
    checkpoint.begin(tmp_path, 3)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [".draft_00000003", "step_00000002"]


def test_drafts_are_neither_counted_nor_removed_when_old_ones_go(tmp_path):
    written(tmp_path, 1)
    draft = checkpoint.begin(tmp_path, 2)
    checkpoint.prune(tmp_path, 1)
    assert draft.exists()
    assert checkpoint.step_of(checkpoint.newest(tmp_path)) == 1


def test_a_writer_that_was_given_nothing_has_nothing_to_wait_for():
    writer = AsyncWriter()
    writer.wait()
    assert writer._thread is None


def test_what_is_written_is_the_moment_of_the_start(tmp_path):
    writer, weight, held = AsyncWriter(), torch.arange(4.0), threading.Event()
    first, second = tmp_path / "new" / "first.safetensors", tmp_path / "second.safetensors"
    writer.start({first: {"a": weight, "b": weight[1:3]}, second: {"n": torch.tensor(7)}}, held.wait)
    weight.zero_()
    assert writer._thread.is_alive()
    held.set()
    writer.wait()
    assert {name: value.tolist() for name, value in load_file(first).items()} == {
        "a": [0, 1, 2, 3],
        "b": [1, 2],
    }
    assert load_file(second)["n"].item() == 7
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "first.safetensors",
        "new",
        "second.safetensors",
    ]


def test_a_second_start_waits_for_the_first_and_uses_its_memory_again(tmp_path):
    writer, weight, seen = AsyncWriter(), torch.zeros(3), []
    for value in (1.0, 2.0):
        weight.fill_(value)
        path = tmp_path / str(value) / "weights.safetensors"
        writer.start({path: {"w": weight}}, lambda path=path: seen.append(path.exists()))
    writer.wait()
    assert seen == [True, True]
    assert [load_file(path)["w"][0].item() for path in sorted(tmp_path.rglob("*.safetensors"))] == [1, 2]


def test_a_full_disk_is_reported_once_by_wait_and_leaves_no_file(tmp_path):
    writer, path = AsyncWriter(), tmp_path / "weights.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        writer.start({path: {"w": torch.zeros(1 << 19)}})
        with pytest.raises(CheckpointError, match=r"weights.safetensors: could not be written .*make room"):
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    writer.wait()


@pytest.mark.parametrize("ask", [AsyncWriter.wait, lambda writer: writer.start({})])
def test_a_failure_is_raised_by_the_next_call(ask, tmp_path):
    (tmp_path / "file").write_text("")
    writer = AsyncWriter()
    writer.start({tmp_path / "file" / "weights.safetensors": {"w": torch.zeros(1)}})
    writer._thread.join()
    with pytest.raises(CheckpointError, match="could not be written"):
        ask(writer)


def test_a_failure_of_what_follows_is_not_lost(tmp_path):
    def fail() -> None:
        raise KeyError("ours")

    writer = AsyncWriter()
    writer.start({}, fail)
    with pytest.raises(KeyError, match="ours"):
        writer.wait()
