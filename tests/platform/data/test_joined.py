"""Several folders of shards as one sequence of studies."""

from __future__ import annotations

import pickle

import pytest

from tests.platform.data.written import written
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.joined import JoinedIndex


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Folders of three, no and two training studies."""
    for name, count in (("a", 3), ("b", 0), ("c", 2)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, count)
    return [str(tmp_path / name) for name in "abc"]


def keys_of(folder: str) -> list[str]:
    return StudyIndex(folder, "train").keys()


def test_positions_count_through_one_folder_after_the_other(folders):
    joined = JoinedIndex(folders, "train")
    assert (len(joined), joined.counts) == (5, [3, 0, 2])
    expected = [*keys_of(folders[0]), *keys_of(folders[2])]
    assert [joined.load(row).key for row in range(5)] == expected
    assert [pickle.loads(pickle.dumps(joined)).load(row).key for row in (4, 0)] == [expected[4], expected[0]]


def test_one_folder_is_its_index(folders):
    joined = JoinedIndex(folders[:1], "train")
    assert [joined.load(row).key for row in range(3)] == keys_of(folders[0])


def test_a_split_that_no_folder_has_is_empty(folders):
    assert len(JoinedIndex(folders, "val")) == 0
