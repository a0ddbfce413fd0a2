"""A request's body: files from multipart/form-data or as they are, in memory only and within limits.

The names of files and of form fields are never kept: they may name a patient.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import Limits
from ..engine.errors import RefusedError

if TYPE_CHECKING:
    from fastapi import Request
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

FILE_TYPES = ("application/dicom", "image/png", "image/jpeg")
"""Content types of a body that is one file."""

MULTIPART = "multipart/form-data"

PART_HEADER = 4096
"""Bytes of the headers of a part."""


def content_type(request: Request) -> str:
    """The type of the body, without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_files(request: Request, limits: Limits, *, count: int | None = None) -> list[bytes]:
    """The files of a request, in order. count: how many there must be.

    Raises RefusedError: 400 for a body that is not what it says, 413 for too many files, 415 for another type.
    """
    kind = content_type(request)
    if kind in FILE_TYPES:
        files = [await request.body()]
    elif kind == MULTIPART:
        files = await _multipart(request, limits)
    else:
        raise unsupported_type([MULTIPART, *FILE_TYPES])
    if not files or not all(files):
        raise RefusedError(400, "NoFile", "a file without content, or none at all")
    if count is not None and len(files) != count:
        raise RefusedError(422, "FileCount", f"{len(files)} files; send {count}")
    return files


def unsupported_type(known: list[str]) -> RefusedError:
    """415 with the types that a route takes."""
    return RefusedError(415, "UnsupportedType", f"the Content-Type must be one of {', '.join(known)}")


async def read_json(request: Request, model: type[Model], limits: Limits) -> Model:
    """The body as what `model` describes; parsed in a thread, since a large one takes long.

    Raises RefusedError: 413 for more bytes than `limits.json_mib`, 415 for another type, 422 for other content.
    """
    if content_type(request) != "application/json":
        raise unsupported_type(["application/json"])
    body = bytearray()
    _check_json_size(int(request.headers.get("content-length", "0")), limits)
    async for chunk in request.stream():
        body += chunk
        _check_json_size(len(body), limits)
    return await asyncio.to_thread(_parsed, bytes(body), model)


def _check_json_size(size: int, limits: Limits) -> None:
    if size > limits.json_mib << 20:
        raise RefusedError(
            413,
            "TooLarge",
            f"the JSON is larger than {limits.json_mib} MiB; send vectors as .npy",
            "json_mib",
        )


def _parsed(body: bytes, model: type[Model]) -> Model:
    from pydantic import ValidationError

    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        known = _field_names(model.model_json_schema())
        where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in known)
        raise RefusedError(422, "RequestError", f"{where or 'body'}: {first['msg']}") from None


def _field_names(schema: Any) -> set[str]:
    """Names of a model's fields and of those within: other names in a body are the caller's text."""
    if isinstance(schema, list):
        return set().union(*map(_field_names, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", ())).union(*map(_field_names, schema.values()))


class _Parts:
    """Collects the contents of a form's parts; the callbacks of python-multipart."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.files: list[bytes] = []
        self.is_whole = False
        self._part = bytearray()
        self._header = 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self.begin,
            "on_header_field": self.header,
            "on_header_value": self.header,
            "on_part_data": lambda data, start, end: self._part.extend(data[start:end]),
            "on_part_end": self.end,
            "on_end": self.whole,
        }

    def begin(self) -> None:
        if len(self.files) >= self.limits.files:
            raise RefusedError(
                413, "TooManyFiles", f"more than {self.limits.files} files in one request", "files"
            )
        self._part, self._header = bytearray(), 0

    def header(self, data: bytes, start: int, end: int) -> None:
        self._header += end - start
        if self._header > PART_HEADER:
            raise RefusedError(400, "BadMultipart", f"a part's headers are longer than {PART_HEADER} bytes")

    def end(self) -> None:
        self.files.append(bytes(self._part))

    def whole(self) -> None:
        self.is_whole = True


async def _multipart(request: Request, limits: Limits) -> list[bytes]:
    from python_multipart.exceptions import ParseError
    from python_multipart.multipart import MultipartParser, parse_options_header

    logging.getLogger("python_multipart.multipart").setLevel(logging.ERROR)  # a line for every bad byte
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise RefusedError(400, "BadMultipart", "the multipart form has no usable boundary")
    parts = _Parts(limits)
    chunks: AsyncIterator[bytes] = request.stream()
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except ParseError:
        raise RefusedError(400, "BadMultipart", "not a whole multipart form") from None
    if not parts.is_whole:
        raise RefusedError(400, "BadMultipart", "the multipart form is cut off")
    return parts.files
