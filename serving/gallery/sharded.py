"""A gallery divided among Ray actors, each with a range of ids: for vectors that one machine cannot hold.

The folder must be on storage that all machines share. The answer is that of the undivided gallery; where a shard does
not answer, there is an error, or, by `search_partial`, an answer that says which rows are missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...platform.core.errors import ConfigError, GalleryError
from ...platform.core.extras import require_extra
from .gallery import check_backbone, open_version
from .indexes import Candidates
from .manifest import METADATA, GalleryManifest, read_manifest
from .metadata import Metadata
from .searching import Excluded, GalleryMatch, Searcher
from .shard import GalleryShard, ShardQuery

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

TIMEOUT = 30.0
"""Seconds that a shard has for an answer."""

START_TIMEOUT = 300.0
"""Seconds that all shards have to start and to read their parts."""


class MissingShardsError(GalleryError):
    """Shards of a gallery that do not answer; Ray starts them again, so the same search may succeed soon."""


@dataclass(frozen=True, slots=True)
class PartialMatches:
    """Matches of each query, and the ranges of ids (first, last) of shards that did not answer; () where all did."""

    matches: list[list[GalleryMatch]]
    missing: tuple[tuple[int, int], ...]


class ShardedGallery:
    """One version of a gallery, searched by Ray actors; made by `ShardedGallery.open`, ended by `close`."""

    def __init__(self, version: Path, manifest: GalleryManifest, shards: int) -> None:
        self.version, self.manifest = version, manifest
        edges = [manifest.rows * number // shards for number in range(shards + 1)]
        self.ranges = list(pairwise(edges))
        self.metadata = Metadata(version / METADATA, manifest.findings)
        self._actors = _start_actors(version, self.ranges)

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        backbone: Backbone | None = None,
        *,
        shards: int = 2,
        verify: bool = False,
    ) -> ShardedGallery:
        """As `Gallery.open`, with the rows divided evenly among `shards` actors of the Ray that runs.

        Raises GalleryError as there, for a graph (hnsw), and where an actor does not start; ConfigError without Ray.
        """
        require_extra("ray", "a gallery in shards")
        import ray

        if not ray.is_initialized():
            raise ConfigError("a gallery in shards needs a Ray that runs; call ray.init() first")
        bundle = Path(bundle).resolve()

        def opened(version: Path, manifest: GalleryManifest) -> ShardedGallery:
            if not 1 <= shards <= manifest.rows:
                raise GalleryError(
                    f"{bundle}: {shards} shards for {manifest.rows} rows; give 1 to {manifest.rows}"
                )
            if manifest.kind == "hnsw" and shards > 1:
                raise GalleryError(
                    f"{bundle}: a graph (hnsw) cannot be divided among shards; build the gallery with --index ivf"
                )
            if backbone is not None:
                check_backbone(bundle, manifest, backbone)
            return cls(version, manifest, shards)

        return open_version(bundle, opened, verify=verify)

    def search(
        self,
        vectors: np.ndarray,
        k: int = 10,
        *,
        exclude_patient: Excluded = None,
        findings: Mapping[str, bool] | None = None,
        projections: Sequence[str] | None = None,
        split: str | None = None,
    ) -> list[list[GalleryMatch]]:
        """As `Gallery.search`, whose answer it equals. Raises MissingShardsError where a shard does not
        answer."""
        answer = self.search_partial(
            vectors,
            k,
            exclude_patient=exclude_patient,
            findings=findings,
            projections=projections,
            split=split,
        )
        if answer.missing:
            ranges = ", ".join(f"{first} to {last}" for first, last in answer.missing)
            raise MissingShardsError(
                f"{len(answer.missing)} of {len(self.ranges)} shards do not answer (rows {ranges} of "
                f"{self.manifest.rows}); open the gallery again"
            )
        return answer.matches

    def search_partial(
        self,
        vectors: np.ndarray,
        k: int = 10,
        *,
        exclude_patient: Excluded = None,
        findings: Mapping[str, bool] | None = None,
        projections: Sequence[str] | None = None,
        split: str | None = None,
    ) -> PartialMatches:
        """As `search`, but shards that do not answer are left out and named. Raises MissingShardsError where none
        answers."""
        missing: set[tuple[int, int]] = set()

        def ask(query: ShardQuery) -> list[list[Candidates]]:
            answers = self._answers(query)
            missing.update(part for part, answer in zip(self.ranges, answers, strict=True) if answer is None)
            living = [answer for answer in answers if answer is not None]
            if not living:
                raise MissingShardsError(
                    f"none of the {len(self.ranges)} shards answers; open the gallery again"
                )
            return living

        searcher = Searcher(self.manifest, self.metadata, ask)
        matches = searcher.search(vectors, k, exclude_patient, findings, projections, split)
        return PartialMatches(matches, tuple(sorted((start, stop - 1) for start, stop in missing)))

    def _answers(self, query: ShardQuery) -> list[list[Candidates] | None]:
        """Each shard's candidates, or None where it is dead or too slow. Raises the VetdinoError of a shard."""
        import ray

        reference = ray.put(query)
        calls = [actor.candidates.remote(reference) for actor in self._actors]
        deadline = time.monotonic() + TIMEOUT
        answers: list[list[Candidates] | None] = []
        for call in calls:
            try:
                answers.append(ray.get(call, timeout=max(0.0, deadline - time.monotonic())))
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                answers.append(None)
        return answers

    def close(self) -> None:
        """Ends the actors and closes the files."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self.metadata.close()

    def __len__(self) -> int:
        return self.manifest.count

    def __repr__(self) -> str:
        return f"ShardedGallery({len(self)} rows in {len(self.ranges)} shards)"


class ShardActor:
    """What each Ray actor runs. Ray starts a lost one again; it serves the same version, or dies with it."""

    def __init__(self, version: Path, start: int, stop: int) -> None:
        self.shard = GalleryShard(version, read_manifest(version), start, stop)

    def ready(self) -> int:
        """Number of rows."""
        return self.shard.stop - self.shard.start

    def candidates(self, query: ShardQuery) -> list[Candidates]:
        """See `GalleryShard.candidates`."""
        return self.shard.candidates(query)


def _start_actors(version: Path, ranges: Sequence[tuple[int, int]]) -> list[Any]:
    """One actor for each range, once all have read their rows. Raises GalleryError."""
    import ray

    remote: Any = ray.remote(max_restarts=-1, num_cpus=0)(ShardActor)
    actors: list[Any] = [remote.remote(version, start, stop) for start, stop in ranges]
    try:
        ray.get([actor.ready.remote() for actor in actors], timeout=START_TIMEOUT)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
        for actor in actors:
            ray.kill(actor)
        first = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise GalleryError(
            f"{version}: the shards did not start ({first}); is the folder on storage of all machines?"
        ) from None
    return actors
