"""Checkpoint folders that appear whole or not at all, and are checked before they are believed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

from .config import atomic_write
from .errors import CheckpointError

SEAL = "seal.json"
"""Name -> sha256 of every other file in the folder; written last."""


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies.

    >>> folder_of(Path("run"), 120).name
    'step_00000120'
    """
    return root / f"step_{step:08d}"


def draft_of(root: Path, step: int) -> Path:
    """Where it is written before it is whole; readers pass it over."""
    return root / f".draft_{step:08d}"


def begin(root: Path, step: int) -> Path:
    """An empty draft folder; one left behind by a killed run is removed."""
    draft = draft_of(root, step)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def publish(root: Path, step: int) -> Path:
    """Seal the draft with the digests of its files and give it its name; an older one of that name goes."""
    draft, final = draft_of(root, step), folder_of(root, step)
    atomic_write(draft / SEAL, json.dumps(_digests(draft), indent=1, sort_keys=True))
    if final.exists():
        shutil.rmtree(final)
    os.replace(draft, final)
    return final


def verify(folder: Path) -> None:
    """Raises CheckpointError where a file is missing or differs from its digest in the seal."""
    try:
        sealed = json.loads((folder / SEAL).read_text())
    except (OSError, ValueError):
        raise CheckpointError(f"{folder}: has no readable {SEAL}; the checkpoint is not whole") from None
    found = _digests(folder)
    for name, digest in sealed.items():
        if found.get(name) != digest:
            state = "differs from its seal" if name in found else "is missing"
            raise CheckpointError(f"{folder / name}: {state}; the checkpoint is damaged")


def newest(root: Path) -> Path | None:
    """The newest whole checkpoint, None where there is none; a damaged one is passed over with a warning."""
    for folder in sorted(root.glob("step_*"), reverse=True):
        try:
            verify(folder)
        except CheckpointError as error:
            warnings.warn(f"{error}; using the one before it", RuntimeWarning, stacklevel=2)
            continue
        return folder
    return None


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for folder in sorted(root.glob("step_*"), reverse=True)[keep:]:
        shutil.rmtree(folder)


def step_of(folder: Path) -> int:
    """The step that a checkpoint folder's name tells.

    >>> step_of(Path("step_00000120"))
    120
    """
    return int(folder.name.removeprefix("step_"))


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
