"""A gallery: similar studies of other patients in a million of them, by the vectors of one backbone.

    gallery = Gallery.open("gallery", backbone)
    matches = gallery.search(vectors, k=10, exclude_patient=patient, findings={"lung_mass": True})

It belongs to the backbone that made its vectors: those of another one have the same shape but no meaning here, so a
gallery does not open with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...platform.core.errors import GalleryError
from ...platform.measure.descriptors import Descriptor
from .bundle import check_hashes, check_sizes, current_version
from .manifest import BackboneMismatchError, DamagedGalleryError, GalleryManifest, read_manifest
from .metadata import GalleryItem
from .searching import Excluded, GalleryMatch, Searcher
from .shard import GalleryShard
from .vectors import unit_rows

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

T = TypeVar("T")

ALIKE = 0.999
"""Least cosine of a probe's vector now with its vector in the gallery."""


class Gallery:
    """One version of a gallery, open for searching from any number of threads; made by `Gallery.open`.

    A later change of the gallery's folder does not reach it; open it again to see that.
    """

    def __init__(self, version: Path, manifest: GalleryManifest) -> None:
        self.version, self.manifest = version, manifest
        self._shard = GalleryShard(version, manifest, 0, manifest.rows)
        self.metadata = self._shard.metadata
        self._searcher = Searcher(manifest, self.metadata, lambda query: [self._shard.candidates(query)])

    @classmethod
    def open(cls, bundle: str | Path, backbone: Backbone | None = None, *, verify: bool = False) -> Gallery:
        """The version of a gallery that is in use.

        Checked are: the manifest's digest, the size of every file, and, with a backbone, its digest and that it still
        makes of the eight probes what it made. verify: also the SHA-256 of every file, which reads all of them.

        Raises GalleryError where the gallery is missing, damaged, or of another backbone.
        """
        bundle = Path(bundle)

        def opened(version: Path, manifest: GalleryManifest) -> Gallery:
            if backbone is not None:
                check_backbone(bundle, manifest, backbone)
            return cls(version, manifest)

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
        """The k rows of largest cosine for each query, best first, of equal cosines the smaller id.

        vectors: (queries, dimensions), of any length but 0. exclude_patient: a patient whose rows are left out, for all
        queries, or a list with one, several or None for each. findings: only rows where these are known to be present
        (True) or absent (False). projections: only rows with a view of at least one of these. split: only this split.
        Fewer than k come back only where the gallery has no more.

        Raises GalleryError for another shape or a name that the gallery does not have, FeaturesError for a query that
        is NaN, infinite or zero.
        """
        return self._searcher.search(vectors, k, exclude_patient, findings, projections, split)

    def similar(
        self,
        key: str,
        k: int = 10,
        *,
        view: str = "",
        findings: Mapping[str, bool] | None = None,
        projections: Sequence[str] | None = None,
        split: str | None = None,
    ) -> list[GalleryMatch]:
        """As `search`, for a row of the gallery and without its patient. Raises GalleryError for an unknown key."""
        item = self.item(key, view)
        vector_1D = unit_rows(self._shard.vectors(np.array([item.id])))
        (matches,) = self.search(
            vector_1D,
            k,
            exclude_patient=item.patient,
            findings=findings,
            projections=projections,
            split=split,
        )
        return matches

    def item(self, key: str, view: str = "") -> GalleryItem:
        """What is known of a row. Raises GalleryError where there is none."""
        item = self.metadata.find(key, view)
        if item is None:
            by_view = " (a row here is a view: name it, such as view0)" * (self.manifest.level == "view")
            raise GalleryError(f"no row {f'{key} {view}'.strip()} in this gallery{by_view}")
        return item

    def vector(self, key: str, view: str = "") -> np.ndarray:
        """A row's vector, (D,) float32 of length 1. Raises GalleryError where there is none."""
        return unit_rows(self._shard.vectors(np.array([self.item(key, view).id])))[0]

    def close(self) -> None:
        """Closes the files."""
        self._shard.close()

    def __len__(self) -> int:
        return self.manifest.count

    def __repr__(self) -> str:
        things = "studies" if self.manifest.level == "study" else "views"
        return f"Gallery({len(self)} {things}, backbone {self.manifest.backbone[:12]})"


def open_version(bundle: Path, opened: Callable[[Path, GalleryManifest], T], *, verify: bool = False) -> T:
    """What `opened` makes of the version in use and its manifest, files checked. Raises GalleryError."""
    while True:
        version = current_version(bundle)
        try:
            manifest = read_manifest(version)
            (check_hashes if verify else check_sizes)(version, manifest)
            return opened(version, manifest)
        except (FileNotFoundError, GalleryError) as error:
            # Another process may have put another version in use since CURRENT was read, and removed this one.
            if current_version(bundle) != version:
                continue
            if isinstance(error, GalleryError):
                raise
            raise DamagedGalleryError(
                f"{error.filename}: missing; copy the gallery again, or build it with `vetdino index build`"
            ) from None


def check_backbone(bundle: Path, manifest: GalleryManifest, backbone: Backbone) -> None:
    """Raises GalleryError unless this backbone made the vectors and still computes the same."""
    from ...platform.measure.extraction import view_vectors

    descriptor = check_digest(bundle, manifest, backbone.card.digest)
    views = manifest.stored_probes().views()
    check_probes(bundle, manifest, view_vectors(backbone, views, descriptor))


def check_digest(bundle: Path, manifest: GalleryManifest, loaded: str) -> Descriptor:
    """What the backbone of this digest makes its vectors by. Raises GalleryError where it did not make these."""
    made_by, descriptor = Descriptor.of_digest(manifest.backbone, manifest.level)
    if made_by != loaded:
        raise _mismatch(
            bundle, f"its vectors are of backbone {made_by[:12]}, the loaded one is {loaded[:12]}; "
        )
    return descriptor


def check_probes(bundle: Path, manifest: GalleryManifest, vectors_PD: np.ndarray) -> None:
    """Raises GalleryError where the probes' vectors are now other than when the gallery was made."""
    cosines = manifest.stored_probes().cosines(vectors_PD)
    if not cosines.min() > ALIKE:
        raise _mismatch(
            bundle,
            f"backbone {manifest.backbone[:12]} does not compute what it did when these vectors were made (a "
            f"probe's cosine is {cosines.min():.4f}, at least {ALIKE} is needed): another version of a library? ",
        )


def _mismatch(bundle: Path, what: str) -> BackboneMismatchError:
    return BackboneMismatchError(f"{bundle}: {what}{rebuild(str(bundle))}", f"the gallery: {what}{rebuild()}")


def rebuild(bundle: str = "GALLERY") -> str:
    """How a gallery is made again."""
    return (
        "make it again: `vetdino embed BACKBONE SHARDS FEATURES`, then "
        f"`vetdino index build FEATURES {bundle}`"
    )
