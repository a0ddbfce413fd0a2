"""The tutorials, run as a reader would: every shell block of a page, in order, in one empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
FIRST = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


def run(folder: Path, command: list[str]) -> str:
    """Output of a command in `folder`, with this environment's `vetdino` and `python` first on the path."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_runs_to_its_end(page, tmp_path):
    blocks = SHELL.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) >= 3
    script = 'vetdino() { python -m vetdino "$@"; }\nset -euo pipefail\n' + "\n".join(blocks)
    printed = run(tmp_path, ["bash", "-c", script])
    assert printed.strip()


def test_the_five_lines_of_the_first_page_run(tmp_path):
    [program] = FIRST.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    assert len([line for line in program.splitlines() if "vetdino." in line]) == 5
    (tmp_path / "first.py").write_text(program)  # a script without a guard, as a reader would save it
    run(tmp_path, [sys.executable, "first.py"])
    assert (tmp_path / "features" / "_features.json").is_file()
    assert (tmp_path / "runs" / "first" / "backbone" / "card.json").is_file()


def test_there_are_five_tutorials():
    assert {page.stem for page in PAGES} == {"encoder", "ultrasound", "fewshot", "compare", "distill"}
