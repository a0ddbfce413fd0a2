"""The commit of the code, as git says it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vetdino.platform.core import revision
from vetdino.platform.core.revision import git_revision


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    run = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder that the module believes to lie in."""
    monkeypatch.setattr(revision, "__file__", str(tmp_path / "revision.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def test_outside_a_checkout_the_revision_is_empty(folder):
    assert git_revision() == ""


def test_the_revision_is_the_commit_and_a_plus_where_a_tracked_file_differs(folder):
    git(folder, "init")
    (folder / "a").write_text("1")
    git(folder, "add", "a")
    git(folder, "commit", "-m", "first")
    commit = git(folder, "rev-parse", "HEAD")
    (folder / "untracked").write_text("")
    assert git_revision() == commit
    (folder / "a").write_text("2")
    assert git_revision() == commit + "+"


def test_without_git_the_revision_is_empty(folder, monkeypatch):
    monkeypatch.setattr(revision.shutil, "which", lambda name: None)
    assert git_revision() == ""
