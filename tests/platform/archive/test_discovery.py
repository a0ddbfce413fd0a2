"""The files of a folder or the rows of a table, in the order of their paths."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vetdino.platform.archive.config import TableConfig
from vetdino.platform.archive.discovery import ArchiveSource, DecodeTask, discover, open_bytes
from vetdino.platform.archive.tables import patient_study
from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.core.location import Location
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.decoding import decode
from vetdino.platform.ingest.ranges import RETRIED


def a_folder(folder: Path) -> Path:
    for name in ("b", "a/2", "a/1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def tasks(archive: ArchiveSource) -> list[DecodeTask]:
    return [file.task for file in archive.entries()]


def paths(archive: ArchiveSource) -> list[str]:
    return [task.path for task in tasks(archive)]


def test_every_file_below_a_folder_is_a_task_in_order(tmp_path):
    archive = discover(Location(a_folder(tmp_path / "in")), tmp_path / "out")
    assert paths(archive) == ["a/1", "a/2", "b"]
    assert {task.named for task in tasks(archive)} == {None}
    assert (archive.findings, archive.labels) == ((), {})


def test_files_are_listed_with_size_and_stamp_in_the_order_of_all_paths(tmp_path):
    folder = tmp_path / "in"
    for name in ("a/b/c", "a-b", "a/b-c", "a.b", "A/x", "a/0", "ab", "a/b/a/d"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    archive = discover(Location(folder), tmp_path / "out")
    files = list(archive.entries())
    names = [file.task.path for file in files]
    assert names == sorted(names)
    assert len(names) == 8
    assert [file.size for file in files] == [len(name) for name in names]
    before = {file.stamp for file in files}
    os.utime(folder / "ab", ns=(1, 1))
    assert {file.stamp for file in archive.entries()} - before == {"1"}


def test_only_the_folders_on_the_way_are_in_memory(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        (tmp_path / "in" / str(number) / "x").write_text("x")
    scans = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(path) or scan(path))
    entries = discover(Location(tmp_path / "in"), tmp_path / "out").entries()
    scans.clear()
    assert next(entries).task.path == "0/x"
    assert len(scans) == 2


def test_a_url_is_listed_as_its_folder_is(tmp_path):
    import fsspec

    files = fsspec.filesystem("memory")
    for name in ("a/b/c", "a-b", "a/b-c"):
        files.pipe_file(f"/archive/{name}", name.encode())
    try:
        archive = discover(Location("memory://archive"), tmp_path / "out")
        found = list(archive.entries())
        assert [file.task.path for file in found] == ["a-b", "a/b-c", "a/b/c"]
        assert [file.size for file in found] == [3, 5, 5]
        with open_bytes(archive.root, found[0].task) as file:
            assert file.read() == b"a-b"
        with pytest.raises(DataError, match="nowhere"):
            discover(Location("memory://nowhere"), tmp_path / "out")
    finally:
        files.rm("/archive", recursive=True)


def test_a_task_survives_as_text():
    for task in (DecodeTask("a\udcff/\u00e9"), DecodeTask("x", ("p", "s", "VD"), "L")):
        assert DecodeTask.from_text(task.to_text()) == task


def test_the_table_of_labels_is_no_task(tmp_path):
    folder = a_folder(tmp_path / "in")
    (folder / "labels.csv").write_text("study,mass\n1.2,1\n")
    archive = discover(Location(folder), tmp_path / "out", labels=folder / "labels.csv")
    assert paths(archive) == ["a/1", "a/2", "b"]
    assert archive.labels == {"1.2": {"mass": 1.0}}


def test_a_finding_in_one_row_of_a_study_is_in_the_study(tmp_path):
    (tmp_path / "t.csv").write_text("path,patient,study,mass\nb,p,s,1\na,p,s,0\nc,p,t,\n")
    archive = discover(Location(tmp_path / "t.csv"), tmp_path / "out", TableConfig(labels="*"))
    assert paths(archive) == ["a", "b", "c"]
    assert tasks(archive)[0].named == ("p", "s", "UNKNOWN")
    assert archive.labels["s"] == {"mass": 1.0}
    assert np.isnan(archive.labels["t"]["mass"])


def a_restarting_table(folder: Path) -> Path:
    """Six pictures of three patients, whose studies are numbered from 0 for each."""
    table = folder / "t.csv"
    rows = [("p", 0, 1), ("p", 1, 0), ("q", 0, 0), ("q", 1, 1), ("r", 0, ""), ("r", 2, 1)]
    lines = [f"{number}.png,{patient},{study},{mass}" for number, (patient, study, mass) in enumerate(rows)]
    table.write_text("\n".join(["path,patient,study,mass", *lines]) + "\n")
    return table


def test_studies_that_restart_for_each_patient_are_kept_apart(tmp_path, caplog):
    config = TableConfig(labels="*")
    archive = discover(Location(a_restarting_table(tmp_path)), tmp_path / "out", config)
    studies = [task.named[1] for task in tasks(archive)]
    assert studies == [patient_study(*pair) for pair in ("p0", "p1", "q0", "q1", "r0", "r2")]
    assert [archive.labels[study]["mass"] for study in studies[:4]] == [1, 0, 0, 1]
    assert "recur under several patients" in caplog.text


def test_one_wrong_patient_does_not_divide_the_studies(tmp_path):
    rows = ["path,patient,study", "a,p,1", "b,p,1", "c,p,2", "d,q,3", "e,q,3", "f,p,3"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    archive = discover(Location(tmp_path / "t.csv"), tmp_path / "out")
    assert [task.named[1] for task in tasks(archive)] == ["1", "1", "2", "3", "3", "3"]


def test_labels_of_a_table_of_their_own_join_those_of_an_image_table(tmp_path):
    (tmp_path / "t.csv").write_text("path,patient,study,mass\na,p,s,\nb,q,t,0\n")
    (tmp_path / "l.csv").write_text("study,edema,mass\ns,1,1\nt,NA,\nelse,0,0\n")
    columns, more = TableConfig(labels="mass"), tmp_path / "l.csv"
    archive = discover(Location(tmp_path / "t.csv"), tmp_path / "out", columns, more)
    assert archive.findings == ("mass", "edema")
    assert archive.labels["s"] == {"mass": 1.0, "edema": 1.0}
    assert archive.labels["t"]["mass"] == 0
    assert np.isnan(archive.labels["t"]["edema"])
    (tmp_path / "l.csv").write_text("study,edema\nu,1\n")
    with pytest.raises(DataError, match="names none of the 2 studies"):
        discover(Location(tmp_path / "t.csv"), tmp_path / "out", columns, more)


def test_labels_of_studies_that_restart_need_the_patient(tmp_path):
    table = a_restarting_table(tmp_path)
    (tmp_path / "l.csv").write_text("study,edema\n0,1\n")
    with pytest.raises(DataError, match="no column for the patient"):
        discover(Location(table), tmp_path / "out", labels=tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("patient,study,edema\np,0,1\nq,0,0\n")
    archive = discover(Location(table), tmp_path / "out", labels=tmp_path / "l.csv")
    assert [archive.labels[patient_study(patient, "0")]["edema"] for patient in "pq"] == [1, 0]


def test_what_cannot_be_looked_at_is_listed_and_not_passed_over(tmp_path):
    folder = a_folder(tmp_path / "in")
    (folder / "broken").symlink_to("nowhere")
    (folder / "linked").symlink_to(tmp_path / "in" / "a", target_is_directory=True)
    archive = discover(Location(folder), tmp_path / "out")
    assert paths(archive) == ["a/1", "a/2", "b", "broken", "linked"]
    refused = {file.task.path: decode(folder, file, b"key", IngestConfig()) for file in archive.entries()}
    assert refused["broken"].code == "MISSING_FILE"
    assert refused["linked"].detail == "a link to a folder; it is not followed"


def test_a_folder_without_permission_is_listed(tmp_path, monkeypatch):
    folder = a_folder(tmp_path / "in")
    scan = os.scandir

    def refuse(path: str) -> object:
        if Path(path) == folder / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    closed = "a"
    assert paths(discover(Location(folder), tmp_path / "out")) == ["a", "b"]
    closed = ""
    with pytest.raises(DataError, match="cannot be listed"):
        discover(Location(folder), tmp_path / "out")


def failing_open(folder: Path, name: str, error: OSError):
    """`open` that fails for one file."""
    real = open

    def opened(path, *arguments, **options):
        if Path(path) == folder / name:
            raise error
        return real(path, *arguments, **options)

    return opened


def test_a_disk_that_fails_for_once_stops_the_listing_and_loses_no_study(tmp_path, monkeypatch):
    folder = a_folder(tmp_path / "in")
    archive = discover(Location(folder), tmp_path / "out")
    scan = os.scandir

    def fail(path: str) -> object:
        if Path(path) == folder / "a":
            raise OSError(5, "Input/output error", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(DataError, match=r"cannot be listed \(Input/output error\); run again") as caught:
        list(archive.entries())
    assert "in/a" not in str(caught.value)


def test_a_container_that_cannot_be_opened_for_once_is_read_again(tmp_path, monkeypatch):
    folder = a_folder(tmp_path / "in")
    with zipfile.ZipFile(folder / "studies.zip", "w") as archive:
        archive.writestr("one", "1")
    found = discover(Location(folder), tmp_path / "out")
    assert [task.path for task in tasks(found) if task.member] == ["studies.zip!/one"]
    for error, code in (
        (OSError(5, "Input/output error"), "UNREADABLE_HEADER"),
        (PermissionError(13, "x"), ""),
    ):
        monkeypatch.setattr("builtins.open", failing_open(folder, "studies.zip", error))
        [entry] = [file for file in found.entries() if file.task.path.startswith("studies.zip")]
        assert (entry.task.member.code if entry.task.member else "") == code
        assert code in ("", *RETRIED)


def test_files_that_are_called_dicom_are_not_opened_to_be_listed(tmp_path, monkeypatch):
    folder = a_folder(tmp_path / "in")
    for name in ("x.dcm", "y.DICOM", "z.ima"):
        (folder / name).write_text("x")
    archive = discover(Location(folder), tmp_path / "out")
    opened: list[str] = []
    real = open
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *rest, **more: opened.append(Path(path).name) or real(path, *rest, **more),
    )
    assert len(paths(archive)) == 6
    assert sorted(opened) == ["1", "2", "b"]


def test_columns_of_labels_without_a_table_are_an_error(tmp_path):
    config = TableConfig(labels="*")
    with pytest.raises(ConfigError, match="--labels"):
        discover(Location(a_folder(tmp_path / "in")), tmp_path / "out", config)


@pytest.mark.parametrize(("source", "fact"), [("empty", "an empty folder"), ("gone", "no such folder")])
def test_a_source_without_files_is_refused(tmp_path, source, fact):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=fact):
        discover(Location(tmp_path / source), tmp_path / "out")


def test_the_output_may_not_lie_in_the_source(tmp_path):
    folder = a_folder(tmp_path / "in")
    with pytest.raises(DataError, match="inside the source"):
        discover(Location(folder), folder / "out")
