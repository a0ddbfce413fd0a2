"""The folder of a training whose `out` is a URL: each machine works in a folder of its own, and uploads.

A checkpoint is there once its seal is, which is uploaded last; before a training continues, each machine downloads the
sealed ones that it lacks. The record (metrics, status, bad batches) is uploaded with each checkpoint, and now and then
between. Where `out` is local, nothing is done.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..platform.core.errors import StorageError
from ..platform.core.files import atomic_write
from ..platform.core.location import Location
from ..platform.core.mirror import Mirror
from ..platform.core.storage import download, listing, one_at_a_time, read_bytes, remove, upload
from ..platform.training import checkpoint
from ..platform.training.cluster import FAILURE
from .config import PretrainConfig
from .distillation.engine_state import wait_for_files
from .records import STATUS

CHECKPOINTS = "checkpoints"

BACKBONE = "backbone"

EVERY = 15.0
"""Seconds between two uploads of the record while no checkpoint is due, and between two looks at the status."""

PATIENCE = 1800.0
"""Seconds that a machine waits for another's part of a checkpoint."""

log = logging.getLogger(__name__)


def run_folder(config: PretrainConfig) -> Path:
    """The folder of this machine for a training: `out`, or the one that is uploaded to it."""
    out = Location(config.out)
    return out.path if out.is_local else Mirror(out).path


