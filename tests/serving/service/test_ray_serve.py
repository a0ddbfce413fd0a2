"""The service on Ray Serve, from the config file that `vetdino serve --ray-config` writes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

import vetdino
from vetdino.client import Client, ServiceError
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.core.location import Location
from vetdino.platform.models.loading import load
from vetdino.serving.config import ListenConfig, ServiceConfig
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.engine.model import load_backbone
from vetdino.serving.service.ray_serve import BackboneReplica, RayIndex, RayModel, build, write_ray_config

ROOT = Path(vetdino.__file__).parent


@pytest.fixture
def service(folder, gallery, monkeypatch):
    monkeypatch.chdir(folder)
    return ServiceConfig(backbones=(Path("backbone0"), "random"), galleries=(gallery,), device="cuda")


def test_the_config_file_has_absolute_paths_and_a_deployment_for_each_part(service, folder, tmp_path):
    (folder / "runs").mkdir(exist_ok=True)
    service = replace(service, runs=Location("runs"))
    path = write_ray_config(service, ListenConfig(port=8123), tmp_path / "service.yaml")
    content = json.loads(path.read_text())
    (application,) = content["applications"]
    assert application["import_path"] == "vetdino.serving.service.ray_serve:build"
    names = [deployment["name"] for deployment in application["deployments"]]
    assert names == ["gateway", "backbone0", "backbone1", "gallery0"]
    assert application["deployments"][1]["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 1}
    written = from_json(ServiceConfig, json.dumps(application["args"]["service"]))
    assert written.backbones == (str(folder / "backbone0"), "random")
    assert written.runs == Location(folder / "runs")
    assert content["http_options"] == {"host": "127.0.0.1", "port": 8123}
    assert content["logging_config"] == {"enable_access_log": False}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own schemas, as they are imported
def test_ray_itself_accepts_the_config_file(service, tmp_path):
    from ray.serve.schema import ServeDeploySchema

    path = write_ray_config(service, ListenConfig(), tmp_path / "service.yaml")
    content = json.loads(path.read_text())
    schema = ServeDeploySchema.model_validate(content)
    application = build(content["applications"][0]["args"])
    assert {one.name for one in schema.applications[0].deployments} >= {"gateway"}
    assert application._bound_deployment.name == "gateway"


def test_tokens_of_the_environment_cannot_travel(service, tmp_path, monkeypatch):
    monkeypatch.setenv("VETDINO_READ_TOKEN", "r" * 20)
    with pytest.raises(ConfigError, match="--tokens FILE"):
        write_ray_config(service, ListenConfig(), tmp_path / "service.yaml")
    assert list(tmp_path.iterdir()) == []
    tokens = tmp_path / "tokens"
    tokens.write_text(f"read {'t' * 20}\n")
    path = write_ray_config(service, ListenConfig(tokens=tokens), tmp_path / "service.yaml")
    assert "t" * 20 not in path.read_text()
    with pytest.raises(ConfigError, match="3 galleries for 2"):
        write_ray_config(replace(service, galleries=service.galleries * 3), ListenConfig(), path)


def test_a_gallery_at_a_url_is_refused_before_it_is_copied(service, tmp_path):
    from vetdino.infra.commands.serve import Serve
    from vetdino.platform.core.location import Location

    galleries = (Location("s3://bucket-that-is-not-there/gallery"),)
    with pytest.raises(ConfigError, match="storage that all machines share"):
        write_ray_config(replace(service, galleries=galleries), ListenConfig(), tmp_path / "service.yaml")
    command = Serve(galleries=galleries, backbones=("backbone0",), ray_config=tmp_path / "service.yaml")
    with pytest.raises(ConfigError, match="s3://bucket-that-is-not-there/gallery"), command.prepared("serve"):
        pass
    assert list(tmp_path.iterdir()) == []


QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own schemas, as they are imported


class Handle:
    """A deployment in this process, with the methods of a replica."""

    def __init__(self, replica):
        self.replica = replica

    def __getattr__(self, method):
        return SimpleNamespace(remote=getattr(self.replica, method))


@pytest.fixture(scope="module")
def replica(folder):
    replica = BackboneReplica(to_json(ServiceConfig(backbones=(folder / "backbone0", "random"))), 0)
    yield replica
    replica.model.close()


VIEWS = [np.random.default_rng(2).integers(0, 256, (90, 70), np.uint8)]


@QUIET
def test_a_replica_answers_with_its_backbone(replica):
    model = RayModel(replica.model.card, Handle(replica))
    assert asyncio.run(model.alive())
    vectors = asyncio.run(model.vectors(VIEWS))
    np.testing.assert_array_equal(vectors, asyncio.run(replica.model.vectors(VIEWS)))
    assert len(asyncio.run(model.encode(VIEWS))) == 1


@QUIET
def test_a_replica_sends_its_passes_along_for_the_metrics_of_the_gateway(replica):
    model = RayModel(replica.model.card, Handle(replica))
    asyncio.run(model.vectors(VIEWS))
    sizes: list[int] = []
    model.on_batch = lambda size, seconds: sizes.append(size)
    asyncio.run(model.vectors(VIEWS))
    asyncio.run(model.encode(VIEWS * 2))
    assert sizes == [1, 2]


@QUIET
def test_a_replica_with_another_backbone_is_refused(replica):
    model = RayModel(replace(replica.model.card, digest="f" * 64), Handle(replica))
    assert not asyncio.run(model.alive())
    for call in (model.vectors, model.encode):
        with pytest.raises(RefusedError) as refusal:
            asyncio.run(call(VIEWS))
        assert (refusal.value.status, refusal.value.kind) == (503, "BackboneMismatch")
    elsewhere = RayModel(replace(replica.model.card, device="cuda:0"), Handle(replica))
    assert asyncio.run(elsewhere.alive())


def test_a_replica_loads_its_own_backbone_alone(folder, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "vetdino.platform.models.loading.load", lambda source, device: loaded.append(source) or load(source)
    )
    backbones = (str(folder / "backbone0"), str(folder / "backbone1"), "random")
    config = ServiceConfig(backbones=backbones)
    for number, sources in enumerate([backbones[:1], backbones[1:2], backbones[:1]]):
        loaded.clear()
        backbone = load_backbone(config, number)
        assert tuple(loaded) == sources
        assert backbone.card.label.startswith("random") == (number == 2)


@QUIET
def test_a_change_of_a_gallery_takes_as_long_as_it_takes(monkeypatch):
    class Slow:
        async def call(self, method, *arguments):
            await asyncio.sleep(0.2)
            return method

    monkeypatch.setattr("vetdino.serving.service.ray_serve.WAIT_S", 0.05)
    index = RayIndex(Handle(Slow()))
    assert asyncio.run(index.compact()) == "compact"
    assert asyncio.run(index.delete(["x"], [])) == "delete"
    with pytest.raises(RefusedError) as refusal:
        asyncio.run(index.manifest())
    assert (refusal.value.status, refusal.value.kind) == (503, "Timeout")


@pytest.fixture(scope="module")
def deployed(folder, gallery, tmp_path_factory):
    """URL of the service on a Ray of its own."""
    work = tmp_path_factory.mktemp("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServiceConfig(backbones=(folder / "backbone0",), galleries=(gallery,), decoders=1)
    path = write_ray_config(config, ListenConfig(port=port), work / "service.yaml")
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("serve")), "run", "--address", "local", str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (work / "log").read_text()
            try:
                if httpx.get(f"{url}/health/ready", timeout=60).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def replicas(deployment: str) -> list[int]:
    """Process ids of a deployment's replicas of this application."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [
        int(line.split()[0]) for line in listed.splitlines() if f"ServeReplica:vetdino:{deployment}" in line
    ]


