"""index.parquet is made once, mapped by all, and made anew where it is missing, damaged or of other shards."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.platform.data.written import a_study, written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data import index_file
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.index_file import INDEX, index_table, save_index
from vetdino.platform.data.manifest import VERSION, Manifest, Shard, save_manifest
from vetdino.platform.data.rows import COLUMNS, label_matrix
from vetdino.platform.data.shards import ShardWriter, read

ROOT = Path(__file__).parents[3]

SEVERAL = ShardConfig(max_bytes=8_000)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for each test."""
    monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def unread(monkeypatch):
    """No tar is read."""

    def refused(*_):
        raise AssertionError("a tar is read")

    monkeypatch.setattr(index_file, "scan_shard", refused)


def test_an_index_that_ingest_wrote_is_enough(tmp_path, unread, caplog):
    written(tmp_path / "a", 5, SEVERAL)
    assert len(StudyIndex(tmp_path / "a", "train")) == 5
    assert caplog.text == ""
    assert sorted(path.name for path in (tmp_path / "a").iterdir())[0] == INDEX
    assert not list((tmp_path / "a").glob("*.samples.sha256"))


def test_the_same_shards_give_the_same_bytes_however_they_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(index_file, "GROUP", 4)
    whole = written(tmp_path / "a", 9, SEVERAL)
    assert written(tmp_path / "b", 9, SEVERAL) == whole
    assert (tmp_path / "a" / INDEX).read_bytes() == (tmp_path / "b" / INDEX).read_bytes()
    from pyarrow import parquet

    groups = parquet.read_metadata(tmp_path / "a" / INDEX)
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [4, 4, 1]
    assert index_table(tmp_path / "a", whole).num_rows == 9


def test_a_missing_index_is_made_from_the_tars_and_said_once(tmp_path, caplog):
    manifest = written(tmp_path / "a", 5, SEVERAL)
    before = (tmp_path / "a" / INDEX).read_bytes()
    (tmp_path / "a" / INDEX).unlink()
    # Checksums of an older vetdino are not read: the tars are compared with the manifest.
    (tmp_path / "a" / "train-000000.samples.sha256").write_text("no checksums")
    index = StudyIndex(tmp_path / "a", "train")
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / 'a'}: no index here; made from {len(manifest.shards)} shards in 0.")
    assert [index.load(place).key for place in range(5)] == [
        study.key for study in read(tmp_path / "a", "train")
    ]
    assert (tmp_path / "a" / INDEX).read_bytes() == before
    assert len(caplog.messages) == 1


def test_an_index_of_other_shards_is_made_anew(tmp_path, caplog):
    manifest = written(tmp_path / "a", 5, SEVERAL)
    written(tmp_path / "b", 6, SEVERAL)
    right = (tmp_path / "a" / INDEX).read_bytes()
    (tmp_path / "a" / INDEX).write_bytes((tmp_path / "b" / INDEX).read_bytes())
    assert len(index_table(tmp_path / "a", manifest)) == 5
    assert "its index is of other shards; made from" in caplog.text
    assert (tmp_path / "a" / INDEX).read_bytes() == right


