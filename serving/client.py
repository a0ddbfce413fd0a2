"""A client of the service, for scripts and for programs with an event loop.

    with Client("http://127.0.0.1:8600", token="…") as client:
        study = client.embed_study(["vd.dcm", "lateral.dcm"])
        for match in client.search(study.vectors, k=10, absent=["lung_mass"]).matches[0]:
            print(match.key, match.score)

Files are sent without their names, which may name a patient. A request that the service is too busy for (429, 503) is
sent again after the time that it says; so is one that found no connection. A change of a gallery is sent again only
where nothing of it can have been done.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from ..platform.core.errors import VetdinoError
from ..platform.core.extras import require_extra

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

File = str | Path | bytes
"""A path, or the bytes of a DICOM file, PNG or JPEG."""

NPY = "application/x-npy"
BUSY = (429, 503)
NOTHING_DONE = ("TooManyRequests", "Overloaded", "Busy")
"""Types of errors after which even a change may be sent again."""
LONGEST_PAUSE = 30.0
"""Seconds to wait before a request is sent again, at most."""


class ServiceError(VetdinoError):
    """An answer of the service that is an error, or none at all.

    status: of HTTP, 0 where no answer came. kind: the answer's `error_type`. limit: the limit that was reached, if one
    was. request_id: the request's line in the service's log.
    """

    def __init__(
        self, message: str, status: int = 0, kind: str = "", limit: str | None = None, request_id: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.limit, self.request_id = status, kind, limit, request_id


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """vectors: (1, D) of a study, (files, D) of images, (files, patches, width) of patches; float32 or float16.

    digest: of what made them, as in feature tables and galleries.
    """

    vectors: np.ndarray
    digest: str

    def __repr__(self) -> str:
        return f"Embedding({'x'.join(map(str, self.vectors.shape))}, {self.digest[:12]})"


@dataclass(frozen=True, slots=True)
class Match:
    """A similar study. findings: True, False, or None where unknown. study: its name among the service's shards."""

    key: str
    score: float
    view: str = ""
    split: str = ""
    projections: tuple[str, ...] = ()
    findings: Mapping[str, bool | None] = field(default_factory=dict)
    study: str | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """matches: of each query, best first. digest: of the vectors; gallery: of the gallery's version.

    missing: first and last ids of rows that were not searched; () unless `partial` was set.
    """

    matches: tuple[tuple[Match, ...], ...]
    digest: str
    gallery: str
    missing: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PatchScores:
    """A patch of one image against another: its number, its cosines (patches,), and the best as (patch, score, box)."""

    patch: int
    scores: np.ndarray
    best: tuple[tuple[int, float, tuple[int, int, int, int]], ...]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how its answer is read. is_safe: it may be sent again even where it may have arrived."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    is_safe: bool = True
    request: Mapping[str, Any] = field(default_factory=dict)


