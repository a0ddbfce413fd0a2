"""A gallery's folder: whole versions side by side, and the name of the one in use.

    gallery/
      CURRENT                       the version's name
      000003-1f2e3d4c5b6a7988/      immutable: manifest.json, index.faiss, vectors.f16.npy, meta.sqlite, tail.f16.npy

A version is written under a hidden name, made durable, renamed, and only then named in CURRENT, which is replaced by
a rename, too. A kill at any moment leaves the old version in use; what it left behind goes with the next change. Files
that a change does not touch are hard links to those of the version before.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...platform.core.errors import GalleryError
from ...platform.core.files import atomic_write, fsync_path
from .manifest import MANIFEST, DamagedGalleryError, FileRecord, GalleryManifest, short_digest

CURRENT, LOCK = "CURRENT", ".lock"


class BusyGalleryError(GalleryError):
    """Another process is changing the gallery."""


def is_bundle(path: Path) -> bool:
    """Whether a gallery is in use at this path."""
    return (path / CURRENT).is_file()


def current_version(bundle: Path) -> Path:
    """The folder of the version in use. Raises GalleryError where there is none."""
    try:
        name = (bundle / CURRENT).read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedGalleryError(f"{bundle}: no gallery here; make one with `vetdino index build`") from None
    except UnicodeDecodeError:
        name = ""
    if not name or name.startswith(".") or Path(name).name != name:
        raise DamagedGalleryError(f"{bundle / CURRENT}: names no version; build the gallery again") from None
    return bundle / name


def check_sizes(version: Path, manifest: GalleryManifest) -> None:
    """Raises FileNotFoundError for a file that is missing, GalleryError for one of another size."""
    for name, record in manifest.files.items():
        size = (version / name).stat().st_size
        if size != record.bytes:
            raise _damaged(version / name, f"{size} bytes, the manifest says {record.bytes}")


def check_hashes(version: Path, manifest: GalleryManifest) -> None:
    """Reads every file of a version. Raises as `check_sizes`, and GalleryError where the content differs."""
    check_sizes(version, manifest)
    for name, record in manifest.files.items():
        if _sha256(version / name) != record.sha256:
            raise _damaged(version / name, "its content is not what was written")


def _damaged(path: Path, what: str) -> GalleryError:
    return DamagedGalleryError(
        f"{path}: {what}; copy the gallery again, or build it with `vetdino index build`"
    )


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that is being written in `folder`; not in use until it is published."""

    bundle: Path
    folder: Path
    number: int

    def link(self, source: Path) -> None:
        """Takes over a file of another version, without a copy where the file system allows it."""
        target = self.folder / source.name
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    def publish(self, manifest: GalleryManifest, known: GalleryManifest | None = None) -> GalleryManifest:
        """Makes the files durable, writes the manifest, and puts the version in use; the manifest with its files.

        known: the manifest of the version that hard links were taken from, which spares hashing those again.
        """
        files = {path.name: _record(path, known) for path in sorted(self.folder.iterdir())}
        manifest = replace(manifest, files=files)
        atomic_write(self.folder / MANIFEST, manifest.encoded)
        fsync_path(self.folder)
        version = self.bundle / f"{self.number:06d}-{short_digest(manifest.digest)}"
        os.rename(self.folder, version)
        fsync_path(self.bundle)
        atomic_write(self.bundle / CURRENT, version.name + "\n")
        fsync_path(self.bundle)
        _remove_others(self.bundle, version.name)
        return manifest


@contextmanager
def new_draft(bundle: Path) -> Iterator[Draft]:
    """The next version of a gallery, or the first; one writer at a time.

    What a block that fails, or a process that was killed, has written is removed. Raises GalleryError where the folder
    holds something else or another process is changing the gallery.
    """
    _check_ours(bundle)
    bundle.mkdir(parents=True, exist_ok=True)
    with (bundle / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyGalleryError(
                f"{bundle}: another process is changing this gallery; try again when it is done"
            ) from None
        current = current_version(bundle).name if is_bundle(bundle) else ""
        _remove_others(bundle, current)
        number = int(current.partition("-")[0]) + 1 if current else 1
        folder = bundle / f".{secrets.token_hex(4)}.tmp"
        folder.mkdir()
        try:
            yield Draft(bundle, folder, number)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _check_ours(bundle: Path) -> None:
    """Raises GalleryError for a folder (or file) that holds anything but a gallery or what a killed build left."""
    if bundle.exists() and not bundle.is_dir():
        raise GalleryError(f"{bundle}: a file; a gallery needs a folder of its own")
    foreign = [
        path.name
        for path in (bundle.iterdir() if bundle.is_dir() else ())
        if path.name != CURRENT and not path.name.startswith(".") and not (path / MANIFEST).is_file()
    ]
    if foreign:
        raise GalleryError(
            f"{bundle}: already holds something else ({foreign[0]}); choose another folder for the gallery"
        )


def _remove_others(bundle: Path, kept: str) -> None:
    """Removes all versions but one, and what killed processes left. Who has one open can read on."""
    for path in bundle.iterdir():
        is_version = not path.name.startswith(".") and path.name not in (kept, CURRENT)
        if not is_version and not (path.name.startswith(".") and path.suffix == ".tmp"):
            continue
        if is_version:  # it loses its name first, so that no half of it is ever in use
            hidden = path.with_name(f".{path.name}.tmp")
            os.rename(path, hidden)
            path = hidden
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _record(path: Path, known: GalleryManifest | None) -> FileRecord:
    with path.open("rb") as file:
        if known and path.stat().st_nlink > 1 and path.name in known.files:
            return known.files[path.name]
        os.fsync(file.fileno())
    return FileRecord(bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
