"""The five commands on galleries: each prints the gallery's line and, last, its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from ....platform.core.config import subconfig
from ....platform.core.device import DeviceConfig
from ....platform.core.location import Location
from ....serving.gallery.config import IndexConfig
from ..arguments import BUNDLE, SOURCE, Command

if TYPE_CHECKING:
    from ....serving.gallery.manifest import GalleryManifest

FEATURES = Annotated[
    Positional[Location],
    arg(metavar="FEATURES", help="Feature table that `vetdino embed` wrote, or its folder."),
]


@dataclass(frozen=True, kw_only=True)
class IndexBuild(IndexConfig, Command):
    """Build a gallery for similar-study search from a feature table; one that is there is replaced when it is done."""

    basic: ClassVar = ("index",)
    features: FEATURES
    out: Annotated[Positional[Location], arg(metavar="OUT")]
    """Folder of the gallery."""

    def run(self) -> Path:
        from ....serving.gallery.build import TableSource, build

        return _printed(
            build(TableSource(self.features.path), self.out.path, subconfig(IndexConfig, self)), self.out.path
        )


@dataclass(frozen=True, kw_only=True)
class IndexAdd(Command):
    """Add the rows of a feature table to a gallery; they are searched exactly until it is compacted."""

    written: ClassVar = ("bundle",)
    bundle: BUNDLE
    features: FEATURES

    def run(self) -> Path:
        from ....serving.gallery.build import TableSource
        from ....serving.gallery.changes import TAIL_UP_TO, add

        manifest = add(self.bundle.path, TableSource(self.features.path))
        if manifest.tail > TAIL_UP_TO:
            print(f"{manifest.tail:,} rows are compared one by one; `vetdino index compact` indexes them")
        return _printed(manifest, self.bundle.path)


@dataclass(frozen=True, kw_only=True)
class IndexDelete(Command):
    """Delete studies or patients from a gallery: no search finds them; compacting removes their vectors, too."""

    basic: ClassVar = ("keys", "patients")
    written: ClassVar = ("bundle",)
    bundle: BUNDLE
    keys: tuple[str, ...] = ()
    """Keys of studies, as the shards and the feature table have them."""
    patients: tuple[str, ...] = ()
    """Pseudonyms of patients, as the shards have them."""

    def run(self) -> Path:
        from ....serving.gallery.changes import delete

        return _printed(delete(self.bundle.path, self.keys, self.patients), self.bundle.path)


@dataclass(frozen=True, kw_only=True)
class IndexCompact(Command):
    """Build a gallery anew from its rows: additions are indexed, what was deleted leaves the disk."""

    written: ClassVar = ("bundle",)
    bundle: BUNDLE

    def run(self) -> Path:
        from ....serving.gallery.changes import compact

        return _printed(compact(self.bundle.path), self.bundle.path)


@dataclass(frozen=True, kw_only=True)
class IndexVerify(DeviceConfig, Command):
    """Read every file of a gallery and compare it with its SHA-256, with the other files, and with a backbone."""

    basic: ClassVar = ("backbone", "device")
    bundle: BUNDLE
    backbone: Annotated[str, arg(help=f"{SOURCE}. Empty: none is compared.")] = ""

    def run(self) -> Path:
        from ....serving.gallery.changes import verify
        from ....serving.gallery.gallery import Gallery

        manifest = verify(self.bundle.path)
        if self.backbone:
            from ....platform.models.loading import load

            Gallery.open(self.bundle.path, load(self.backbone, self.device)).close()
        return _printed(manifest, self.bundle.path)


def _printed(manifest: GalleryManifest, bundle: Path) -> Path:
    print(manifest.summary())
    return bundle
