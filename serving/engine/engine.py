"""The engine: backbones, galleries, shards and uploads put together into the answers of the service, without HTTP.

engine = open_engine(ServiceConfig(backbones=("backbone",), galleries=(Path("gallery"),)))
embedded = await engine.embed([dicom_bytes], level="study")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ...platform.core.errors import DicomError, ShardError, VetdinoError
from ...platform.data.study import SPLITS, StoredView, Study, View
from ...platform.measure.features import Features
from ...platform.models.similarity import BoxScore, cosine_matrix, quantized, top_boxes
from ..attention import MEAN_COLOR, attention_maps, head_colors, mean_attention_map, overlay
from ..config import ServiceConfig
from ..gallery.gallery import check_digest, check_probes, rebuild
from ..gallery.manifest import GalleryManifest
from ..gallery.searching import GalleryMatch
from ..images import jpeg, shrunk
from ..studies import NotHereError, Place, StudyBrowser, StudyPlaces, parse_study, study_name, view_pixels
from ..token_colors import TokenColors, token_colors
from .decoding import UploadDecoder
from .encoded import EncodedViews
from .errors import RefusedError, refusal_of
from .index import BY_VIEW, IndexPort, ItemPage, SearchAnswer, SearchFilter
from .model import EncodedView, ModelPort, study_vector
from .runs import ShownRuns
from .uploads import PREFIX, UploadStore

Level = Literal["image", "study", "patch"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """What became of the files of one request.

    views: of each file, or why it has none. vectors: (rows, D), a row for each good view or one for the study; or
    patch tokens (views, N, width).
    """

    views: list[StoredView | RefusedError]
    vectors: np.ndarray


@dataclass(frozen=True, slots=True)
class ShownMatch:
    """A match, and where its study is among the shards; None where it is not."""

    match: GalleryMatch
    place: Place | None
    views: tuple[View | StoredView, ...] = ()


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Similar studies. digest, gallery, missing: as of `SearchAnswer`."""

    shown: list[ShownMatch]
    digest: str
    gallery: str
    missing: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class PatchMatch:
    """A patch of one view against all of another: its number, its cosines (N,), the best patches of the other."""

    patch: int
    cosines: np.ndarray
    best: list[BoxScore]
    anchor: EncodedView
    other: EncodedView


