"""The app's HTTP routes under /v1: JSON, pictures and one matrix; reads only.

Every request that is not GET or HEAD is refused, so there is no upload and no path to a file of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..platform.core.errors import VetdinoError
from ..platform.core.extras import require_extra
from .config import HOST
from .state import AppState
from .studies import NotHereError, parse_study, parse_view

if TYPE_CHECKING:
    from fastapi import FastAPI

CONTENT_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Content-Security-Policy: the browser fetches nothing from other servers."""


def api_routes(state: AppState) -> FastAPI:
    """A FastAPI app with all routes under /v1. Raises ConfigError if fastapi is not installed."""
    require_extra("fastapi", "the app")
    from fastapi import FastAPI
    from fastapi.responses import Response

    app = FastAPI(title="vetdino", openapi_url=None)
    # Not cached: the next archive on this port has the same URLs.
    picture: dict[str, Any] = {"media_type": "image/jpeg", "headers": {"Cache-Control": "no-store"}}

    @app.get("/v1/info")
    def info() -> dict[str, Any]:
        return state.info()

    @app.get("/v1/studies/{name}")
    def study(name: str) -> dict[str, Any]:
        return state.study(parse_study(name))

    @app.get("/v1/studies/{name}/neighbours")
    def neighbors(name: str, backbone: int = 0) -> list[dict[str, Any]]:
        return state.neighbors(backbone, parse_study(name))

    @app.get("/v1/studies/{name}/{view}.jpg")
    def view(name: str, view: int, side: int = 1024) -> Response:
        return Response(state.picture(parse_study(name), view, _clamped(side)), **picture)

    @app.get("/v1/studies/{name}/{view}/attention/{head}.jpg")
    def attention(name: str, view: int, head: str, backbone: int = 0, side: int = 384) -> Response:
        return Response(state.attention(backbone, parse_study(name), view, head, _clamped(side)), **picture)

    @app.get("/v1/similarity")
    def similarity(a: str, b: str, backbone: int = 0) -> Response:
        # Length of the header in 4 bytes, little-endian; header (JSON); rows of uint8 cosines.
        matrix, header = state.similarity(backbone, [parse_view(a), parse_view(b)])
        head = json.dumps(header, separators=(",", ":")).encode()
        body = len(head).to_bytes(4, "little") + head + matrix
        return Response(body, media_type="application/octet-stream")

    _add_errors(app)
    _add_guards(app)
    return app


def _add_errors(app: FastAPI) -> None:
    """Every error is JSON with one sentence and its type."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response

    @app.exception_handler(VetdinoError)
    def refused(_: Any, error: VetdinoError) -> Response:
        return _error_response(
            404 if isinstance(error, NotHereError) else 422, str(error), type(error).__name__
        )

    @app.exception_handler(RequestValidationError)
    def malformed(_: Any, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _error_response(422, f"{first['loc'][-1]}: {first['msg']}", "RequestError")

    @app.exception_handler(Exception)
    def failed(_: Any, error: Exception) -> Response:
        return _error_response(500, "Internal error; the terminal of the app shows the details.", "Fault")


def _add_guards(app: FastAPI) -> None:
    """Refuses everything but reads and foreign host names; tells the browser to fetch nothing from elsewhere."""
    from fastapi.responses import Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    @app.middleware("http")
    async def only_reads(request: Any, call_next: Callable[[Any], Any]) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _error_response(405, "This app only shows data; it accepts none.", "RequestError")
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])


def _clamped(side: int) -> int:
    return min(max(side, 16), 2048)


def _error_response(status: int, message: str, kind: str) -> Any:
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": message, "error_type": kind}, status_code=status)
