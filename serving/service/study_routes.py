"""Routes for looking: studies of the shards and uploads, their pictures, similar patches, attention, neighbors."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions whose names are local here.

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from ...platform.data.study import Study
from ..engine.engine import ServiceEngine
from ..engine.errors import RefusedError
from ..engine.index import SearchFilter
from ..engine.model import EncodedView
from ..engine.uploads import PREFIX, SESSION, new_session
from ..studies import NotHereError, findings_by_state, is_number, parse_view
from .answers import grid_answer, item_answer, match_answer, missing_answer, view_answer
from .body import content_type, read_files, read_json
from .parameters import BINARY, ERRORS, FILES, NPY_ANSWER, body_of, check_k, filter_parameters, json_body
from .schemas import (
    AttentionAnswer,
    AttentionQuery,
    NeighborsAnswer,
    SimilarityAnswer,
    SimilarityQuery,
    UploadAnswer,
)
from .wire import NPY, json_numbers, npy_bytes, wants_npy

if TYPE_CHECKING:
    from fastapi import APIRouter, Request

SESSION_COOKIE = "vetdino_session"

PICTURE: dict[str, Any] = {"media_type": "image/jpeg", "headers": {"Cache-Control": "no-store"}}
"""Not cached: the next archive on this port has the same URLs."""

JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": BINARY}}}

OCTETS = "application/octet-stream"
BINARY_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {OCTETS: BINARY}}}

PAGE = 200
"""Most studies of one page of the list."""


def session_of(request: "Request") -> str:
    """The session that a request belongs to; empty where it has none yet."""
    name = request.cookies.get(SESSION_COOKIE, "")
    return name if SESSION.fullmatch(name) else ""


def list_routes(engine: ServiceEngine) -> "APIRouter":
    """GET /v1/studies and a study's neighbors."""
    from fastapi import APIRouter, Depends, Path, Query, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["studies"])
    Backbone = Annotated[int, Query(ge=0)]
    Filter = Annotated[SearchFilter, Depends(filter_parameters())]

    @router.get("/studies")
    async def studies(
        where: Filter,
        count: Annotated[int, Query(ge=1, le=PAGE)] = 50,
        after: Annotated[int, Query(ge=-1, lt=2**62)] = -1,
        backbone: Backbone = 0,
        counted: bool = True,
    ) -> Response:
        """A page of the gallery's studies that pass a filter; `next` is the next page's `after`, null at the end.

        counted: count all that pass as `total`, which takes a look at every row; else `total` may be null.
        """
        page = await engine.page(where, after, count, backbone, counted)
        places = await engine.find_places([item.key for item in page.items])
        listed = [item_answer(item, place) for item, place in zip(page.items, places, strict=True)]
        return JSONResponse({"studies": listed, "total": page.total, "next": page.last})

    @router.get("/studies/{name}/neighbours", response_model=NeighborsAnswer)
    @router.get("/studies/{name}/neighbors", response_model=NeighborsAnswer)
    async def neighbors(
        request: Request,
        name: Annotated[str, Path(max_length=80)],
        where: Filter,
        k: Annotated[int, Query(ge=1)] = 10,
        backbone: Backbone = 0,
        only_shown: bool = False,
        partial: bool = False,
    ) -> Response:
        """The most similar studies of other patients. name: a key of the gallery, `test-12`, or an upload.

        only_shown: those among the `limits.k` most similar that the shards hold, with their views. partial: as in POST
        /v1/search.
        """
        check_k(k, engine)
        session = session_of(request)
        found = await engine.neighbors(
            name, k, where, session=session, backbone=backbone, only_shown=only_shown, allow_partial=partial
        )
        return JSONResponse(
            {
                "digest": found.digest,
                "gallery": found.gallery,
                "matches": list(map(match_answer, found.shown)),
                "missing": missing_answer(found.missing),
            }
        )

    return router


