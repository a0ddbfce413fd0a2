"""Sources of features that an evaluation compares: backbones, and baselines without a network.

A source caches its feature tables as Parquet in a folder; a table of the same source and the same shards is reused.

V views, D dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ...platform.core.device import DeviceChoice
from ...platform.core.errors import ConfigError, FeaturesError
from ...platform.data.manifest import load_manifest
from ...platform.measure.descriptors import Descriptor, Level, Pool
from ...platform.measure.extraction import extract_all, pixel_features
from ...platform.measure.features import Features, by_study, load_features, save_features
from ...platform.models.source import split_source
from .config import SourceConfig

if TYPE_CHECKING:
    from ...platform.models.backbone import Backbone

BASELINES = ("random", "pixels", "pca")
"""Names of the sources that every backbone is compared with."""

WEIGHTS = (".pth", ".pt", ".safetensors")
"""Endings of the names of weights files."""

Extract = Callable[[Sequence[Descriptor]], Sequence[Features]]
"""A feature table for each descriptor, from one pass over the shards."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A source of features: a backbone, or a baseline without one.

    name: of its column in tables, its files and its metrics. digest: identity of the features; equal digests mean
    equal features. label: for people. folder: of the cached tables. manifest: digest of the shards.
    planned: descriptors that will be needed; all of them are extracted in the first pass.
    """

    name: str
    digest: str
    label: str
    backbone: Backbone | None
    extract: Extract
    folder: Path
    manifest: str
    planned: tuple[Descriptor, ...] = ()

    def features(self, pool: Pool = "cls", blocks: int = 1, level: Level = "study") -> Features:
        """The table of a descriptor, all splits; cached, or extracted now.

        A baseline has one vector for a view, whatever the pool and the blocks. Raises ConfigError for more blocks
        than the backbone has, ShardError for damaged shards, FeaturesError for NaN vectors.
        """
        (wanted,) = self.available([Descriptor(pool, blocks, level)]) or [Descriptor(pool, blocks, level)]
        if (features := self._cached(wanted)) is not None:
            return features
        missing = [wanted, *(other for other in self.available(self.planned) if other != wanted)]
        missing = [one for one in missing if one == wanted or self._cached(one) is None]
        tables = dict(zip(missing, self.extract(missing), strict=True))
        for descriptor, table in tables.items():
            if (table.backbone, table.manifest, table.level) != self._identity(descriptor):
                raise FeaturesError(
                    f"{self.name}: these features are of another backbone, other shards or another level; "
                    "extract them again"
                )
            save_features(table, self._path(descriptor))
        return tables[wanted]

    def available(self, descriptors: Iterable[Descriptor]) -> list[Descriptor]:
        """The descriptors that this source has, without duplicates.

        A baseline has one vector for a view, so all descriptors of a level are one; a backbone has no more blocks
        than its depth.
        """
        if self.backbone is None:
            return list(dict.fromkeys(Descriptor(level=one.level) for one in descriptors))
        return list(dict.fromkeys(one for one in descriptors if one.blocks <= len(self.backbone.vit.blocks)))

    def _cached(self, descriptor: Descriptor) -> Features | None:
        """The cached table, if it is of this source and these shards."""
        try:
            features = load_features(self._path(descriptor))
        except FeaturesError:  # missing or damaged: extracted anew
            return None
        identity = (features.backbone, features.manifest, features.level)
        return features if identity == self._identity(descriptor) else None

    def _identity(self, descriptor: Descriptor) -> tuple[str, str, str]:
        return descriptor.digest(self.digest), self.manifest, descriptor.level

    def _path(self, descriptor: Descriptor) -> Path:
        level = ".view" if descriptor.level == "view" else ""
        return self.folder / f"{descriptor.digest(self.name)}{level}.parquet"

    def __repr__(self) -> str:
        return f"Source({self.name}: {self.label})"


@dataclass(frozen=True, slots=True)
class SourceFactory:
    """Makes sources over one folder of shards; their tables are cached in `folder`."""

    shards: str | Path
    folder: Path
    config: SourceConfig = field(default_factory=SourceConfig)
    planned: tuple[Descriptor, ...] = ()
    device: DeviceChoice = "cpu"

    def backbone(self, name: str, origin: str | Path) -> Source:
        """A backbone folder, a weights file, timm:NAME or random:NAME, as `platform.models.loading.load` takes it."""
        from ...platform.models.loading import load

        return self._backbone_source(name, load(origin, self.device))

    def random(self, name: str, twin: Source, seed: int = 0) -> Source:
        """Architecture and preprocessing of another source's backbone, with random weights."""
        from ...platform.models.backbone import random_like

        if twin.backbone is None:
            raise ConfigError(f"{twin.name} has no network and so no random twin; choose a backbone")
        return self._backbone_source(name, random_like(twin.backbone, seed).eval())

    def pixels(self, name: str = "pixels") -> Source:
        """The pixels of the views, resized to `pixel_side`."""
        side = self.config.pixel_side
        return self._source(name, f"pixels-{side}", f"raw pixels, {side} x {side}", None, self._pixel_tables)

    def pca(self, name: str = "pca") -> Source:
        """Principal components of the resized views, fitted on those of the train split alone."""
        side, count = self.config.pixel_side, self.config.components
        label = f"{count} principal components of {side} x {side} pixels"
        return self._source(name, f"pca-{count}-of-pixels-{side}", label, None, self._pca_tables)

    def _backbone_source(self, name: str, backbone: Backbone) -> Source:
        batch, workers = self.config.batch, self.config.workers
        extract = partial(extract_all, backbone, self.shards, batch=batch, workers=workers, label=name)
        return self._source(name, backbone.card.digest, backbone.card.label, backbone, extract)

    def _source(
        self, name: str, digest: str, label: str, backbone: Backbone | None, extract: Extract
    ) -> Source:
        manifest = load_manifest(self.shards).digest
        return Source(name, digest, label, backbone, extract, Path(self.folder), manifest, self.planned)

    def _pixel_views(self) -> Features:
        config = self.config
        return pixel_features(
            self.shards, side=config.pixel_side, level="view", batch=config.batch, workers=config.workers
        )

    def _pixel_tables(self, descriptors: Sequence[Descriptor]) -> list[Features]:
        return _at_levels(self._pixel_views(), descriptors)

    def _pca_tables(self, descriptors: Sequence[Descriptor]) -> list[Features]:
        return _at_levels(principal_components(self._pixel_views(), self.config), descriptors)


