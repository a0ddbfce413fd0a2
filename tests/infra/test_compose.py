"""The compose file of the tracking stack, read as text, for no engine is here; its bucket maker runs against S3."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import vetdino

ROOT = Path(vetdino.__file__).parent
FOLDER = ROOT / "infra" / "compose"
TEXT = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
EXAMPLE = dict(
    line.split("=", 1)
    for line in (FOLDER / "example.env").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
SECRETS = {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}


def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(TEXT)["services"]


def test_every_variable_is_in_the_example_and_every_secret_has_to_be_filled_in():
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    assert used == set(EXAMPLE)
    assert {name for name, value in EXAMPLE.items() if not value} == SECRETS
    for name in SECRETS:  # an empty one is refused, too: `:?`
        assert set(re.findall(rf"\$\{{{name}(\W\W)", TEXT)) == {":?"}


def test_a_filled_in_example_is_neither_committed_nor_built_into_an_image():
    for file in (".gitignore", ".dockerignore"):
        assert "infra/compose/.env" in (ROOT / file).read_text(encoding="utf-8").splitlines()


def test_images_are_pinned_or_built_from_our_dockerfile():
    stages = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    for service in services().values():
        if "build" in service:
            assert (FOLDER / service["build"]["context"]).resolve() == ROOT
            assert service["build"]["dockerfile"] == "infra/docker/Dockerfile"
            assert f" AS {service['build']['target']}\n" in stages
        else:
            assert re.search(r"^docker\.io/[\w/]+:\d+\.\d+(-\w+)?(@sha256:[0-9a-f]{64})?$", service["image"])


def test_only_chosen_ports_are_open_and_on_this_machine_alone_by_default():
    ports = {name: service.get("ports", []) for name, service in services().items()}
    assert ports["database"] == ports["buckets"] == []
    assert ports["mlflow"] == ["${LISTEN:-127.0.0.1}:5000:5000"]
    assert ports["store"] == ["${LISTEN:-127.0.0.1}:8333:8333"]


def test_each_service_waits_for_what_it_needs_to_be_healthy():
    found = services()
    for service in found.values():
        for name, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert found[name]["healthcheck"]["test"]
    assert set(found["mlflow"]["depends_on"]) == {"database", "buckets"}


def test_mlflow_reaches_database_and_store_and_is_reached_by_its_names():
    environment = services()["mlflow"]["environment"]
    hosts = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    # The service's name, for containers beside it; this machine; what the operator adds.
    assert {"mlflow:5000", "127.0.0.1:5000", "${MLFLOW_HOSTS:-localhost:5000}"} <= set(hosts)
    # SQLAlchemy 2.1 takes psycopg 3 where no driver is named; the lock has psycopg2.
    assert environment["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://mlflow:")
    assert environment["MLFLOW_BACKEND_STORE_URI"].endswith("@database/mlflow")
    assert environment["MLFLOW_S3_ENDPOINT_URL"] == environment["AWS_ENDPOINT_URL"] == "http://store:8333"


@pytest.mark.slow
def test_the_buckets_are_made_and_made_once(s3):
    """By the container's own program, twice, against a server of S3's protocol."""
    pytest.importorskip("boto3")
    import fsspec

    program = services()["buckets"]["command"]
    assert program[:2] == ["python", "-c"]
    for _ in range(2):
        subprocess.run([sys.executable, "-W", "ignore", *program[1:]], check=True, timeout=60)
    assert {"mlflow", "vetdino"} <= set(fsspec.filesystem("s3", skip_instance_cache=True).ls(""))
