"""Features of a folder of shards: one pass over its views, by a backbone or by plain pixels.

N rows, D dimensions; B images of a batch, S side of an image; J last blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import ConfigError, FeaturesError, ShardError
from ..core.progress import Progress
from ..data.manifest import Manifest, load_manifest
from ..data.shards import read_shard
from ..data.study import SPLITS
from .descriptors import Descriptor, Level, Pool
from .features import Features, by_study, check_features
from .neighbors import unit_vectors
from .prefetch import ViewBatch, batched, prefetched, view_places
from .probes import Probes, probe_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.backbone import Backbone, Tokens


def extract(
    backbone: Backbone,
    folder: str | Path,
    splits: Sequence[str] = SPLITS,
    *,
    level: Level = "study",
    pool: Pool = "cls",
    blocks: int = 1,
    batch: int = 64,
    workers: int = 2,
    label: str = "features",
) -> Features:
    """The features of a folder of shards, in the order of the splits and, in each, of the shards.

    level, pool, blocks: see `Descriptor`. A view's vector has length 1; a study's is the mean of its views', made
    length 1. The table has the backbone's probes. workers: threads that decode views. label: name of the progress
    bar. Raises ShardError for damaged shards, ConfigError for more blocks than there are, FeaturesError where the
    backbone's output is NaN.
    """
    descriptor = Descriptor(pool, blocks, level)
    (table,) = extract_all(backbone, folder, [descriptor], splits, batch=batch, workers=workers, label=label)
    return replace(table, probes=probed(backbone, descriptor))


def probed(backbone: Backbone, descriptor: Descriptor) -> Probes:
    """The probes' pictures, and what this backbone makes of them now."""
    probes = Probes(probe_pictures(), np.empty((0, 0), np.float32))
    return replace(probes, vectors=view_vectors(backbone, probes.views(), descriptor))


def view_vectors(backbone: Backbone, views: Sequence[np.ndarray], descriptor: Descriptor) -> np.ndarray:
    """Views (B of them, (H, W) uint8 each) as vectors of a table by view: (B, D) float32 of length 1.

    Raises FeaturesError where one has no direction (NaN, infinite, zero).
    """
    return unit_vectors(image_vectors(backbone, backbone.prepare_many(views), descriptor), "the views")


def image_vectors(backbone: Backbone, images_B1SS: Tensor, descriptor: Descriptor) -> np.ndarray:
    """Prepared images as a backbone's output, (B, D) float32 of any length."""
    cls_JBD, tokens = _cls_of_last_blocks(backbone, images_B1SS, descriptor.blocks)
    mean_BD = tokens.patches.mean(dim=1) if descriptor.pool == "cls+mean" else None
    return _join_vectors(descriptor, cls_JBD, mean_BD)


def extract_all(
    backbone: Backbone,
    folder: str | Path,
    descriptors: Sequence[Descriptor],
    splits: Sequence[str] = SPLITS,
    *,
    batch: int = 64,
    workers: int = 2,
    label: str = "features",
) -> tuple[Features, ...]:
    """One table for each descriptor, from one pass over the shards. Raises as `extract`."""
    most, depth = max(descriptor.blocks for descriptor in descriptors), len(backbone.vit.blocks)
    if not 1 <= min(descriptor.blocks for descriptor in descriptors) <= most <= depth:
        raise ConfigError(
            f"the CLS of {most} blocks is requested, the backbone has {depth}; give 1 to {depth}"
        )
    digests = [descriptor.digest(backbone.card.digest) for descriptor in descriptors]
    distinct = dict(
        zip(digests, descriptors, strict=True)
    )  # those that differ by level alone share their vectors
    needs_mean = any(descriptor.pool == "cls+mean" for descriptor in descriptors)

    def vectors(images_BSS: np.ndarray) -> list[np.ndarray]:
        cls_JBD, tokens = _cls_of_last_blocks(backbone, prepared(backbone, images_BSS), most)
        mean_BD = tokens.patches.mean(dim=1) if needs_mean else None
        return [_join_vectors(descriptor, cls_JBD, mean_BD) for descriptor in distinct.values()]

    shard_pass = _ShardPass(folder, splits, batch, workers, label, backbone.side)
    tables = dict(zip(distinct, shard_pass.tables(vectors, list(distinct)), strict=True))
    return tuple(
        tables[digest] if descriptor.level == "view" else by_study(tables[digest])
        for digest, descriptor in zip(digests, descriptors, strict=True)
    )


def check_extraction(manifest: Manifest, folder: str | Path, splits: Sequence[str], batch: int) -> int:
    """The number of studies in these splits. Raises FeaturesError where there is none, ConfigError for batch 0."""
    if batch < 1:
        raise ConfigError(f"batch {batch} must be at least 1")
    total = sum(manifest.studies(split) for split in splits)
    if not total:
        counts = ", ".join(f"{split} {manifest.studies(split)}" for split in SPLITS)
        raise FeaturesError(
            f"{folder}: no studies in {', '.join(splits) or 'no split'} (there are {counts}); choose other splits, or "
            "ingest more"
        )
    return total


def pixel_features(
    folder: str | Path,
    splits: Sequence[str] = SPLITS,
    side: int = 32,
    *,
    level: Level = "study",
    batch: int = 64,
    workers: int = 2,
) -> Features:
    """The baseline: each view letterboxed to side x side and flattened, pooled to studies as `extract` does.

    A black view, which has no direction, counts as an evenly gray one.
    """

    def vectors(images_BSS: np.ndarray) -> list[np.ndarray]:
        flat_BD = images_BSS.reshape(len(images_BSS), -1).astype(np.float32)
        return [np.where(flat_BD.any(axis=1, keepdims=True), flat_BD, 1.0)]

    shard_pass = _ShardPass(folder, splits, batch, workers, "pixels", side)
    (table,) = shard_pass.tables(vectors, [f"pixels-{side}"])
    return table if level == "view" else by_study(table)