class ServiceEngine:
    """Answers requests; all methods may run at the same time.

    models[i] belongs with indexes[i]; there may be no gallery, and no shards.
    """

    def __init__(
        self,
        config: ServiceConfig,
        models: Sequence[ModelPort],
        indexes: Sequence[IndexPort | None],
        decoder: UploadDecoder,
        browser: StudyBrowser | None,
    ) -> None:
        self.config, self.limits = config, config.limits
        self.models, self.decoder, self.browser = list(models), decoder, browser
        self.indexes = [*indexes, *[None] * (len(models) - len(indexes))]
        self._encoded = EncodedViews(self.limits.encoded_mib << 20)
        self.uploads = UploadStore(
            self.limits.upload_minutes * 60,
            self.limits.uploads,
            self.limits.uploads_mib << 20,
            on_delete=self._encoded.remove_study,
        )
        self.places = browser.places(SPLITS) if browser else StudyPlaces({}, {}, threading.Lock())
        self.runs = ShownRuns(config.runs.path) if config.runs else None
        self._checked: dict[int, str] = {}

    # Which backbone and which gallery -------------------------------------------------------------------------

    def model(self, number: int) -> ModelPort:
        """The number-th backbone. Raises NotHereError."""
        if not 0 <= number < len(self.models):
            raise NotHereError(f"There is no backbone {number} here; choose 0 to {len(self.models) - 1}.")
        return self.models[number]

    def index(self, number: int) -> IndexPort:
        """The gallery of the number-th backbone. Raises NotHereError."""
        self.model(number)
        index = self.indexes[number]
        if index is None:
            raise NotHereError(f"Backbone {number} has no gallery here; start the service with one.")
        return index

    async def check(self, number: int) -> GalleryManifest | None:
        """The manifest of a backbone's gallery, if it has one, once its probes are embedded as when it was made.

        Raises GalleryError, and RefusedError (409) where the gallery is of another backbone.
        """
        index = self.indexes[number]
        if index is None:
            return None
        manifest = await self._in_time(index.manifest())
        if self._checked.get(number) != manifest.digest:
            model, bundle = self.model(number), Path(self.config.galleries[number])
            check_digest(bundle, manifest, model.card.digest)
            check_probes(bundle, manifest, await model.vectors(manifest.stored_probes().views()))
            self._checked[number] = manifest.digest
        return manifest

    async def problems(self) -> list[str]:
        """Why the service is not ready; empty where it is."""
        found = [] if await self.decoder.alive() else ["the decoding processes have ended"]
        for number, model in enumerate(self.models):
            if not await model.alive():
                found.append(f"backbone {number} does not answer")
                continue
            try:
                await self.check(number)
            except VetdinoError as error:
                found.append(f"gallery {number}: {refusal_of(error) or type(error).__name__}")
        return found

    # Files ----------------------------------------------------------------------------------------------------

    async def decode(self, files: Sequence[bytes]) -> list[StoredView | RefusedError]:
        """The view of each file, or why it has none. Raises RefusedError where too many wait."""

        async def decoded(data: bytes) -> StoredView | RefusedError:
            try:
                return await self.decoder.decode(data)
            except DicomError as error:
                refusal = refusal_of(error)
                assert refusal is not None
                return refusal

        with self.decoder.room(len(files)):
            return list(await asyncio.gather(*map(decoded, files)))

    async def study_views(self, files: Sequence[bytes]) -> list[StoredView]:
        """The views of a study's files. Raises the first file's RefusedError, which says which file it is."""
        views: list[StoredView] = []
        for number, view in enumerate(await self.decode(files)):
            if isinstance(view, RefusedError):
                where = f"file {number}: " if len(files) > 1 else ""
                raise RefusedError(view.status, view.kind, f"{where}{view}", view.limit, view.retry_after)
            views.append(view)
        return views

    async def embed(self, files: Sequence[bytes], level: Level, backbone: int = 0) -> Embedded:
        """The vectors of files: of each image, of the study that they form, or patch tokens.

        At level study every file must be good: a mean without one of the views would be another vector. Raises
        RefusedError.
        """
        model = self.model(backbone)
        if level == "study":
            views = await self.study_views(files)
            vector_D = study_vector(await model.vectors(_pixels(views)))
            return Embedded(list(views), vector_D[None])
        decoded = await self.decode(files)
        good = [view for view in decoded if isinstance(view, StoredView)]
        if not good:
            raise next(view for view in decoded if isinstance(view, RefusedError))
        if level == "image":
            return Embedded(decoded, await model.vectors(_pixels(good)))
        encoded = await model.encode(_pixels(good))
        return Embedded(decoded, np.stack([view.tokens for view in encoded]))

    async def upload(self, files: Sequence[bytes], session: str) -> str:
        """Keeps a study for a session; its name. Raises RefusedError."""
        return self.uploads.add(session, await self.study_views(files))

    # Studies by name ------------------------------------------------------------------------------------------

    async def study(self, name: str, session: str) -> Study:
        """A study of the shards (`test-12`) or an upload of this session. Raises NotHereError, ShardError."""
        if name.startswith(PREFIX):
            return self.uploads.get(name, session).study
        if self.browser is None:
            raise NotHereError("There are no studies to look at here; start the service with --shards.")
        return await self._loaded(parse_study(name))

    async def _loaded(self, place: Place) -> Study:
        assert self.browser is not None
        try:
            return await asyncio.to_thread(self.browser.load, place)
        except OSError as error:
            raise ShardError(f"a shard cannot be read ({type(error).__name__})") from None

    async def pixels(self, name: str, view: int, session: str) -> np.ndarray:
        """A view of a study, (H, W) uint8. Raises NotHereError."""
        return await asyncio.to_thread(view_pixels, await self.study(name, session), view)

    async def picture(self, name: str, view: int, session: str, side: int) -> bytes:
        """A view as JPEG, its longer side at most `side` pixels."""
        pixels = await self.pixels(name, view, session)
        return await asyncio.to_thread(lambda: jpeg(shrunk(pixels, side)))

    async def encoded(self, name: str, view: int, session: str, backbone: int) -> EncodedView:
        """Patch tokens and attention of a study's view; those looked at last are kept."""
        model = self.model(backbone)
        pixels = await self.pixels(name, view, session)
        is_upload = name.startswith(PREFIX)
        key = (backbone, name if is_upload else study_name(parse_study(name)), view)
        encoded = self._encoded.get(key)
        if encoded is None:
            (encoded,) = await model.encode([pixels])
            if is_upload:
                self.uploads.get(name, session)  # deleted meanwhile: nothing of it is kept
            self._encoded.add(key, encoded)
        return encoded

    async def similarity_matrix(self, views: Sequence[EncodedView]) -> tuple[bytes, float, float]:
        """Cosines between all patches of these views as uint8 rows, and the cosines that 0 and 255 stand for."""

        def matrix() -> tuple[bytes, float, float]:
            tokens = np.concatenate([view.tokens for view in views])
            steps, low, high = quantized(cosine_matrix(tokens, tokens))
            return steps.tobytes(), low, high

        return await asyncio.to_thread(matrix)

    async def token_colors(
        self, names: Sequence[str], session: str, backbone: int, background: bool
    ) -> tuple[list[tuple[str, int, EncodedView]], TokenColors]:
        """The patches of all views of these studies as colors, alike where tokens are: (study, view, its output)."""
        numbered = [
            (name, view)
            for name in dict.fromkeys(names)
            for view in range(len((await self.study(name, session)).views))
        ]
        encoded = await asyncio.gather(
            *(self.encoded(name, view, session, backbone) for name, view in numbered)
        )
        tokens, grids = [view.tokens for view in encoded], [view.grid for view in encoded]
        colors = await asyncio.to_thread(token_colors, tokens, grids, background=background)
        return [(*place, view) for place, view in zip(numbered, encoded, strict=True)], colors

    def patch_match(self, anchor: EncodedView, other: EncodedView, patch: int, k: int) -> PatchMatch:
        """One patch of a view against all of another. Raises RefusedError for a patch that there is not."""
        if not 0 <= patch < anchor.grid.count:
            raise RefusedError(422, "NoSuchPatch", f"patch {patch} of 0 to {anchor.grid.count - 1}")
        cosines_N = cosine_matrix(anchor.tokens[patch : patch + 1], other.tokens)[0]
        return PatchMatch(patch, cosines_N, top_boxes(cosines_N, other.grid, k), anchor, other)

    async def attention_picture(
        self, pixels: np.ndarray, encoded: EncodedView, head: str, side: int
    ) -> bytes:
        """One view under the attention of a head (`0`, `1`, …), of `all` in colors, or of their `mean`, as JPEG."""
        heads = len(encoded.attention)
        colors = head_colors(heads)
        if head not in ("mean", "all") and not (head.isdecimal() and len(head) < 6 and int(head) < heads):
            raise NotHereError(f"There is no such head here; choose mean, all, or 0 to {heads - 1}.")

        def picture() -> bytes:
            if head == "mean":
                maps, shown = mean_attention_map(encoded.attention, encoded.grid)[None], [MEAN_COLOR]
            elif head == "all":
                maps, shown = attention_maps(encoded.attention, encoded.grid), colors
            else:
                maps = attention_maps(encoded.attention[int(head)][None], encoded.grid)
                shown = [colors[int(head)]]
            return jpeg(shrunk(overlay(pixels, maps, shown), side))

        return await asyncio.to_thread(picture)

    # Search ---------------------------------------------------------------------------------------------------

    async def search(
        self,
        vectors: np.ndarray,
        k: int,
        exclude: Sequence[Sequence[str]],
        where: SearchFilter,
        *,
        backbone: int = 0,
        allow_partial: bool = False,
    ) -> SearchAnswer:
        """The k nearest rows of each vector (M, D), with the gallery checked against the backbone first.

        exclude: the patients whose rows are left out, for each vector.
        """
        index = self.index(backbone)
        await self.check(backbone)
        return await self._answer(index.search(vectors, k, exclude, where, allow_partial), backbone)

    async def query_vectors(self, files: Sequence[bytes], backbone: int) -> np.ndarray:
        """Files as queries of the gallery, (M, D): one for the study, or one for each view in a gallery by view."""
        manifest = await self.check(backbone)
        if manifest is None:
            self.index(backbone)
            raise AssertionError("there is no gallery")
        vectors_BD = await self.model(backbone).vectors(_pixels(await self.study_views(files)))
        return vectors_BD if manifest.level == "view" else study_vector(vectors_BD)[None]

    async def neighbors(
        self,
        name: str,
        k: int,
        where: SearchFilter,
        *,
        session: str = "",
        backbone: int = 0,
        only_shown: bool = False,
        allow_partial: bool = False,
    ) -> Neighbors:
        """The k most similar studies of other patients.

        name: an upload, a key of the gallery, or a study of the shards. only_shown: those among the `limits.k` most
        similar that the shards hold, with their views.
        """
        self.index(backbone)
        await self.check(backbone)
        wanted = k
        while True:
            answer = await self._similar(name, wanted, where, session, backbone, allow_partial)
            (matches,) = answer.matches
            shown = await self.shown(matches)
            if only_shown:
                is_all = len(matches) < wanted or wanted >= self.limits.k
                shown = [one for one in shown if one.place is not None][:k]
                if len(shown) < k and not is_all:
                    wanted = min(4 * wanted, self.limits.k)
                    continue
                shown = [await self._with_views(one) for one in shown]
            return Neighbors(shown, answer.digest, answer.gallery, answer.missing)

    async def shown(self, matches: Sequence[GalleryMatch]) -> list[ShownMatch]:
        """Matches with the places of their studies."""
        places = await self.find_places([match.item.key for match in matches])
        return [ShownMatch(match, place) for match, place in zip(matches, places, strict=True)]

    async def find_places(self, keys: Sequence[str]) -> list[Place | None]:
        """Where studies are among the shards, by their keys; None where they are not."""
        return await asyncio.to_thread(self.places.find, keys)

    async def page(
        self, where: SearchFilter, after: int, count: int, backbone: int, counted: bool
    ) -> ItemPage:
        """Rows of a gallery that pass a filter, with ids above `after`. counted: as in `IndexPort.page`."""
        return await self._in_time(self.index(backbone).page(where, after, count, counted))

    async def _similar(
        self, name: str, k: int, where: SearchFilter, session: str, backbone: int, allow_partial: bool
    ) -> SearchAnswer:
        index = self.index(backbone)
        if name.startswith(PREFIX):
            vector_1D = await self._upload_vector(name, session, backbone)
            return await self._answer(index.search(vector_1D, k, [[]], where, allow_partial), backbone)
        try:
            return await self._answer(index.similar(name, "", k, where, allow_partial), backbone)
        except NotHereError as error:
            unknown: VetdinoError = error
        except RefusedError as error:  # as a deployment of Ray says it
            if error.status != 404:
                raise
            unknown = error
        try:
            place = parse_study(name)
        except NotHereError:
            raise unknown from None
        if self.browser is None:
            raise NotHereError("There are no studies to look at here; start the service with --shards.")
        key = await asyncio.to_thread(self.places.key, place)
        if key is None:
            raise NotHereError(f"There is no study {study_name(place)} here.")
        return await self._answer(index.similar(key, "", k, where, allow_partial), backbone)

    async def _upload_vector(self, name: str, session: str, backbone: int) -> np.ndarray:
        manifest = await self.manifest(backbone)
        if manifest.level == "view":
            raise RefusedError(422, "WrongLevel", BY_VIEW)
        views = self.uploads.get(name, session).study.views
        return study_vector(await self.model(backbone).vectors(_pixels(views)))[None]

    async def _with_views(self, shown: ShownMatch) -> ShownMatch:
        assert shown.place is not None
        return replace(shown, views=(await self._loaded(shown.place)).views)

    async def manifest(self, backbone: int) -> GalleryManifest:
        """Of the version of a gallery that is in use."""
        return await self._in_time(self.index(backbone).manifest())

    async def _answer(self, search: Coroutine[Any, Any, SearchAnswer], backbone: int) -> SearchAnswer:
        """A search's answer. Raises RefusedError (409) where what answers, perhaps not what was checked, has vectors of
        another backbone."""
        answer, vectors = await self._in_time(search), self.model(backbone).card.vectors
        if answer.digest != vectors:
            raise RefusedError(
                409,
                "BackboneMismatch",
                f"the gallery has vectors of {answer.digest[:12]}, the service of {vectors[:12]}; {rebuild()}",
            )
        return answer

    async def _in_time(self, answer: Coroutine[Any, Any, T]) -> T:
        """What a gallery answers. Raises RefusedError (503) after `limits.inference_s`."""
        try:
            async with asyncio.timeout(self.limits.inference_s):
                return await answer
        except TimeoutError:
            seconds = self.limits.inference_s
            raise RefusedError(
                503, "Timeout", f"no answer of the gallery within {seconds:g} s", "inference_s", 5
            ) from None

    # Changes of a gallery ---------------------------------------------------------------------------------------

    def _index_to_change(self, backbone: int) -> IndexPort:
        """Raises RefusedError where galleries are served that cannot be changed."""
        if self.config.read_only:
            raise RefusedError(
                403, "ReadOnly", "this service changes no gallery; use `vetdino index` where it is kept"
            )
        return self.index(backbone)

    async def add(self, rows: Features, backbone: int) -> GalleryManifest:
        """Adds rows to a gallery. Raises RefusedError (409) for another backbone's, GalleryError."""
        index = self._index_to_change(backbone)
        await self.check(backbone)
        return await index.add(rows)

    async def delete(self, keys: Sequence[str], patients: Sequence[str], backbone: int) -> GalleryManifest:
        """Deletes studies and patients from a gallery. Raises NotHereError, GalleryError."""
        return await self._index_to_change(backbone).delete(keys, patients)

    async def compact(self, backbone: int) -> GalleryManifest:
        """Builds a gallery anew from its rows. Raises GalleryError."""
        return await self._index_to_change(backbone).compact()

    def close(self) -> None:
        """Ends processes and threads, and closes files."""
        self.decoder.close()
        for port in (*self.models, *self.indexes):
            if port is not None:
                port.close()
        self.uploads.clear()


def _pixels(views: Sequence[View | StoredView]) -> list[np.ndarray]:
    return [view.decode().pixels for view in views]
