"""The folder of a training whose `out` is a URL: each machine works in a folder of its own, and uploads.

A checkpoint is there once its seal is, which is uploaded last; before a training continues, each machine downloads the
sealed ones that it lacks. The record (metrics, status, bad batches) is uploaded with each checkpoint, now and then
between, and when an error ends the training. What workers need of storage that does not answer is tried again for some
minutes. Where `out` is local, nothing is done.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..platform.core.errors import StorageError, UnansweredError
from ..platform.core.files import atomic_write
from ..platform.core.location import Location
from ..platform.core.mirror import Mirror
from ..platform.core.storage import download, listing, one_at_a_time, read_bytes, remove, upload
from ..platform.training import checkpoint
from ..platform.training.cluster import FAILURE
from .config import TrainingConfig
from .distillation.engine_state import wait_for_files
from .records import STATUS

CHECKPOINTS = "checkpoints"

BACKBONE = "backbone"

EVERY = 15.0
"""Seconds between two uploads of the record while no checkpoint is due, and between two looks at the status."""

PATIENCE = 1800.0
"""Seconds that a machine waits for another's part of a checkpoint."""

AWAY = 300.0
"""Seconds for which storage that does not answer is tried again, after all retries of the first request have failed."""

PAUSES = (5.0, 60.0)
"""Seconds before the first of these tries, and at most before a later one; each pause is twice the one before."""

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


def run_folder(config: TrainingConfig) -> Path:
    """The folder of this machine for a training: `out`, or the one that is uploaded to it."""
    out = Location(config.out)
    return out.path if out.is_local else Mirror(out).path


