"""One gallery of the service: searched in threads, opened anew when its folder has another version, changed on demand.

A change is made to the folder (see `gallery.changes`), so every replica and every process that serves it sees it with
its next request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ...platform.core.errors import GalleryError
from ...platform.measure.features import Features
from ..gallery.build import FeaturesSource
from ..gallery.bundle import BusyGalleryError, current_version
from ..gallery.changes import add, compact, delete
from ..gallery.gallery import Gallery, rebuild
from ..gallery.manifest import BackboneMismatchError, DamagedGalleryError, GalleryManifest
from ..gallery.metadata import GalleryItem, item_filter
from ..gallery.searching import GalleryMatch
from ..gallery.shard import GalleryShard
from ..gallery.sharded import MissingShardsError, ShardedGallery
from ..gallery.vectors import unit_rows
from ..studies import NotHereError
from .errors import RefusedError

log = logging.getLogger("vetdino.service")

THREADS = 4
"""Searches at a time; SQLite and numpy let go of Python's lock for most of one."""

BY_VIEW = "this gallery is by view; search with the views of the study"
"""Why a study as a whole is no query."""


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which rows may be found."""

    findings: Mapping[str, bool] | None = None
    projections: Sequence[str] = ()
    split: Literal["train", "val", "test"] | None = None

    def arguments(self) -> dict[str, Any]:
        """As the keyword arguments of `Gallery.search`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Matches of each query, and what was searched.

    digest: of the vectors; gallery: of the version. missing: first and last ids of the shards that did not answer; ()
    where all did.
    """

    matches: list[list[GalleryMatch]]
    digest: str
    gallery: str
    missing: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A part of the rows that pass a filter; the next part begins after id `last`, None at the end.

    total: how many rows pass; None where nobody counted.
    """

    items: list[GalleryItem]
    total: int | None
    last: int | None


class IndexPort(Protocol):
    """A gallery as the engine uses it: in this process, or a deployment of Ray Serve."""

    async def manifest(self) -> GalleryManifest:
        """Of the version in use. Raises GalleryError, RefusedError (409) where it is of another backbone."""

    async def search(
        self,
        vectors: np.ndarray,
        k: int,
        exclude: Sequence[Sequence[str]],
        where: SearchFilter,
        allow_partial: bool,
    ) -> SearchAnswer:
        """The k nearest rows of each vector (M, D). exclude: the patients to leave out, for each."""

    async def similar(
        self, key: str, view: str, k: int, where: SearchFilter, allow_partial: bool
    ) -> SearchAnswer:
        """The k rows of other patients that are nearest to a row.

        Raises NotHereError, and RefusedError where a gallery by view needs the view.
        """

    async def page(self, where: SearchFilter, after: int, count: int, counted: bool = True) -> ItemPage:
        """Rows that pass a filter, with ids above `after`. counted: count all that pass, a pass over all rows."""

    async def add(self, rows: Features) -> GalleryManifest:
        """Adds rows. Raises RefusedError (409) for those of another backbone."""

    async def delete(self, keys: Sequence[str], patients: Sequence[str]) -> GalleryManifest:
        """Deletes studies and patients. Raises NotHereError."""

    async def compact(self) -> GalleryManifest:
        """Builds the gallery anew from its rows."""

    def close(self) -> None:
        """Closes its files."""


class _Opened:
    """One version, open: searched as a whole or in shards."""

    def __init__(self, bundle: Path, shards: int) -> None:
        self.gallery: Gallery | ShardedGallery
        if shards > 1:
            self.gallery = ShardedGallery.open(bundle, shards=shards)
        else:
            self.gallery = Gallery.open(bundle)
        self.version, self.manifest = self.gallery.version, self.gallery.manifest
        self.digest = self.manifest.digest
        self.metadata = self.gallery.metadata
        self.vectors = GalleryShard(self.version, self.manifest, 0, 0)  # for its vectors alone


