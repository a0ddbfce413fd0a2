"""The JSON of each sample, and chosen pictures of it, without reading the others."""

from __future__ import annotations

import pytest

from tests.platform.data.written import a_study
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.manifest import Manifest, load_manifest, save_manifest
from vetdino.platform.data.records import study_records
from vetdino.platform.data.samples import stored_view
from vetdino.platform.data.shards import ShardWriter


@pytest.fixture
def shards(tmp_path):
    studies = [a_study(number) for number in range(7)]
    with ShardWriter(tmp_path, "train", ShardConfig(max_bytes=20_000)) as writer:
        for study in studies:
            writer.write(study)
    assert len(writer.shards) > 1
    save_manifest(tmp_path, Manifest(1, "dogs", (), tuple(writer.shards), {}, ""))
    return tmp_path, studies


def test_every_study_has_one_record_in_order(shards):
    folder, studies = shards
    found = list(study_records(folder, load_manifest(folder)))
    assert [record["key"] for record, _ in found] == [study.key for study in studies]
    assert [len(record["views"]) for record, _ in found] == [len(study.views) for study in studies]
    assert all(files == {} for _, files in found)


def test_chosen_pictures_come_along(shards):
    folder, studies = shards
    found = study_records(
        folder,
        load_manifest(folder),
        lambda record: [record["views"][-1]["file"]] if record["key"] != studies[2].key else [],
    )
    for (record, files), study in zip(found, studies, strict=True):
        if study is studies[2]:
            assert files == {}
        else:
            assert files == {record["views"][-1]["file"]: stored_view(study.views[-1], ShardConfig()).encoded}


def test_a_cut_shard_is_an_error(shards):
    folder, _ = shards
    path = folder / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ShardError, match=r"train-000000.tar: not a whole tar"):
        list(study_records(folder, load_manifest(folder)))
