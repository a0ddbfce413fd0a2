"""Worker processes leave the user's script alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vetdino
from vetdino.platform.core.processes import without_main_script

ROOT = Path(vetdino.__file__).parent

SCRIPT = """
import multiprocessing, os, sys
sys.path.insert(0, {root!r})
from vetdino.platform.core.processes import without_main_script
print("script", flush=True)
context = multiprocessing.get_context({method!r})
process = context.Process(target=print, args=("worker",))
with without_main_script():
    process.start()
process.join()
print("done", process.exitcode)
"""


def test_the_script_is_back_afterwards_even_after_an_error():
    script = sys.modules["__main__"]
    with without_main_script():
        assert sys.modules["__main__"] is not script
    assert sys.modules["__main__"] is script
    with pytest.raises(ZeroDivisionError), without_main_script():
        raise ZeroDivisionError
    assert sys.modules["__main__"] is script


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_runs_once(method, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(ROOT), method=method))
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["script", "worker", "done 0"], done.stderr
