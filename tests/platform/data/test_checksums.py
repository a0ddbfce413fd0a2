"""A byte that changed inside a sample is noticed by whoever reads it, and by `verify`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.platform.data.written import a_study, written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.checksums import SUFFIX, sample_digest, sums_path, verify, without_sums
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.manifest import load_manifest
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


def without_checksums(folder):
    for file in folder.glob(f"*{SUFFIX}"):
        file.unlink()


def test_without_checksums_another_picture_is_read(changed):
    folder, before = changed
    without_checksums(folder)  # as in shards of older versions
    after = list(read(folder, "train"))
    assert not np.array_equal(after[1].view(0).pixels, before[1].view(0).pixels)
    assert StudyIndex(folder, "train").load(1).key == before[1].key
    assert without_sums(folder, load_manifest(folder)) == ["train-000000.tar"]
    with pytest.raises(ShardError, match="1 of 1 shards are not what was written"):
        verify(folder)


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
    assert without_sums(tmp_path, manifest) == []
    content = (tmp_path / manifest.shards[1].path).read_bytes()
    study = next(study for study in read(tmp_path, "train") if study.views[0].encoded in content)
    flipped(tmp_path / manifest.shards[1].path, content.index(study.views[0].encoded) + 100)
    (tmp_path / manifest.shards[2].path).unlink()
    with pytest.raises(ShardError) as refusal:
        verify(tmp_path)
    assert f"2 of {len(manifest.shards)} shards" in str(refusal.value)
    assert f"{manifest.shards[1].path} (studies {study.key})" in str(refusal.value)
    assert "train-000002.tar: missing" in str(refusal.value)


def test_checksums_that_are_damaged_or_of_another_shard_are_refused(tmp_path):
    written(tmp_path / "a", 3)
    written(tmp_path / "b", 2)
    sums = tmp_path / "a" / f"train-000000{SUFFIX}"
    whole = sums.read_bytes()
    sums.write_bytes((tmp_path / "b" / sums.name).read_bytes())
    with pytest.raises(ShardError, match=f"train-000000{SUFFIX} does not belong to its shard"):
        verify(tmp_path / "a")
    with pytest.raises(ShardError, match="a study is not among its checksums"):
        StudyIndex(tmp_path / "a", "train")
    sums.write_bytes(whole[:-30])
    for reader in (verify, lambda folder: list(read(folder, "train")), lambda f: StudyIndex(f, "train")):
        with pytest.raises(ShardError, match=f"{SUFFIX}: damaged"):
            reader(tmp_path / "a")


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
    parts = [("a", b"xy"), ("b", b"z")]
    others = [[("a", b"x"), ("b", b"yz")], parts[::-1], [("c", b"xy"), ("b", b"z")], parts[:1]]
    assert len({sample_digest(each) for each in (parts, *others)}) == 5
    assert a_study(0).key not in sums_path("shards/train-000000.tar")
