"""An index gives the study at a position, also in the workers of a loader."""

from __future__ import annotations

import pickle
import resource
from multiprocessing import get_context

import pytest

from tests.platform.data.written import written, written_in_splits
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data import index as index_module
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.samples import (
    sample_files,
)
from vetdino.platform.data.shards import read
from vetdino.platform.data.study import SPLITS


def test_the_index_gives_what_the_stream_gives(tmp_path):
    written(tmp_path, 12, ShardConfig(max_bytes=10_000))
    index = pickle.loads(pickle.dumps(StudyIndex(tmp_path, "train")))
    stream = list(read(tmp_path, "train"))
    assert index.rows["key"].to_pylist() == [study.key for study in stream]
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
        assert here.recv() == [index.key(place) for place in places]
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


EACH_ALONE = ShardConfig(max_bytes=1)
"""One study a shard."""


@pytest.fixture
def few_files():
    """The process may open 256 files, as on macOS and on many clusters."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _keys_in_a_child_of_few_files(index: StudyIndex, pipe) -> None:
    pipe.send([index.load(place).key for place in range(len(index))])


def test_more_shards_than_a_process_may_open_are_read(tmp_path, few_files):
    written(tmp_path, 300, EACH_ALONE)
    index = StudyIndex(tmp_path, "train")
    keys = index.rows["key"].to_pylist()
    assert len(set(index.rows["shard"].to_pylist())) == 300
    for _ in range(2):
        assert [index.load(place).key for place in range(300)] == keys
    # The files of the parent stay usable, and the worker has its own.
    here, there = get_context("fork").Pipe()
    child = get_context("fork").Process(target=_keys_in_a_child_of_few_files, args=(index, there))
    child.start()
    assert here.recv() == keys
    child.join()
    assert [index.load(place).key for place in range(299, -1, -1)] == keys[::-1]
    here.close()
    there.close()


def test_the_file_used_longest_ago_is_closed(tmp_path, monkeypatch):
    opened, open_shard = [], index_module.open_shard

    def counted(files, path):
        opened.append((path[-5:-4], file := open_shard(files, path)))
        return file

    written(tmp_path, 4, EACH_ALONE)
    index = StudyIndex(tmp_path, "train", handles=2)
    monkeypatch.setattr(index_module, "open_shard", counted)
    for place in (0, 1, 0, 2, 0, 1):
        index.load(place)
    assert [shard for shard, _ in opened] == ["0", "1", "2", "1"]
    assert [file.closed for _, file in opened] == [False, True, True, False]
    copy = pickle.loads(pickle.dumps(index))
    del index
    assert all(file.closed for _, file in opened)
    assert copy.load(3).key == copy.key(3)


def test_a_study_is_found_by_its_key(tmp_path, monkeypatch):
    written(tmp_path, 30, ShardConfig(max_bytes=10_000))
    index = StudyIndex(tmp_path, "train")
    keys = [index.key(place) for place in (29, 0, 7)]
    wanted = [*keys, "elsewhere", "", "\U0001f436", keys[0]]
    one_by_one = index.find(wanted)
    assert one_by_one.tolist() == [29, 0, 7, -1, -1, -1, 29]
    monkeypatch.setattr(index_module, "MANY", 0)
    assert index.find(wanted).tolist() == one_by_one.tolist()
    assert StudyIndex(tmp_path, "val").find(keys).tolist() == [-1, -1, -1]
    assert index.find([]).tolist() == []


def test_values_come_study_by_study(tmp_path, monkeypatch):
    written(tmp_path, 7, EACH_ALONE)
    monkeypatch.setattr(index_module, "EACH", 3)
    index = StudyIndex(tmp_path, "train")
    assert [key for _, key in index.each("projections", "key")] == [index.key(place) for place in range(7)]
    assert [names for (names,) in index.each("projections")][:3] == ["VD", "VD LLAT", "VD LLAT VD"]


def test_positions_are_those_of_the_own_split(tmp_path):
    written_in_splits(tmp_path)
    for split in SPLITS:
        index = StudyIndex(tmp_path, split)
        assert [index.load(place).key for place in range(len(index))] == [
            study.key for study in read(tmp_path, split)
        ]
        assert set(index.rows["split"].to_pylist()) == {split}


def test_a_pickled_index_is_small_and_refuses_other_shards(tmp_path):
    written(tmp_path, 300)
    index = StudyIndex(tmp_path, "train")
    index.find([index.key(3)])
    content = pickle.dumps(index)
    assert len(content) < 500
    assert pickle.loads(content).rows == index.rows
    written(tmp_path, 5)
    with pytest.raises(ShardError, match="its shards have changed since they were opened"):
        pickle.loads(content)


def test_a_shard_that_is_larger_or_missing_is_found_without_reading_it(tmp_path, monkeypatch):
    manifest = written(tmp_path, 4, EACH_ALONE)
    monkeypatch.setattr(index_module, "open_shard", None)
    assert len(StudyIndex(tmp_path, "train")) == 4
    path = tmp_path / manifest.shards[2].path
    content = path.read_bytes()
    path.write_bytes(content + b"!")
    with pytest.raises(
        ShardError, match=rf"train-000002\.tar: {len(content) + 1:,} bytes, the manifest promises"
    ):
        StudyIndex(tmp_path, "train")
    path.unlink()
    with pytest.raises(ShardError, match=r"train-000002\.tar: missing, though the manifest lists it"):
        StudyIndex(tmp_path, "train")
    assert len(StudyIndex(tmp_path, "val")) == 0  # a folder may hold one split alone


def test_an_index_of_other_bytes_gives_no_other_study(tmp_path):
    """A tar of the same size whose studies lie elsewhere."""
    written(tmp_path, 2)
    index = StudyIndex(tmp_path, "train")
    path = tmp_path / "train-000000.tar"
    content = path.read_bytes()
    (start,) = index.rows["length"][:1].to_pylist()
    length = index.rows["length"][1].as_py()
    path.write_bytes(content[start : start + length] + content[:start] + content[start + length :])
    for place in range(2):
        with pytest.raises(ShardError, match=r"not the study of the index|its bytes are not those"):
            index.load(place)