class Client:
    """Calls the service and waits. timeout: seconds for each try; retries: further tries."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8600",
        token: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 5,
    ) -> None:
        """Raises ConfigError if httpx is not installed."""
        require_extra("httpx", "the client")
        import httpx

        self.retries = retries
        self._http = httpx.Client(base_url=url, headers=_headers(token), timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def info(self) -> dict[str, Any]:
        """Backbones with their digests and dimensions, galleries, shards and limits."""
        return self._run(info())

    def is_ready(self) -> bool:
        """Whether the service answers and is ready."""
        try:
            return self._run(ready(), retries=0)
        except ServiceError:
            return False

    def embed_study(self, files: Sequence[File], *, backbone: int = 0) -> Embedding:
        """The vector of the study that these files form, (1, D). Raises ServiceError, as all of these do."""
        return self._run(embed(files, "study", backbone))

    def embed_images(self, files: Sequence[File], *, backbone: int = 0) -> Embedding:
        """A vector of each file, (files, D)."""
        return self._run(embed(files, "image", backbone))

    def embed_patches(
        self,
        files: Sequence[File],
        *,
        backbone: int = 0,
        dtype: Literal["float32", "float16"] = "float16",
    ) -> Embedding:
        """Patch tokens of each file, (files, patches, width)."""
        return self._run(embed(files, "patch", backbone, dtype))

    def search(
        self,
        query: np.ndarray | Sequence[File],
        k: int = 10,
        *,
        exclude_patient: str | Sequence[str] = (),
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        projection: Sequence[str] = (),
        split: str | None = None,
        digest: str | None = None,
        partial: bool = False,
        backbone: int = 0,
    ) -> SearchResult:
        """Similar studies of vectors (queries, D), or of the study that files form.

        exclude_patient: pseudonyms of patients whose rows are left out, for all queries. present, absent: findings that
        a match must, or must not have; projection: of which it has at least one; split: that it is in. digest: of the
        vectors; another gallery's is refused. partial: what is found without shards that do not answer, see `missing`.
        """
        options = {
            **_filter(present, absent, projection, split),
            "exclude_patient": [exclude_patient]
            if isinstance(exclude_patient, str)
            else list(exclude_patient),
            "digest": digest,
            "partial": partial,
            "backbone": backbone,
        }
        return self._run(search(query, k, options))

    def neighbors(
        self,
        study: str,
        k: int = 10,
        *,
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        projection: Sequence[str] = (),
        split: str | None = None,
        only_shown: bool = False,
        partial: bool = False,
        backbone: int = 0,
    ) -> SearchResult:
        """Studies of other patients that are similar to one of the gallery, by its key or its name.

        only_shown: those that the service's shards hold. The rest is as in `search`.
        """
        options = {
            **_filter(present, absent, projection, split),
            "only_shown": only_shown,
            "partial": partial,
            "backbone": backbone,
        }
        return self._run(neighbors(study, k, options))

    def similarity(
        self, a: File, b: File, patch: int | tuple[float, float], *, k: int = 5, backbone: int = 0
    ) -> PatchScores:
        """A patch of image a, by its number or a point (x, y) in 0..1, against all patches of image b."""
        return self._run(similarity(a, b, patch, k, backbone))

    def attention(self, image: File, *, backbone: int = 0) -> np.ndarray:
        """Attention of the CLS token in the last block, (heads, patches) float32."""
        return self._run(attention(image, backbone))

    def add_items(
        self, items: Sequence[Mapping[str, Any]], digest: str, *, backbone: int = 0
    ) -> dict[str, Any]:
        """Adds rows to the gallery, see POST /v1/index/items; needs an admin token."""
        return self._run(add_items(items, digest, backbone))

    def delete_items(
        self, keys: Sequence[str] = (), patients: Sequence[str] = (), *, backbone: int = 0
    ) -> dict[str, Any]:
        """Deletes studies and patients from the gallery; needs an admin token."""
        return self._run(delete_items(keys, patients, backbone))

    def compact(self, *, backbone: int = 0) -> dict[str, Any]:
        """Builds the gallery anew from its rows; needs an admin token."""
        return self._run(compact(backbone))

    def _run(self, call: Call[T], retries: int | None = None) -> T:
        tries = Tries(self.retries if retries is None else retries, call)
        while True:
            try:
                response = self._http.request(call.method, call.path, **call.request)
            except Exception as error:
                pause = tries.after_error(error)
            else:
                wait = tries.after_answer(response)
                if wait is None:
                    return call.read(checked(response))
                pause = wait
            sleep(pause)


class AsyncClient:
    """As `Client`, for programs with an event loop: every method is awaited."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8600",
        token: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 5,
    ) -> None:
        """Raises ConfigError if httpx is not installed."""
        require_extra("httpx", "the client")
        import httpx

        self.retries = retries
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(token), timeout=timeout)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        return await self._run(info())

    async def is_ready(self) -> bool:
        """See `Client.is_ready`."""
        try:
            return await self._run(ready(), retries=0)
        except ServiceError:
            return False

    async def embed_study(self, files: Sequence[File], *, backbone: int = 0) -> Embedding:
        """See `Client.embed_study`."""
        return await self._run(embed(files, "study", backbone))

    async def embed_images(self, files: Sequence[File], *, backbone: int = 0) -> Embedding:
        """See `Client.embed_images`."""
        return await self._run(embed(files, "image", backbone))

    async def embed_patches(
        self,
        files: Sequence[File],
        *,
        backbone: int = 0,
        dtype: Literal["float32", "float16"] = "float16",
    ) -> Embedding:
        """See `Client.embed_patches`."""
        return await self._run(embed(files, "patch", backbone, dtype))

    async def search(
        self,
        query: np.ndarray | Sequence[File],
        k: int = 10,
        *,
        exclude_patient: str | Sequence[str] = (),
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        projection: Sequence[str] = (),
        split: str | None = None,
        digest: str | None = None,
        partial: bool = False,
        backbone: int = 0,
    ) -> SearchResult:
        """See `Client.search`."""
        options = {
            **_filter(present, absent, projection, split),
            "exclude_patient": [exclude_patient]
            if isinstance(exclude_patient, str)
            else list(exclude_patient),
            "digest": digest,
            "partial": partial,
            "backbone": backbone,
        }
        return await self._run(search(query, k, options))

    async def neighbors(
        self,
        study: str,
        k: int = 10,
        *,
        present: Sequence[str] = (),
        absent: Sequence[str] = (),
        projection: Sequence[str] = (),
        split: str | None = None,
        only_shown: bool = False,
        partial: bool = False,
        backbone: int = 0,
    ) -> SearchResult:
        """See `Client.neighbors`."""
        options = {
            **_filter(present, absent, projection, split),
            "only_shown": only_shown,
            "partial": partial,
            "backbone": backbone,
        }
        return await self._run(neighbors(study, k, options))

    async def similarity(
        self, a: File, b: File, patch: int | tuple[float, float], *, k: int = 5, backbone: int = 0
    ) -> PatchScores:
        """See `Client.similarity`."""
        return await self._run(similarity(a, b, patch, k, backbone))

    async def attention(self, image: File, *, backbone: int = 0) -> np.ndarray:
        """See `Client.attention`."""
        return await self._run(attention(image, backbone))

    async def add_items(
        self, items: Sequence[Mapping[str, Any]], digest: str, *, backbone: int = 0
    ) -> dict[str, Any]:
        """See `Client.add_items`."""
        return await self._run(add_items(items, digest, backbone))

    async def delete_items(
        self, keys: Sequence[str] = (), patients: Sequence[str] = (), *, backbone: int = 0
    ) -> dict[str, Any]:
        """See `Client.delete_items`."""
        return await self._run(delete_items(keys, patients, backbone))

    async def compact(self, *, backbone: int = 0) -> dict[str, Any]:
        """See `Client.compact`."""
        return await self._run(compact(backbone))

    async def _run(self, call: Call[T], retries: int | None = None) -> T:
        tries = Tries(self.retries if retries is None else retries, call)
        while True:
            try:
                response = await self._http.request(call.method, call.path, **call.request)
            except Exception as error:
                pause = tries.after_error(error)
            else:
                wait = tries.after_answer(response)
                if wait is None:
                    return call.read(checked(response))
                pause = wait
            await asyncio.sleep(pause)


