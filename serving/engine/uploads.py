"""Uploaded studies, in memory only: each belongs to the session that sent it, and is deleted after a set time."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...platform.data.study import StoredView, Study
from ..studies import NotHereError
from .errors import RefusedError

PREFIX = "upload-"

SESSION = re.compile(r"[0-9a-f]{32}")
"""What a session's name looks like."""


def new_session() -> str:
    """A name that nobody guesses."""
    return secrets.token_hex(16)


@dataclass(slots=True, eq=False)
class Upload:
    """One uploaded study. expires: by `time.monotonic`."""

    session: str
    study: Study
    expires: float
    size: int


class UploadStore:
    """Uploads by name; thread-safe.

    seconds: how long one is kept. most, most_bytes: of all; the oldest goes when another needs its place. on_delete:
    called with the name of each that is deleted.
    """

    def __init__(
        self,
        seconds: float,
        most: int,
        most_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_delete: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.seconds, self.most, self.most_bytes, self._clock = seconds, most, most_bytes, clock
        self._on_delete = on_delete
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, session: str, views: Sequence[StoredView]) -> str:
        """Keeps a study; its name. Raises RefusedError (413) for one that is larger than all may be."""
        size = sum(len(view.encoded) for view in views)
        if size > self.most_bytes:
            raise RefusedError(413, "TooLarge", "this study is larger than all uploads may be", "uploads_mib")
        name = f"{PREFIX}{secrets.token_hex(16)}"
        study = Study(key=name, patient="", views=tuple(views))
        with self._lock:
            self._sweep()
            self._uploads[name] = Upload(session, study, self._clock() + self.seconds, size)
            while len(self._uploads) > self.most or self._size() > self.most_bytes:
                self._delete_oldest()
        return name

    def get(self, name: str, session: str) -> Upload:
        """An upload of this session. Raises NotHereError, the same whether it is another session's or gone."""
        with self._lock:
            self._sweep()
            upload = self._uploads.get(name)
            if upload is None or not secrets.compare_digest(upload.session, session):
                raise NotHereError("There is no such upload here; it may have been deleted, send it again.")
            return upload

    def remove(self, name: str, session: str) -> None:
        """Deletes an upload of this session. Raises NotHereError."""
        self.get(name, session)
        with self._lock:
            if self._uploads.pop(name, None) is not None:
                self._on_delete(name)

    def sweep(self) -> None:
        """Deletes what has expired."""
        with self._lock:
            self._sweep()

    def clear(self) -> None:
        """Deletes all."""
        with self._lock:
            while self._uploads:
                self._delete_oldest()

    def _sweep(self) -> None:
        now = self._clock()
        while self._uploads and next(iter(self._uploads.values())).expires <= now:
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        name, _ = self._uploads.popitem(last=False)
        self._on_delete(name)

    def _size(self) -> int:
        return sum(upload.size for upload in self._uploads.values())

    def __len__(self) -> int:
        return len(self._uploads)