def _cls_of_last_blocks(backbone: Backbone, images_B1SS: Tensor, blocks: int) -> tuple[list[Tensor], Tokens]:
    """The CLS token (B, D) of each of the last blocks after the last norm, the last block last; and all tokens."""
    import torch

    outputs: list[Tensor] = []
    *earlier, _ = backbone.vit.blocks[len(backbone.vit.blocks) - blocks :]
    handles = [
        block.register_forward_hook(lambda _, __, x_BLD: outputs.append(x_BLD[:, :1])) for block in earlier
    ]
    try:
        tokens = backbone.tokens(images_B1SS)
    finally:
        for handle in handles:
            handle.remove()
    with torch.inference_mode():
        return [*(backbone.vit.norm(x_B1D)[:, 0] for x_B1D in outputs), tokens.cls], tokens


def _join_vectors(descriptor: Descriptor, cls_JBD: list[Tensor], mean_BD: Tensor | None) -> np.ndarray:
    """The parts of a descriptor side by side, (B, D) float32."""
    import torch

    parts = cls_JBD[-descriptor.blocks :]
    if descriptor.pool == "cls+mean":
        assert mean_BD is not None
        parts = [*parts, mean_BD]
    return torch.cat(parts, dim=1).float().cpu().numpy()


def prepared(backbone: Backbone, images_BSS: np.ndarray) -> Tensor:
    """Letterboxed views (B, S, S) uint8 as `Backbone.prepare_many` makes them, (B, 1, S, S) float32."""
    import torch

    return backbone.normalize(torch.from_numpy(images_BSS)[:, None])


@dataclass(frozen=True, slots=True)
class _ShardPass:
    """One pass over the views of some splits, letterboxed to squares of `side` pixels."""

    folder: str | Path
    splits: Sequence[str]
    batch: int
    workers: int
    label: str
    side: int

    def tables(
        self, vectors: Callable[[np.ndarray], list[np.ndarray]], digests: Sequence[str]
    ) -> list[Features]:
        """Tables by view, one for each digest. vectors: images (B, S, S) uint8 -> (B, D) for each digest."""
        manifest = load_manifest(self.folder)
        total = check_extraction(manifest, self.folder, self.splits, self.batch)
        rows = sum(shard.views for split in self.splits for shard in manifest.of(split))
        batches: list[ViewBatch[None]] = []
        columns: list[np.ndarray] = []
        done = 0
        with Progress(self.label, total) as progress, closing(self._batches(manifest)) as ready:
            for batch in ready:
                parts = [unit_views(vectors_BD, batch) for vectors_BD in vectors(batch.images)]
                # Parts that are joined at the end would be all vectors twice in memory.
                columns = columns or [np.empty((rows, part.shape[1]), np.float32) for part in parts]
                for column, part in zip(columns, parts, strict=True):
                    column[done : done + len(part)] = part[: rows - done]
                done += len(batch)
                batches.append(replace(batch, images=batch.images[:0]))
                progress.advance(batch.finished)
        if done != rows:
            raise ShardError(f"{self.folder}: {done} views, the manifest promises {rows}; ingest again")
        return [
            view_table(batches, column, manifest.findings, digest, manifest.digest)
            for digest, column in zip(digests, columns, strict=True)
        ]

    def _batches(self, manifest: Manifest) -> Generator[ViewBatch[None]]:
        studies = (
            study
            for split in self.splits
            for shard in manifest.of(split)
            for study in read_shard(self.folder, shard, manifest)
        )
        groups = ((None, group) for group in batched(view_places(studies), self.batch))
        return prefetched(groups, self.side, self.workers)


def view_table(
    batches: Sequence[ViewBatch[Any]],
    vectors: np.ndarray,
    findings: tuple[str, ...],
    backbone: str,
    manifest: str,
) -> Features:
    """A checked table by view of batches and the vectors (N, …) of all of them. backbone, manifest: digests."""
    rows = [place for batch in batches for place in batch.places]
    labels = [[study.labels.get(name, math.nan) for name in findings] for study, _ in rows]
    features = Features(
        keys=tuple(study.key for study, _ in rows),
        patients=tuple(study.patient for study, _ in rows),
        splits=tuple(study.split for study, _ in rows),
        views=tuple(f"view{index}" for _, index in rows),
        vectors=vectors,
        findings=findings,
        labels=np.array(labels, np.float32).reshape(len(rows), len(findings)),
        backbone=backbone,
        manifest=manifest,
        projections=tuple(name for batch in batches for name in batch.projections),
    )
    check_features(features, "the shards")
    return features


def unit_views(vectors_BD: np.ndarray, batch: ViewBatch[Any]) -> np.ndarray:
    """The vectors at length 1. Raises FeaturesError, naming the first study whose vector has no direction."""
    length_B = np.linalg.norm(vectors_BD, axis=1)
    for row in np.flatnonzero(~np.isfinite(length_B) | (length_B == 0)):
        study, index = batch.places[row]
        raise FeaturesError(
            f"study {study.key}: the vector of view {index} is NaN, infinite or zero and has no direction; "
            "check the backbone"
        )
    return unit_vectors(vectors_BD)