class Tries:
    """Whether, and after how many seconds, a request is sent again."""

    def __init__(self, retries: int, call: Call[Any]) -> None:
        self.left, self.call, self.pause = retries, call, 0.25

    def after_error(self, error: Exception) -> float:
        """Seconds to wait. Raises ServiceError where no further try is left, or it is no error of the connection."""
        import httpx

        again = httpx.TransportError if self.call.is_safe else httpx.ConnectError
        if self.left > 0 and isinstance(error, again):
            return self._next_pause()
        if isinstance(error, httpx.TransportError):
            raise ServiceError(
                f"the service does not answer ({type(error).__name__}); is `vetdino serve` running?"
            ) from error
        raise error

    def after_answer(self, response: httpx.Response) -> float | None:
        """Seconds to wait where the service is busy and a try is left; None: this is the answer."""
        if response.status_code not in BUSY or self.left <= 0:
            return None
        if not self.call.is_safe and error_type(response) not in NOTHING_DONE:
            return None
        pause = self._next_pause()
        said = response.headers.get("retry-after", "")
        return min(float(said), LONGEST_PAUSE) if said.isdecimal() else pause

    def _next_pause(self) -> float:
        self.left -= 1
        self.pause *= 2
        return min(self.pause / 2, LONGEST_PAUSE)


def error_type(response: httpx.Response) -> str:
    """The `error_type` of an answer, empty where it has none."""
    try:
        return str(response.json()["error_type"])
    except (ValueError, KeyError, TypeError):
        return ""


def checked(response: httpx.Response) -> httpx.Response:
    """The answer. Raises ServiceError for an error."""
    if response.is_success:
        return response
    try:
        body = response.json()
        message, kind = str(body["error"]), str(body["error_type"])
    except (ValueError, KeyError, TypeError):
        raise ServiceError(f"the service answered {response.status_code}", response.status_code) from None
    raise ServiceError(message, response.status_code, kind, body.get("limit"), body.get("request_id", ""))


# The calls -----------------------------------------------------------------------------------------------------


def info() -> Call[dict[str, Any]]:
    """GET /v1/info."""
    return Call("GET", "/v1/info", _json)


def ready() -> Call[bool]:
    """GET /health/ready."""
    return Call("GET", "/health/ready", lambda response: True)


def embed(files: Sequence[File], level: str, backbone: int, dtype: str = "float32") -> Call[Embedding]:
    """POST /v1/embed."""
    request = {
        **_sent(files),
        "params": {"level": level, "backbone": backbone, "dtype": dtype},
        "headers": {"accept": NPY},
    }
    return Call(
        "POST",
        "/v1/embed",
        lambda response: Embedding(_array(response), response.headers["x-vetdino-digest"]),
        request=request,
    )