def source_names(backbones: Sequence[str | Path]) -> list[str]:
    """Short, different names for columns, files and metrics: the folder of the training, the file, or timm's name, and
    its depth and side where they are given.

    >>> source_names(["runs/mine/backbone", "dino.pth#sha256=" + 64 * "0", "vit_tiny_patch16_224", "old/mine/backbone"])
    ['mine', 'dino', 'vit_tiny_patch16_224', 'mine-2']
    >>> source_names(["dino.pth#heads=6", "dino.pth#depth=10,side=224"])
    ['dino', 'dino-depth10-side224']
    """
    names: list[str] = []
    for place, options in map(split_source, backbones):
        path = PurePosixPath(place)
        parts = [part for part in path.parts if part not in ("backbone", "..", path.anchor)]
        name = path.stem if path.suffix in WEIGHTS else (parts or ["backbone"])[-1]
        name = re.sub(r"[^\w\-]", "_", name)
        name += f"-depth{options.depth}" if options.depth else ""
        name += f"-side{options.side}" if options.side else ""
        same = [other for other in (*BASELINES, *names) if re.fullmatch(rf"{re.escape(name)}(-\d+)?", other)]
        names.append(f"{name}-{len(same) + 1}" if same else name)
    return names


def principal_components(views: Features, config: SourceConfig) -> Features:
    """Pixels by view as their principal components, with mean and directions of the train views.

    As many as `components`, or as the train views have. A view that equals the mean has no direction; all its
    coordinates are equal. Raises FeaturesError where train has fewer than 2 views.
    """
    from sklearn.decomposition import PCA

    train_VD = views.of("train").vectors
    count = min(config.components, len(train_VD) - 1, train_VD.shape[1])
    if count < 1:
        raise FeaturesError(
            f"{len(train_VD)} views in the train split; principal components need 2, ingest more"
        )
    # An exact eigendecomposition has no random start: the same views give the same components.
    fitted = PCA(count, svd_solver="covariance_eigh").fit(train_VD.astype(np.float64))
    projected_VD = fitted.transform(views.vectors.astype(np.float64))
    length_V1 = np.linalg.norm(projected_VD, axis=1, keepdims=True)
    even_VD = np.full_like(projected_VD, count**-0.5)
    vectors = np.divide(projected_VD, length_V1, out=even_VD, where=length_V1 > 1e-9)
    digest = f"pca-{config.components}-of-{views.backbone}"
    return replace(views, vectors=vectors.astype(np.float32), backbone=digest)


def _at_levels(views: Features, descriptors: Sequence[Descriptor]) -> list[Features]:
    return [views if one.level == "view" else by_study(views) for one in descriptors]
