"""Results of decoding, kept in a small database until they are assembled, so that a stopped run can continue."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..data.study import StoredView
from .decoding import DecodeResult
from .discovery import DecodeTask
from .pseudonyms import pseudonym

COMMIT_EVERY = 2.0
"""Seconds of results that a kill may cost."""

RETRIED = ("DECODER_CRASHED", "DECODE_FAILED", "UNREADABLE_HEADER")
"""Refusals that more time, more memory or a permission may change: such a file is decoded again."""


class ResultStore:
    """Results on disk by the key of what they were made from, see `result_key`."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS parts (key TEXT PRIMARY KEY, record TEXT, encoded BLOB)"
        )
        self._last_commit = time.monotonic()

    def put(self, key: str, result: DecodeResult) -> None:
        """Stores a result; it is on disk after the next `commit` or a few seconds."""
        record = asdict(result)
        encoded = None
        if (view := record.pop("view")) is not None:
            encoded = view.pop("encoded")
            record["view"] = view
        self._database.execute(
            "INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", (key, json.dumps(record), encoded)
        )
        if time.monotonic() - self._last_commit > COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Writes what was stored to disk."""
        self._database.commit()
        self._last_commit = time.monotonic()

    def keys(self) -> set[str]:
        """Keys of all results but those to try again."""
        query = "SELECT key FROM parts WHERE json_extract(record, '$.code') NOT IN (?, ?, ?)"
        return {key for (key,) in self._database.execute(query, RETRIED)}

    def without_view(self, key: str) -> DecodeResult:
        """A result without its view."""
        record, _ = self._row(key)
        record.pop("view", None)
        return DecodeResult(**record)

    def view(self, key: str) -> StoredView:
        """The view of a result that has one."""
        record, encoded = self._row(key)
        view = record["view"]
        view["spacing"] = tuple(view["spacing"]) if view["spacing"] else None
        return StoredView(encoded=encoded, **view)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def _row(self, key: str) -> tuple[dict, bytes]:
        query = "SELECT record, encoded FROM parts WHERE key = ?"
        record, encoded = self._database.execute(query, (key,)).fetchone()
        return json.loads(record), encoded


def result_key(root: Path, task: DecodeTask, secret: bytes) -> str:
    """Changes with the file (its size and time) and with what a table says about it; holds no path."""
    state = ""
    with suppress(OSError):
        status = os.stat(root / task.path)
        state = f"{status.st_size} {status.st_mtime_ns}"
    return pseudonym(secret, f"part:{task.path}\0{task.named}{task.laterality}\0{state}")