@pytest.mark.slow
def test_its_answers_are_those_of_one_process_and_survive_a_lost_replica(deployed, folder, files, gallery):
    backbone = load(folder / "backbone0")
    expected = [backbone.embed_study([file]) for file in files]
    with Client(deployed, timeout=120) as client:
        for file, vector in zip(files, expected, strict=True):
            np.testing.assert_allclose(client.embed_study([file]).vectors[0], vector, rtol=0, atol=1e-5)
        found = client.search(expected[0][None], k=3).matches[0]
        from vetdino.serving.gallery.gallery import Gallery

        whole = Gallery.open(gallery).search(expected[0][None], 3)[0]
        assert [match.key for match in found] == [match.item.key for match in whole]
        with pytest.raises(ServiceError) as refusal:
            client.search(np.ones((1, 7), np.float32))
        assert refusal.value.status == 422
        assert client.neighbors(found[0].key, k=2).matches[0]
    (count,) = re.findall(r"^vetdino_batch_size_count (\S+)$", httpx.get(f"{deployed}/metrics").text, re.M)
    assert float(count) >= len(files)

    wrong, errors, done, stop = [], [], [], threading.Event()

    def load_it(number: int) -> None:
        with Client(deployed, timeout=120, retries=20) as client:
            while not stop.is_set():
                try:
                    vector = client.embed_study([files[number]]).vectors[0]
                except ServiceError as error:
                    errors.append(error)
                    continue
                done.append(time.monotonic())
                if np.abs(vector - expected[number]).max() > 1e-5:
                    wrong.append(number)

    threads = [threading.Thread(target=load_it, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    (pid,) = replicas("backbone0")
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    while time.monotonic() - killed < 120 and not [at for at in done if at > killed + 1]:
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert errors == []
    assert [at for at in done if at > killed + 1]
    assert httpx.get(f"{deployed}/health/ready", timeout=60).status_code == 200
