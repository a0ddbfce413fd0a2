"""Routes about the service itself: alive, ready, metrics, and what it serves within which limits."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions whose names are local here.

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..engine.engine import ServiceEngine
from ..engine.errors import RefusedError
from .answers import gallery_answer
from .metrics import Metrics
from .parameters import ERRORS

if TYPE_CHECKING:
    from fastapi import APIRouter

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def health_routes(engine: ServiceEngine, metrics: Metrics) -> "APIRouter":
    """GET /health/live, /health/ready, /metrics, /v1/info."""
    from fastapi import APIRouter, Response
    from fastapi.responses import JSONResponse, PlainTextResponse

    router = APIRouter(responses=ERRORS, tags=["service"])

    @router.get("/health/live")
    async def live() -> Response:
        """The process answers."""
        return JSONResponse({"status": "alive"})

    @router.get("/health/ready")
    async def ready() -> Response:
        """Backbones are loaded, and compute of their galleries' probes what they did; files can be decoded."""
        problems = await engine.problems()
        if problems:
            raise RefusedError(503, "NotReady", problems[0], retry_after=5)
        return JSONResponse({"status": "ready"})

    @router.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type=TEXT)

    @router.get("/v1/info")
    async def info() -> Response:
        """Backbones with their digests and dimensions, galleries, shards, and every limit."""
        return JSONResponse(await info_answer(engine))

    return router


async def info_answer(engine: ServiceEngine) -> dict[str, Any]:
    """What GET /v1/info tells."""
    backbones = []
    for number, model in enumerate(engine.models):
        has_gallery = engine.indexes[number] is not None
        gallery = gallery_answer(await engine.manifest(number)) if has_gallery else None
        backbones.append({**asdict(model.card), "patches": model.card.patches, "gallery": gallery})
    browser = engine.browser
    shards = browser and {
        "name": browser.manifest.name,
        "split": browser.split,
        "studies": browser.count,
        "digest": browser.manifest.digest,
    }
    return {
        "backbones": backbones,
        "shards": shards or None,
        "limits": asdict(engine.limits),
        "files": {"modalities": list(engine.config.dicom.modalities), "side": engine.config.dicom.side},
    }
