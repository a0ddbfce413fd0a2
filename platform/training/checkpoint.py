"""Checkpoint folders that appear whole or not at all, and are verified before they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import CheckpointError
from ..core.files import atomic_path, atomic_write, fsync_path

SEAL = "seal.json"
"""Name -> sha256 of every other file in the folder; written last."""

DRAFT = ".draft_"
"""Prefix of a checkpoint that is being written; readers ignore it."""

GONE = ".gone_"
"""Prefix of a checkpoint that is being removed; readers ignore it."""


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies.

    >>> folder_of(Path("run"), 120).name
    'step_00000120'
    """
    return root / f"step_{step:08d}"


def draft_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it is complete; readers ignore it."""
    return root / f"{DRAFT}{step:08d}"


def begin(root: Path, step: int) -> Path:
    """Create an empty draft folder; an older draft and half-removed checkpoints of a killed run are deleted."""
    draft = draft_of(root, step)
    for leftover in (draft, *root.glob(f"{GONE}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def publish(root: Path, step: int) -> Path:
    """Write the digests of the draft's files into its seal and rename it; an older checkpoint of the step is removed.

    All of it is on the disk before the name appears: after a power failure the checkpoint is whole or missing.
    """
    draft, final = draft_of(root, step), folder_of(root, step)
    atomic_write(draft / SEAL, json.dumps(_digests(draft), indent=1, sort_keys=True))
    for path in sorted(draft.rglob("*"), reverse=True):
        fsync_path(path)
    fsync_path(draft)
    if final.exists():
        remove(final)
    os.replace(draft, final)
    fsync_path(root)
    return final


def verify(folder: Path) -> None:
    """Raises CheckpointError where a file is missing or differs from its digest in the seal."""
    try:
        sealed = json.loads((folder / SEAL).read_text())
    except (OSError, ValueError):
        raise CheckpointError(f"{folder}: has no readable {SEAL}; the checkpoint is incomplete") from None
    actual = _digests(folder)
    for name, digest in sealed.items():
        if actual.get(name) != digest:
            state = "differs from its seal" if name in actual else "is missing"
            raise CheckpointError(f"{folder / name}: {state}; the checkpoint is damaged")


def newest(root: Path) -> Path | None:
    """The newest intact checkpoint, or None; a damaged one is skipped with a warning."""
    for folder in sorted(root.glob("step_*"), reverse=True):
        try:
            verify(folder)
        except CheckpointError as error:
            warnings.warn(f"{error}; using the one before it", RuntimeWarning, stacklevel=2)
            continue
        return folder
    return None


def prune(root: Path, keep: int, best: int | None = None) -> None:
    """Remove all checkpoints but the newest `keep` and that of step `best`."""
    for folder in sorted(root.glob("step_*"), reverse=True)[keep:]:
        if step_of(folder) != best:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that a process killed meanwhile leaves no half of one."""
    gone = folder.with_name(f"{GONE}{folder.name}")
    os.replace(folder, gone)
    shutil.rmtree(gone)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name.

    >>> step_of(Path("step_00000120"))
    120
    """
    return int(folder.name.removeprefix("step_"))


class AsyncWriter:
    """Writes tensors to disk in a thread, from a copy in this machine's memory, while training goes on.

    The memory of the copy is kept for the next one: fresh pages cost several times the copying itself.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def start(
        self, files: Mapping[Path, Mapping[str, Tensor]], then: Callable[[], object] | None = None
    ) -> None:
        """Copy the tensors of each safetensors file and begin to write them, after the writing before has ended.

        The tensors may be changed as soon as this returns (on CUDA: by work of the current stream). The thread calls
        `then` once all files have their names. Raises as `wait` does.
        """
        self.wait()
        snapshot = {
            path: {name: self._copy(path.name, name, value) for name, value in tensors.items()}
            for path, tensors in files.items()
        }
        copied = None
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            copied = torch.cuda.current_stream().record_event()
        self._thread = threading.Thread(target=self._write, args=(snapshot, copied, then), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until all is written. Raises CheckpointError where that failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _copy(self, file: str, name: str, value: Tensor) -> Tensor:
        memory = self._memory.get((file, name))
        if memory is None or memory.shape != value.shape or memory.dtype != value.dtype:
            memory = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._memory[file, name] = memory
        return memory.copy_(value.detach(), non_blocking=True)

    def _write(
        self,
        snapshot: Mapping[Path, Mapping[str, Tensor]],
        copied: torch.cuda.Event | None,
        then: Callable[[], object] | None,
    ) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = Path()
        try:
            if copied is not None:
                copied.synchronize()
            for path, tensors in snapshot.items():
                with atomic_path(path) as temporary:
                    save_file(dict(tensors), temporary)
            if then is not None:
                then()
        except (OSError, SafetensorError) as error:
            where, why = (getattr(error, name, None) for name in ("filename", "strerror"))
            self._failure = CheckpointError(
                f"{where or path}: could not be written ({why or error}); make room there, then --resume "
                "continues from the checkpoint before"
            )
        except Exception as error:
            self._failure = error


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
