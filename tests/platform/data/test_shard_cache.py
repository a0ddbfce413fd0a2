"""Shards of object storage through the cache of this machine: the same bytes, within the bound, by many at once."""

from __future__ import annotations

import fcntl
import io
import multiprocessing
import os
import random
import time
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vetdino.platform.core.errors import ShardError, StorageError
from vetdino.platform.core.node_cache import node_cache
from vetdino.platform.core.storage import upload
from vetdino.platform.data import shard_cache
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shard_cache import IN_USE, ShardFile, bound
from vetdino.platform.data.shards import ShardWriter, read
from vetdino.platform.data.study import Study, View

SIZE = 300_000


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def stored() -> dict[str, bytes]:
    """Five shards' worth of bytes in memory, which fsspec treats as object storage."""
    files = fsspec.filesystem("memory")
    content = {f"/tars/{n}.tar": random.Random(n).randbytes(SIZE) for n in range(5)}
    for path, data in content.items():
        files.pipe_file(path, data)
    yield content
    files.rm("/tars", recursive=True)


def url(n: int) -> str:
    return f"memory://tars/{n}.tar"


def room_for(monkeypatch, shards: float) -> None:
    monkeypatch.setenv("VETDINO_CACHE_GIB", str(shards * SIZE / 2**30))


