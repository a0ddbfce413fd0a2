"""Routes for a page that draws maps over views by itself: attention head by head, and patch tokens as colors."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions whose names are local here.

import json
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from ..engine.engine import ServiceEngine
from .parameters import ERRORS
from .study_routes import BINARY_ANSWER, OCTETS, grid_header, named_view, session_of

if TYPE_CHECKING:
    from fastapi import APIRouter


def map_routes(engine: ServiceEngine) -> "APIRouter":
    """GET /v1/attention and GET /v1/pca. Both answer like GET /v1/similarity: length, header (JSON), bytes."""
    from fastapi import APIRouter, Query, Request, Response

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["patches"])
    Backbone = Annotated[int, Query(ge=0)]

    @router.get("/attention", response_class=Response, responses=BINARY_ANSWER)
    async def attention(
        request: Request, view: Annotated[str, Query(max_length=96)], backbone: Backbone = 0
    ) -> Response:
        """Attention of the CLS token in the last block for one view (`test-12/0`).

        Length of the header in 4 bytes, little-endian; header (JSON, `heads` and `view`); float32, little-endian, a row
        for each head.
        """
        encoded = await named_view(engine, view, request, backbone)
        header = {"heads": len(encoded.attention), "view": grid_header(encoded)}
        return binary(header, encoded.attention.astype("<f4").tobytes())

    @router.get("/pca", response_class=Response, responses=BINARY_ANSWER)
    async def colors(
        request: Request,
        study: Annotated[list[Annotated[str, Query(max_length=80)]], Query(min_length=1, max_length=2)],
        backbone: Backbone = 0,
        background: bool = True,
    ) -> Response:
        """Patch tokens as colors (their first three principal components), of all views of one or two studies together.

        Length of the header in 4 bytes, little-endian; header (JSON, `shares` of the variance, and `views` with `study`
        and `view`); four bytes (red, green, blue, and 255 or 0 where it has no color) for each patch of each view.
        background=false: without the background, so that the colors tell apart what is left.
        """
        views, found = await engine.token_colors(study, session_of(request), backbone, background)
        listed = [{"study": name, "view": number, **grid_header(view)} for name, number, view in views]
        header = {"shares": [round(share, 4) for share in found.shares], "views": listed}
        alpha = np.where(np.concatenate(found.shown), 255, 0).astype(np.uint8)
        return binary(header, np.column_stack([np.concatenate(found.rgb), alpha]).tobytes())

    def binary(header: dict[str, Any], content: bytes) -> Response:
        head = json.dumps(header, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 4)  # so that float32 may be read where it lies
        return Response(len(head).to_bytes(4, "little") + head + content, media_type=OCTETS)

    return router
