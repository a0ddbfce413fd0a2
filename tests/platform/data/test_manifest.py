"""A manifest lists what was written, and a damaged folder is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.platform.data.written import written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.manifest import load_manifest, save_manifest


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"no manifest\.json here"):
        load_manifest(tmp_path)


def test_a_damaged_manifest_names_the_place(tmp_path):
    written(tmp_path, 1)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"studies": 1', '"studies": "many"'))
    with pytest.raises(ShardError, match=r"damaged at shards\.0\.studies"):
        load_manifest(tmp_path)


def test_a_manifest_of_another_version_is_refused(tmp_path):
    save_manifest(tmp_path, replace(written(tmp_path, 1), version=99))
    with pytest.raises(ShardError, match="version 99"):
        load_manifest(tmp_path)


def test_a_manifest_comes_back_as_it_was_saved(tmp_path):
    manifest = written(tmp_path, 3)
    assert load_manifest(tmp_path) == manifest
    assert manifest.of("train") == manifest.shards
    assert (manifest.studies("train"), manifest.studies("test")) == (3, 0)
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_the_digest_changes_with_anything_in_the_manifest(tmp_path):
    manifest = written(tmp_path, 1)
    shard = replace(manifest.shards[0], sha256="0" * 64)
    others = [
        replace(manifest, name="other"),
        replace(manifest, shards=(shard,)),
        replace(manifest, counts={}),
    ]
    assert len({manifest.digest, *(other.digest for other in others)}) == 4
