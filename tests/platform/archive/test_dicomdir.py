"""A DICOMDIR is an index: it is no picture, and what it names in vain is missing."""

from __future__ import annotations

import os

import pytest

from tests.platform.ingest.packing import dicomdir, pack, tree_of
from tests.platform.ingest.radiographs import radiograph, saved, write_dicom
from vetdino.platform.archive.dicomdir import is_dicomdir, missing_below, named_files
from vetdino.platform.archive.discovery import discover, place_of
from vetdino.platform.core.errors import DataError
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import decode


def test_a_picture_is_no_dicomdir():
    assert not is_dicomdir(saved(radiograph())[:512])
    assert is_dicomdir(dicomdir(["A/B"])[:512])


def test_it_names_files_in_its_order_each_once():
    assert named_files(dicomdir([])) == []
    assert named_files(dicomdir(["B/IM2", "A", "B/IM2"])) == ["B/IM2", "A"]


def test_a_name_breaks_no_table():
    data = dicomdir(["AB/IM"]).replace(b"AB\\IM", b"A\0\\\nM")
    assert named_files(data) == ["A?/?M"]


def test_what_cannot_be_read_names_nothing():
    data = dicomdir(["A"])
    assert named_files(data[:200]) is None
    assert named_files(b"DICM" * 99) is None


def test_capitals_do_not_matter_and_nothing_outside_is_looked_at(tmp_path):
    (tmp_path / "medium" / "dicom").mkdir(parents=True)
    (tmp_path / "medium" / "dicom" / "im1").write_bytes(b"x")
    (tmp_path / "outside").write_bytes(b"x")
    names = ["DICOM/IM1", "dicom/im1", "DICOM/IM2", "DICOM", "../outside", f"{tmp_path}/outside"]
    assert missing_below(tmp_path / "medium", names) == names[2:]


@pytest.fixture
def medium(tmp_path):
    for number in range(3):
        write_dicom(tmp_path / "cd" / "PAT" / f"IM{number}", "Rex", "1.2.3", number)
    (tmp_path / "cd" / "DICOMDIR").write_bytes(dicomdir(["PAT/IM0", "PAT/IM1", "PAT/IM7", "PAT/IM2"]))
    return tmp_path / "cd"


@pytest.mark.parametrize("kind", ["", "zip", "tar", "tgz"])
def test_a_medium_is_its_pictures_and_what_it_lacks(tmp_path, medium, kind):
    if kind:
        pack(tmp_path / "in" / "cd", tree_of(medium), kind)
    folder = tmp_path / "in" if kind else medium
    entries = list(discover(folder, tmp_path / "out").entries())
    start, missing = ("cd!/", "cd!/PAT/IM7") if kind else ("", "DICOMDIR!/PAT/IM7")
    paths = [f"{start}PAT/IM{number}" for number in range(3)]
    codes = {entry.task.path: decode(folder, entry, b"key", IngestConfig()).code for entry in entries}
    assert codes == {**dict.fromkeys(paths, ""), missing: "MISSING_FILE"}
    assert entries == sorted(entries, key=place_of)


def test_a_damaged_dicomdir_is_refused_as_any_file(medium, tmp_path):
    path = medium / "DICOMDIR"
    path.write_bytes(path.read_bytes()[:300])
    entry = next(discover(medium, tmp_path / "out").entries())
    assert entry.task.path == "DICOMDIR"
    assert decode(medium, entry, b"key", IngestConfig()).code in ("NO_PIXEL_DATA", "TRUNCATED_FILE")


def test_a_folder_with_nothing_but_an_index_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "DICOMDIR").write_bytes(dicomdir([]))
    with pytest.raises(DataError, match="an empty folder"):
        discover(tmp_path / "in", tmp_path / "out")
    assert os.listdir(tmp_path / "in") == ["DICOMDIR"]
