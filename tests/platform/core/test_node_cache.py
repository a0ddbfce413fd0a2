"""The cache of a machine is its user's own, and bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vetdino.platform.core.errors import DataError
from vetdino.platform.core.node_cache import VARIABLE, make_room, node_cache


def test_a_user_has_a_folder_that_nobody_else_reads(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = node_cache("index")
    assert folder == tmp_path / f"vetdino-{os.getuid()}" / "index"
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]
    assert node_cache("index") == folder


def test_the_place_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "a" / "b"))
    assert node_cache("index") == tmp_path / "a" / "b" / "index"


def test_a_place_that_somebody_else_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"vetdino-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"belongs to another user; set {VARIABLE}"):
        node_cache("index")


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for age, name in enumerate(("d.arrow", "c.arrow", "b.arrow", "a.arrow", "other")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    make_room(tmp_path, "*.arrow", 2)
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["c.arrow", "d.arrow", "other"]
    make_room(tmp_path, "*.arrow", 2)
    assert len(list(tmp_path.iterdir())) == 3
