"""What every kind of phantom does with its folder: claims it, and fills it with as many processes as it may."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..core.config import atomic_write, from_json, to_json
from ..core.errors import ConfigError

Item = TypeVar("Item")

CARD = "phantom.json"
"""The folder's account of itself: version of the generator, kind, settings."""


def claim(out: Path, config: Any, version: int, *, grows: Sequence[str], **more: Any) -> None:
    """Leave OUT/phantom.json, and refuse a folder that another kind or other settings have filled.

    config: a dataclass with a field `workers`, which does not count; grows: its fields that may be larger when
    the folder is filled further, what is counted first; more: further words of the card, among them the kind
    (without it, radiograph). Raises ConfigError.
    """
    path = out / CARD
    mine = replace(config, workers=0)
    if path.exists():
        try:
            card = json.loads(path.read_text())
            kind, old_version, settings = card.get("kind"), card["version"], json.dumps(card["config"])
        except (ValueError, KeyError, AttributeError):
            raise ConfigError(f"{path}: damaged; choose another folder or remove it") from None
        if kind != more.get("kind"):
            raise ConfigError(f"{out}: holds a phantom of kind {kind or 'radiograph'}; choose another folder")
        old = from_json(type(config), settings, source=str(path))
        alike = dict.fromkeys(grows, 1)
        if (replace(old, **alike), old_version) != (replace(mine, **alike), version):
            raise ConfigError(
                f"{out}: holds {grows[0]} of other settings; choose another folder or remove it"
            )
        for name in grows:
            if getattr(old, name) > getattr(mine, name):
                raise ConfigError(
                    f"{out}: holds {getattr(old, name)} {name}; ask for as many, or choose another folder"
                )
    card = {"version": version, **more, "config": json.loads(to_json(mine))}
    atomic_write(path, json.dumps(card, indent=2) + "\n")


def each_done(work: Callable[[Item], object], todo: Sequence[Item], workers: int) -> Iterator[None]:
    """Does work for every item, here or in worker processes (0: one a core); yields when one is done.

    What `work` does must not depend on who does it, or when.
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    workers = min(workers or os.cpu_count() or 1, len(todo))
    if workers <= 1:
        for item in todo:
            work(item)
            yield
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _alone, (os.getpid(),)) as pool:
        jobs = [pool.submit(work, item) for item in todo]
        try:
            for job in as_completed(jobs):
                job.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(parent: int) -> None:
    """One thread a worker, the workers being the parallelism; none outlives a parent that was killed."""
    import cv2

    cv2.setNumThreads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
