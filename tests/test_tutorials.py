"""The tutorials and the README, run as a reader would: every shell block of a page, in order, in one empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.platform.models.examples import published

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


@pytest.mark.tutorial
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_runs_to_its_end(page, tmp_path):
    blocks = SHELL.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) >= 3
    script = 'vetdino() { python -m vetdino "$@"; }\nset -euo pipefail\n' + "\n".join(blocks)
    printed = run(tmp_path, ["bash", "-c", script])
    assert printed.strip()


@pytest.mark.tutorial
def test_the_five_lines_of_the_first_page_run(tmp_path):
    [program] = FIRST.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    assert len([line for line in program.splitlines() if "vetdino." in line]) == 5
    (tmp_path / "first.py").write_text(program)  # a script without a guard, as a reader would save it
    run(tmp_path, [sys.executable, "first.py"])
    assert (tmp_path / "features" / "_features.json").is_file()
    assert (tmp_path / "runs" / "first" / "backbone" / "card.json").is_file()


SMALL = """
vetdino() {
    case "$1 $2" in
        "phantom domains") set -- "$@" --domains 2 --frames 3 --side 64 ;;
        "phantom scans") set -- "$@" --scans 5 --side 64 ;;
        ingest*) set -- "$@" --labels labels.csv --secret key --val 0.2 --test 0.3 ;;
        pretrain*) set -- "$@" --steps 2 --batch 4 --probe.every 0 --checkpoint-every 2 ;;
        distill*) set -- "$@" --steps 2 --batch 4 --probe.every 0 --checkpoint-every 2 --crops.global-side 64 \\
            --backbone.width 96 --backbone.depth 2 --backbone.heads 2 ;;
        evaluate* | compare-backbones*) set -- "$@" --fractions 1 --resamples 20 ;;
        "zeroshot segment") set -- "$@" --cosegment.clusters 4 ;;
        "zeroshot same-domain") set -- "$@" --sizes 2 --resamples 20 --cosegment.clusters 4 ;;
        "fewshot prepare") set -- "$@" --side 64 ;;
        "fewshot evaluate") set -- "$@" --folds 2 --resamples 20 --slices.grid 8 --organs 1 ;;
        serve* | app*)
            port=$(python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
            python -m vetdino "$@" --port $port &
            test $1 = app && place= || place=health/ready
            python opened.py http://127.0.0.1:$port/$place
            kill -INT $! && wait $! || test $? = 130
            return ;;
    esac
    python -m vetdino "$@"
}
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"""
"""The README's commands at small size, on data that is here; what serves is opened once and stopped."""

OPENED = """
import sys, time, urllib.request
for _ in range(240):
    try:
        urllib.request.urlopen(sys.argv[1], timeout=60).read()
        sys.exit()
    except OSError:
        time.sleep(1)
sys.exit(f"{sys.argv[1]} does not answer")
"""

README_DATA = {
    "/archive/dicom": "archive/dicom",
    "timm:vit_small_patch14_dinov2": "random:vit_tiny_patch16_224",
    "frames/*.png": "domains/*/images",
    "new.nii.gz": "scans/images/mri_005.nii.gz",
    "scan.nii.gz": "scans/images/mri_001.nii.gz",
    "liver.nii.gz": "scans/labels/mri_001.nii.gz",
}
"""What the README's commands read -> what is here."""


def test_the_commands_of_the_readme_run(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    own, _, _, bone, organ = SHELL.findall(text)[1:]
    script = "\n".join([own, bone, organ])
    for word, here in README_DATA.items():
        assert word in script
        script = re.sub(rf"(?<![\w/]){re.escape(word)}", here, script)
    run(tmp_path, ["bash", "-c", "python -m vetdino phantom archive --studies 24 --side 64"])
    (tmp_path / "labels.csv").symlink_to(tmp_path / "archive" / "labels.csv")
    (tmp_path / "opened.py").write_text(OPENED)
    # The split depends on the key, and with another one so few patients might all be in one part.
    (tmp_path / "key").write_bytes(bytes(32))
    torch.save(published(width=384, depth=12, patch=8, grid=28), tmp_path / "dino_deitsmall8_pretrain.pth")
    run(tmp_path, ["bash", "-c", SMALL + script])
    assert (tmp_path / "masks").is_dir()
    assert (tmp_path / "gallery").is_dir()


def test_there_are_five_tutorials():
    assert {page.stem for page in PAGES} == {"encoder", "ultrasound", "fewshot", "compare", "distill"}