def picture_routes(engine: ServiceEngine) -> "APIRouter":
    """A study with its pictures, and those under attention."""
    from fastapi import APIRouter, Path, Query, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["studies"])
    Name = Annotated[str, Path(max_length=80)]
    Number = Annotated[int, Path(ge=0, le=9999)]

    @router.get("/studies/{name}")
    async def study(request: Request, name: Name) -> Response:
        """One study, its views and findings."""
        return JSONResponse(study_answer(name, await engine.study(name, session_of(request))))

    @router.get("/studies/{name}/{view}.jpg", response_class=Response, responses=JPEG)
    async def picture(request: Request, name: Name, view: Number, side: int = 1024) -> Response:
        """A view as JPEG, its longer side at most `side` pixels."""
        return Response(await engine.picture(name, view, session_of(request), _clamped(side)), **PICTURE)

    @router.get("/studies/{name}/{view}/attention/{head}.jpg", response_class=Response, responses=JPEG)
    async def attention_picture(
        request: Request,
        name: Name,
        view: Number,
        head: Name,
        backbone: Annotated[int, Query(ge=0)] = 0,
        side: int = 384,
    ) -> Response:
        """A view under the attention of a head (0, 1, …), of `all` in colors, or of their `mean`."""
        session = session_of(request)
        encoded = await engine.encoded(name, view, session, backbone)
        pixels = await engine.pixels(name, view, session)
        return Response(await engine.attention_picture(pixels, encoded, head, _clamped(side)), **PICTURE)

    return router


def upload_routes(engine: ServiceEngine) -> "APIRouter":
    """POST /v1/uploads, and an upload deleted."""
    from fastapi import APIRouter, Path, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["studies"])

    @router.post("/uploads", response_model=UploadAnswer, openapi_extra=body_of(FILES))
    async def upload(request: Request) -> Response:
        """Keeps a study in memory for this session (a cookie), to be looked at like one of the shards."""
        session = session_of(request) or new_session()
        name = await engine.upload(await read_files(request, engine.limits), session)
        views = (await engine.study(name, session)).views
        seconds = engine.uploads.seconds
        answer = JSONResponse({"study": name, "seconds": seconds, "views": list(map(view_answer, views))})
        answer.set_cookie(SESSION_COOKIE, session, httponly=True, samesite="strict", path="/v1")
        return answer

    @router.delete("/studies/{name}")
    async def remove(request: Request, name: Annotated[str, Path(max_length=80)]) -> Response:
        """Deletes an upload of this session."""
        engine.uploads.remove(name, session_of(request))
        return JSONResponse({"deleted": name})

    return router


def matrix_routes(engine: ServiceEngine) -> "APIRouter":
    """GET /v1/similarity, all patches of two views, and POST /v1/attention."""
    from fastapi import APIRouter, Query, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["patches"])
    Backbone = Annotated[int, Query(ge=0)]
    ViewName = Annotated[str, Query(max_length=96)]

    @router.get("/similarity", response_class=Response, responses=BINARY_ANSWER)
    async def matrix(request: Request, a: ViewName, b: ViewName, backbone: Backbone = 0) -> Response:
        """Cosines between all patches of two views (`test-12/0`), for a page that answers by itself.

        Length of the header in 4 bytes, little-endian; header (JSON); rows of uint8, 0 for `low` and 255 for `high`.
        """
        views = [await named_view(engine, name, request, backbone) for name in (a, b)]
        rows, low, high = await engine.similarity_matrix(views)
        header = {"low": low, "high": high, "views": [grid_header(view) for view in views]}
        head = json.dumps(header, separators=(",", ":")).encode()
        return Response(len(head).to_bytes(4, "little") + head + rows, media_type=OCTETS)

    @router.post(
        "/attention",
        response_model=AttentionAnswer,
        responses=NPY_ANSWER,
        openapi_extra=body_of({**json_body(AttentionQuery), **FILES}),
    )
    async def attention(request: Request, backbone: Backbone = 0) -> Response:
        """Attention of the CLS token in the last block for one view, (heads, patches): a file, or a view by name."""
        (encoded,) = await _views(engine, request, AttentionQuery, 1, backbone)
        if wants_npy(request.headers.get("accept", "")):
            return Response(npy_bytes(encoded.attention), media_type=NPY)
        return JSONResponse(
            {
                "digest": engine.model(backbone).card.digest,
                "attention": json_numbers(encoded.attention, engine.limits),
                "grid": grid_answer(encoded.grid),
            }
        )

    return router


