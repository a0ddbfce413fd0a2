"""The same service on Ray Serve: one gateway with the routes, and each backbone and each gallery as a deployment that
can be scaled by itself.

    vetdino serve gallery --backbones backbone --ray-config service.yaml
    serve run service.yaml          # or: serve deploy service.yaml

The gateway is one replica, since uploads live in its memory. It decodes files; views go to a backbone's replicas, which
collect them into passes of their own. What they cannot take is answered with 503 at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...platform.core.config import from_json, to_json
from ...platform.core.errors import ConfigError
from ...platform.core.extras import require_extra
from ...platform.core.files import atomic_write
from ...platform.core.location import Location
from ...platform.measure.features import Features
from ...platform.models.source import absolute_source
from ..config import HOST, RANDOM, ListenConfig, ServiceConfig
from ..engine.batching import OnBatch
from ..engine.engine import ServiceEngine
from ..engine.errors import RefusedError, overloaded, refusal_of
from ..engine.index import ItemPage, SearchAnswer, SearchFilter
from ..engine.model import BackboneInfo, EncodedView
from ..gallery.manifest import GalleryManifest

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

TARGET = f"{__name__}:build"
"""What a config file names as the application."""

WAIT_S = 60.0
"""Seconds for an answer of a deployment, which may be starting a lost replica again; a change of a gallery may take
longer."""

CHANGES = ("add", "delete", "compact")
"""Methods of `IndexPort` that change a gallery."""

ONGOING, QUEUED = 64, 128
"""Requests that a replica works on, and that wait for a deployment's replicas at the gateway."""


def write_ray_config(config: ServiceConfig, listen: ListenConfig, path: Path) -> Path:
    """Writes a config file for `serve run` and `serve deploy`, with absolute paths; JSON, which is YAML, too.

    Raises ConfigError where tokens are in the environment, which other machines do not have, for a gallery at a URL,
    and where settings contradict.
    """
    from ..engine.opening import check_numbers
    from .auth import load_tokens

    check_numbers(config)
    check_local(config.galleries)
    if load_tokens(listen) and listen.tokens is None:
        raise ConfigError("on Ray, tokens come from a file that all machines can read; give --tokens FILE")
    absolute = replace(
        config,
        backbones=tuple(
            name if str(name) == RANDOM else absolute_source(str(name)) for name in config.backbones
        ),
        galleries=tuple(Location(place).absolute() for place in config.galleries),
        shards=config.shards and Location(config.shards).absolute(),
        runs=config.runs and Location(config.runs).absolute(),
    )
    listen = replace(listen, tokens=listen.tokens and listen.tokens.resolve())
    model_actor = {"num_cpus": 1, **({"num_gpus": 1} if config.device == "cuda" else {})}
    deployments: list[dict[str, Any]] = [{"name": "gateway", "num_replicas": 1}]
    for number in range(len(config.backbones)):
        deployments.append({"name": f"backbone{number}", "num_replicas": 1, "ray_actor_options": model_actor})
    for number in range(len(config.galleries)):
        deployments.append({"name": f"gallery{number}", "num_replicas": 1})
    arguments = {"service": json.loads(to_json(absolute)), "listen": json.loads(to_json(listen))}
    content = {
        "proxy_location": "HeadOnly" if listen.host == HOST else "EveryNode",
        "logging_config": {"enable_access_log": False},  # the gateway logs requests, without paths
        "http_options": {"host": listen.host, "port": listen.port},
        "applications": [
            {
                "name": "vetdino",
                "route_prefix": "/",
                "import_path": TARGET,
                "args": arguments,
                "deployments": deployments,
            }
        ],
    }
    atomic_write(path, json.dumps(content, indent=2) + "\n")
    return path


def check_local(galleries: Sequence[Location]) -> None:
    """Raises ConfigError for a gallery at a URL, of which every machine would need a copy."""
    for place in map(Location, galleries):
        if not place.is_local:
            raise ConfigError(
                f"{place}: on Ray a gallery is a folder on storage that all machines share; copy it there"
            )


