"""An index gives the study at a position, also in the workers of a loader."""

from __future__ import annotations

import pickle
from multiprocessing import get_context

import pytest

from tests.platform.data.written import written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.samples import (
    sample_files,
)
from vetdino.platform.data.shards import read


def test_the_index_gives_what_the_stream_gives(tmp_path):
    written(tmp_path, 12, ShardConfig(max_bytes=10_000))
    index = pickle.loads(pickle.dumps(StudyIndex(tmp_path, "train")))
    stream = list(read(tmp_path, "train"))
    assert index.keys() == [study.key for study in stream]
    for place in (11, 0, 5, 5):
        assert sample_files(index.load(place), ShardConfig()) == sample_files(stream[place], ShardConfig())


def _keys_in_a_child(index: StudyIndex, places: list[int], pipe) -> None:
    pipe.send([index.load(place).key for place in places])


def test_workers_share_an_index_without_sharing_its_files(tmp_path):
    written(tmp_path, 12, ShardConfig(max_bytes=10_000))
    index = StudyIndex(tmp_path, "train")
    index.load(0)  # opens a file in this process
    context = get_context("fork")
    for places in ([3, 1], [11]):
        here, there = context.Pipe()
        child = context.Process(target=_keys_in_a_child, args=(index, places, there))
        child.start()
        assert here.recv() == [index.keys()[place] for place in places]
        child.join()
        here.close()
        there.close()


def test_an_index_names_its_split_and_its_size(tmp_path):
    written(tmp_path, 3)
    assert repr(StudyIndex(tmp_path, "train")) == "StudyIndex(train, 3 studies in 1 shards)"
    assert len(StudyIndex(tmp_path, "val")) == 0


def test_a_shard_cut_after_it_was_indexed_is_refused(tmp_path):
    written(tmp_path, 3)
    index = StudyIndex(tmp_path, "train")
    path = tmp_path / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ShardError, match="shorter than it was"):
        index.load(2)
