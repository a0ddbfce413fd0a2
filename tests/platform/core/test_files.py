"""A file is written whole or not at all."""

from __future__ import annotations

import errno

import pytest

from vetdino.platform.core.files import atomic_path, atomic_write, explain_os_error


def test_a_file_is_written_whole(tmp_path):
    atomic_write(tmp_path / "new" / "a.json", "{}")
    atomic_write(tmp_path / "new" / "a.json", b"[]")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]
    assert (tmp_path / "new" / "a.json").read_bytes() == b"[]"


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full_disk():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        full_disk()
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (
            OSError(errno.EROFS, "Read-only file system", "/ro"),
            "/ro: Read-only file system; choose a path that",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/q"), "/q: Disk quota exceeded; free some space"),
        (OSError("words"), "words; look for the cause"),
        (TimeoutError(), "TimeoutError; look for the cause"),
    ],
)
def test_an_error_of_the_disk_says_what_where_and_what_to_do(error, text):
    assert explain_os_error(error).startswith(text)


def test_another_place_can_be_named_or_none():
    error = PermissionError(errno.EACCES, "Permission denied", "/archive/Doe^Jane.dcm")
    assert explain_os_error(error, "a file in /archive").startswith("a file in /archive: Permission denied")
    assert explain_os_error(error, "").startswith("Permission denied; choose")
