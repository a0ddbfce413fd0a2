"""Object storage: copies of inputs, and what a bucket refuses in one line each."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import fsspec
import pytest

from vetdino.platform.core import storage
from vetdino.platform.core.errors import ConfigError, StorageError
from vetdino.platform.core.location import Location
from vetdino.platform.core.node_cache import node_cache
from vetdino.platform.core.storage import (
    OLD,
    download,
    explained,
    filesystem,
    listing,
    localized,
    read_bytes,
    remove,
    upload,
    write_bytes,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(s3, tmp_path, request) -> str:
    """A folder of the bucket with two files."""
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "a.txt").write_text("a")
    (tmp_path / "source" / "sub" / "b.txt").write_text("bb")
    place = f"{s3.bucket}/storage/{request.node.name}"
    upload(place, {name: tmp_path / "source" / name for name in ("a.txt", "sub/b.txt")})
    return place


def test_a_local_place_is_used_where_it_is(tmp_path):
    assert localized(tmp_path) == localized(str(tmp_path)) == localized(Location(tmp_path)) == tmp_path
    (tmp_path / "x").write_bytes(b"x")
    assert {name: file.size for name, file in listing(tmp_path).items()} == {"x": 1}
    assert read_bytes(tmp_path / "x") == b"x"
    assert read_bytes(tmp_path / "y") is None


def test_a_folder_is_copied_once_for_each_state_of_it(folder, tmp_path):
    copy = localized(folder)
    assert copy.name == folder.rpartition("/")[2]
    assert copy.is_relative_to(node_cache("inputs"))
    assert {path.relative_to(copy).as_posix() for path in copy.rglob("*.txt")} == {"a.txt", "sub/b.txt"}
    assert localized(f"{folder}/") == copy
    (tmp_path / "new").write_text("c")
    upload(folder, {"a.txt": tmp_path / "new"})
    changed = localized(folder)
    assert changed != copy
    assert (changed / "a.txt").read_text() == "c"
    assert (copy / "a.txt").read_text() == "a"  # another process may still read it
    os.utime(copy.parent, (0, copy.parent.stat().st_mtime - 2 * OLD))
    localized(folder)
    assert not copy.exists()
    assert localized(f"{folder}/sub/b.txt").read_text() == "bb"


def test_what_is_not_there_is_refused(folder, s3):
    for place in (f"{folder}/none", "s3://no-such-bucket/x"):
        with pytest.raises(StorageError, match="nothing is there; check the URL"):
            localized(place)
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/x: there is no such bucket"):
        write_bytes("s3://no-such-bucket/x", b"")


def test_many_at_once_download_once(folder, monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return download(*arguments)

    monkeypatch.setattr(storage, "download", counted)
    copies: list[Path] = []
    threads = [threading.Thread(target=lambda: copies.append(localized(folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 8
    assert len(set(copies)) == len(calls) == 1


def test_a_copy_that_was_cut_off_leaves_nothing(folder, tmp_path):
    there = listing(folder)
    there["a.txt"] = storage.StoredFile(size=5, tag="")
    with pytest.raises(StorageError, match="a file came cut off"):
        download(folder, {"a.txt": tmp_path / "copy" / "a.txt"}, there)
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_name_that_would_leave_the_folder_is_refused(s3):
    files = fsspec.filesystem("memory")
    files.pipe_file("/evil/x/../../etc", b"x")
    with pytest.raises(StorageError, match="whose name no folder can hold"):
        localized("memory://evil")
    files.rm_file("/evil/x/../../etc")


def test_removing_what_is_gone_is_no_error(folder):
    remove(folder, ["none", "a.txt"])
    assert list(listing(folder)) == ["sub/b.txt"]


def test_requests_that_answer_503_now_and_then_are_tried_again(folder, failing_s3):
    failing_s3(503, "SlowDown", 2)
    assert read_bytes(f"{folder}/a.txt") == b"a"
    assert failing_s3(500, "InternalError", 2) == 2
    assert (localized(folder) / "a.txt").read_text() == "a"
    assert failing_s3(500, "none", 0) == 2


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (503, "ServiceUnavailable", "does not answer, after all retries"),
        (403, "AccessDenied", "access is denied (AccessDenied); check the credentials"),
        (403, "InvalidAccessKeyId", "access is denied"),
        (507, "InsufficientStorage", "the storage is full (InsufficientStorage); make room"),
        (400, "QuotaExceeded", "the storage is full"),
    ],
)
def test_what_stays_refused_is_named_in_one_line(folder, failing_s3, status, code, said):
    failing_s3(status, code, -1)
    with pytest.raises(StorageError) as refusal:
        write_bytes(f"{folder}/new", b"x")
    assert str(refusal.value).startswith(f"{folder}/new: ")
    assert said in str(refusal.value)
    assert "secret" not in str(refusal.value)
    failing_s3(500, "none", 0)
    assert read_bytes(f"{folder}/new") is None


def test_missing_credentials_name_the_variables(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        read_bytes(f"{s3.bucket}/x")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_server_that_is_not_there_is_named(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageError, match=r"^s3://b/x: the storage does not answer"):
        read_bytes("s3://b/x")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_missing_library_and_an_unknown_kind_of_url_are_named(monkeypatch):
    with pytest.raises(ConfigError, match=r"nosuch://x/y: Protocol not known: nosuch"):
        filesystem("nosuch://x/y")
    monkeypatch.setattr("vetdino.platform.core.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"s3://b/x needs s3fs: pip install 'vetdino\[s3\]'"):
        filesystem("s3://b/x")


@pytest.mark.parametrize(
    "use", [filesystem, listing, localized, read_bytes, lambda place: write_bytes(place, b"")]
)
@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
def test_a_web_address_is_no_object_storage(use, scheme):
    with pytest.raises(
        ConfigError, match=r"^https?://host/x: a web address, .*AWS_ENDPOINT_URL names the server"
    ):
        use(f"{scheme}://host/x")


def test_errors_of_this_machine_are_not_blamed_on_the_storage(tmp_path):
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(2, "no", str(tmp_path)),
    ):
        with pytest.raises(type(error)), explained(None):
            raise error
    with pytest.raises(StorageError, match="the storage is full"), explained("gs://b"):
        raise OSError(errno.ENOSPC, "No space left on device")
