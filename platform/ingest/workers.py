"""What every process that decodes files has in common: how it starts, its environment, and its limits."""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.processes import ScriptlessContext

PRELOAD = ("cv2", "imagecodecs", "numpy", "PIL.Image", "pydicom.encaps", "pydicom.pixels")
"""Modules that the fork server imports once, so that a new worker starts in a moment."""

LONGEST_TMPDIR = 75
"""Bytes of the path of temporary files: a socket below it has a path of at most 107."""

SECRET = re.compile(r"VETDINO_\w+_TOKEN")
"""Variables of the environment that no worker gets."""


def worker_context(*preload: str) -> Any:
    """A `multiprocessing` context whose processes do not run the user's script, see `without_main_script`.

    preload: modules, beside `PRELOAD`, that the fork server imports where it does not run yet. Raises ConfigError as
    `check_temporary_folder`.
    """
    check_temporary_folder()
    multiprocessing.set_forkserver_preload([*PRELOAD, *preload])
    return ScriptlessContext()


def check_temporary_folder() -> None:
    """Raises ConfigError where worker processes can have no sockets in the folder of temporary files."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        raise ConfigError(
            "no folder for temporary files can be written; set TMPDIR to one that can be"
        ) from None
    if len(os.fsencode(folder)) > LONGEST_TMPDIR:
        raise ConfigError(
            f"{folder}: too long a path for the sockets of worker processes; set TMPDIR to a shorter one"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: temporary files cannot be written here; set TMPDIR to another folder")


def worker_environment() -> dict[str, str]:
    """The environment of this process now, for its workers: the fork server has that of its own start. No tokens."""
    return {name: value for name, value in os.environ.items() if not SECRET.fullmatch(name)}


def prepare_worker(environment: Mapping[str, str], memory_gib: float) -> None:
    """Runs first in a worker: its environment, one thread, and its memory limited once libraries are loaded."""
    os.environ.clear()
    os.environ.update(environment)
    import signal

    import cv2
    import imagecodecs  # noqa: F401  before memory is limited
    import pydicom.pixels  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    cv2.setNumThreads(1)
    _limit_memory(memory_gib)


def silence_output() -> None:
    """C libraries print what they read, and that may be a name."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _limit_memory(gib: float) -> None:
    """Caps this process's address space at what it has plus `gib`, where the system reports what it has."""
    status = Path("/proc/self/statm")
    if status.exists():
        import resource

        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(gib * 2**30), resource.RLIM_INFINITY))
