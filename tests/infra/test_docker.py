"""The Dockerfile: no engine builds it here, so rules are read from its text, and what can run without one is run."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vetdino

ROOT = Path(vetdino.__file__).parent
FOLDER = ROOT / "infra" / "docker"


@dataclass(frozen=True)
class Stage:
    """One FROM of the Dockerfile with its instructions, lines joined."""

    name: str
    base: str
    instructions: list[tuple[str, str]]

    def all_of(self, word: str) -> list[str]:
        return [rest for first, rest in self.instructions if first == word]


def stages() -> dict[str, Stage]:
    """Name -> stage, in the order of the file."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found: dict[str, Stage] = {}
    for line in filter(str.strip, lines):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            current = found[name] = Stage(name, base, [])
        elif found:
            current.instructions.append((word, " ".join(rest.split())))
    return found


STAGES = stages()
IMAGES = ("vetdino", "serve", "mlflow")


def ancestry(name: str) -> list[Stage]:
    """A stage and those that it is built on, the nearest first."""
    stage = STAGES[name]
    return [stage, *(ancestry(stage.base) if stage.base in STAGES else [])]


def locked(path: Path) -> dict[str, set[str]]:
    """`name==version` -> the hashes of a lock."""
    found: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line[0] != " ":
            current = found[line.split()[0]] = set()
        else:
            current.add(line.strip(" \\"))
    return found


def test_every_stage_stands_on_another_or_on_the_pinned_base():
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    [base] = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert re.search(r":\d+\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?$", base)
    assert {stage.base for stage in STAGES.values()} <= {"${BASE}", *STAGES}
    assert "latest" not in text
    assert list(STAGES)[-1] == "vetdino"  # what is built without --target


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_a_user_that_is_not_root(name):
    users = [user for stage in ancestry(name) for user in stage.all_of("USER")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0])  # a number: only that passes runAsNonRoot


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_no_installer(name):
    runs = [run for stage in ancestry(name) for run in stage.all_of("RUN")]
    assert not [run for run in runs if re.search(r"\b(uv|pip)\b", run)]
    for run in runs:
        assert "apt-get" not in run or (
            "--no-install-recommends" in run and "rm -rf /var/lib/apt/lists" in run
        )


def test_all_packages_but_torch_without_cuda_are_installed_with_hashes():
    installs = [
        command
        for stage in STAGES.values()
        for run in stage.all_of("RUN")
        for command in re.split(r"&&|;", run)
        if re.search(r"\b(uv )?pip (install|sync)\b", command)
    ]
    unhashed = [command for command in installs if "--require-hashes" not in command]
    ours, torch = sorted(unhashed, key=len)
    assert ours.split() == ["uv", "pip", "install", "--no-deps", "--no-build-isolation", "."]
    assert "--no-deps --index-url https://download.pytorch.org/whl/cpu" in torch
    assert "torch(vision)?==" in torch  # at the lock's versions


def test_whatever_is_copied_exists_and_enters_the_context():
    shown = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in STAGES.values():
        for copy in stage.all_of("COPY"):
            if copy.startswith("--from="):
                assert copy.split()[0].removeprefix("--from=") in STAGES
                continue
            for source in copy.split()[:-1]:
                assert list(ROOT.glob(source.rstrip("/"))), source
                assert any(Path(source).match(name) or source.split("/")[0] == name for name in shown), source


def test_the_image_gets_every_folder_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = {name.split(".")[1] for name in settings["tool"]["setuptools"]["packages"] if "." in name}
    copied = {word for copy in STAGES["packages"].all_of("COPY") for word in copy.split()[:-1]}
    assert rooms | {"pyproject.toml", "README.md", "LICENSE", "py.typed", "*.py"} <= copied


