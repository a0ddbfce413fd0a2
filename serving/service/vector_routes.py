"""Routes that turn files into vectors, and vectors into matches."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions whose names are local here.

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from ...platform.data.study import StoredView
from ...platform.measure.features import Features
from ..engine.engine import Embedded, ServiceEngine
from ..engine.errors import RefusedError
from ..engine.index import SearchFilter, rows_digest
from ..gallery.manifest import GalleryManifest
from .answers import index_answer, item_error, match_answer, missing_answer, view_answer
from .body import content_type, read_files, read_json
from .parameters import (
    BINARY,
    ERRORS,
    FILES,
    NPY_ANSWER,
    body_of,
    check_digest_given,
    check_k,
    filter_parameters,
    json_body,
)
from .schemas import EmbedAnswer, IndexAnswer, NewItems, SearchAnswerBody, SearchQuery
from .wire import NPY, check_vectors, json_numbers, json_vectors, npy_bytes, npy_vectors, wants_npy

if TYPE_CHECKING:
    from fastapi import APIRouter, Request


def embed_routes(engine: ServiceEngine) -> "APIRouter":
    """POST /v1/embed."""
    from fastapi import APIRouter, Query, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["vectors"])

    @router.post("/embed", response_model=EmbedAnswer, responses=NPY_ANSWER, openapi_extra=body_of(FILES))
    async def embed(
        request: Request,
        level: Literal["image", "study", "patch"] = "study",
        backbone: Annotated[int, Query(ge=0)] = 0,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> Response:
        """Vectors of DICOM files, PNGs or JPEGs: of the study that they form, of each image, or patch tokens.

        With `Accept: application/x-npy` an array: study (1, D), image (files, D), patch (files, patches, width). At
        level image or patch a file that cannot be read is an error of its item alone; at level study, or as .npy, of
        the whole request.
        """
        model = engine.model(backbone)
        embedded = await engine.embed(await read_files(request, engine.limits), level, backbone)
        vectors = embedded.vectors.astype(dtype)
        digest = model.card.vectors if level != "patch" else model.card.digest
        headers = {"X-Vetdino-Digest": digest}
        if wants_npy(request.headers.get("accept", "")):
            for view in embedded.views:
                if isinstance(view, RefusedError):
                    raise view
            return Response(npy_bytes(vectors), media_type=NPY, headers=headers)
        answer = {
            "level": level,
            "digest": digest,
            "dimensions": vectors.shape[-1],
            "items": _items(embedded, level, json_numbers(vectors, engine.limits)),
        }
        return JSONResponse(answer, headers=headers)

    return router


def search_routes(engine: ServiceEngine) -> "APIRouter":
    """POST /v1/search."""
    from fastapi import APIRouter, Depends, Query, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1", responses=ERRORS, tags=["vectors"])
    Patients = Annotated[list[Annotated[str, Query(max_length=64)]], Query(max_length=1000)]

    @router.post(
        "/search",
        response_model=SearchAnswerBody,
        openapi_extra=body_of({**json_body(SearchQuery), NPY: BINARY, **FILES}),
    )
    async def search(
        request: Request,
        where: Annotated[SearchFilter, Depends(filter_parameters())],
        k: Annotated[int, Query(ge=1)] = 10,
        backbone: Annotated[int, Query(ge=0)] = 0,
        exclude_patient: Patients = [],  # noqa: B006  never changed
        digest: Annotated[str | None, Query(max_length=128)] = None,
        partial: bool = False,
    ) -> Response:
        """The k rows of the gallery that are most similar to a study (its files) or to each of several vectors.

        Vectors come as JSON or .npy (vectors, D). In a gallery by view each file is a query of its own.
        exclude_patient: pseudonym of a patient whose rows are left out; may be given several times. digest: of the
        vectors, refused with 409 where the gallery's differ. partial: where shards of a divided gallery do not answer,
        search the others and tell in `missing` which rows were not searched, instead of 503.
        """
        check_k(k, engine)
        manifest = await engine.manifest(backbone)
        check_digest_given(digest, manifest.backbone)
        vectors, patients = await _queries(engine, request, manifest, backbone)
        exclude = [[*exclude_patient, *each] for each in patients]
        answer = await engine.search(vectors, k, exclude, where, backbone=backbone, allow_partial=partial)
        shown = iter(await engine.shown([match for row in answer.matches for match in row]))
        return JSONResponse(
            {
                "digest": answer.digest,
                "gallery": answer.gallery,
                "matches": [[match_answer(next(shown)) for _ in row] for row in answer.matches],
                "missing": missing_answer(answer.missing),
            }
        )

    return router


def _items(embedded: Embedded, level: str, rows: list[Any]) -> list[dict[str, Any]]:
    """The items of an answer: the study, or each file with its vector or tokens, or with its error."""
    if level == "study":
        views = [view_answer(view) for view in embedded.views if isinstance(view, StoredView)]
        return [{"views": views, "vector": rows[0]}]
    name = "vector" if level == "image" else "tokens"
    left = iter(rows)
    return [
        item_error(view) if isinstance(view, RefusedError) else {"view": view_answer(view), name: next(left)}
        for view in embedded.views
    ]


async def _queries(
    engine: ServiceEngine, request: "Request", manifest: GalleryManifest, backbone: int
) -> tuple[np.ndarray, list[list[str]]]:
    """The query vectors of a request (M, D), and for each the patients to leave out that the body names."""
    kind = content_type(request)
    if kind == "application/json":
        query = await read_json(request, SearchQuery, engine.limits)
        vectors = await asyncio.to_thread(json_vectors, query.vectors, engine.limits)
        patients = query.patients(len(vectors))
    elif kind == NPY:
        vectors = npy_vectors(await request.body(), engine.limits)
        patients = [[] for _ in vectors]
    else:
        vectors = await engine.query_vectors(await read_files(request, engine.limits), backbone)
        return vectors, [[] for _ in vectors]
    check_vectors(vectors, manifest.dimensions)
    return vectors, patients


def index_routes(engine: ServiceEngine) -> "APIRouter":
    """Changes of a gallery, for admin tokens (see `Gate.admit`)."""
    from fastapi import APIRouter, Query, Request, Response
    from fastapi.responses import JSONResponse

    router = APIRouter(prefix="/v1/index", responses=ERRORS, tags=["index (admin)"])
    Keys = Annotated[list[Annotated[str, Query(max_length=64)]], Query(max_length=1000)]
    Backbone = Annotated[int, Query(ge=0)]

    @router.post("/items", response_model=IndexAnswer, openapi_extra=body_of(json_body(NewItems)))
    async def add(request: Request, backbone: Backbone = 0) -> Response:
        """Adds rows to the gallery; 409 where their vectors are of another backbone."""
        gallery = await engine.manifest(backbone)
        rows = await read_json(request, NewItems, engine.limits)
        features = await asyncio.to_thread(_features, rows, gallery, engine)
        return JSONResponse(index_answer(await engine.add(features, backbone)))

    @router.delete("/items", response_model=IndexAnswer)
    async def delete(key: Keys = [], patient: Keys = [], backbone: Backbone = 0) -> Response:  # noqa: B006
        """Deletes studies by key and patients by pseudonym: no search finds them from now on."""
        engine.index(backbone)
        if not (key or patient):
            raise RefusedError(422, "RequestError", "name keys or patients to delete")
        return JSONResponse(index_answer(await engine.delete(key, patient, backbone)))

    @router.post("/compact", response_model=IndexAnswer)
    async def compact(backbone: Backbone = 0) -> Response:
        """Builds the gallery anew from its rows: additions are indexed, what was deleted leaves the disk."""
        return JSONResponse(index_answer(await engine.compact(backbone)))

    return router


def _features(rows: NewItems, manifest: GalleryManifest, engine: ServiceEngine) -> Features:
    """The rows as a table of the gallery's findings. Raises RefusedError."""
    items = rows.items
    vectors = json_vectors([item.vector for item in items], engine.limits)
    check_digest_given(rows.digest, manifest.backbone)
    check_vectors(vectors, manifest.dimensions)
    unknown = {name for item in items for name in item.findings} - set(manifest.findings)
    if unknown:
        raise RefusedError(422, "RequestError", f"{len(unknown)} findings that the gallery does not have")
    by_view = manifest.level == "view"
    if any(bool(item.view) != by_view for item in items):
        need = "name the view of each row" if by_view else "leave out the view"
        raise RefusedError(422, "RequestError", f"this gallery is by {manifest.level}; {need}")
    labels = [[float(item.findings.get(name, np.nan)) for name in manifest.findings] for item in items]
    keys = tuple(item.key for item in items)
    return Features(
        keys=keys,
        patients=tuple(item.patient for item in items),
        splits=tuple(item.split for item in items),
        views=tuple(item.view for item in items),
        vectors=vectors,
        findings=manifest.findings,
        labels=np.array(labels, np.float32).reshape(len(items), len(manifest.findings)),
        backbone=rows.digest,
        manifest=rows_digest(vectors, keys),
        projections=tuple(" ".join(sorted(set(item.projections))) for item in items),
    )
