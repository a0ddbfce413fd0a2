"""An output folder and its versions."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest

from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.core.errors import DataError
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.data.shards import read
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.ingest.output import versions
from vetdino.platform.ingest.output.versions import Provenance, keep_manifest, link_or_copy, newest_version

MADE = Provenance("settings", "secret", "tables")


def test_an_empty_folder_has_no_version(tmp_path):
    assert newest_version(tmp_path / "gone", MADE) is None
    assert newest_version(tmp_path, MADE) is None


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="something else"):
        newest_version(tmp_path, MADE)
    with pytest.raises(DataError, match="something else"):
        newest_version(tmp_path / "notes.txt", MADE)


def test_an_older_version_can_be_read_from_a_copy(archive, tmp_path, config):
    out = tmp_path / "out"
    first = ingest(archive, out, config)
    write_dicom(archive / "new1", "Rex", "1.2.3.77", 500)
    write_dicom(archive / "new2", "Rex", "1.2.3.77", 501)
    second = ingest(archive, out, config)
    assert second.counts["studies"] == first.counts["studies"] + 1
    shutil.copytree(out, tmp_path / "older")
    os.replace(tmp_path / "older" / "manifest-000001.json", tmp_path / "older" / "manifest.json")
    assert load_manifest(tmp_path / "older") == first
    (tmp_path / "older" / "index.parquet").unlink(missing_ok=True)
    old = {study.key for split in ("train", "val", "test") for study in read(tmp_path / "older", split)}
    assert len(old) == first.counts["studies"]


def test_a_version_knows_its_files_and_the_highest_number_of_any_shard(archive, tmp_path, config):
    out = tmp_path / "out"
    manifest = ingest(archive, out, config)
    made = Provenance(**json.loads((out / "ingest.json").read_text()))
    version = newest_version(out, made)
    assert version.manifest == manifest
    rows = list(version.rows())
    assert len(rows) == manifest.counts["files"]
    assert sum(not row.code for row in rows) == manifest.counts["views"]
    assert {row.shard for row in rows if row.shard} == {shard.path for shard in manifest.shards}
    split = manifest.shards[0].split
    assert version.last_number(split) == 0
    (out / "manifest-000001.json").write_text(f'"{split}-000041.tar"')
    assert version.last_number(split) == 41
    with pytest.raises(DataError, match="other settings"):
        newest_version(out, replace(made, settings="x"))
    with pytest.raises(DataError, match="another secret"):
        newest_version(out, replace(made, secret="x"))
    (out / "manifest-000001.json").unlink()
    keep_manifest(version)  # as a run that was killed before it put the new manifest in place
    assert newest_version(out, made).number == 1
    table = (out / "files-000001.parquet").read_bytes()
    for damaged in (table[:-20], table[: len(table) // 3] + b"\0" * 40 + table[len(table) // 3 + 40 :]):
        (out / "files-000001.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"files-000001\.parquet: damaged"):
            list(newest_version(out, made).rows())
    (out / "files-000001.parquet").unlink()
    with pytest.raises(DataError, match=r"files-000001\.parquet is missing"):
        newest_version(out, made)


def test_a_file_is_linked_or_copied(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("old")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")

    def refuse(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(versions.os, "link", refuse)
    (tmp_path / "a").chmod(0o600)
    link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "c").read_text() == "a"
    assert not (tmp_path / "c").samefile(tmp_path / "a")
