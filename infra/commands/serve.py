"""`vetdino serve GALLERY… --backbones B…`: embeddings and similar studies over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

from tyro.conf import Positional, arg

from ...platform.core.config import subconfig
from ...platform.core.location import Location
from ...serving.config import ListenConfig, ServiceConfig
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class Serve(ServiceConfig, ListenConfig, Command):
    """Serve embeddings of studies, similar-study search and patch similarity over HTTP, in one process."""

    basic: ClassVar = (
        "galleries",
        "backbones",
        "shards",
        "runs",
        "host",
        "port",
        "tokens",
        "ray_config",
        "device",
    )
    galleries: Annotated[Positional[tuple[Location, ...]], arg(metavar="GALLERY…")] = ()
    """Galleries that `vetdino index build` made, the i-th of the i-th backbone's vectors; none: embeddings alone."""
    ray_config: Path | None = None
    """Write a config file for `serve run` and `serve deploy` of Ray Serve to this path, instead of serving."""

    @contextmanager
    def _prepared(self, action: str) -> Iterator[Self]:
        if self.ray_config is not None:  # before anything is copied
            from ...serving.service.ray_serve import check_local

            check_local(self.galleries)
        is_copy = any(not place.is_local for place in self.galleries)
        with super()._prepared(action) as local:
            yield replace(local, read_only=local.read_only or is_copy)

    def run(self) -> Path | None:
        service, listen = subconfig(ServiceConfig, self), subconfig(ListenConfig, self)
        if self.ray_config is not None:
            from ...serving.service.ray_serve import write_ray_config

            return write_ray_config(service, listen, self.ray_config)
        from ...serving.service.server import serve

        serve(service, listen)
        return None