def test_the_locks_are_parts_of_the_projects():
    whole = locked(ROOT / "requirements.lock")
    node, mlflow = locked(FOLDER / "node.lock"), locked(FOLDER / "mlflow.lock")
    assert {name: hashes for name, hashes in node.items() if whole.get(name) != hashes} == {}
    beside = {name.split("==")[0] for name, hashes in mlflow.items() if whole.get(name) != hashes}
    assert beside == {"psycopg2-binary"}
    assert all(hashes for lock in (node, mlflow, locked(FOLDER / "build.lock")) for hashes in lock.values())
    [uv] = locked(FOLDER / "build.lock")
    assert f" {uv}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_nodes_lock_has_all_that_the_package_needs():
    """Everything that `vetdino[all]` requires, and what that requires, by the metadata of what is installed here."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = settings["optional-dependencies"]
    waiting = [
        *settings["dependencies"],
        *(line for key in ("train", "serve", "s3", "ocr") for line in extras[key]),
    ]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            try:
                required = distribution(name).requires or []
            except PackageNotFoundError:  # of another platform, or left out by a light install
                continue
            seen.add((name, extra))
            for line in required:
                marker = Requirement(line).marker
                if marker is None or marker.evaluate({"extra": extra}):
                    waiting.append(line)
    in_lock = {name.split("==")[0] for name in locked(FOLDER / "node.lock")}
    assert len(seen) > 100
    assert {name for name, _ in seen} - in_lock == set()


@pytest.mark.skipif(shutil.which("awk") is None, reason="needs awk, as the image has it")
def test_without_cuda_the_lock_loses_torch_and_cuda_and_nothing_else(tmp_path):
    [run] = [run for run in STAGES["packages"].all_of("RUN") if run.startswith("awk")]
    shutil.copy(FOLDER / "node.lock", tmp_path / "node.lock")
    kept = {}
    for device in ("cuda", "cpu"):
        subprocess.run(
            ["sh", "-ec", run], cwd=tmp_path, env={"DEVICE": device, "PATH": "/usr/bin:/bin"}, check=True
        )
        kept[device] = locked(tmp_path / "device.lock")
    whole = locked(FOLDER / "node.lock")
    assert kept["cuda"] == whole
    left_out = {name.split("==")[0] for name in set(whole) - set(kept["cpu"])}
    assert {"torch", "torchvision", "triton", "nvidia-nccl-cu13"} <= left_out
    assert {name for name in left_out if not name.startswith(("nvidia-", "cuda-"))} == {
        "torch",
        "torchvision",
        "triton",
    }
    assert all(whole[name] == hashes for name, hashes in kept["cpu"].items())


def health_command(stage: str, port: int) -> list[str]:
    """The health check of a stage, against another port; with this Python."""
    [check] = STAGES[stage].all_of("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert command[0] == "python"
    return [sys.executable, *(re.sub(r"(?<=127\.0\.0\.1:)\d+", str(port), word) for word in command[1:])]


def test_the_health_check_asks_the_port_that_serve_listens_on():
    from vetdino.serving.config import ListenConfig

    [check] = STAGES["serve"].all_of("HEALTHCHECK")
    assert f"127.0.0.1:{ListenConfig().port}/health/ready" in check
    assert STAGES["serve"].all_of("EXPOSE") == [str(ListenConfig().port)]
    assert json.loads(STAGES["serve"].all_of("ENTRYPOINT")[0]) == ["vetdino", "serve"]


@pytest.mark.slow
def test_the_health_check_fails_before_the_service_is_ready_and_passes_after():
    pytest.importorskip("fastapi")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    check = health_command("serve", port)
    assert subprocess.run(check, capture_output=True).returncode != 0
    command = [sys.executable, "-m", "vetdino", *json.loads(STAGES["serve"].all_of("ENTRYPOINT")[0])[1:]]
    service = subprocess.Popen(
        [*command, "--backbones", str(ROOT / "infra/zoo/tiny"), "--port", str(port), "--device", "cpu"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while subprocess.run(check, capture_output=True).returncode != 0:
            assert time.monotonic() < deadline
            assert service.poll() is None
            time.sleep(1)
    finally:
        service.terminate()
        service.wait(30)
