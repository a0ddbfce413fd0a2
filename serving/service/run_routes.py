"""Routes that show zero-shot and few-shot runs of a folder."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions whose names are local here.

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from ..engine.engine import ServiceEngine
from ..engine.runs import RunResults, ShownRuns
from ..studies import NotHereError
from .parameters import BINARY, ERRORS
from .schemas import RunAnswer, RunsAnswer

if TYPE_CHECKING:
    from fastapi import APIRouter


def run_routes(engine: ServiceEngine) -> "APIRouter":
    """GET /v1/runs, /v1/runs/{number} and its figures."""
    from fastapi import APIRouter, Path, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["runs"])
    Number = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$")]

    def runs() -> ShownRuns:
        if engine.runs is None:
            raise NotHereError("There are no runs to look at here; start the service with --runs.")
        return engine.runs

    @router.get("/runs", response_model=RunsAnswer)
    async def listed() -> Response:
        """The zero-shot and few-shot runs that the service shows; none where it was given no folder of them."""
        found = [] if engine.runs is None else await asyncio.to_thread(engine.runs.list)
        return JSONResponse({"runs": list(map(asdict, found))})

    @router.get("/runs/{number}", response_model=RunAnswer)
    async def run(number: Number) -> Response:
        """What a run measured: all metrics, and its summary as a table."""
        return JSONResponse(_answer(await asyncio.to_thread(runs().results, number)))

    @router.get(
        "/runs/{number}/figures/{name}.png",
        response_class=Response,
        responses={200: {"content": {"image/png": BINARY}}},
    )
    async def figure(number: Number, name: Annotated[str, Path(max_length=200)]) -> Response:
        """A figure of a run."""
        png = await asyncio.to_thread(runs().figure, number, name)
        return Response(png, media_type="image/png", headers={"Cache-Control": "no-store"})

    return router


def _answer(results: RunResults) -> dict[str, object]:
    return {
        **asdict(results.run),
        "metrics": dict(results.metrics),
        "columns": results.columns,
        "rows": results.rows,
        "rows_in_file": results.rows_in_file,
        "notes": results.notes,
    }
