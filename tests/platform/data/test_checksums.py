"""A byte that changed inside a sample is noticed by whoever reads it, and by `verify`."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.platform.data.written import written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.checksums import verify
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.index_file import INDEX, index_table
from vetdino.platform.data.samples import Sample
from vetdino.platform.data.shards import read


def flipped(path, place: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


@pytest.fixture
def changed(tmp_path):
    """Three studies; one byte inside the JPEG of the second has changed, and it still decodes."""
    written(tmp_path, 3)
    path = tmp_path / "train-000000.tar"
    content = path.read_bytes()
    before = list(read(tmp_path, "train"))
    scan = content.index(before[1].views[0].encoded) + len(before[1].views[0].encoded) - 20
    flipped(path, scan, 4)
    return tmp_path, before


def test_a_changed_picture_gets_no_index(changed):
    folder, _ = changed
    (folder / INDEX).unlink()  # as in folders of older versions
    with pytest.raises(ShardError, match=r"train-000000\.tar: its bytes are not those that were written"):
        StudyIndex(folder, "train")
    with pytest.raises(ShardError, match="1 of 1 shards are not what was written"):
        verify(folder)
    assert not (folder / INDEX).exists()


def test_a_changed_picture_is_not_read(changed, caplog):
    folder, before = changed
    with pytest.raises(ShardError, match="study 2 of 3: its bytes are not those that were written"):
        list(read(folder, "train"))
    kept = [study.key for study in read(folder, "train", on_error="skip")]
    assert kept == [before[0].key, before[2].key]
    assert "left out" in caplog.text
    index = StudyIndex(folder, "train")
    assert index.load(2).key == before[2].key
    with pytest.raises(ShardError, match=r"train-000000\.tar: at byte \d+: its bytes are not those"):
        index.load(1)


def test_verify_names_the_shards_and_studies_that_changed(tmp_path):
    manifest = written(tmp_path, 12, ShardConfig(max_bytes=10_000))
    assert verify(tmp_path) == manifest
    assert len(manifest.shards) > 3
    content = (tmp_path / manifest.shards[1].path).read_bytes()
    study = next(study for study in read(tmp_path, "train") if study.views[0].encoded in content)
    flipped(tmp_path / manifest.shards[1].path, content.index(study.views[0].encoded) + 100)
    (tmp_path / manifest.shards[2].path).unlink()
    with pytest.raises(ShardError) as refusal:
        verify(tmp_path)
    assert f"2 of {len(manifest.shards)} shards" in str(refusal.value)
    assert f"{manifest.shards[1].path} (studies {study.key})" in str(refusal.value)
    assert "train-000002.tar: missing" in str(refusal.value)


@pytest.mark.parametrize("column", ["key", "offset", "patient", "projections", "sha256", "label:mass"])
def test_verify_finds_an_index_that_is_not_of_its_shards(tmp_path, column):
    manifest = written(tmp_path, 3)
    table = parquet.read_table(tmp_path / INDEX)
    place = table.column_names.index(column)
    values = table[column].to_pylist()
    values[1] = {"offset": 1024, "sha256": bytes(32), "label:mass": 1.0}.get(column, "other")
    table = table.set_column(place, table.schema.field(column), pa.array(values, table[column].type))
    parquet.write_table(table, tmp_path / INDEX)
    with pytest.raises(ShardError, match=f"{INDEX} does not belong to train-000000.tar"):
        verify(tmp_path)
    (tmp_path / INDEX).unlink()
    assert verify(tmp_path) == manifest


def test_verify_makes_an_index_where_there_is_none(tmp_path, caplog):
    manifest = written(tmp_path, 5, ShardConfig(max_bytes=10_000))
    before = index_table(tmp_path, manifest)
    (tmp_path / INDEX).write_bytes(b"PAR1 no table PAR1")
    assert verify(tmp_path) == manifest
    assert f"its index is damaged; made from {len(manifest.shards)} shards in" in caplog.text
    assert index_table(tmp_path, manifest) == before
    caplog.clear()
    verify(tmp_path)
    assert caplog.text == ""


@given(place=st.integers(0, 10**9), bit=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
@settings(max_examples=25, deadline=None)
def test_no_byte_of_a_study_changes_unnoticed(place, bit, tmp_path_factory):
    """Whatever is read of a shard with one changed bit is what was written, or refused."""
    folder = tmp_path_factory.mktemp("shards")
    written(folder, 2)
    expected = [(study.labels["effusion"], study.views[0].encoded) for study in read(folder, "train")]
    path = folder / "train-000000.tar"
    flipped(path, place % path.stat().st_size, bit)
    with pytest.raises(ShardError):
        verify(folder)
    for reader in (
        lambda: list(read(folder, "train")),
        lambda: list(map(StudyIndex(folder, "train").load, range(2))),
    ):
        try:
            studies = reader()
        except ShardError:
            continue
        assert [(study.labels["effusion"], study.views[0].encoded) for study in studies] == expected


def test_a_digest_knows_names_contents_and_their_order():
    parts = {"a": b"xy", "b": b"z"}
    others = [{"a": b"x", "b": b"yz"}, {"b": b"z", "a": b"xy"}, {"c": b"xy", "b": b"z"}, {"a": b"xy"}]
    assert len({Sample("k", 0, 0, files).digest for files in (parts, *others)}) == 5
