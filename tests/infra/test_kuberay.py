"""KubeRay's manifests: their structure, and that what they run is what this checkout can run.

Against the CRDs themselves they were validated by hand (KubeRay, August 2026); here, that no key is misspelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import vetdino
from tests.infra.commands_in_files import commands_in_comments, settings_of
from vetdino.platform.core.config import from_json
from vetdino.platform.core.errors import ConfigError
from vetdino.serving.config import ListenConfig, ServiceConfig

ROOT = Path(vetdino.__file__).parent
MANIFESTS = {path.stem: path for path in (ROOT / "infra" / "kuberay").glob("*.yaml")}
CLUSTER = {
    "rayVersion",
    "authOptions",
    "headGroupSpec",
    "workerGroupSpecs",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "gcsFaultToleranceOptions",
}
SPECS = {
    "RayCluster": CLUSTER,
    "RayJob": {
        "entrypoint",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "backoffLimit",
        "rayClusterSpec",
    },
    "RayService": {
        "serviceUnhealthySecondThreshold",
        "deploymentUnhealthySecondThreshold",
        "serveConfigV2",
        "rayClusterConfig",
    },
}
CONTAINER = {
    "name",
    "image",
    "env",
    "envFrom",
    "ports",
    "resources",
    "livenessProbe",
    "readinessProbe",
    "volumeMounts",
}


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load(MANIFESTS[name].read_text(encoding="utf-8"))


def cluster_of(content: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster's spec in a manifest of any of the three kinds."""
    spec = content["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods_of(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = cluster_of(content)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def test_there_is_a_manifest_of_each_kind():
    assert sorted(manifest(name)["kind"] for name in MANIFESTS) == sorted(SPECS)


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_key_is_unknown(name):
    content = manifest(name)
    assert set(content) == {"apiVersion", "kind", "metadata", "spec"}
    assert content["apiVersion"] == "ray.io/v1"
    assert set(content["spec"]) <= SPECS[content["kind"]]
    assert set(cluster_of(content)) <= CLUSTER
    for pod in pods_of(content):
        assert set(pod["containers"][0]) <= CONTAINER
    for group in cluster_of(content)["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_ray_is_the_images(name):
    lock = (ROOT / "infra" / "docker" / "node.lock").read_text(encoding="utf-8")
    assert f"\nray=={cluster_of(manifest(name))['rayVersion']} " in lock


@pytest.mark.parametrize("name", MANIFESTS)
def test_each_pod_is_bounded_probed_and_not_roots(name):
    for pod in pods_of(manifest(name)):
        [container] = pod["containers"]
        assert container["image"] == "REGISTRY/vetdino:VERSION"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000  # USER of the image
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        for probe in ("livenessProbe", "readinessProbe"):
            assert set(container[probe]["httpGet"]) == {"path", "port"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_mount_has_its_volume(name):
    for pod in pods_of(manifest(name)):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} <= volumes


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_probes_ask_for_paths_that_ray_answers_without_a_token(name):
    source = Path(pytest.importorskip("ray").__file__).parent / "dashboard"
    public = (source / "http_server_head.py").read_text() + (source / "http_server_agent.py").read_text()
    for pod in pods_of(manifest(name)):
        for probe in ("livenessProbe", "readinessProbe"):
            assert f'"{pod["containers"][0][probe]["httpGet"]["path"]}"' in public


def test_the_job_is_one_that_pretrain_accepts_and_its_machines_can_hold():
    content = manifest("pretrain")
    config = settings_of(content["spec"]["entrypoint"])
    groups = cluster_of(content)["workerGroupSpecs"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    gpus = sum(
        int(limit["nvidia.com/gpu"]) * group["maxReplicas"]
        for limit, group in zip(limits, groups, strict=True)
    )
    cores = sum(int(limit["cpu"]) * group["maxReplicas"] for limit, group in zip(limits, groups, strict=True))
    assert config.workers == gpus
    assert config.workers * config.threads <= cores
    assert config.device == "cuda"  # the head has none, from which `auto` could tell
    assert config.restarts > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Serve's own, as its schema is imported
def test_the_service_is_one_that_we_and_ray_serve_accept():
    pytest.importorskip("ray")
    from ray.serve.schema import ServeDeploySchema

    content = manifest("serve")
    text = content["spec"]["serveConfigV2"]
    [application] = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    assert application.import_path == "vetdino.serving.service.ray_serve:build"
    service = from_json(ServiceConfig, json.dumps(application.args["service"]))
    listen = from_json(ListenConfig, json.dumps(application.args["listen"]))
    names = {"gateway"}
    names |= {f"backbone{number}" for number in range(len(service.backbones))}
    names |= {f"gallery{number}" for number in range(len(service.galleries))}
    assert {deployment.name for deployment in application.deployments} == names
    mounts = [pod["containers"][0]["volumeMounts"] for pod in pods_of(content)]
    for place in (*service.backbones, *service.galleries, service.shards, listen.tokens):
        for mounted in mounts:
            assert any(str(place).startswith(mount["mountPath"] + "/") for mount in mounted)


def test_a_misspelled_setting_of_the_service_is_found():
    with pytest.raises(ConfigError, match="galery"):
        from_json(ServiceConfig, json.dumps({"backbones": ["b"], "galery": ["g"]}))


@pytest.mark.parametrize("name", ["cluster"])
def test_the_commands_in_the_comments_are_ours(name):
    commands = commands_in_comments(MANIFESTS[name].read_text(encoding="utf-8"))
    assert len(commands) == 1
    for command in commands:
        settings_of(command)