def search(query: np.ndarray | Sequence[File], k: int, options: Mapping[str, Any]) -> Call[SearchResult]:
    """POST /v1/search."""
    sent = (
        {"content": _npy(np.atleast_2d(query)), "headers": {"content-type": NPY}}
        if isinstance(query, np.ndarray)
        else _sent(query)
    )
    return Call("POST", "/v1/search", _search_result, request={**sent, "params": {"k": k, **_given(options)}})


def neighbors(study: str, k: int, options: Mapping[str, Any]) -> Call[SearchResult]:
    """GET /v1/studies/{study}/neighbors."""
    from urllib.parse import quote

    params = {"k": k, **_given(options)}
    return Call(
        "GET", f"/v1/studies/{quote(study, safe='')}/neighbors", _search_result, request={"params": params}
    )


def similarity(
    a: File, b: File, patch: int | tuple[float, float], k: int, backbone: int
) -> Call[PatchScores]:
    """POST /v1/similarity."""
    place = {"patch": patch} if isinstance(patch, int) else {"x": patch[0], "y": patch[1]}

    def read(response: httpx.Response) -> PatchScores:
        body = response.json()
        best = tuple((one["patch"], one["score"], tuple(one["box"])) for one in body["best"])
        return PatchScores(body["patch"], np.array(body["scores"], np.float32), best)

    params = {**place, "k": k, "backbone": backbone}
    return Call("POST", "/v1/similarity", read, request={**_sent([a, b]), "params": params})


def attention(image: File, backbone: int) -> Call[np.ndarray]:
    """POST /v1/attention."""
    request = {**_sent([image]), "params": {"backbone": backbone}, "headers": {"accept": NPY}}
    return Call("POST", "/v1/attention", _array, request=request)


def add_items(items: Sequence[Mapping[str, Any]], digest: str, backbone: int) -> Call[dict[str, Any]]:
    """POST /v1/index/items."""
    plain = [{**item, "vector": np.asarray(item["vector"], np.float64).tolist()} for item in items]
    request = {"json": {"digest": digest, "items": plain}, "params": {"backbone": backbone}}
    return Call("POST", "/v1/index/items", _json, is_safe=False, request=request)


def delete_items(keys: Sequence[str], patients: Sequence[str], backbone: int) -> Call[dict[str, Any]]:
    """DELETE /v1/index/items."""
    params = {"key": list(keys), "patient": list(patients), "backbone": backbone}
    return Call("DELETE", "/v1/index/items", _json, is_safe=False, request={"params": params})


def compact(backbone: int) -> Call[dict[str, Any]]:
    """POST /v1/index/compact."""
    return Call("POST", "/v1/index/compact", _json, is_safe=False, request={"params": {"backbone": backbone}})


def _headers(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def _filter(
    present: Sequence[str], absent: Sequence[str], projection: Sequence[str], split: str | None
) -> dict[str, Any]:
    """Which rows may be found, as parameters. Raises TypeError for a text where names are listed."""
    names = {"present": present, "absent": absent, "projection": projection}
    for name, given in names.items():
        if isinstance(given, str):
            raise TypeError(f"{name}: give a list of names")
    return {**{name: list(given) for name, given in names.items()}, "split": split}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _sent(files: Sequence[File]) -> dict[str, Any]:
    """Files as a form, each named `file`."""
    if isinstance(files, str | bytes | Path):
        raise TypeError("give a list of files")
    contents = [file if isinstance(file, bytes) else Path(file).read_bytes() for file in files]
    return {"files": [("files", ("file", content, "application/octet-stream")) for content in contents]}


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(response: httpx.Response) -> np.ndarray:
    return np.load(io.BytesIO(response.content), allow_pickle=False)


def _json(response: httpx.Response) -> dict[str, Any]:
    return response.json()


def _search_result(response: httpx.Response) -> SearchResult:
    body = response.json()
    rows = body["matches"] if body["matches"] and isinstance(body["matches"][0], list) else [body["matches"]]
    return SearchResult(
        tuple(tuple(_match(match) for match in row) for row in rows),
        body["digest"],
        body["gallery"],
        tuple((first, last) for first, last in body["missing"]),
    )


def _match(match: Mapping[str, Any]) -> Match:
    return Match(
        key=match["key"],
        score=match["score"],
        view=match["view"],
        split=match["split"],
        projections=tuple(match["projections"]),
        findings=match["findings"],
        study=match["study"],
    )
