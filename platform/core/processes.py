"""Starting worker processes that do not run the user's script a second time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType

_LOCK = threading.RLock()
"""One at a time: a second thread must not take the stand-in for the script."""


@contextmanager
def without_main_script() -> Iterator[None]:
    """Processes that are started inside do not import the script that runs.

    Python's "spawn" and "forkserver" import `__main__` in every new process: a script without `if __name__ ==
    "__main__":` would start its work again in each of them and fail. Our workers need nothing of it.
    """
    with _LOCK:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


class ScriptlessProcess(ForkServerProcess):
    """A process that starts without the script that runs, whoever starts it and whenever."""

    def start(self) -> None:
        """See `multiprocessing.Process.start`."""
        with without_main_script():
            super().start()


class ScriptlessContext(ForkServerContext):
    """A context of `multiprocessing` for pools that start processes from threads of their own."""

    Process = ScriptlessProcess
