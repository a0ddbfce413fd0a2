"""What travels with a job: the files of the package, and nothing that lies beside them."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest

from vetdino.infra.jobs import package
from vetdino.infra.jobs.package import ROOT, package_files, write_package
from vetdino.platform.core.errors import ConfigError

SETTINGS = """
[tool.setuptools]
packages = ["vetdino", "vetdino.platform.core"]
[tool.setuptools.package-data]
"vetdino" = ["py.typed"]
"""


def checkout(root: Path) -> Path:
    """A small checkout with data, tests and runs beside its package."""
    (root / "pyproject.toml").write_text(SETTINGS)
    beside = (
        "runs/one/model.safetensors",
        "tests/test_a.py",
        "platform/core/data.npy",
        "infra/later.py",
        "patients.csv",
    )
    for name in ("__init__.py", "py.typed", "platform/core/files.py", *beside):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_of_a_checkout_only_what_its_settings_list_travels(tmp_path):
    files = [path.as_posix() for path in package_files(checkout(tmp_path))]
    assert files == ["__init__.py", "platform/core/files.py", "py.typed"]


def test_an_installed_package_travels_without_pythons_caches(tmp_path):
    installed = checkout(tmp_path)
    (installed / "pyproject.toml").unlink()
    (installed / "platform/core/__pycache__").mkdir()
    (installed / "platform/core/__pycache__/files.pyc").write_text("")
    files = [path.as_posix() for path in package_files(installed)]
    assert "infra/later.py" in files
    assert not [name for name in files if "__pycache__" in name]


def test_the_same_files_are_the_same_bytes_whenever_they_were_written(tmp_path):
    root = checkout(tmp_path)
    first = sha256(write_package(tmp_path / "1.zip", root).read_bytes()).digest()
    (root / "__init__.py").touch()
    (root / "patients.csv").write_text("Doe")
    assert sha256(write_package(tmp_path / "2.zip", root).read_bytes()).digest() == first
    (root / "__init__.py").write_text("changed")
    assert sha256(write_package(tmp_path / "3.zip", root).read_bytes()).digest() != first


def test_what_a_cluster_would_refuse_is_refused_with_its_largest_file(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "MOST_BYTES", 400)
    with pytest.raises(ConfigError, match=r"largest, in MiB: vetdino/.*move what does not belong"):
        write_package(tmp_path / "package.zip", checkout(tmp_path))


def test_it_is_small_and_runs_where_there_is_nothing_else(tmp_path):
    written = write_package(tmp_path / "package.zip")
    assert written.stat().st_size < 20 * 2**20
    with ZipFile(written) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "node")
    assert "vetdino/__main__.py" in names
    assert not [
        name for name in names if name.startswith(("vetdino/tests", "vetdino/docs", "vetdino/benchmarks"))
    ]
    program = "import vetdino.infra.cli as cli; print(cli.__file__); raise SystemExit(cli.main(['--help']))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "node", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "node" / "vetdino"))
    # Sent on from there, it is the same package again.
    assert package_files(tmp_path / "node" / "vetdino") == package_files(ROOT)
