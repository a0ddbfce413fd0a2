"""Shards embedded by Ray actors: Ray Data deals them out one at a time, and each actor writes its parts itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.device import DeviceChoice
from ..core.errors import ConfigError, FeaturesError, TrainingError, VetdinoError
from ..core.extras import require_extra
from ..core.mirror import is_mirrored, place_of
from ..data.manifest import Shard
from ..training.cluster import NodeSize, cores_each, ray_connection, ray_nodes, warn_of_missing_gpus
from .embedding import EmbedJob, embed_shards
from .prefetch import MOST_THREADS

if TYPE_CHECKING:
    from ..models.backbone import Backbone

CORES = 4
"""CPU cores of an actor without a GPU."""


def embed_on_ray(
    job: EmbedJob,
    backbone: Backbone,
    shards: Sequence[Shard],
    device: DeviceChoice,
    actors: int,
    advance: Callable[[int], None],
    on_stage: Callable[[str], None],
) -> None:
    """Write the parts of these shards on the Ray that runs, or on one of this machine.

    backbone: on the CPU; each actor gets a copy, on a GPU of its own where there are any. actors: 0 takes one for each
    GPU, or for every four cores. job.out: a folder that all nodes share. A shard whose actor was lost is embedded by
    another. advance: called with the studies of each part that is written. on_stage: with what is waited for.
    Raises ConfigError where Ray has several nodes and `job.out` is uploaded to a URL, else what an actor did, as
    `embed_shards`; the parts that are written stay.
    """
    require_extra("ray", "embedding on a cluster")
    # Ray Data's own way of starting actors makes Ray's core print a page of advice.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with ray_connection(on_stage):
        import ray
        from ray.data import DataContext

        nodes = sum(node["Alive"] for node in ray.nodes())
        if nodes > 1 and is_mirrored(job.out):
            raise ConfigError(
                f"{place_of(job.out)}: a URL, and the actors of {nodes} nodes write into one folder; give --out on "
                "a disk that all nodes share, and copy it to the URL afterwards"
            )
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.verbose_stats_logs = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        nodes = ray_nodes()
        warn_of_missing_gpus(device, sum(node.gpus for node in nodes))
        plan = actor_plan(nodes, device, actors, len(shards))
        on_stage(f"starting {plan.count} actor{'s' * (plan.count > 1)}")
        shared = ray.put((replace(job, threads=plan.threads), backbone, shards))
        rows = ray.data.from_items(list(range(len(shards))), override_num_blocks=len(shards)).map_batches(
            ShardEmbedder,
            fn_constructor_args=(shared, plan),
            batch_size=1,
            concurrency=plan.count,
            num_cpus=plan.cores,
            num_gpus=plan.gpus,
        )
        for row in _followed(iter(rows.iter_rows())):
            on_stage("")
            if row["error"]:
                raise FeaturesError(row["error"])
            advance(int(row["studies"]))


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """How many actors, and of each: the cores and GPUs that Ray reserves, and its threads."""

    count: int
    cores: float
    gpus: int
    threads: int


def actor_plan(nodes: Sequence[NodeSize], device: DeviceChoice, actors: int, shards: int) -> ActorPlan:
    """For a cluster of these nodes. Raises ConfigError where GPUs are lacking.

    >>> actor_plan([NodeSize(32, 4), NodeSize(32, 4)], "auto", 0, 1000)
    ActorPlan(count=8, cores=1, gpus=1, threads=8)
    >>> actor_plan([NodeSize(1, 0), NodeSize(1, 0)], "auto", 0, 1000)
    ActorPlan(count=2, cores=1, gpus=0, threads=1)
    """
    cores, gpus = sum(node.cores for node in nodes), sum(node.gpus for node in nodes)
    cuda = device == "cuda" or (gpus > 0 and device == "auto")
    if cuda and max(1, actors) > gpus:
        raise ConfigError(
            f"{max(1, actors)} workers with device {device} need a GPU each, the cluster has {gpus}; "
            "lower --workers, or set --device cpu"
        )
    fitting = gpus if cuda else sum(max(1, node.cores // CORES) for node in nodes)
    count = max(1, min(actors or fitting, shards))
    if cuda:  # a machine may have fewer cores for each GPU than the cluster has on average
        return ActorPlan(count, 1, 1, min(MOST_THREADS, max(1, cores // count)))
    reserved = cores_each(nodes, count, CORES)
    return ActorPlan(count, reserved, 0, max(1, int(reserved)))


class ShardEmbedder:
    """An actor: a network that embeds one shard a call."""

    def __init__(self, shared: Any, plan: ActorPlan) -> None:
        import ray
        import torch

        torch.set_num_threads(plan.threads)
        self.job, backbone, self.shards = ray.get(shared)
        self.backbone = backbone.to("cuda" if plan.gpus else "cpu")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Item numbers -> studies and error of each; "" where its part is written."""
        studies, errors = [], []
        for number in batch["item"].tolist():
            shard, error = self.shards[number], ""
            try:
                embed_shards(self.job, self.backbone, [shard])
            except VetdinoError as failure:  # as a value, since Ray would bury its text
                error = str(failure)
            studies.append(shard.studies)
            errors.append(error)
        return {"studies": studies, "error": errors}


def _followed(rows: Iterable[Any]) -> Iterator[Any]:
    """The rows. Raises TrainingError in place of Ray's own errors."""
    from ray.exceptions import RayError

    try:
        yield from rows
    except RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise TrainingError(
            f"the actors failed ({reason}); the parts that are written stay, run the same command again"
        ) from error