def kept(cache: Path) -> int:
    """Bytes of the shards in a cache while nobody takes room for another."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = [path for path in cache.iterdir() if path.suffix in (".tar", ".part")]
        total = 0
        for path in names:
            with suppress(FileNotFoundError):  # a part that is given up
                total += path.stat().st_size
        return total


def made_old(cache: Path) -> None:
    """As if nothing had been read for a while."""
    for number, path in enumerate(sorted(cache.glob("*.tar"), key=lambda path: path.stat().st_mtime)):
        os.utime(path, times=(time.time() - 10 * IN_USE + number,) * 2)


def test_a_shard_is_downloaded_once_and_read_from_here(cache, stored):
    with ShardFile(url(0)) as file:
        assert file.read() == stored["/tars/0.tar"]
    fsspec.filesystem("memory").store["/tars/0.tar"].seek(0)
    [copy] = cache.glob("*.tar")
    copy.write_bytes(bytes(SIZE))  # so that we see where it comes from
    with ShardFile(url(0)) as file:
        assert file.read() == bytes(SIZE)


@pytest.mark.parametrize("gib", ["0", ""])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, SIZE + 10), st.integers(-1, 400) | st.integers(0, SIZE)),
        min_size=1,
        max_size=12,
    ),
    in_order=st.booleans(),
)
def test_any_reads_give_what_a_file_would_with_and_without_the_cache(gib, steps, in_order):
    files = fsspec.filesystem("memory")
    content = random.Random(1).randbytes(SIZE)
    if not files.exists("/any.tar"):
        files.pipe_file("/any.tar", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VETDINO_CACHE_GIB", gib)
        ours, theirs = ShardFile("memory://any.tar"), io.BytesIO(content)
        for offset, size in steps:
            if not in_order:
                assert ours.seek(offset) == theirs.seek(offset)
            assert ours.read(size) == theirs.read(size)
            assert ours.tell() == theirs.tell()
        assert ours.seek(-3, os.SEEK_END) == SIZE - 3
        assert ours.read() == content[-3:]


def test_the_longest_unused_goes_and_the_bound_holds(cache, stored, monkeypatch):
    room_for(monkeypatch, 2.5)
    for n in (0, 1):
        assert ShardFile(url(n)).read(10) == stored[f"/tars/{n}.tar"][:10]
    made_old(cache)
    ShardFile(url(0)).read(1)  # used again
    ShardFile(url(2)).read(1)
    assert kept(cache) == 2 * SIZE
    names = {path.name for path in cache.glob("*.tar")}
    assert names == {f"{ShardFile(url(n))._name}.tar" for n in (0, 2)}


def test_without_room_it_is_streamed_and_what_is_in_use_stays(cache, stored, monkeypatch):
    room_for(monkeypatch, 1.5)
    ShardFile(url(0)).read(1)
    before = {path.name for path in cache.glob("*.tar")}
    assert ShardFile(url(1)).read() == stored["/tars/1.tar"]
    assert {path.name for path in cache.glob("*.tar")} == before
    room_for(monkeypatch, 0.5)
    assert ShardFile(url(2)).read() == stored["/tars/2.tar"]
    assert kept(cache) == SIZE


def test_a_shard_that_is_removed_while_it_is_read_is_fetched_again(cache, stored):
    file = ShardFile(url(0))
    assert file.read(5) == stored["/tars/0.tar"][:5]
    for path in cache.glob("*.tar"):
        path.unlink()
    file.seek(200_000)
    assert file.read(5) == stored["/tars/0.tar"][200_000:200_005]


def test_another_content_at_the_same_url_is_another_shard(cache, stored):
    assert ShardFile(url(0)).read(1) == stored["/tars/0.tar"][:1]
    fsspec.filesystem("memory").pipe_file("/tars/0.tar", b"new" * 1000)
    assert ShardFile(url(0)).read() == b"new" * 1000


def test_what_a_killed_process_left_is_cleared_and_what_another_downloads_counts(cache, stored, monkeypatch):
    room_for(monkeypatch, 2.5)
    cache.mkdir(parents=True)
    (cache / "dead.part").write_bytes(bytes(2 * SIZE))
    ShardFile(url(0)).read(1)
    assert not (cache / "dead.part").exists()
    with (cache / "alive.part").open("wb") as other:
        other.truncate(SIZE)
        fcntl.flock(other, fcntl.LOCK_EX)
        assert ShardFile(url(1)).read() == stored["/tars/1.tar"]  # streamed
        assert kept(cache) == 2 * SIZE
        assert (cache / "alive.part").exists()


def test_a_full_disk_streams(cache, stored, monkeypatch):
    monkeypatch.setattr(shard_cache, "SPARE", 2**62)
    assert ShardFile(url(0)).read() == stored["/tars/0.tar"]
    assert list(cache.glob("*.tar")) == list(cache.glob("*.part")) == []


def test_a_bound_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("VETDINO_CACHE_GIB", "many")
    with pytest.raises(ShardError, match="VETDINO_CACHE_GIB is 'many'"):
        bound()


def test_a_missing_shard_is_missing():
    with pytest.raises(FileNotFoundError):
        ShardFile("memory://nowhere.tar")


# Several processes and a server --------------------------------------------------------------------------


def shards_at(place: str, folder: Path, studies: int = 24) -> None:
    """Small shards of one view a study, written here and uploaded."""
    with ShardWriter(folder, "train", ShardConfig(max_bytes=30_000, encoding="png")) as writer:
        for n in range(studies):
            pixels = np.random.default_rng(n).integers(0, 256, (64, 64), np.uint8)
            writer.write(Study(f"{n:024x}", f"p{n:023x}", (View(pixels, "VD"),), {"mass": 1.0}, "train"))
    counts = {"files": studies, "views": studies, "studies": studies}
    save_manifest(folder, Manifest(VERSION, "noise", ("mass",), tuple(writer.shards), counts, ""))
    upload(place, {path.name: path for path in folder.iterdir()})


def load_all(place: str, seed: int, most: float, results) -> None:
    """Reads every study in an order of its own; puts the keys, and the most bytes that it saw in the cache."""
    index = StudyIndex(place, "train")
    order = list(range(len(index)))
    random.Random(seed).shuffle(order)
    keys, largest = [], 0
    for position in order * 2:
        keys.append(index.load(position).key)
        largest = max(largest, kept(node_cache("shards")))
    results.put((sorted(set(keys)), largest))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_share_a_small_cache_read_all_within_its_bound(s3, tmp_path, monkeypatch, method):
    place = f"{s3.bucket}/cache/{method}"
    shards_at(place, tmp_path / "shards")
    largest = max(path.stat().st_size for path in (tmp_path / "shards").glob("*.tar"))
    monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VETDINO_CACHE_GIB", str(3 * largest / 2**30))
    monkeypatch.setattr(shard_cache, "IN_USE", 0.0)
    assert len(list(read(place, "train"))) == 24  # the parent has connections before it forks
    context = multiprocessing.get_context(method)
    results = context.Queue()
    workers = [context.Process(target=load_all, args=(place, seed, 0, results)) for seed in range(4)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert all(len(keys) == 24 for keys, _ in answers)
    assert max(seen for _, seen in answers) <= 3 * largest


@pytest.mark.slow
def test_a_server_that_fails_while_a_shard_is_read_is_named(s3, tmp_path, failing_s3, monkeypatch):
    place = f"{s3.bucket}/cache/failing"
    shards_at(place, tmp_path / "shards")
    monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / "cache"))
    failing_s3(503, "SlowDown", 2)
    assert len(list(read(place, "train"))) == 24
    monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / "cache2"))
    studies = read(place, "train")
    next(studies)
    failing_s3(403, "AccessDenied", -1)
    with pytest.raises(StorageError, match=r"train-000001\.tar: access is denied"):
        list(studies)
