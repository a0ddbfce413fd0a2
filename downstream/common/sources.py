"""What is compared: backbones, and floors without a network, each asked in the same words for its features.

A source keeps its tables as Parquet in a folder and takes them again where they were made by the same source
from the same shards.

V views, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.measure.features import (
    Descriptor,
    Features,
    Level,
    Pool,
    by_study,
    extract_all,
    load_features,
    pixel_features,
    save_features,
)

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig:
    """How features are taken, and what the floors without a network see."""

    pixel_side: int = 32
    """Side to which views are reduced for the floors of pixels and their PCA, in pixels."""
    components: int = 128
    """Principal components of the pixels, fitted on the train split alone."""
    batch: int = 64
    """Views for each pass through a backbone."""
    workers: int = 2
    """Threads that decode views."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Something that can be asked for features: a backbone, or a floor without one.

    name: of its column in tables, its files and its metrics. digest: of what makes the vectors; equal digests
    give equal features. label: what a person reads. extract: descriptors -> a table each, from one walk.
    folder: of the kept tables. manifest: digest of the shards. asked: descriptors that somebody will want,
    all taken in the first walk.
    """

    name: str
    digest: str
    label: str
    backbone: Backbone | None
    extract: Callable[[Sequence[Descriptor]], Sequence[Features]]
    folder: Path
    manifest: str
    asked: tuple[Descriptor, ...] = ()

    def features(self, pool: Pool = "cls", blocks: int = 1, level: Level = "study") -> Features:
        """The table of a descriptor, all splits: kept from an earlier walk, else from a new one.

        A floor has one vector for a view, whatever the pool and the blocks. Raises ConfigError for more blocks
        than the backbone has, ShardError for damaged shards, FeaturesError for vectors that are NaN.
        """
        (wanted,) = self.given([Descriptor(pool, blocks, level)]) or [Descriptor(pool, blocks, level)]
        if (features := self._kept(wanted)) is not None:
            return features
        missing = [wanted, *(other for other in self.given(self.asked) if other != wanted)]
        missing = [one for one in missing if one == wanted or self._kept(one) is None]
        made = dict(zip(missing, self.extract(missing), strict=True))
        for one, table in made.items():
            if (table.backbone, table.manifest, table.level) != self._identity(one):
                raise FeaturesError(
                    f"{self.name}: these features are of another backbone, other shards or another level; "
                    "extract them again"
                )
            save_features(table, self._path(one))
        return made[wanted]

    def given(self, descriptors: Iterable[Descriptor]) -> list[Descriptor]:
        """Those of the descriptors that this source can give, without those that are one and the same here.

        A floor has a vector for a view and nothing else; a backbone has no more blocks than it has.
        """
        if self.backbone is None:
            return list(dict.fromkeys(Descriptor(level=one.level) for one in descriptors))
        return list(dict.fromkeys(one for one in descriptors if one.blocks <= len(self.backbone.vit.blocks)))

    def _kept(self, asked: Descriptor) -> Features | None:
        """The table of an earlier walk where it is of this source and these shards."""
        try:
            features = load_features(self._path(asked))
        except FeaturesError:  # none yet, or a damaged one: made anew
            return None
        found = (features.backbone, features.manifest, features.level)
        return features if found == self._identity(asked) else None

    def _identity(self, asked: Descriptor) -> tuple[str, str, str]:
        return asked.digest(self.digest), self.manifest, asked.level

    def _path(self, asked: Descriptor) -> Path:
        by = ".view" if asked.level == "view" else ""
        return self.folder / f"{asked.digest(self.name)}{by}.parquet"

    def __repr__(self) -> str:
        return f"Source({self.name}: {self.label})"


@dataclass(frozen=True, slots=True)
class Sources:
    """Makes sources over one folder of shards; their tables are kept in `folder`."""

    shards: str | Path
    folder: Path
    config: SourceConfig = SourceConfig()
    asked: tuple[Descriptor, ...] = ()

    def backbone(self, name: str, origin: str | Path) -> Source:
        """Whatever `platform.backbone.load` takes: a backbone folder, a weights file, a timm name."""
        from ...platform.models.backbone import load

        return self._of(name, load(origin))

    def random(self, name: str, twin: Source, seed: int = 0) -> Source:
        """The architecture and preprocessing of another source's backbone at random weights."""
        from ...platform.models.backbone import random_like

        if twin.backbone is None:
            raise ConfigError(f"{twin.name} has no network and so no random twin; choose a backbone")
        return self._of(name, random_like(twin.backbone, seed).eval())

    def pixels(self, name: str = "pixels") -> Source:
        """The views themselves, reduced to `pixel_side`."""
        side = self.config.pixel_side
        return self._floor(name, f"pixels-{side}", f"raw pixels, {side} x {side}", self._pixel_tables)

    def pca(self, name: str = "pca") -> Source:
        """Principal components of the reduced views, fitted on those of the train split alone."""
        side, count = self.config.pixel_side, self.config.components
        label = f"{count} principal components of {side} x {side} pixels"
        return self._floor(name, f"pca-{count}-of-pixels-{side}", label, self._pca_tables)

    def _of(self, name: str, backbone: Backbone) -> Source:
        take = partial(
            extract_all,
            backbone,
            self.shards,
            batch=self.config.batch,
            workers=self.config.workers,
            label=name,
        )
        return Source(name, backbone.card.digest, backbone.card.label, backbone, take, *self._kept_in())

    def _floor(
        self, name: str, digest: str, label: str, take: Callable[[Sequence[Descriptor]], Sequence[Features]]
    ) -> Source:
        return Source(name, digest, label, None, take, *self._kept_in())

    def _kept_in(self) -> tuple[Path, str, tuple[Descriptor, ...]]:
        from ...platform.data.shards import load_manifest

        return Path(self.folder), load_manifest(self.shards).digest, self.asked

    def _pixel_tables(self, descriptors: Sequence[Descriptor]) -> list[Features]:
        how = {"batch": self.config.batch, "workers": self.config.workers}
        views = pixel_features(self.shards, side=self.config.pixel_side, level="view", **how)
        return _at_levels(views, descriptors)

    def _pca_tables(self, descriptors: Sequence[Descriptor]) -> list[Features]:
        (pixels,) = self._pixel_tables([Descriptor(level="view")])
        return _at_levels(principal(pixels, self.config), descriptors)


