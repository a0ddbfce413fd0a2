"""The files of a folder or the rows of a table, in the order of their paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vetdino.platform.core.errors import DataError
from vetdino.platform.ingest.config import IngestConfig, TableConfig
from vetdino.platform.ingest.discovery import discover


def a_folder(folder: Path) -> Path:
    for name in ("b", "a/2", "a/1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_every_file_below_a_folder_is_a_task_in_order(tmp_path):
    archive = discover(a_folder(tmp_path / "in"), tmp_path / "out", IngestConfig())
    assert [task.path for task in archive.tasks] == ["a/1", "a/2", "b"]
    assert {task.named for task in archive.tasks} == {None}
    assert (archive.findings, archive.labels) == ((), {})


def test_the_digest_changes_with_names_and_sizes(tmp_path):
    folder = a_folder(tmp_path / "in")
    digests = {discover(folder, tmp_path / "out", IngestConfig()).digest for _ in range(2)}
    (folder / "b").write_text("longer")
    digests.add(discover(folder, tmp_path / "out", IngestConfig()).digest)
    (folder / "b").rename(folder / "c")
    digests.add(discover(folder, tmp_path / "out", IngestConfig()).digest)
    assert len(digests) == 3


def test_the_table_of_labels_is_no_task(tmp_path):
    folder = a_folder(tmp_path / "in")
    (folder / "labels.csv").write_text("study,mass\n1.2,1\n")
    archive = discover(folder, tmp_path / "out", IngestConfig(labels=folder / "labels.csv"))
    assert [task.path for task in archive.tasks] == ["a/1", "a/2", "b"]
    assert archive.labels == {"1.2": {"mass": 1.0}}


def test_a_finding_in_one_row_of_a_study_is_in_the_study(tmp_path):
    (tmp_path / "t.csv").write_text("path,patient,study,mass\nb,p,s,1\na,p,s,0\nc,p,t,\n")
    archive = discover(tmp_path / "t.csv", tmp_path / "out", IngestConfig(table=TableConfig(labels="*")))
    assert [task.path for task in archive.tasks] == ["a", "b", "c"]
    assert archive.tasks[0].named == ("p", "s", "UNKNOWN")
    assert archive.labels["s"] == {"mass": 1.0}
    assert np.isnan(archive.labels["t"]["mass"])


@pytest.mark.parametrize(("source", "fact"), [("empty", "an empty folder"), ("gone", "no such folder")])
def test_a_source_without_files_is_refused(tmp_path, source, fact):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=fact):
        discover(tmp_path / source, tmp_path / "out", IngestConfig())


def test_the_output_may_not_lie_in_the_source(tmp_path):
    folder = a_folder(tmp_path / "in")
    with pytest.raises(DataError, match="inside the source"):
        discover(folder, folder / "out", IngestConfig())
