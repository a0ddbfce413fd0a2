"""`vetdino doctor`: facts of this machine, and of the nodes of a cluster, as findings."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from ...platform.core.errors import ConfigError, TrainingError
from ...platform.core.extras import require_extra
from ...platform.training.cluster import ray_connection
from ...serving.config import AppConfig, ListenConfig
from .cluster import ask_nodes, node_findings
from .config import DoctorConfig
from .facts import Inquiry, MachineFacts
from .findings import Finding, guarded
from .gather import answers, gather
from .machine import machine_findings
from .places import place_findings
from .software import software_findings, wanted
from .urls import url_facts


def _port(config: type[Any]) -> int:
    return cast(int, next(field.default for field in fields(config) if field.name == "port"))


PORTS = {
    _port(AppConfig): "vetdino app and demo",
    _port(ListenConfig): "vetdino serve",
    6379: "Ray's head",
    8265: "Ray's dashboard and jobs",
    8000: "Ray Serve",
}
"""Port -> what wants it."""


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """All findings, as they are made."""
    named = [("--out", place, True) for place in (config.out,) if place is not None]
    named += [("--shards", place, False) for place in config.shards]
    folders = tuple(
        (name, str(place.absolute()), written) for name, place, written in named if place.is_local
    )
    urls = tuple((name, str(place), written) for name, place, written in named if not place.is_local)
    inquiry = Inquiry(folders=folders, ports=tuple(PORTS))
    here = _with_urls(gather(inquiry), urls, inquiry.seconds)
    yield from guarded("machine", lambda: machine_findings(here))
    yield from guarded("packages", lambda: software_findings(here, wanted()))
    yield from guarded("places", lambda: place_findings(here, PORTS))
    for name, why in here.failures.items():
        # What was given by name is needed; the rest may do without being known.
        yield Finding(
            "problem" if name.startswith("--") else "warning",
            f"{name}: {why}",
            "mend the cause and run it again",
        )
    if config.cluster:
        yield from guarded("cluster", lambda: _cluster_findings(here, inquiry, urls))


def _with_urls(facts: MachineFacts, urls: tuple[tuple[str, str, bool], ...], seconds: float) -> MachineFacts:
    """Facts with those of the folders at URLs, all tried at once."""
    probes: dict[str, Any] = {
        f"{name} {url}": lambda name=name, url=url, written=written: {"folder": url_facts(name, url, written)}
        for name, url, written in urls
    }
    values, failures = answers(probes, seconds)
    found = tuple(value["folder"] for value in values.values())
    return replace(facts, folders=facts.folders + found, failures=facts.failures | failures)


def _cluster_findings(
    here: MachineFacts, inquiry: Inquiry, urls: tuple[tuple[str, str, bool], ...]
) -> Iterator[Finding]:
    job = "run it as a job: `vetdino submit doctor --cluster`"
    ray = here.ray
    if ray is None or not (ray.address or ray.local):
        yield Finding("problem", "cluster: no Ray runs here and RAY_ADDRESS is not set", f"set it, or {job}")
        return
    if ray.address.startswith(("http://", "https://")) or ray.answers is False:
        yield Finding(
            "problem", f"cluster: RAY_ADDRESS {ray.address} leads to no Ray whose nodes can be reached", job
        )
        return
    try:
        require_extra("ray", "--cluster")
        with _marked(here) as mark, ray_connection():
            found = ask_nodes(replace(inquiry, ports=(), mark=mark), urls)
    except TrainingError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        yield Finding(
            "problem",
            f"cluster: {ray.address or ray.local} answers, but this process cannot join that Ray ({reason})",
            "its token must be set here (RAY_AUTH_MODE=token and RAY_AUTH_TOKEN), its Ray and Python be those of here",
        )
        return
    except ConfigError as error:
        yield Finding("problem", f"cluster: {error}")
        return
    yield from node_findings(here, found, wanted())


@contextmanager
def _marked(here: MachineFacts) -> Iterator[str]:
    """Within the block a file of this name is in every folder that is given to be written."""
    mark = f".vetdino-doctor-{secrets.token_hex(8)}"
    with ExitStack() as stack:
        for folder in here.folders:
            if folder.written and folder.name.startswith("--") and folder.existing and not folder.error:
                file = Path(folder.existing) / mark
                with suppress(OSError):
                    file.touch()
                    stack.callback(file.unlink, missing_ok=True)
        yield mark