def build(arguments: dict[str, Any]) -> Application:
    """The application that a config file describes; called by Ray Serve."""
    require_extra("ray", "the service on Ray Serve")
    from ray import serve

    service = json.dumps(arguments["service"])
    config = from_json(ServiceConfig, service)
    options: dict[str, Any] = {"max_ongoing_requests": ONGOING, "max_queued_requests": QUEUED}
    model: Any = serve.deployment(BackboneReplica)
    index: Any = serve.deployment(GalleryReplica)
    gateway: Any = serve.deployment(serve.ingress()(Gateway))
    models = [
        model.options(name=f"backbone{number}", ray_actor_options={"num_cpus": 1}, **options).bind(
            service, number
        )
        for number in range(len(config.backbones))
    ]
    indexes = [
        index.options(name=f"gallery{number}", ray_actor_options={"num_cpus": 0.25}, **options).bind(
            service, number
        )
        for number in range(len(config.galleries))
    ]
    return gateway.options(
        name="gateway",
        ray_actor_options={"num_cpus": 0.25},
        max_ongoing_requests=4 * QUEUED,
        max_queued_requests=QUEUED,
    ).bind(service, json.dumps(arguments["listen"]), models, indexes)


async def _answer(call: Awaitable[Any]) -> Any:
    """The result, or the refusal as a value: Ray would turn a raised error into a type of its own."""
    try:
        return await call
    except Exception as error:
        if (refusal := refusal_of(error)) is None:
            raise
        return refusal


class BackboneReplica:
    """One backbone in a process of its own."""

    def __init__(self, service: str, number: int) -> None:
        from ..engine.model import LocalModel, load_backbone
        from ..engine.opening import descriptor_for

        config = from_json(ServiceConfig, service)
        backbone = load_backbone(config, number)
        self.model = LocalModel(backbone, descriptor_for(config, number, backbone), config)
        self._passes: list[tuple[int, float]] = []
        self.model.on_batch = lambda size, seconds: self._passes.append((size, seconds))

    async def card(self) -> BackboneInfo:
        """See `ModelPort.card`."""
        return self.model.card

    async def call(
        self, method: str, views: list[np.ndarray]
    ) -> tuple[BackboneInfo, Any, list[tuple[int, float]]]:
        """A method of `ModelPort`: what answers, its answer or refusal, and the passes (views, seconds) since the
        answer before, for the gateway's metrics."""
        answer = await _answer(getattr(self.model, method)(views))
        passes, self._passes = self._passes, []
        return self.model.card, answer, passes


class GalleryReplica:
    """One gallery in a process of its own."""

    def __init__(self, service: str, number: int) -> None:
        from ..engine.index import LocalIndex

        config = from_json(ServiceConfig, service)
        self.index = LocalIndex(Path(config.galleries[number]), shards=config.gallery_shards)

    async def call(self, method: str, *arguments: Any) -> Any:
        """A method of `IndexPort`."""
        return await _answer(getattr(self.index, method)(*arguments))


class Gateway:
    """The routes, decoding and uploads; the rest is done by the other deployments."""

    async def __init__(  # type: ignore[misc]
        self,
        service: str,
        listen: str,
        models: list[DeploymentHandle],
        indexes: list[DeploymentHandle],
    ) -> None:
        from ..engine.decoding import UploadDecoder
        from ..engine.opening import open_browser
        from .server import log_to_stderr

        log_to_stderr()
        config = from_json(ServiceConfig, service)
        self.listen = from_json(ListenConfig, listen)
        ports = [RayModel(await handle.card.remote(), handle) for handle in models]
        decoder = await asyncio.to_thread(UploadDecoder, config)
        self.engine = ServiceEngine(
            config, ports, [RayIndex(handle) for handle in indexes], decoder, open_browser(config)
        )
        for number in range(len(ports)):
            await self.engine.check(number)

    def __serve_build_asgi_app__(self) -> FastAPI:
        from .api import create_app
        from .auth import load_tokens

        return create_app(self.engine, load_tokens(self.listen), local=self.listen.host == HOST)

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


