"""The engine as a FastAPI app: the same one under uvicorn, on Ray Serve and below the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from ...platform.core.errors import VetdinoError
from ...platform.core.extras import require_extra
from ..engine.engine import ServiceEngine
from ..engine.errors import RefusedError, refusal_of
from .auth import AccessTokens
from .gate import Gate, error_body, refusal_headers
from .health_routes import health_routes
from .map_routes import map_routes
from .metrics import Metrics
from .parameters import known_parameters
from .run_routes import run_routes
from .study_routes import list_routes, matrix_routes, picture_routes, similarity_routes, upload_routes
from .vector_routes import embed_routes, index_routes, search_routes

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response

ROUTES = (
    embed_routes,
    search_routes,
    list_routes,
    picture_routes,
    upload_routes,
    matrix_routes,
    similarity_routes,
    map_routes,
    run_routes,
    index_routes,
)
"""What makes the routes below /v1 from an engine."""

SWEEP = 10.0
"""Seconds between looks for uploads that have expired."""


def create_app(engine: ServiceEngine, tokens: AccessTokens | None = None, *, local: bool = True) -> FastAPI:
    """The service. local: answer to this machine's host names only.

    Raises ConfigError if fastapi is not installed.
    """
    require_extra("fastapi", "the service")
    from fastapi import Depends, FastAPI

    app = FastAPI(
        title="vetdino",
        version="1",
        description="Embeddings of imaging studies, similar studies, similar patches. All limits: GET /v1/info.",
        lifespan=_lifespan(engine),
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    metrics = Metrics(engine)
    for router in (health_routes(engine, metrics), *(routes(engine) for routes in ROUTES)):
        app.include_router(router, dependencies=[Depends(known_parameters())])
    _add_errors(app)
    app.add_middleware(
        Gate, tokens=tokens or AccessTokens({}), limits=engine.limits, metrics=metrics, local=local
    )
    return app


def _lifespan(engine: ServiceEngine) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                await asyncio.sleep(min(SWEEP, engine.uploads.seconds / 4))
                engine.uploads.sweep()

        task = asyncio.create_task(sweep())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return lifespan


def _add_errors(app: FastAPI) -> None:
    """Every error is JSON with one sentence, its type, the limit that was reached, and the request's id."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    def answer(request: Request, refusal: RefusedError) -> Response:
        request.state.error_type = refusal.kind
        headers = {name.decode(): value.decode() for name, value in refusal_headers(refusal)}
        body = error_body(refusal, request.state.request_id)
        return JSONResponse(body, status_code=refusal.status, headers=headers)

    @app.exception_handler(VetdinoError)
    def refused(request: Request, error: VetdinoError) -> Response:
        refusal = refusal_of(error)
        if refusal is None:
            raise error
        return answer(request, refusal)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = next((str(part) for part in first["loc"][1:]), "request")
        return answer(request, RefusedError(422, "RequestError", f"{where}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    def unknown(request: Request, error: HTTPException) -> Response:
        kinds = {404: "NotFound", 405: "MethodNotAllowed"}
        kind = kinds.get(error.status_code, "RequestError")
        return answer(request, RefusedError(error.status_code, kind, str(error.detail)))
