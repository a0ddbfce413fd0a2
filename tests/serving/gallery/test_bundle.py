"""A gallery's folder: a change is there whole or not at all, whenever it is killed; damage is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path

import pytest

import vetdino
from tests.serving.gallery.tables import found, renamed, table
from vetdino.platform.core.errors import GalleryError
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.bundle import CURRENT, current_version, is_bundle, new_draft
from vetdino.serving.gallery.changes import add, compact, delete, verify
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.gallery.manifest import INDEX, MANIFEST, METADATA, VECTORS

ROOT = Path(vetdino.__file__).resolve().parent

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.serving.gallery.tables import renamed, table
from vetdino.serving.gallery import bundle as module
from vetdino.serving.gallery.build import FeaturesSource, build
from vetdino.serving.gallery.changes import add, compact, delete

point, action, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_after(function):
    def run(*arguments, **settings):
        function(*arguments, **settings)
        kill()
    return run

if point == "after the manifest":
    module.atomic_write = dies_after(module.atomic_write)
elif point == "before the rename":
    module.os.rename = kill
elif point == "after the rename":
    module.os.rename = dies_after(os.rename)
elif point == "before CURRENT":
    write = module.atomic_write
    module.atomic_write = lambda path, text: kill() if path.name == "CURRENT" else write(path, text)
elif point == "after CURRENT":
    remove = module._remove_others
    module._remove_others = lambda bundle, name: kill() if name.startswith("000002") else remove(bundle, name)
else:
    module._record = kill
if action == "build":
    build(FeaturesSource(renamed(table(20, seed=4), "other")), folder)
elif action == "add":
    add(folder, FeaturesSource(renamed(table(5, seed=3), "new")))
elif action == "delete":
    delete(folder, ["key3"])
else:
    compact(folder)
"""

POINTS = (
    "before the hashes",
    "after the manifest",
    "before the rename",
    "after the rename",
    "before CURRENT",
)


def answers(folder: Path):
    gallery = Gallery.open(folder, verify=True)
    try:
        return [found(each) for each in gallery.search(table(4, seed=7).vectors, 5)]
    finally:
        gallery.close()


def killed(point: str, action: str, folder: Path) -> None:
    """Runs an action in another process, which kills itself at a point."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, point, action, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "point"), [*product(["add", "compact"], POINTS), ("build", POINTS[-1]), ("delete", POINTS[1])]
)
def test_a_kill_leaves_the_old_version_in_use_and_the_next_change_cleans_up(made, action, point):
    folder = made()
    before = answers(folder)
    killed(point, action, folder)
    assert answers(folder) == before
    delete(folder, ["key0"])
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [".lock", CURRENT, current_version(folder).name]
    )
    assert verify(folder).count == 11


@pytest.mark.slow
def test_a_kill_after_the_swap_leaves_the_new_version_in_use(made):
    folder = made()
    killed("after CURRENT", "delete", folder)
    assert verify(folder).count == 11
    assert len([path for path in folder.iterdir() if (path / MANIFEST).exists()]) == 2
    compact(folder)
    assert len([path for path in folder.iterdir() if (path / MANIFEST).exists()]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_first_build_that_was_killed_leaves_no_gallery_and_can_be_repeated(tmp_path, point):
    folder = tmp_path / "gallery"
    killed(point, "build", folder)
    with pytest.raises(GalleryError, match="no gallery here"):
        Gallery.open(folder)
    build(FeaturesSource(table()), folder)
    assert verify(folder).count == 12


def test_a_change_that_fails_leaves_everything_as_it_was(made):
    folder = made()
    names, before = sorted(path.name for path in folder.iterdir()), answers(folder)
    with pytest.raises(GalleryError, match="already there"):
        add(folder, FeaturesSource(table(3)))
    assert sorted(path.name for path in folder.iterdir()) == names
    assert answers(folder) == before


def test_an_open_gallery_goes_on_while_its_folder_changes(made):
    folder = made()
    gallery = Gallery.open(folder)
    before = [found(each) for each in gallery.search(table(4, seed=7).vectors, 5)]
    delete(folder, ["key3"])
    compact(folder)
    assert not gallery.version.exists()
    assert [found(each) for each in gallery.search(table(4, seed=7).vectors, 5)] == before


@pytest.mark.slow
def test_readers_never_see_half_a_change(made):
    folder = made()
    stop, counts, errors = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                gallery = Gallery.open(folder)
                counts.add(len(gallery))
                gallery.close()
            except Exception as error:  # reported below
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(15):
        add(folder, FeaturesSource(renamed(table(1), f"{number}")))
        delete(folder, [f"{number}key0"])
    stop.set()
    reader.join()
    assert errors == []
    assert counts <= {12, 13}


def test_two_changes_at_a_time_are_refused(made):
    folder = made()
    with new_draft(folder), pytest.raises(GalleryError, match="another process"):
        delete(folder, ["key3"])
    delete(folder, ["key3"])


def test_files_that_a_change_does_not_touch_are_links(made):
    folder = made()
    inode = (current_version(folder) / VECTORS).stat().st_ino
    delete(folder, ["key3"])
    assert (current_version(folder) / VECTORS).stat().st_ino == inode


def test_a_file_system_without_links_gets_copies(made, monkeypatch):
    def no_links(*_):
        raise OSError("not here")

    folder = made()
    monkeypatch.setattr(os, "link", no_links)
    delete(folder, ["key3"])
    assert verify(folder).count == 11


@pytest.mark.parametrize("name", ["shards.tar", "other"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    (tmp_path / ".hidden").write_text("mine")
    with pytest.raises(GalleryError, match=name):
        build(FeaturesSource(table()), tmp_path)
    with pytest.raises(GalleryError, match="a folder of its own"):
        build(FeaturesSource(table()), tmp_path / name)
    (tmp_path / name).unlink()
    build(FeaturesSource(table()), tmp_path)
    assert (tmp_path / ".hidden").read_text() == "mine"


@pytest.mark.parametrize("name", [INDEX, VECTORS, METADATA])
def test_damage_is_found(made, name):
    folder = made()
    path = current_version(folder) / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(GalleryError, match=f"{name}: .* bytes, the manifest says"):
        Gallery.open(folder)
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    with pytest.raises(GalleryError, match=f"{name}: its content is not what was written"):
        Gallery.open(folder, verify=True)
    with pytest.raises(GalleryError, match="not what was written"):
        compact(folder)
    path.unlink()
    with pytest.raises(GalleryError, match=f"{name}: missing"):
        Gallery.open(folder)


@pytest.mark.parametrize("text", ["", "../elsewhere", ".hidden", "a/b", "..", "\xff"])
def test_a_name_in_current_leads_nowhere_else(made, text):
    folder = made()
    (folder / CURRENT).write_bytes(text.encode("latin-1"))
    with pytest.raises(GalleryError, match="names no version"):
        Gallery.open(folder)


def test_a_folder_is_a_gallery_or_not(made, tmp_path):
    assert is_bundle(made())
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "none")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(GalleryError, match="no gallery here"):
            current_version(path)
