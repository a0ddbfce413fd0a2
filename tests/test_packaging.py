"""The package as others get it: a wheel, a console script, `python -m vetdino`, `import vetdino`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import vetdino

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("platform", "pretrain", "downstream", "serving", "infra")
READ_AT_RUN_TIME = {".py", ".typed", ".html", ".js", ".css", ".safetensors", ".json"}
OPERATORS = ("docker", "kuberay", "compose", "grafana")
"""Folders of `infra/` that stay in the checkout."""


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the tree, so that the build leaves nothing beside the sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in [
        *ROOT.glob("*.py"),
        ROOT / "py.typed",
        *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")),
    ]:
        (copy / path.name).write_bytes(path.read_bytes())
    operators = [path for name in OPERATORS for path in (ROOT / "infra" / name).iterdir()]
    for path in [*files_of_the_rooms(), *(path.relative_to(ROOT) for path in operators)]:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((ROOT / path).read_bytes())
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", "dist", "."),
        folder=copy,
    )
    assert done.returncode == 0, done.stderr
    [built] = (copy / "dist").glob("vetdino-*.whl")
    return built


def files_of_the_rooms() -> list[Path]:
    """What the package reads at run time, relative to the root."""
    return [
        path.relative_to(ROOT)
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in READ_AT_RUN_TIME
        and "__pycache__" not in path.parts
        and path.relative_to(ROOT).parts[:2] not in {("infra", name) for name in OPERATORS}
    ]


def test_the_list_of_packages_is_the_list_of_folders_with_modules():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = settings["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in files_of_the_rooms() if path.suffix == ".py"}
    assert set(listed) == {"vetdino"} | {".".join(("vetdino", *folder.parts)) for folder in folders}


def test_the_wheel_holds_every_file_that_the_package_reads(wheel):
    with ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert {f"vetdino/{path.as_posix()}" for path in files_of_the_rooms()} <= held
    assert {"vetdino/__init__.py", "vetdino/__main__.py", "vetdino/py.typed"} <= held
    assert "vetdino/platform/__init__.py" not in held
    assert not [name for name in held if name.startswith(("vetdino/tests", "tests"))]
    assert not [
        name for name in held if name.startswith(tuple(f"vetdino/infra/{name}" for name in OPERATORS))
    ]


def test_the_wheel_runs_from_a_folder_of_its_own(wheel, tmp_path):
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, 'site'); import vetdino, platform; "
        "print(vetdino.__file__); print(vetdino.Study.__module__); print(platform.python_version())"
    )
    done = run(sys.executable, "-c", program, folder=tmp_path)
    assert done.stdout.splitlines() == [
        str(tmp_path / "site" / "vetdino" / "__init__.py"),
        "vetdino.platform.data.study",
        ".".join(map(str, sys.version_info[:3])),
    ]


def test_platform_in_the_root_is_the_standard_librarys():
    done = run(sys.executable, "-c", "import platform; print(platform.system())")
    assert done.stdout.strip() == "Linux" if sys.platform == "linux" else done.returncode == 0


def test_help_lists_the_verbs_and_waits_for_no_heavy_library():
    heavy = {"torch", "ray", "mlflow", "gradio", "numpy", "tyro", "sklearn", "timm"}
    program = (
        "import sys; from vetdino.infra.cli import main; code = main(['--help']); "
        f"print(sorted({heavy!r} & set(sys.modules))); raise SystemExit(code)"
    )
    done = run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert "pretrain RECIPE" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_checkout_runs_as_a_module_without_being_installed():
    done = run(sys.executable, "-m", "vetdino", "--version")
    assert (done.returncode, done.stdout) == (0, f"vetdino {vetdino.__version__}\n"), done.stderr


def test_the_console_script_points_at_the_command_line():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["scripts"] == {"vetdino": "vetdino.infra.cli:main"}
    script = Path(sys.executable).with_name("vetdino")
    if script.exists():  # after `make setup`; a bare checkout has none
        assert run(str(script), "--help").stdout.startswith("usage: vetdino")


@pytest.mark.parametrize("name", vetdino.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vetdino, name) is not None
    assert name in dir(vetdino)


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="loda"):
        vetdino.loda  # noqa: B018
