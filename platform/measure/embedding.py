"""Features of a folder of shards as a job: a Parquet file for each shard, each whole or not at all, in any order.

A part depends on its shard, the backbone and the settings alone, so a job that was killed goes on with the parts that
are missing, and the finished folder has the same bytes. The parts can be read as one table by anything that reads
Parquet; what holds for all of them is in `_features.json`, which is written last.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.errors import FeaturesError, ShardError
from ..core.files import atomic_write, explain_os_error
from ..core.gauges import report
from ..core.log_lines import say
from ..data.manifest import Manifest, Shard
from ..data.shards import read_shard
from .descriptors import Descriptor, RowLevel
from .extraction import image_vectors, prepared, probed, unit_views, view_table
from .features import FILE, INDEX, VERSION, Features, TableIndex, by_study, write_table
from .prefetch import ViewBatch, batched, prefetched, view_places

if TYPE_CHECKING:
    from ..models.backbone import Backbone

Dtype = Literal["float32", "float16"]

DIFFERENCES = {
    "backbone": "of another backbone",
    "shard": "of other shards",
    "level": "of another level",
    "dtype": "of another dtype",
    "findings": "of other findings",
    "version": "of another version of the format",
}
"""What a part's metadata may say otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedJob:
    """What is embedded, and how.

    shards: the folder, with its manifest. backbone: its digest. batch: views in one pass through the network.
    threads: that decode views.
    """

    shards: str
    manifest: Manifest
    splits: tuple[str, ...]
    out: Path
    backbone: str
    level: RowLevel
    dtype: Dtype
    batch: int
    threads: int

    @property
    def wanted(self) -> tuple[Shard, ...]:
        """The shards to embed, in the order of the table."""
        return tuple(shard for split in self.splits for shard in self.manifest.of(split) if shard.views)

    def part(self, shard: Shard) -> Path:
        """Where a shard's rows are written."""
        return self.out / (shard.path.removesuffix(".tar").replace("/", "-") + ".parquet")

    def rows(self, shard: Shard) -> int:
        """The rows that a shard gives."""
        return shard.studies if self.level == "study" else shard.views

    def facts(self, shard: Shard) -> dict[str, Any]:
        """What a part's metadata must say for it to be this job's part of this shard."""
        return {
            "version": VERSION,
            "level": self.level,
            "backbone": self.backbone,
            "findings": list(self.manifest.findings),
            "dtype": self.dtype,
            "shard": shard.sha256,
        }


def missing_parts(job: EmbedJob) -> list[Shard]:
    """The shards without a whole part of this job; prints how many have one, and which parts are computed again.

    Raises FeaturesError where the folder holds Parquet files that `vetdino embed` did not write.
    """
    _check_folder(job)
    for left in job.out.glob(".*.parquet.*.tmp"):  # half a part of a run that was killed
        left.unlink(missing_ok=True)
    missing, again = [], Counter[str]()
    for shard in job.wanted:
        if fault := _fault(job, shard):
            missing.append(shard)
            again.update([fault] if fault != "missing" else [])
    if missing:
        (job.out / INDEX).unlink(missing_ok=True)  # a table is whole, or it is none
    if whole := len(job.wanted) - len(missing):
        say(f"{job.out}: {whole} of {len(job.wanted)} parts are there already")
    for fault, count in again.items():
        say(f"{job.out}: {count} parts are {fault}; they are computed again")
    return missing


