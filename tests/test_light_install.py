"""What `pip install vetdino` alone can do, in an environment that lacks every library of the extras.

The environment is a folder of links to the distributions that vetdino's base dependencies need, by their own
metadata; nothing else of the test environment can be imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import vetdino
from vetdino.platform.core.extras import EXTRAS

ROOT = Path(vetdino.__file__).resolve().parent
SHIPPED = ROOT / "infra" / "zoo" / "tiny"

pytestmark = pytest.mark.slow


def closure(requirements: list[str]) -> set[str]:
    """Names of the distributions that these requirements install, markers and extras obeyed."""
    pending = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, extra = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (key := (requirement.name, wanted)) in seen:
                continue
            seen.add(key)
            try:
                needs = distribution(requirement.name).requires or []
            except PackageNotFoundError:
                continue
            pending += [(Requirement(text), wanted) for text in needs]
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder of installed libraries without the extras'."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folder = tmp_path_factory.mktemp("site")
    for name in closure(settings["project"]["dependencies"]):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:  # of another platform
            continue
        for top in {path.parts[0] for path in files} - {"..", "__pycache__"}:
            source = Path(str(distribution(name).locate_file(top)))
            if not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


def run(site: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python in the light environment: no site-packages but `site`, and vetdino from this checkout."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))
    }
    environment |= {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def verb(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run(site, "-m", "vetdino", *words, folder=folder)


def test_the_libraries_of_the_extras_are_not_there(site, tmp_path):
    program = f"from importlib.util import find_spec; print([n for n in {list(EXTRAS)} if find_spec(n)])"
    done = run(site, "-c", program, folder=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_backbone_loads_and_gives_tokens(site, tmp_path):
    program = (
        "import numpy, vetdino\n"
        f"backbone = vetdino.load({str(SHIPPED)!r})\n"
        "tokens = backbone.tokens(backbone.prepare(numpy.zeros((90, 70), numpy.uint8))[None])\n"
        "print(tuple(tokens.cls.shape))"
    )
    done = run(site, "-c", program, folder=tmp_path)
    assert done.stdout.strip() == "(1, 192)", done.stderr


@pytest.fixture(scope="module")
def work(site, tmp_path_factory) -> Path:
    """Generated studies, ultrasound frames and scans, read and prepared in the light environment."""
    folder = tmp_path_factory.mktemp("light")
    for words in (
        ("phantom", "dogs", "--studies", "40", "--side", "64"),
        ("phantom", "frames", "--kind", "ultrasound", "--domains", "1", "--frames", "2", "--side", "96"),
        ("phantom", "scans", "--kind", "volume", "--modality", "mri", "--scans", "3", "--side", "64"),
        ("ingest", "dogs/dicom", "shards", "--labels", "dogs/labels.csv", "--val", "0.2", "--test", "0.3"),
        ("fewshot", "prepare", "scans", "volumes", "--side", "64"),
    ):
        done = verb(site, folder, *words)
        assert done.returncode == 0, done.stderr
    return folder


def test_features_and_knn_are_measured_and_recorded_in_files(site, work):
    done = verb(
        site, work, "evaluate", str(SHIPPED), "shards", "--resamples", "5", "--fractions", "1", "--out", "knn"
    )
    assert done.returncode == 0, done.stderr
    assert "vetdino[train]" in done.stdout + done.stderr  # MLflow is missing, and that is said
    assert (work / "knn" / "knn.csv").is_file()


def test_bone_is_segmented_in_new_frames(site, work):
    frames = next((work / "frames").glob("*/images"))
    words = ("--backbone", str(SHIPPED), "--out", "bones", "--cosegment.clusters", "3")
    done = verb(site, work, "zeroshot", "segment", str(frames), *words)
    assert done.returncode == 0, done.stderr
    assert len(list((work / "bones" / "masks").iterdir())) == 2


def test_organs_are_measured_over_folds(site, work):
    words = (
        "--backbone",
        "pixels",
        "--folds",
        "3",
        "--resamples",
        "5",
        "--floors",
        "copy",
        "--out",
        "organs",
    )
    done = verb(site, work, "fewshot", "evaluate", "volumes", *words)
    assert done.returncode == 0, done.stderr
    assert (work / "organs" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("pretrain", "demo", "--shards", "shards", "--out", "run", "--start", str(SHIPPED)), "train"),
        (("distill", str(SHIPPED), "vit_tiny_patch16_224", "--shards", "shards", "--out", "run"), "train"),
        (("evaluate", str(SHIPPED), "shards", "--tasks", "finetune", "--out", "tuned"), "train"),
        (("app", "--shards", "shards", "--backbones", str(SHIPPED)), "serve"),
    ],
)
def test_what_needs_an_extra_says_which_in_one_line(words, extra, site, work):
    done = verb(site, work, *words)
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(last) == 1, done.stderr
    assert re.fullmatch(rf"vetdino: .+ needs \w+: pip install 'vetdino\[{extra}\]'", last[0])


def test_help_and_version_need_nothing(site, tmp_path):
    assert verb(site, tmp_path, "--version").stdout.startswith("vetdino ")
    assert verb(site, tmp_path, "fewshot", "evaluate", "--help").returncode == 0
