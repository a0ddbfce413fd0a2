"""Labels without pictures: the same as a reading of everything, and damage is named."""

from __future__ import annotations

import json

import pytest

from tests.platform.data.written import written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.labels import studies_without_views
from vetdino.platform.data.manifest import load_manifest, save_manifest
from vetdino.platform.data.shards import read


def test_a_split_without_studies_has_no_labels(tmp_path):
    written(tmp_path, 0)
    assert list(studies_without_views(tmp_path, "train")) == []


def test_they_are_what_a_whole_reading_gives_in_its_order(tmp_path):
    written(tmp_path, 7)
    whole, light = list(read(tmp_path, "train")), list(studies_without_views(tmp_path, "train"))
    assert [(one.key, one.patient, one.split) for one in light] == [
        (one.key, one.patient, one.split) for one in whole
    ]
    assert json.dumps([one.labels for one in light]) == json.dumps([one.labels for one in whole])
    assert not any(one.views for one in light)


def test_a_cut_shard_is_named(tmp_path):
    manifest = written(tmp_path, 7)
    path = tmp_path / manifest.shards[0].path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 512 * 512])
    with pytest.raises(ShardError, match=f"{path.name}.*; ingest again"):
        list(studies_without_views(tmp_path, "train"))


def test_damaged_json_is_named_by_its_place(tmp_path):
    manifest = written(tmp_path, 2)
    path = tmp_path / manifest.shards[0].path
    path.write_bytes(path.read_bytes().replace(b'{"key":', b'["key":'))
    with pytest.raises(ShardError, match=r"study 1 of 2: its JSON is damaged"):
        list(studies_without_views(tmp_path, "train"))


def test_a_missing_shard_is_named(tmp_path):
    manifest = written(tmp_path, 2)
    (tmp_path / manifest.shards[0].path).unlink()
    save_manifest(tmp_path, load_manifest(tmp_path))
    with pytest.raises(ShardError, match="missing, though the manifest lists it"):
        list(studies_without_views(tmp_path, "train"))