class RunStorage:
    """Brings the folder of this machine and the URL of a training in line; does nothing where `out` is local."""

    def __init__(self, config: TrainingConfig, on_warning: Callable[[str], None] = log.warning) -> None:
        """on_warning: called with a sentence, in any thread."""
        self.on_warning = on_warning
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
                self._patiently(self._pull, keep_unsent=False)

    def recover(self) -> None:
        """`pull`, but a whole checkpoint that was made here and could not be uploaded is uploaded now.

        Raises StorageError, OSError.
        """
        if self._mirror is not None:
            with self._alone():
                self._pull(keep_unsent=True)
                self._push_checkpoints()

    def _pull(self, keep_unsent: bool) -> None:
        assert self._mirror is not None
        sealed = _sealed(listing(self.location / CHECKPOINTS))

        def wanted(name: str) -> bool:
            top, _, rest = name.partition("/")
            return rest.partition("/")[0] in sealed if top == CHECKPOINTS else _is_record(name)

        self._mirror.pull(wanted)
        # Left by a training that was killed; `sender` would take one for that of a first worker on this machine.
        for draft in (self.folder / CHECKPOINTS).glob(f"{checkpoint.DRAFT}*"):
            shutil.rmtree(draft)
        for folder in (self.folder / CHECKPOINTS).glob("step_*"):
            was_there = self._mirror.was_there(f"{CHECKPOINTS}/{folder.name}/{checkpoint.SEAL}")
            if folder.name not in sealed and (was_there or not keep_unsent):
                shutil.rmtree(folder)

    def push_record(self) -> None:
        """Upload what is in the folder beside checkpoints and backbone. Raises StorageError, OSError."""
        if self._mirror is not None:
            with self._alone():
                self._patiently(self._mirror.push, _is_record)

    def push_checkpoints(self) -> None:
        """Upload new checkpoints, their seals last, then remove those that are gone here, their seals first.

        Raises StorageError, OSError.
        """
        if self._mirror is not None:
            with self._alone():
                self._patiently(self._push_checkpoints)

    def _push_checkpoints(self) -> None:
        assert self._mirror is not None
        self._mirror.push(lambda name: name.startswith(f"{CHECKPOINTS}/"))

    def push_backbone(self) -> None:
        """Upload the exported backbone, its card last. Raises StorageError, OSError."""
        if self._mirror is not None:
            with self._alone():
                self._patiently(self._mirror.push, lambda name: name.startswith(f"{BACKBONE}/"))

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to resume from, here or sealed at the URL. Raises StorageError."""
        if any((self.folder / CHECKPOINTS).glob("step_*")):
            return True
        return not self.is_local and bool(_sealed(listing(self.location / CHECKPOINTS)))

    def begin_checkpoint(self, step: int) -> None:
        """Remove at the URL what killed attempts have left: parts, and a checkpoint of this step without its seal.

        One with its seal is good until the new one is here. Raises StorageError.
        """
        if self._mirror is not None:
            self._patiently(self._remove_leftovers, step)

    def _remove_leftovers(self, step: int) -> None:
        place = self.location / CHECKPOINTS
        names = listing(place)
        unsealed = {checkpoint.folder_of(Path(), step).name} - _sealed(names)
        remove(
            place,
            [name for name in names if name.startswith(checkpoint.DRAFT) or _top(name) in unsealed],
        )

    def clear_drafts(self, step: int) -> None:
        """Remove this machine's parts of earlier checkpoints, which the first worker's machine has put together."""
        if self._mirror is not None:
            for draft in (self.folder / CHECKPOINTS).glob(f"{checkpoint.DRAFT}*"):
                if draft != checkpoint.draft_of(self.folder / CHECKPOINTS, step):
                    shutil.rmtree(draft, ignore_errors=True)

    def sender(self, step: int) -> Callable[[Path], None]:
        """What uploads this worker's file of a checkpoint where the first worker is on another machine.

        To be called once the first worker has begun the checkpoint, and before this one's file is written: with the
        last file the first worker may move all of them at once.
        """
        draft = checkpoint.draft_of(self.folder / CHECKPOINTS, step)
        if self._mirror is None or (draft / "config.json").exists():
            return lambda path: None
        return lambda path: self._patiently(
            upload, self._parts(step), {path.relative_to(draft).as_posix(): path}
        )

    def collect(self, step: int, paths: Sequence[Path]) -> None:
        """Wait for other workers' files of a checkpoint, and move those of other machines here from the URL.

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
            self._patiently(self._fetch_parts, step, missing)
            time.sleep(0.5)

    def _fetch_parts(self, step: int, missing: Mapping[str, Path]) -> None:
        there = listing(self._parts(step))
        sent = {name: path for name, path in missing.items() if name in there}
        download(self._parts(step), sent, there)
        remove(self._parts(step), list(sent))

    def push_record_soon(self) -> None:
        """Upload the record in the background, if the last time is long ago; a failure is one warning."""
        if self._mirror is None or time.monotonic() - self._last < EVERY:
            return
        if self._thread is None or not self._thread.is_alive():
            self._last = time.monotonic()
            self._thread = threading.Thread(target=self.try_push_record, daemon=True)
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
        """Within the block, a thread writes the status of workers on other machines to this one's folder.

        When the block has ended well, the last one is here.
        """
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
        if self._mirror is not None:
            self._take_status()

    def _follow(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY):
            self._take_status()

    def _take_status(self) -> None:
        status = self.folder / STATUS
        with suppress(StorageError, OSError, ValueError):
            there = json.loads(read_bytes(self.location / STATUS) or b"{}")
            here = json.loads(status.read_text()) if status.exists() else {}
            if there.get("step", 0) > here.get("step", 0):
                atomic_write(status, json.dumps(there))

    def try_push_record(self) -> None:
        """`push_record`, but a failure is one warning, at once."""
        try:
            if self._mirror is not None:
                with self._alone():
                    self._mirror.push(_is_record)
        except (StorageError, OSError) as error:
            if not self._failed:
                log.warning(
                    "%s: the record cannot be uploaded (%s); the training goes on", self.location, error
                )
            self._failed = True

    def _patiently(self, action: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What the action returns, which is done again while the storage does not answer. Raises its error in the end.

        Only whether the storage answers is a matter of patience: what it refuses is raised at once.
        """
        deadline, pause = math.inf, PAUSES[0]
        while True:
            try:
                return action(*arguments, **options)
            except UnansweredError as error:
                if deadline == math.inf:
                    deadline = time.monotonic() + AWAY
                    what = str(error).rpartition("; ")[0]  # without the advice to run again
                    self.on_warning(f"{what}; the training tries for {AWAY / 60:.0f} minutes more")
                elif time.monotonic() > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])

    def _parts(self, step: int) -> Location:
        """Where other machines put their files of a checkpoint: apart from whole ones, which `out` may hold of it."""
        return self.location / CHECKPOINTS / checkpoint.draft_of(Path(), step).name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._mirror is not None
        self._mirror.home.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(self._mirror.home / ".lock"):
            yield

    def __repr__(self) -> str:
        return f"RunStorage({self.location})"


def _top(name: str) -> str:
    return name.partition("/")[0]


def _sealed(names: Iterable[str]) -> set[str]:
    """The folders of whole checkpoints among the names of files."""
    return {_top(name) for name in names if name.endswith(f"/{checkpoint.SEAL}")}


def _is_record(name: str) -> bool:
    """Whether a file of a training's folder is part of its record."""
    return _top(name) not in (CHECKPOINTS, BACKBONE, FAILURE, "ray")