def similarity_routes(engine: ServiceEngine) -> "APIRouter":
    """POST /v1/similarity."""
    from fastapi import APIRouter, Query, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["patches"])
    bodies = body_of({**json_body(SimilarityQuery), **FILES})
    Fraction = Annotated[float | None, Query(ge=0, lt=1)]

    @router.post("/similarity", response_model=SimilarityAnswer, responses=NPY_ANSWER, openapi_extra=bodies)
    async def similarity(
        request: Request,
        patch: Annotated[int | None, Query(ge=0)] = None,
        x: Fraction = None,
        y: Fraction = None,
        k: Annotated[int, Query(ge=1)] = 5,
        backbone: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        """A patch of the first view against all of the second: cosines, and the k best boxes.

        Two files, or two views by name. The patch by its number, or by a point (x, y) as fractions of width and height.
        With `Accept: application/x-npy` the cosines alone.
        """
        check_k(k, engine)
        anchor, other = await _views(engine, request, SimilarityQuery, 2, backbone)
        if patch is None:
            if x is None or y is None:
                raise RefusedError(422, "RequestError", "give patch, or x and y")
            patch = anchor.grid.patch_at(x * anchor.grid.width, y * anchor.grid.height)
        found = engine.patch_match(anchor, other, patch, k)
        if wants_npy(request.headers.get("accept", "")):
            return Response(npy_bytes(found.cosines), media_type=NPY)
        return JSONResponse(
            {
                "digest": engine.model(backbone).card.digest,
                "patch": patch,
                "box": anchor.grid.box(patch),
                "scores": json_numbers(found.cosines, engine.limits),
                "best": [asdict(box) for box in found.best],
                "a": grid_answer(anchor.grid),
                "b": grid_answer(other.grid),
            }
        )

    return router


def study_answer(name: str, study: Study) -> dict[str, Any]:
    """A study as the page shows it; its patient is left out."""
    return {
        "study": name,
        "key": "" if name.startswith(PREFIX) else study.key,
        "findings": findings_by_state(study.labels),
        "views": [view_answer(view) for view in study.views],
    }


def grid_header(view: EncodedView) -> dict[str, Any]:
    """A view's patches with their boxes, for the page."""
    grid = view.grid
    return {**grid_answer(grid), "boxes": grid.boxes().tolist(), "inside": grid.inside().tolist()}


async def named_view(engine: ServiceEngine, name: str, request: "Request", backbone: int) -> EncodedView:
    """A backbone's output for a view by its name (`test-12/0`). Raises NotHereError."""
    study, _, view = name.rpartition("/")
    if not study.startswith(PREFIX):
        parse_view(name)  # says what is wrong
    if not is_number(view):
        raise NotHereError("There is no such view here.")
    return await engine.encoded(study, int(view), session_of(request), backbone)


async def _views(
    engine: ServiceEngine, request: "Request", query: Any, count: int, backbone: int
) -> list[EncodedView]:
    """The views that a body names or carries."""
    model = engine.model(backbone)
    if content_type(request) == "application/json":
        names = (await read_json(request, query, engine.limits)).model_dump().values()
        return [await named_view(engine, name, request, backbone) for name in names]
    views = await engine.study_views(await read_files(request, engine.limits, count=count))
    return await model.encode([view.decode().pixels for view in views])


def _clamped(side: int) -> int:
    return min(max(side, 16), 2048)
