"""A row says of a study what its sample in the tar says."""

from __future__ import annotations

import io
import json
import math
import tarfile

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.platform.data.written import written, written_in_splits
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index_file import INDEX, index_table, save_index
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.rows import (
    COLUMNS,
    label_matrix,
    reading_order,
    rows_table,
    scan_shard,
    shards_digest,
    view_counts,
)
from vetdino.platform.data.samples import stored_view
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import PROJECTIONS, SPLITS, StoredView, Study, View

JPEG = stored_view(View(np.zeros((8, 8), np.uint8)), ShardConfig()).encoded

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
views = st.builds(
    StoredView,
    st.binary(max_size=1500).map(lambda noise: JPEG + noise),
    st.sampled_from(PROJECTIONS),
    modality=st.sampled_from(["", "DX", "CR"]),
    facts=st.dictionaries(text, text, max_size=2),
)
studies = st.builds(
    Study,
    st.text("0123456789abcdefé-", min_size=1, max_size=24),
    text,
    st.lists(views, min_size=1, max_size=4).map(tuple),
    st.dictionaries(text, st.sampled_from([0.0, 1.0, 0.5, math.nan]), max_size=3),
    st.sampled_from(SPLITS),
)


def written_studies(folder, some: list[Study], limit: int) -> Manifest:
    """A folder of these studies with its manifest and index."""
    shards, rows = [], []
    for split in SPLITS:
        with ShardWriter(folder, split, ShardConfig(max_bytes=limit)) as writer:
            for study in some:
                if study.split == split:
                    writer.write(study)
        shards += writer.shards
        rows += writer.rows
    findings = sorted({name for study in some for name in study.labels})[1:]  # one of them is not listed
    manifest = Manifest(VERSION, "any", tuple(findings), tuple(shards), {}, "")
    save_manifest(folder, manifest)
    save_index(folder, manifest, rows)
    return manifest


@settings(max_examples=15, deadline=None)
@given(st.lists(studies, max_size=8, unique_by=lambda study: study.key), st.integers(1, 20_000))
def test_rows_are_what_python_s_own_tarfile_and_json_say(tmp_path_factory, some, limit):
    folder = tmp_path_factory.mktemp("shards")
    manifest = written_studies(folder, some, limit)
    table = index_table(folder, manifest)
    expected = [study for split in SPLITS for study in some if study.split == split]
    assert table["key"].to_pylist() == [study.key for study in expected]
    labels_NF = label_matrix(table, manifest.findings)
    for row, place, study in zip(table.to_pylist(), labels_NF, expected, strict=True):
        content = (folder / row["shard"]).read_bytes()[row["offset"] : row["offset"] + row["length"]]
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = {header.name: tar.extractfile(header).read() for header in tar}
        record = json.loads(files.pop(f"{row['key']}.json"))
        assert list(files.values()) == [view.encoded for view in study.views]
        assert (record["key"], record["patient"]) == (row["key"], row["patient"])
        assert record["split"] == row["split"] == study.split
        assert [view["projection"] for view in record["views"]] == row["projections"].split()
        assert {view["modality"] for view in record["views"]} - {""} == set(row["modality"].split())
        known = {name: record["labels"].get(name) for name in manifest.findings}
        assert {name: row[f"label:{name}"] for name in manifest.findings} == known
        np.testing.assert_array_equal(place, [np.nan if value is None else value for value in known.values()])
    assert view_counts(table).tolist() == [len(study.views) for study in expected]
    # The same index comes from the tars alone.
    before = (folder / INDEX).read_bytes()
    (folder / INDEX).unlink()
    assert index_table(folder, manifest) == table
    assert (folder / INDEX).read_bytes() == before


def test_no_rows_are_a_table_too():
    assert rows_table([]).column_names == list(COLUMNS)
    assert label_matrix(rows_table([]), ["mass"]).shape == (0, 1)
    assert view_counts(rows_table([])).tolist() == []


def test_the_reading_order_is_split_by_split_whatever_the_manifest_s(tmp_path):
    manifest = written_in_splits(tmp_path)
    assert [shard.split for shard in manifest.shards] != [shard.split for shard in reading_order(manifest)]
    splits = [shard.split for shard in reading_order(manifest)]
    assert splits == sorted(splits, key=SPLITS.index)
    assert index_table(tmp_path, manifest)["split"].to_pylist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 3


def test_the_digest_is_of_shards_and_findings_alone(tmp_path):
    manifest = written(tmp_path, 3)
    facts = {name: getattr(manifest, name) for name in Manifest.__slots__}
    same = Manifest(**{**facts, "name": "x", "counts": {}, "config_digest": "y"})
    assert shards_digest(same) == shards_digest(manifest)
    assert shards_digest(Manifest(**{**facts, "findings": ("mass",)})) != shards_digest(manifest)
    assert shards_digest(Manifest(**{**facts, "shards": ()})) != shards_digest(manifest)


@pytest.mark.parametrize(
    ("cut", "fault"),
    [
        (700, "not a whole tar"),
        (3072, "1 studies, the manifest promises 3"),
        (None, "its bytes are not those"),
    ],
)
def test_a_tar_that_is_not_what_was_written_has_no_rows(tmp_path, cut, fault):
    (shard,) = written(tmp_path, 3).shards
    path = tmp_path / shard.path
    content = path.read_bytes()
    path.write_bytes(content[:cut] if cut else content[:-1] + b"!")
    files = fsspec.filesystem("file")
    with pytest.raises(ShardError, match=rf"train-000000\.tar: {fault}"):
        scan_shard(files, str(tmp_path), shard).check(str(path))
    path.write_bytes(content.replace(b'{"key":', b'["key":', 1))
    with pytest.raises(ShardError, match=r"train-000000\.tar: study 1 of 3: its JSON is damaged"):
        scan_shard(files, str(tmp_path), shard).check(str(path))
    path.write_bytes(content)
    assert len(scan_shard(files, str(tmp_path), shard).check(str(path))) == 3