def damaged_files(content: bytes):
    random = np.random.default_rng(0)
    yield b""
    yield content[: len(content) // 2]
    yield b"PAR1" + bytes(40) + b"PAR1"
    for place in random.integers(4, len(content) - 4, 25):
        changed = bytearray(content)
        changed[place] ^= 1 << random.integers(8)
        yield bytes(changed)


def test_a_damaged_index_is_made_anew_and_never_believed(tmp_path, caplog):
    manifest = written(tmp_path / "a", 5, SEVERAL)
    path = tmp_path / "a" / INDEX
    right, content = index_table(tmp_path / "a", manifest).to_pylist(), path.read_bytes()
    for damaged in damaged_files(content):
        caplog.clear()
        path.write_bytes(damaged)
        assert index_table(tmp_path / "a", manifest).to_pylist() == right
        # A bit that means nothing (a statistic, a name) may go unnoticed; what is noticed is written anew.
        assert path.read_bytes() in (damaged, content)
        assert ("made from" in caplog.text) == (path.read_bytes() == content)
    assert caplog.text


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(tmp_path, monkeypatch, caplog):
    manifest = written(tmp_path / "a", 5, SEVERAL)
    (tmp_path / "a" / INDEX).unlink()

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index_file, "_upload", refused)
    index_table(tmp_path / "a", manifest)
    assert f"and kept in {tmp_path / 'cache' / 'index'} (Permission denied)" in caplog.text
    caplog.clear()
    monkeypatch.setattr(index_file, "scan_shard", None)
    assert len(index_table(tmp_path / "a", manifest)) == 5
    assert caplog.text == ""


def test_a_refusal_of_the_storage_leaves_nothing_behind(tmp_path, monkeypatch):
    manifest = written(tmp_path / "a", 2)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    from fsspec.implementations.local import LocalFileSystem

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "mv", full)
    with pytest.raises(OSError, match="No space left"):
        save_index(tmp_path / "a", manifest, [index_table(tmp_path / "a", manifest)])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names


def test_a_damaged_shard_gets_no_index(tmp_path):
    manifest = written(tmp_path / "a", 5, SEVERAL)
    (tmp_path / "a" / INDEX).unlink()
    path = tmp_path / "a" / manifest.shards[1].path
    content = path.read_bytes()
    path.write_bytes(content[:600] + b"!" + content[601:])
    with pytest.raises(ShardError, match=r"train-000001\.tar"):
        StudyIndex(tmp_path / "a", "train")
    path.unlink()
    with pytest.raises(ShardError, match=r"train-000001\.tar: missing"):
        index_table(tmp_path / "a", manifest)
    assert not (tmp_path / "a" / INDEX).exists()


def test_an_index_behind_a_url_is_fetched_once(unread, cache, monkeypatch):
    folder = "memory://index-test"
    manifest = written(folder, 3, SEVERAL)
    table = index_table(folder, manifest)
    monkeypatch.setattr(index_file, "stored_index", None)
    assert index_table(folder, manifest) == table
    assert len(list(cache.glob("*.arrow"))) == 1


def test_an_index_behind_a_url_is_made_anew(caplog):
    import fsspec

    folder = "memory://index-test-2"
    manifest = written(folder, 3, SEVERAL)
    table = index_table(folder, manifest)
    files, root = fsspec.core.url_to_fs(folder)
    files.rm_file(f"{root}/{INDEX}")
    assert index_table(folder, manifest) == table
    assert f"{folder}: no index here" in caplog.text
    assert files.exists(f"{root}/{INDEX}")
    assert not [name for name in files.ls(root, detail=False) if name.endswith(".part")]


