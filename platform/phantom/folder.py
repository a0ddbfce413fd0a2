"""The folder that a generator fills: its card, its items in parallel worker processes, its tables.

The same config gives the same bytes, whatever the number of workers, and a folder may be filled further later.
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..core.config import from_json, to_json
from ..core.errors import ConfigError, DataError
from ..core.files import atomic_write, explain_os_error
from ..core.processes import without_main_script
from ..core.progress import Progress

Item = TypeVar("Item")

CARD = "phantom.json"
"""File with the version of the generator, its kind and its settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderContents(Generic[Item]):
    """What one kind of generator writes into its folder."""

    version: int
    """Version of the generator; raised when the same config gives other bytes."""
    unit: str
    """Plural name of the items, for progress and messages."""
    growing: Sequence[str]
    """Settings that may be larger when the folder is filled further; the first counts the items."""
    items: Sequence[Item]
    is_written: Callable[[Item], bool]
    write: Callable[[Item], None]
    """Writes one item, all of it or nothing; it runs in any process, in any order."""
    tables: Mapping[str, str]
    """File name -> text, written after the last item."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the card, among them the kind (none for radiographs)."""


def fill_folder(out: Path, config: Any, contents: FolderContents[Any]) -> None:
    """Write the card, every item that is not there yet, and the tables.

    config: a dataclass with a field `workers`. Raises ConfigError where the folder holds another kind or other
    settings, DataError where it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        claim_folder(out, config, contents.version, growing=contents.growing, **contents.card)
        missing = [item for item in contents.items if not contents.is_written(item)]
        with Progress("phantom", total=len(contents.items), unit=contents.unit) as progress:
            progress.advance(len(contents.items) - len(missing))
            for _ in run_all(contents.write, missing, config.workers):
                progress.advance()
        for name, text in contents.tables.items():
            atomic_write(out / name, text)
    except OSError as error:
        raise DataError(
            f"{explain_os_error(error, str(out))}, then run again; finished {contents.unit} are kept"
        ) from error


def claim_folder(out: Path, config: Any, version: int, *, growing: Sequence[str], **card: Any) -> None:
    """Write OUT/phantom.json; raise ConfigError if another kind or other settings have filled the folder.

    config: a dataclass whose field `workers` is ignored; growing: its fields that may be larger than before;
    card: further entries of the card, among them the kind (none for radiographs).
    """
    path = out / CARD
    new = replace(config, workers=0)
    if path.exists():
        try:
            earlier = json.loads(path.read_text())
            kind, old_version, settings = (
                earlier.get("kind"),
                earlier["version"],
                json.dumps(earlier["config"]),
            )
        except (ValueError, KeyError, AttributeError):
            raise ConfigError(f"{path}: damaged; choose another folder or remove it") from None
        if kind != card.get("kind"):
            raise ConfigError(f"{out}: holds a phantom of kind {kind or 'radiograph'}; choose another folder")
        old = from_json(type(config), settings, source=str(path))
        ignored = dict.fromkeys(growing, 1)
        if (replace(old, **ignored), old_version) != (replace(new, **ignored), version):
            raise ConfigError(
                f"{out}: holds {growing[0]} of other settings; choose another folder or remove it"
            )
        for name in growing:
            if getattr(old, name) > getattr(new, name):
                raise ConfigError(
                    f"{out}: holds {getattr(old, name)} {name}; choose as many, or choose another folder"
                )
    atomic_write(
        path, json.dumps({"version": version, **card, "config": json.loads(to_json(new))}, indent=2) + "\n"
    )


def run_all(work: Callable[[Item], object], items: Sequence[Item], workers: int) -> Iterator[None]:
    """Call `work` for every item, here or in worker processes (0: one per core); yields once per finished item."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    workers = min(workers or os.cpu_count() or 1, len(items))
    if workers <= 1:
        for item in items:
            work(item)
            yield
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (os.getpid(),)) as pool:
        with without_main_script():
            jobs = [pool.submit(work, item) for item in items]
        try:
            for job in as_completed(jobs):
                job.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Use one thread, since the workers are the parallelism, and end when the parent process is gone."""
    import cv2

    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table as text, with Unix line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()