class RunStorage:
    """Brings the folder of this machine and the URL of a training in line; does nothing where `out` is local."""

    def __init__(self, config: PretrainConfig) -> None:
        self.location = Location(config.out)
        self.is_local = self.location.is_local
        self.folder = run_folder(config)
        self._mirror = None if self.is_local else Mirror(self.location)
        self._thread: threading.Thread | None = None
        self._last = time.monotonic()
        self._failed = False

    def pull(self) -> None:
        """Make the record and the checkpoints here those of the URL; one process of a machine does it for all.

        Raises StorageError, OSError.
        """
        if self._mirror is not None:
            with self._alone():
                self._pull(keep_unsent=False)

    def recover(self) -> None:
        """`pull`, but a whole checkpoint that was made here and could not be uploaded is uploaded now.

        Raises StorageError, OSError.
        """
        if self._mirror is not None:
            with self._alone():
                self._pull(keep_unsent=True)
            self.push_checkpoints()

    def _pull(self, keep_unsent: bool) -> None:
        assert self._mirror is not None
        names = listing(self.location / CHECKPOINTS)
        sealed = {name.rpartition("/")[0] for name in names if name.endswith(f"/{checkpoint.SEAL}")}

        def wanted(name: str) -> bool:
            top, _, rest = name.partition("/")
            return rest.partition("/")[0] in sealed if top == CHECKPOINTS else _is_record(name)

        self._mirror.pull(wanted)
        for folder in (self.folder / CHECKPOINTS).glob("step_*"):
            was_there = self._mirror.was_there(f"{CHECKPOINTS}/{folder.name}/{checkpoint.SEAL}")
            if folder.name not in sealed and (was_there or not keep_unsent):
                shutil.rmtree(folder)

    def push_record(self) -> None:
        """Upload what is in the folder beside checkpoints and backbone. Raises StorageError, OSError."""
        if self._mirror is not None:
            with self._alone():
                self._mirror.push(_is_record)

    def push_checkpoints(self) -> None:
        """Upload new checkpoints, their seals last, then remove those that are gone here, their seals first.

        Raises StorageError, OSError.
        """
        if self._mirror is not None:
            with self._alone():
                self._mirror.push(lambda name: name.startswith(f"{CHECKPOINTS}/"))

    def push_backbone(self) -> None:
        """Upload the exported backbone, its card last. Raises StorageError, OSError."""
        if self._mirror is not None:
            with self._alone():
                self._mirror.push(lambda name: name.startswith(f"{BACKBONE}/"))

    def begin_checkpoint(self, step: int) -> None:
        """Remove at the URL what a killed attempt has left of a step's checkpoint. Raises StorageError."""
        if self._mirror is not None:
            place = self._place(step)
            remove(place, sorted(listing(place), key=checkpoint.SEAL.__ne__))

    def clear_drafts(self, step: int) -> None:
        """Remove this machine's parts of earlier checkpoints, which the first worker's machine has put together."""
        if self._mirror is not None:
            for draft in (self.folder / CHECKPOINTS).glob(".draft_*"):
                if draft != checkpoint.draft_of(self.folder / CHECKPOINTS, step):
                    shutil.rmtree(draft, ignore_errors=True)

    def send(self, step: int, path: Path) -> None:
        """Upload this worker's file of a checkpoint, where the first worker is on another machine."""
        draft = checkpoint.draft_of(self.folder / CHECKPOINTS, step)
        if self._mirror is not None and not (draft / "config.json").exists():
            upload(self._place(step), {path.relative_to(draft).as_posix(): path})

    def collect(self, step: int, paths: Sequence[Path]) -> None:
        """Wait for other workers' files of a checkpoint, and download those of other machines.

        Raises TimeoutError (an OSError) if one does not come, StorageError.
        """
        if self.is_local:
            wait_for_files(paths)
            return
        draft, deadline = checkpoint.draft_of(self.folder / CHECKPOINTS, step), time.monotonic() + PATIENCE
        missing = {path.relative_to(draft).as_posix(): path for path in paths}
        while missing := {name: path for name, path in missing.items() if not path.exists()}:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{next(iter(missing))} of another worker did not come in {PATIENCE / 60:.0f} minutes"
                )
            there = {} if self.is_local else listing(self._place(step))
            download(self._place(step), {name: missing[name] for name in missing if name in there}, there)
            time.sleep(0.05 if self.is_local else 0.5)

    def push_record_soon(self) -> None:
        """Upload the record in the background, if the last time is long ago; a failure is one warning."""
        if self._mirror is None or time.monotonic() - self._last < EVERY:
            return
        if self._thread is None or not self._thread.is_alive():
            self._last = time.monotonic()
            self._thread = threading.Thread(target=self._push_quietly, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait for the upload in the background."""
        if self._thread is not None:
            self._thread.join()

    def discard(self) -> None:
        """Remove this machine's folder of a training that has ended; all of it is at the URL."""
        if self._mirror is not None:
            self._mirror.discard()

    @contextmanager
    def followed_status(self) -> Iterator[None]:
        """Within the block, a thread writes the status of workers on other machines to this one's folder."""
        ended = threading.Event()
        thread = threading.Thread(target=self._follow, args=(ended,), daemon=True)
        if self._mirror is not None:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if self._mirror is not None:
                thread.join()

    def _follow(self, ended: threading.Event) -> None:
        status = self.folder / STATUS
        while not ended.wait(EVERY):
            with suppress(StorageError, OSError, ValueError):
                there = json.loads(read_bytes(self.location / STATUS) or b"{}")
                here = json.loads(status.read_text()) if status.exists() else {}
                if there.get("step", 0) > here.get("step", 0):
                    atomic_write(status, json.dumps(there))

    def _push_quietly(self) -> None:
        try:
            self.push_record()
        except (StorageError, OSError) as error:
            if not self._failed:
                log.warning(
                    "%s: the record cannot be uploaded (%s); the training goes on", self.location, error
                )
            self._failed = True

    def _place(self, step: int) -> Location:
        return self.location / CHECKPOINTS / checkpoint.folder_of(Path(), step).name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._mirror is not None
        self._mirror.home.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self._mirror.home / ".lock"):
            yield

    def __repr__(self) -> str:
        return f"RunStorage({self.location})"


def _is_record(name: str) -> bool:
    """Whether a file of a training's folder is part of its record."""
    return name.partition("/")[0] not in (CHECKPOINTS, BACKBONE, FAILURE, "ray")
