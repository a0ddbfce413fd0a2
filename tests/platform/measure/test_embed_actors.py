"""Ray's actors write the bytes that one process writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.platform.measure.test_embedding import contents, embedded, job_of, shards
from vetdino.platform.core.errors import ConfigError, FeaturesError
from vetdino.platform.core.mirror import Mirror
from vetdino.platform.measure.embed_actors import ActorPlan, ShardEmbedder, actor_plan, embed_on_ray
from vetdino.platform.measure.embedding import finish_table, missing_parts
from vetdino.platform.models.backbone import random_backbone, random_like
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.training.cluster import NodeSize

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:ray"
)  # Ray Data warns of its own settings


@pytest.mark.parametrize(
    ("nodes", "device", "actors", "shards", "plan"),
    [
        ([(16, 0)], "auto", 0, 99, ActorPlan(4, 4, 0, 4)),
        ([(16, 0)], "auto", 0, 2, ActorPlan(2, 4, 0, 4)),
        ([(2, 0)], "auto", 0, 99, ActorPlan(1, 2, 0, 2)),
        ([(2, 0)], "cpu", 2, 99, ActorPlan(2, 1, 0, 1)),
        ([(2, 0)], "cpu", 4, 99, ActorPlan(4, 0.5, 0, 1)),
        ([(64, 8)], "auto", 0, 99, ActorPlan(8, 1, 1, 8)),
        ([(256, 8)], "cuda", 0, 99, ActorPlan(8, 1, 1, 16)),
        ([(64, 8)], "auto", 3, 99, ActorPlan(3, 1, 1, 16)),
        ([(64, 8)], "cpu", 0, 99, ActorPlan(16, 4, 0, 4)),
        ([(1, 0), (1, 0)], "auto", 0, 99, ActorPlan(2, 1, 0, 1)),  # no node has the cluster's two cores
        ([(2, 0)] * 10, "auto", 0, 99, ActorPlan(10, 2, 0, 2)),
        ([(6, 0), (6, 0)], "cpu", 3, 99, ActorPlan(3, 3, 0, 3)),
        ([], "auto", 0, 99, ActorPlan(1, 1, 0, 1)),  # machines that come when there is work
    ],
)
def test_actors_share_what_the_nodes_have(nodes, device, actors, shards, plan):
    assert actor_plan([NodeSize(*node) for node in nodes], device, actors, shards) == plan


@pytest.mark.parametrize(("gpus", "device", "actors"), [(0, "cuda", 0), (1, "auto", 2), (2, "cuda", 3)])
def test_more_actors_than_gpus_are_refused(gpus, device, actors):
    with pytest.raises(ConfigError, match=f"the cluster has {gpus}; lower --workers, or set --device cpu"):
        actor_plan([NodeSize(8, gpus)], device, actors, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("shards"), {"train": 24, "val": 3, "test": 9})


@pytest.fixture(scope="module")
def backbone():
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, depth=2, heads=2)
    return random_backbone(small, seed=0).eval()


@pytest.fixture(scope="module")
def ray(request):
    """A Ray of this machine, with two cores."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def on_ray(job, backbone, actors=2, done=None):
    done = [] if done is None else done
    embed_on_ray(job, backbone, missing_parts(job), "cpu", actors, done.append, lambda _: None)
    return sum(done)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["study", "patch"])
def test_two_actors_write_the_bytes_of_one_process(ray, folder, backbone, tmp_path, level):
    settings = {"level": level, "dtype": "float16"}
    job = job_of(folder, tmp_path / "ray", backbone, **settings)
    assert on_ray(job, backbone) == 36
    finish_table(job, backbone)
    assert contents(job.out) == contents(embedded(folder, tmp_path / "alone", backbone, **settings))


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced(ray, folder, backbone, tmp_path):
    job = job_of(folder, tmp_path / "ray", backbone, batch=1)
    actors = lambda: [
        process.pid
        for process in psutil.process_iter(["name", "cmdline"])
        if "ray::MapWorker" in " ".join(process.info["cmdline"] or [process.info["name"]])
    ]
    killed = []

    def kill_one(_):
        if not killed:
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    embed_on_ray(job, backbone, missing_parts(job), "cpu", 2, kill_one, lambda _: None)
    finish_table(job, backbone)
    assert killed
    assert contents(job.out) == contents(embedded(folder, tmp_path / "alone", backbone))


@pytest.mark.slow
def test_an_actors_error_is_one_line_and_the_other_parts_stay(ray, folder, backbone, tmp_path):
    lost = random_like(backbone, 0)
    torch.nn.init.constant_(lost.vit.norm.weight, float("nan"))
    job = job_of(folder, tmp_path / "ray", lost)
    with pytest.raises(FeaturesError, match=r"^study k\d+: the vector of view \d is NaN"):
        on_ray(job, lost)


def test_an_actor_answers_with_the_message_of_an_error(folder, backbone, tmp_path, monkeypatch):
    import numpy as np
    import ray

    lost = random_like(backbone, 0)
    torch.nn.init.constant_(lost.vit.norm.weight, float("nan"))
    job = job_of(folder, tmp_path / "out", lost)
    monkeypatch.setattr(ray, "get", lambda shared: shared)
    actor = ShardEmbedder((job, lost, job.wanted), ActorPlan(1, 1, 0, torch.get_num_threads()))
    answer = actor({"item": np.array([0])})
    assert answer["error"][0].startswith("study k")


@pytest.mark.slow
def test_an_output_at_a_url_is_refused_on_several_nodes(ray, folder, backbone, tmp_path, monkeypatch):
    """Last of the module: a second node joins its Ray."""
    monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / "cache"))
    mirror = Mirror("s3://bucket/features")
    mirror.home.mkdir(parents=True)
    (mirror.home / "url").write_text(str(mirror.location))
    job = job_of(folder, mirror.path, backbone)
    from ray._common.utils import reset_ray_address

    address = ray.get_runtime_context().gcs_address
    node = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--address",
        address,
        "--block",
        "--num-cpus",
        "1",
    ]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen([*node, "--object-store-memory", "80000000"], **options)
    try:
        end = time.monotonic() + 120
        while len([one for one in ray.nodes() if one["Alive"]]) < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
        with pytest.raises(ConfigError, match=r"^s3://bucket/features: a URL, and the actors of 2 nodes"):
            on_ray(job, backbone)
        assert not list(job.out.glob("*.parquet"))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        # `ray start` has noted this Ray as the machine's, and others would look for it after its end.
        reset_ray_address()