def principal(views: Features, config: SourceConfig) -> Features:
    """Pixels by view as their principal components: mean and directions are those of the train views.

    As many as `components`, or as the train views have. A view at their very mean, which has no direction,
    stands as an even vector. Raises FeaturesError where train has fewer than 2 views.
    """
    from sklearn.decomposition import PCA

    train_VD = views.of("train").vectors
    count = min(config.components, len(train_VD) - 1, train_VD.shape[1])
    if count < 1:
        raise FeaturesError(
            f"{len(train_VD)} views in the train split; principal components need 2, ingest more"
        )
    # An exact eigendecomposition: no random start, so that the same views give the same components.
    fitted = PCA(count, svd_solver="covariance_eigh").fit(train_VD.astype(np.float64))
    found_VD = fitted.transform(views.vectors.astype(np.float64))
    length_V1 = np.linalg.norm(found_VD, axis=1, keepdims=True)
    vectors = np.divide(found_VD, length_V1, out=np.full_like(found_VD, count**-0.5), where=length_V1 > 1e-9)
    digest = f"pca-{config.components}-of-{views.backbone}"
    return replace(views, vectors=vectors.astype(np.float32), backbone=digest)


def _at_levels(views: Features, descriptors: Sequence[Descriptor]) -> list[Features]:
    return [views if one.level == "view" else by_study(views) for one in descriptors]
