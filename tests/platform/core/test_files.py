"""A file is written whole or not at all."""

from __future__ import annotations

import pytest

from vetdino.platform.core.files import atomic_path, atomic_write


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