def test_the_cache_keeps_few_indexes(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(index_file, "KEPT", 2)
    tables = []
    for number in range(4):
        manifest = written(tmp_path / str(number), number + 1)
        tables.append(index_table(tmp_path / str(number), manifest))
    assert len(list(cache.glob("*.arrow"))) == 2
    assert [len(table["key"].to_pylist()) for table in tables] == [1, 2, 3, 4]  # those in use remain usable
    assert not [path for path in cache.iterdir() if path.suffix != ".arrow"]


def _opened(folder: Path, start, pipe) -> None:
    start.wait()
    index = StudyIndex(folder, "train")
    pipe.send([index.load(place).key for place in range(len(index))])


def test_processes_that_make_an_index_at_once_make_one(tmp_path, caplog, capfd):
    written(tmp_path / "a", 40, SEVERAL)
    expected = [study.key for study in read(tmp_path / "a", "train")]
    before = (tmp_path / "a" / INDEX).read_bytes()
    for path in (*(tmp_path / "cache" / "index").iterdir(), tmp_path / "a" / INDEX):
        path.unlink()
    context = get_context("fork")
    start = context.Barrier(4)
    pipes = [context.Pipe() for _ in range(4)]
    children = [context.Process(target=_opened, args=(tmp_path / "a", start, there)) for _, there in pipes]
    for child in children:
        child.start()
    assert [here.recv() for here, _ in pipes] == [expected] * 4
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert (tmp_path / "a" / INDEX).read_bytes() == before
    names = {path.name for path in (tmp_path / "a").iterdir()} | {
        path.name for path in (tmp_path / "cache" / "index").iterdir()
    }
    assert not [name for name in names if "part" in name.split(".") or name.endswith((".tmp", ".lock"))]
    for pipe in (end for ends in pipes for end in ends):
        pipe.close()


def large_folder(folder: Path, count: int, shards: int) -> Manifest:
    """A manifest and an index of `count` studies, and tars that are nothing but holes of the right size."""
    per = count // shards
    listed, tables = [], []
    folder.mkdir()
    for number in range(shards):
        name, numbers = f"train-{number:06d}.tar", range(number * per, (number + 1) * per)
        keys = [f"{each:024x}" for each in numbers]
        columns = {
            "key": keys,
            "shard": [name] * per,
            "offset": [1024 * each for each in range(per)],
            "length": [1024] * per,
            "patient": keys,
            "split": ["train"] * per,
            "projections": ["VD LLAT"] * per,
            "modality": ["DX"] * per,
            "sha256": [bytes(32)] * per,
        }
        table = pa.table({each: pa.array(columns[each], kind) for each, kind in COLUMNS.items()})
        tables.append(table.append_column("label:mass", pa.array([1.0] * per, pa.float32())))
        listed.append(Shard(name, "train", per, 2 * per, 1024 * per, "0" * 64))
        with open(folder / name, "wb") as file:
            file.truncate(1024 * per)
    manifest = Manifest(VERSION, "large", ("mass", "effusion"), tuple(listed), {}, "")
    save_manifest(folder, manifest)
    save_index(folder, manifest, tables)
    return manifest


MEASURED = """
import os, sys, pickle
from vetdino.platform.data.index import StudyIndex
from pathlib import Path

def resident(kind):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024

before = {kind: resident(kind) for kind in ("Private_Dirty", "Rss")}
index = StudyIndex(sys.argv[1], "train")
for row in range(0, len(index), len(index) // 1000):
    index.key(row)
print(len(index), len(pickle.dumps(index)), *(resident(kind) - before[kind] for kind in before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux says what memory is shared")
def test_a_large_index_takes_no_memory_of_its_own(tmp_path):
    """200,000 studies as Python objects would be 150 MB; the first opening unpacks, the second one maps."""
    large_folder(tmp_path / "a", 200_000, 50)
    figures = []
    for _ in range(2):
        command = [sys.executable, "-c", MEASURED, str(tmp_path / "a")]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        figures.append([float(figure) for figure in run.stdout.split()])
    for count, pickled, _, _ in figures:
        assert count == 200_000
        assert pickled < 500
    (_, _, first_own, _), (_, _, own, resident) = figures
    assert first_own < 80  # a group of rows at a time
    assert own < 15
    assert resident < 60  # the mapped pages that were looked at


def test_a_label_column_is_null_where_no_study_has_the_finding(tmp_path):
    with ShardWriter(tmp_path / "a", "train") as writer:
        writer.write(a_study(0))
    manifest = Manifest(VERSION, "test", ("new", "effusion"), tuple(writer.shards), {}, "")
    save_manifest(tmp_path / "a", manifest)
    save_index(tmp_path / "a", manifest, writer.rows)
    table = index_table(tmp_path / "a", manifest)
    assert table["label:new"].to_pylist() == [None]
    np.testing.assert_array_equal(label_matrix(table, ["effusion", "new", "other"]), [[1.0, np.nan, np.nan]])