class LocalIndex:
    """A gallery in this process. shards: above 1, divided among as many actors of the Ray that runs.

    Raises GalleryError where there is none, or it is damaged.
    """

    def __init__(self, bundle: Path, *, shards: int = 1) -> None:
        self.bundle, self.shards = bundle, shards
        self._lock = threading.Lock()
        self._opened = _Opened(bundle, shards)
        self.backbone, self.level = self._opened.manifest.backbone, self._opened.manifest.level
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="gallery")
        # One after the other, and never in the place of a search.
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="gallery-change")

    def current(self) -> _Opened:
        """The version in use, opened anew where it is another than before.

        Raises GalleryError, and RefusedError (409) where it is now of another backbone.
        """
        with self._lock:
            if current_version(self.bundle) != self._opened.version:
                # The one before stays open for searches that run; its files close with the last of them.
                try:
                    opened = _Opened(self.bundle, self.shards)
                except GalleryError as error:
                    raise DamagedGalleryError(str(error)) from None
                manifest = opened.manifest
                if (manifest.backbone, manifest.level) != (self.backbone, self.level):
                    raise RefusedError(
                        409,
                        "BackboneMismatch",
                        f"the gallery's folder now holds vectors of backbone {manifest.backbone[:12]} by "
                        f"{manifest.level}, this service has {self.backbone[:12]} by {self.level}; start it again",
                    )
                self._opened = opened
            return self._opened

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        call = partial(self._plainly, function, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _changed(self, function: Any) -> Any:
        call = partial(self._plainly, function)
        return await asyncio.get_running_loop().run_in_executor(self._changes, call)

    def _plainly(self, function: Any, *arguments: Any) -> Any:
        """The function's result. Its errors name no path of this machine; the log does, where files are damaged."""
        try:
            return function(*arguments)
        except (DamagedGalleryError, FileNotFoundError) as error:
            log.error(json.dumps({"damaged": str(error)}))
            raise RefusedError(
                503,
                "GalleryDamaged",
                f"the gallery of vectors {self.backbone[:12]} is damaged or missing; copy it again, or {rebuild()}",
                retry_after=30,
            ) from None
        except OSError as error:
            raise RefusedError(
                503, "StorageUnavailable", f"the gallery's storage fails ({error.strerror})", retry_after=5
            ) from None
        except (BusyGalleryError, MissingShardsError, BackboneMismatchError):
            raise
        except GalleryError as error:
            raise GalleryError(str(error).replace(f"{self.bundle}: ", "")) from None

    async def manifest(self) -> GalleryManifest:
        """See `IndexPort.manifest`."""
        return (await self._in_thread(self.current)).manifest

    async def search(
        self,
        vectors: np.ndarray,
        k: int,
        exclude: Sequence[Sequence[str]],
        where: SearchFilter,
        allow_partial: bool,
    ) -> SearchAnswer:
        """See `IndexPort.search`."""

        def search() -> SearchAnswer:
            return _search(self.current(), vectors, k, exclude, where, allow_partial)

        return await self._in_thread(search)

    async def similar(
        self, key: str, view: str, k: int, where: SearchFilter, allow_partial: bool
    ) -> SearchAnswer:
        """See `IndexPort.similar`."""

        def similar() -> SearchAnswer:
            opened = self.current()
            if opened.manifest.level == "view" and not view:
                raise RefusedError(422, "WrongLevel", BY_VIEW)
            item = opened.metadata.find(key, view)
            if item is None:
                name = "row" if view else "study"
                raise NotHereError(f"There is no {name} of this name in the gallery.")
            vector_1D = unit_rows(opened.vectors.vectors(np.array([item.id])))
            return _search(opened, vector_1D, k, [[item.patient]], where, allow_partial)

        return await self._in_thread(similar)

    async def page(self, where: SearchFilter, after: int, count: int, counted: bool = True) -> ItemPage:
        """See `IndexPort.page`."""

        def page() -> ItemPage:
            opened = self.current()
            chosen = item_filter(opened.manifest, where.findings, where.projections, where.split)
            items = opened.metadata.page(chosen, after, count + 1)
            total: int | None = opened.metadata.count
            if chosen:
                total = opened.metadata.count_of(chosen) if counted else None
            return ItemPage(items[:count], total, items[count - 1].id if len(items) > count else None)

        return await self._in_thread(page)

    async def add(self, rows: Features) -> GalleryManifest:
        """See `IndexPort.add`."""

        def change() -> GalleryManifest:
            manifest = self.current().manifest
            if rows.backbone != manifest.backbone:
                raise RefusedError(
                    409,
                    "BackboneMismatch",
                    f"these vectors are of backbone {rows.backbone[:12]}, the gallery's of {manifest.backbone[:12]}; "
                    "embed them with the gallery's backbone",
                )
            return add(self.bundle, _AddedRows(rows, manifest))

        return await self._changed(change)

    async def delete(self, keys: Sequence[str], patients: Sequence[str]) -> GalleryManifest:
        """See `IndexPort.delete`."""

        def change() -> GalleryManifest:
            metadata = self.current().metadata
            unknown = sum(not len(metadata.of_key(key)) for key in keys)
            unknown += sum(not len(metadata.of_patient(patient)) for patient in patients)
            if unknown:
                raise NotHereError(f"{unknown} of these are not in the gallery; nothing is deleted.")
            return delete(self.bundle, keys, patients)

        return await self._changed(change)

    async def compact(self) -> GalleryManifest:
        """See `IndexPort.compact`."""
        return await self._changed(lambda: compact(self.bundle))

    def close(self) -> None:
        """Closes the files and ends the actors."""
        for threads in (self._threads, self._changes):
            threads.shutdown(wait=True, cancel_futures=True)
        self._opened.gallery.close()
        self._opened.vectors.close()

    def __repr__(self) -> str:
        return f"LocalIndex({self._opened.gallery!r})"


def _search(
    opened: _Opened,
    vectors: np.ndarray,
    k: int,
    exclude: Sequence[Sequence[str]],
    where: SearchFilter,
    allow_partial: bool,
) -> SearchAnswer:
    gallery = opened.gallery
    missing: tuple[tuple[int, int], ...] = ()
    arguments = {"exclude_patient": list(exclude), **where.arguments()}
    if allow_partial and isinstance(gallery, ShardedGallery):
        found = gallery.search_partial(vectors, k, **arguments)
        matches, missing = found.matches, found.missing
    else:
        matches = gallery.search(vectors, k, **arguments)
    return SearchAnswer(matches, opened.manifest.backbone, opened.digest, missing)


class _AddedRows(FeaturesSource):
    """Rows that came over HTTP, at the gallery's level and with its backbone's probes."""

    def __init__(self, rows: Features, manifest: GalleryManifest) -> None:
        if (rows.level, rows.vectors.shape[1]) != (manifest.level, manifest.dimensions):
            raise GalleryError(
                f"these rows are by {rows.level} with {rows.vectors.shape[1]} dimensions, the gallery's by "
                f"{manifest.level} with {manifest.dimensions}"
            )
        super().__init__(replace(rows, probes=manifest.stored_probes()))


def rows_digest(vectors: np.ndarray, keys: Sequence[str]) -> str:
    """What stands for the shards' digest of rows that came over HTTP."""
    digest = hashlib.sha256("\n".join(keys).encode())
    digest.update(np.ascontiguousarray(vectors, np.float32).tobytes())
    return digest.hexdigest()
