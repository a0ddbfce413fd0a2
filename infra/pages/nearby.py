"""A backbone at a URL and the records beside it, copied to this machine: what a model card is written from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ...platform.core.errors import StorageError
from ...platform.core.location import Location
from ...platform.core.node_cache import node_cache
from ...platform.core.storage import StoredFile, download, explained, filesystem, listing

RECORD = (".json", ".jsonl", ".csv")
"""Endings of the files of a run that a model card needs."""

MARK = "params.json"
"""A file that every run has."""


@contextmanager
def with_records(backbone: Location) -> Iterator[tuple[Path, dict[str, str]]]:
    """Within the block: a backbone's folder with the records of its training and of the runs beside either around it.

    Yields it, and copy -> URL of what was copied, for messages; a local backbone has the records around it already. Of
    runs only small files are copied, no checkpoints. Raises StorageError, OSError.
    """
    if backbone.is_local:
        yield backbone.path, {}
        return
    parts = str(backbone).split("/")
    root = max(3, len(parts) - 2)  # s3:, an empty one and the bucket have nothing above them
    top, name = Location("/".join(parts[:root])), "/".join(parts[root:])
    wanted = {str(PurePosixPath(name, file)): entry for file, entry in listing(backbone).items()}
    if not wanted:
        raise StorageError(f"{backbone}: nothing is there; check the URL")
    wanted |= _records(top, list(PurePosixPath(name).parents))
    with tempfile.TemporaryDirectory(prefix="records-", dir=node_cache("inputs")) as copy:
        download(top, {file: Path(copy, file) for file in wanted}, wanted)
        yield Path(copy, name), {copy: str(top)}


def _records(top: Location, folders: list[PurePosixPath]) -> dict[str, StoredFile]:
    """Name below `top` -> file of the records in the first of these folders and in the folders within each."""
    files, root = filesystem(top)
    found: dict[str, StoredFile] = {}
    with explained(top):
        runs = [f"{root}/{folder}".removesuffix("/.") for folder in folders[:1]]
        for folder in folders:
            entries = files.ls(f"{root}/{folder}".removesuffix("/."), detail=True)
            runs += [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
        for run in runs:
            if files.exists(f"{run}/{MARK}"):
                found |= {
                    entry["name"].removeprefix(f"{root}/"): StoredFile(int(entry["size"]), "")
                    for entry in files.ls(run, detail=True)
                    if entry["type"] == "file" and entry["name"].endswith(RECORD)
                }
    return found
