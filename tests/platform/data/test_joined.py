"""Several folders of shards as one sequence of studies."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.platform.data.written import written
from vetdino.platform.data.index import HANDLES, StudyIndex
from vetdino.platform.data.joined import JoinedIndex
from vetdino.platform.data.manifest import load_manifest, save_manifest
from vetdino.platform.data.rows import label_matrix


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Folders of three, no and two training studies."""
    for name, count in (("a", 3), ("b", 0), ("c", 2)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, count)
    return [str(tmp_path / name) for name in "abc"]


def keys_of(folder: str) -> list[str]:
    return StudyIndex(folder, "train").rows["key"].to_pylist()


def test_positions_count_through_one_folder_after_the_other(folders):
    joined = JoinedIndex(folders, "train")
    assert (len(joined), joined.counts) == (5, [3, 0, 2])
    expected = [*keys_of(folders[0]), *keys_of(folders[2])]
    assert [joined.load(row).key for row in range(5)] == expected
    assert [pickle.loads(pickle.dumps(joined)).load(row).key for row in (4, 0)] == [expected[4], expected[0]]


def test_one_folder_is_its_index(folders):
    joined = JoinedIndex(folders[:1], "train")
    assert [joined.load(row).key for row in range(3)] == keys_of(folders[0])


def test_rows_are_those_of_all_folders_and_what_one_does_not_know_is_unknown(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "d")
    manifest = replace(load_manifest(folders[0]), findings=("effusion", "fracture"))
    save_manifest(tmp_path / "d", manifest)
    rows = JoinedIndex([*folders, str(tmp_path / "d")], "train").rows
    assert rows["key"].to_pylist() == [*keys_of(folders[0]), *keys_of(folders[2]), *keys_of(folders[0])]
    labels_NF = label_matrix(rows, ("effusion", "fracture"))
    assert (labels_NF[:, 0] == 1).all()
    assert np.isnan(labels_NF[:, 1]).all()


def test_a_split_that_no_folder_has_is_empty(folders):
    assert len(JoinedIndex(folders, "val")) == 0


def test_all_folders_together_open_as_few_files_as_one(folders):
    joined = pickle.loads(pickle.dumps(JoinedIndex(folders, "train")))
    assert (
        sum(part.handles for part in joined.parts)
        <= HANDLES
        == JoinedIndex(folders[:1], "train").parts[0].handles
    )