def embed_shards(
    job: EmbedJob,
    backbone: Backbone,
    shards: Sequence[Shard],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the parts of these shards. advance: called with the number of studies after each batch.

    Batches do not cross shards; away from the CPU, where the number of images chooses the kernels, the last one is
    filled up. Raises ShardError for damaged shards, FeaturesError for vectors that are not finite (the study is named)
    and for a disk that is full.
    """
    groups = (
        (shard, group)
        for shard in shards
        for group in batched(view_places(read_shard(job.shards, shard, job.manifest)), job.batch)
    )
    done: list[ViewBatch[Shard]] = []
    vectors: list[np.ndarray] = []
    with closing(prefetched(groups, backbone.side, job.threads)) as ready:
        for batch in ready:
            vectors.append(_vectors(job, backbone, batch))
            done.append(replace(batch, images=batch.images[:0]))
            # Not when the next shard begins: that one may be damaged.
            if sum(map(len, done)) == batch.tag.views:
                _write_part(job, batch.tag, done, np.concatenate(vectors))
                done, vectors = [], []
            elif done[0].tag != batch.tag:
                raise _other_views(done[0].tag)
            report("vetdino_embed_images", len(batch))
            advance(batch.finished)
    if done:
        raise _other_views(done[0].tag)


def _other_views(shard: Shard) -> ShardError:
    return ShardError(f"{shard.path}: not the {shard.views} views that the manifest promises; ingest again")


def finish_table(job: EmbedJob, backbone: Backbone) -> None:
    """Write `_features.json` once all parts are whole, and remove parts of an earlier run that do not belong to it.

    Raises FeaturesError where a part is missing: one that another machine wrote to a disk of its own.
    """
    missing = [job.part(shard) for shard in job.wanted if not job.part(shard).is_file()]
    if missing:
        raise FeaturesError(
            f"{missing[0]}: missing, as {len(missing)} of {len(job.wanted)} parts are; give --out on a disk that all "
            "machines share, and run the same command again"
        )
    index = TableIndex(
        level=job.level,
        dtype=job.dtype,
        backbone=job.backbone,
        manifest=job.manifest.digest,
        findings=job.manifest.findings,
        parts={job.part(shard).name: job.rows(shard) for shard in job.wanted},
        probes=probed(backbone, Descriptor()) if job.level != "patch" else None,
    )
    for path in job.out.glob("*.parquet"):
        if path.name not in index.parts:
            path.unlink()
    atomic_write(job.out / INDEX, index.to_text())


def patch_bytes(job: EmbedJob, backbone: Backbone, shards: Sequence[Shard]) -> int:
    """The size of the patch tokens of these shards."""
    return sum(shard.views for shard in shards) * (backbone.side // backbone.patch) ** 2 * backbone.width * 2


def _vectors(job: EmbedJob, backbone: Backbone, batch: ViewBatch[Shard]) -> np.ndarray:
    """(B, D) float32 of length 1, or (B, rows, columns, D) float16 patch tokens. Raises FeaturesError."""
    images_BSS = batch.images
    if backbone.device.type != "cpu" and len(batch) < job.batch:
        blank = np.zeros((job.batch - len(batch), *images_BSS.shape[1:]), np.uint8)
        images_BSS = np.concatenate([images_BSS, blank])
    images_B1SS = prepared(backbone, images_BSS)
    if job.level != "patch":
        return unit_views(image_vectors(backbone, images_B1SS, Descriptor())[: len(batch)], batch)
    tokens = backbone.tokens(images_B1SS)
    patches = tokens.patches.half().cpu().numpy()[: len(batch)]
    return patches.reshape(len(batch), *tokens.grid, -1)


def _write_part(
    job: EmbedJob, shard: Shard, batches: Sequence[ViewBatch[Shard]], vectors: np.ndarray
) -> None:
    """Raises FeaturesError for vectors that are not finite, or where the disk refuses."""
    features = view_table(batches, vectors, job.manifest.findings, job.backbone, "")
    if job.level == "study":
        features = by_study(features)
    features = replace(features, vectors=features.vectors.astype(job.dtype, copy=False))
    path, content = job.part(shard), _part_bytes(features, job.facts(shard))
    try:
        atomic_write(path, content)
    except OSError as error:
        raise FeaturesError(
            f"{explain_os_error(error, str(path))}; the parts before it are kept, run the same command again"
        ) from error


def _part_bytes(features: Features, facts: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    write_table(features, content, facts)
    return content.getvalue()


def _fault(job: EmbedJob, shard: Shard) -> str:
    """Why a shard's part is not this job's; "" where it is. Reads all of it, to find damage."""
    import pyarrow as pa
    from pyarrow import parquet

    path, rows = job.part(shard), 0
    if not path.is_file():
        return "missing"
    card = _part_card(path)
    if card is not None:
        for name, value in job.facts(shard).items():
            if card.get(name) != value:
                return DIFFERENCES[name]
        try:
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                rows = sum(batch.num_rows for batch in file.iter_batches())
        except (pa.ArrowException, OSError):
            card = None
    return "damaged" if card is None or rows != job.rows(shard) else ""


def _part_card(path: Path) -> dict[str, Any] | None:
    """What the metadata of a Parquet file of ours say; None where they say nothing."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        card = json.loads((parquet.read_schema(path).metadata or {})[b"vetdino"])
        return card if isinstance(card, dict) else None
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


def _check_folder(job: EmbedJob) -> None:
    """Raises FeaturesError for Parquet files that are not ours: they would be read as rows of the table."""
    ours = {job.part(shard).name for shard in job.wanted} | {FILE}
    for path in sorted(job.out.glob("*.parquet")):
        if path.name not in ours and _part_card(path) is None:
            raise FeaturesError(
                f"{path}: not a part of features, and would be read as one; choose a folder of its own"
            )