async def _called(call: Callable[[], Awaitable[Any]], what: str, wait_s: float | None = WAIT_S) -> Any:
    """What a deployment answers. Raises RefusedError: its own, or 503 where it is busy, restarting or gone.

    Only where it was too busy (Overloaded) is it certain that nothing was done. wait_s: None waits for ever.
    """
    from ray.exceptions import RayError
    from ray.serve.exceptions import BackPressureError, RayServeException

    try:
        async with asyncio.timeout(wait_s):
            result = await call()
    except TimeoutError:
        raise RefusedError(
            503, "Timeout", f"{what} gave no answer within {wait_s:g} s", retry_after=5
        ) from None
    except BackPressureError:
        raise overloaded(f"too many requests wait for {what}", None) from None
    except RayServeException:
        raise RefusedError(503, "Unavailable", f"{what} is not available", retry_after=2) from None
    except RayError as error:
        from ray.exceptions import RayTaskError

        if isinstance(error, RayTaskError):  # a fault in the replica's code
            raise
        raise RefusedError(
            503, "Unavailable", f"{what} was lost and is started again", retry_after=2
        ) from None
    if isinstance(result, RefusedError):
        raise result
    return result


def _is_same(card: BackboneInfo, other: BackboneInfo) -> bool:
    """Whether two replicas have the same backbone, on whatever device."""
    return replace(card, device="") == replace(other, device="")


class RayModel:
    """A backbone's deployment, as the engine uses it."""

    def __init__(self, card: BackboneInfo, handle: DeploymentHandle) -> None:
        self.card, self.handle = card, handle
        self.on_batch: OnBatch = lambda size, seconds: None

    async def vectors(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `ModelPort.vectors`."""
        return await self._call("vectors", views)

    async def encode(self, views: Sequence[np.ndarray]) -> list[EncodedView]:
        """See `ModelPort.encode`."""
        return await self._call("encode", views)

    async def _call(self, method: str, views: Sequence[np.ndarray]) -> Any:
        """Raises RefusedError (503) where a replica with another backbone answers."""
        card, answer, passes = await _called(
            lambda: self.handle.call.remote(method, list(views)), "the backbone"
        )
        for size, seconds in passes:
            self.on_batch(size, seconds)
        if not _is_same(card, self.card):
            raise RefusedError(
                503,
                "BackboneMismatch",
                f"a replica has vectors of {card.vectors[:12]}, this service of {self.card.vectors[:12]}; deploy again",
                retry_after=30,
            )
        if isinstance(answer, RefusedError):
            raise answer
        return answer

    async def alive(self) -> bool:
        """Whether a replica answers, with the same backbone as at the start."""
        try:
            card = await _called(lambda: self.handle.card.remote(), "the backbone")
        except RefusedError:
            return False
        return _is_same(card, self.card)

    def close(self) -> None:
        """Nothing: Ray Serve ends its replicas."""


class RayIndex:
    """A gallery's deployment, as the engine uses it."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def _call(self, method: str, *arguments: Any) -> Any:
        wait_s = None if method in CHANGES else WAIT_S
        return await _called(lambda: self.handle.call.remote(method, *arguments), "the gallery", wait_s)

    async def manifest(self) -> GalleryManifest:
        """See `IndexPort.manifest`."""
        return await self._call("manifest")

    async def search(
        self,
        vectors: np.ndarray,
        k: int,
        exclude: Sequence[Sequence[str]],
        where: SearchFilter,
        allow_partial: bool,
    ) -> SearchAnswer:
        """See `IndexPort.search`."""
        return await self._call("search", vectors, k, exclude, where, allow_partial)

    async def similar(
        self, key: str, view: str, k: int, where: SearchFilter, allow_partial: bool
    ) -> SearchAnswer:
        """See `IndexPort.similar`."""
        return await self._call("similar", key, view, k, where, allow_partial)

    async def page(self, where: SearchFilter, after: int, count: int, counted: bool = True) -> ItemPage:
        """See `IndexPort.page`."""
        return await self._call("page", where, after, count, counted)

    async def add(self, rows: Features) -> GalleryManifest:
        """See `IndexPort.add`."""
        return await self._call("add", rows)

    async def delete(self, keys: Sequence[str], patients: Sequence[str]) -> GalleryManifest:
        """See `IndexPort.delete`."""
        return await self._call("delete", keys, patients)

    async def compact(self) -> GalleryManifest:
        """See `IndexPort.compact`."""
        return await self._call("compact")

    def close(self) -> None:
        """Nothing: Ray Serve ends its replicas."""
