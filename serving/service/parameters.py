"""What routes share: parameters of the query string, how a body is documented, and errors."""

# No `from __future__ import annotations`: FastAPI reads the annotations of functions whose names are local here.

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from ..engine.engine import ServiceEngine
from ..engine.errors import RefusedError
from ..engine.index import SearchFilter
from .body import FILE_TYPES, MULTIPART
from .schemas import ErrorAnswer
from .wire import NPY

STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503)

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": "Refused."} for status in STATUSES
}
"""The errors that any route may answer with."""

BINARY = {"schema": {"type": "string", "format": "binary"}}

NPY_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {NPY: BINARY}}}
"""For a route that answers with .npy where Accept asks for it."""

FILES: dict[str, Any] = {
    MULTIPART: {
        "schema": {
            "type": "object",
            "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            "required": ["files"],
        }
    },
    **dict.fromkeys(FILE_TYPES, BINARY),
}
"""The bodies that carry files."""


def body_of(content: dict[str, Any]) -> dict[str, Any]:
    """The part of the OpenAPI page that describes a body which the route reads itself."""
    return {"requestBody": {"required": True, "content": content}}


def json_body(model: Any) -> dict[str, Any]:
    """A JSON body as the OpenAPI page describes it."""
    schema = model.model_json_schema()
    inner = schema.pop("$defs", {})
    return {"application/json": {"schema": _inlined(schema, inner)}}


def _inlined(schema: Any, inner: dict[str, Any]) -> Any:
    """The schema with what it refers to in the place of the reference."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(inner[schema["$ref"].rpartition("/")[2]], inner)
        return {name: _inlined(value, inner) for name, value in schema.items()}
    return [_inlined(value, inner) for value in schema] if isinstance(schema, list) else schema


def search_filter(
    present: Sequence[str], absent: Sequence[str], projection: Sequence[str], split: Any
) -> SearchFilter:
    """The filter of a search. Raises RefusedError where a finding is both present and absent."""
    if both := set(present) & set(absent):
        raise RefusedError(422, "RequestError", f"{len(both)} findings are both in present and in absent")
    findings = dict.fromkeys(present, True) | dict.fromkeys(absent, False)
    return SearchFilter(findings or None, tuple(projection), split)


def filter_parameters() -> Callable[..., SearchFilter]:
    """A dependency of routes that search: their filter, from the query string."""
    from fastapi import Query

    Names = Annotated[list[str], Query(max_length=32)]

    def chosen(
        present: Names = [],  # noqa: B006  never changed
        absent: Names = [],  # noqa: B006
        projection: Names = [],  # noqa: B006
        split: Literal["train", "val", "test"] | None = None,
    ) -> SearchFilter:
        return search_filter(present, absent, projection, split)

    return chosen


def known_parameters() -> Callable[..., Any]:
    """A dependency of all routes: refuses a parameter of the query string that the route does not have."""
    from fastapi import Request

    async def checked(request: Request) -> None:
        known = _query_names(request.scope["route"].dependant)
        if unknown := set(request.query_params) - known:  # their names are the caller's text
            have = f"those known here are {', '.join(sorted(known))}" if known else "none is known here"
            raise RefusedError(
                422, "UnknownParameter", f"{len(unknown)} unknown parameters of the query; {have}"
            )

    return checked


def _query_names(dependant: Any) -> set[str]:
    """Names of the query parameters that a route and what it depends on take."""
    names = {parameter.alias for parameter in dependant.query_params}
    return names.union(*map(_query_names, dependant.dependencies))


def check_k(k: int, engine: ServiceEngine) -> None:
    """Raises RefusedError for more matches than allowed."""
    if k > engine.limits.k:
        raise RefusedError(422, "TooLarge", f"k is {k}; ask for at most {engine.limits.k} matches", "k")


def check_digest_given(given: str | None, have: str) -> None:
    """Raises RefusedError (409) where the caller expects vectors of another backbone."""
    if given is not None and given != have:
        raise RefusedError(
            409,
            "BackboneMismatch",
            f"this service has vectors of {have[:12]}, not of the digest that was given",
        )
