"""Starting worker processes that do not run the user's script a second time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_main_script() -> Iterator[None]:
    """Processes that are started inside do not import the script that runs.

    Python's "spawn" and "forkserver" import `__main__` in every new process: a script without `if __name__ ==
    "__main__":` would start its work again in each of them and fail. Our workers need nothing of it.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
