"""A backbone walks over studies and leaves a table of vectors: one per study, or one per view.

N rows, D dimensions, F findings; B images of a batch, L tokens of an image, S its side; J last blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import ConfigError, FeaturesError, ShardError
from ..core.files import atomic_path
from ..core.progress import Progress
from ..data.shards import load_manifest, read
from ..data.study import SPLITS, Study
from .descriptors import Descriptor, Level, Pool
from .neighbors import unit

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.backbone import Backbone, Tokens


FILE = "features.parquet"
VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Vectors with what is known of their studies, row by row.

    keys, patients, splits: (N,) each. views: "" at study level, else "view0", "view1", … as in the shard.
    vectors: (N, D) float32 of length 1. labels: (N, F) float32, 1 present, 0 absent, NaN unknown.
    backbone, manifest: digests of what made the vectors and of the shards they were made from.
    """

    keys: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    views: tuple[str, ...]
    vectors: np.ndarray
    findings: tuple[str, ...]
    labels: np.ndarray
    backbone: str
    manifest: str

    @property
    def level(self) -> Level:
        """What a row is."""
        return "view" if any(self.views) else "study"

    def of(self, split: str) -> Features:
        """The rows of one split."""
        return self.rows([row for row, name in enumerate(self.splits) if name == split])

    def rows(self, rows: Sequence[int]) -> Features:
        """These rows, in this order."""
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            patients=tuple(self.patients[row] for row in rows),
            splits=tuple(self.splits[row] for row in rows),
            views=tuple(self.views[row] for row in rows),
            vectors=self.vectors[list(rows)],
            labels=self.labels[list(rows)],
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Features({len(self)} rows by {self.level}, {self.vectors.shape[-1]} dimensions)"


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

    A view's vector is what `Descriptor` says of pool and blocks, made length 1; a study's is the mean of its
    views', made length 1. `workers` threads decode views, `batch` at a time. Raises ShardError for damaged
    shards, ConfigError for more blocks than there are, FeaturesError for a backbone that answers with NaN.
    """
    asked = Descriptor(pool, blocks, level)
    return extract_all(backbone, folder, [asked], splits, batch=batch, workers=workers, label=label)[0]


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
    """One table for each descriptor, from one walk over the shards. Raises as `extract`."""
    deepest, depth = max(asked.blocks for asked in descriptors), len(backbone.vit.blocks)
    if not 1 <= min(asked.blocks for asked in descriptors) <= deepest <= depth:
        raise ConfigError(
            f"the CLS of {deepest} blocks is asked for, the backbone has {depth}; ask for 1 to {depth}"
        )
    kinds = {asked.digest(backbone.card.digest): asked for asked in descriptors}
    means = any(asked.pool == "cls+mean" for asked in descriptors)

    def vectors_of(pixels: list[np.ndarray]) -> list[np.ndarray]:
        cls_JBD, tokens = _cls_of_blocks(backbone, backbone.prepare_many(pixels), deepest)
        mean_BD = tokens.patches.mean(dim=1) if means else None
        return [_described(asked, cls_JBD, mean_BD) for asked in kinds.values()]

    walk = _Walk(folder, splits, batch, workers, label)
    tables = dict(zip(kinds, walk.tables(vectors_of, list(kinds)), strict=True))
    found = [(asked, tables[asked.digest(backbone.card.digest)]) for asked in descriptors]
    return tuple(table if asked.level == "view" else by_study(table) for asked, table in found)


def _cls_of_blocks(backbone: Backbone, images_B1SS: Tensor, blocks: int) -> tuple[list[Tensor], Tokens]:
    """The CLS token (B, D) of each of the last blocks after the last norm, the last block last; all tokens."""
    import torch

    heard: list[Tensor] = []
    *listened, _ = backbone.vit.blocks[len(backbone.vit.blocks) - blocks :]
    handles = [
        block.register_forward_hook(lambda _, __, x_BLD: heard.append(x_BLD[:, :1])) for block in listened
    ]
    try:
        tokens = backbone.tokens(images_B1SS)
    finally:
        for handle in handles:
            handle.remove()
    with torch.inference_mode():
        return [*(backbone.vit.norm(x_B1D)[:, 0] for x_B1D in heard), tokens.cls], tokens


def _described(asked: Descriptor, cls_JBD: list[Tensor], mean_BD: Tensor | None) -> np.ndarray:
    import torch

    parts = cls_JBD[-asked.blocks :] + ([mean_BD] if asked.pool == "cls+mean" else [])
    return torch.cat(parts, dim=1).float().cpu().numpy()


def pixel_features(
    folder: str | Path,
    splits: Sequence[str] = SPLITS,
    side: int = 32,
    *,
    level: Level = "study",
    batch: int = 64,
    workers: int = 2,
) -> Features:
    """The floor: each view letterboxed to side x side and flattened, pooled to studies as `extract` does.

    A black view, which has no direction, stands as an even grey one.
    """
    from ..models.backbone import letterboxed

    def vectors_of(pixels: list[np.ndarray]) -> list[np.ndarray]:
        flat_BD = np.stack([letterboxed(view, side).ravel() for view in pixels]).astype(np.float32)
        return [np.where(flat_BD.any(axis=1, keepdims=True), flat_BD, 1.0)]

    (table,) = _Walk(folder, splits, batch, workers, "pixels").tables(vectors_of, [f"pixels-{side}"])
    return table if level == "view" else by_study(table)


def by_study(views: Features) -> Features:
    """A row for each study out of rows by view: the mean of its views' vectors, made length 1.

    The views of a study stand together, as every walk leaves them.
    """
    starts = [row for row, key in enumerate(views.keys) if not row or key != views.keys[row - 1]]
    counts_N1 = np.diff([*starts, len(views)]).astype(np.float32)[:, None]
    means_ND = np.add.reduceat(views.vectors, starts) / counts_N1
    return replace(views.rows(starts), views=("",) * len(starts), vectors=unit(means_ND, "the studies"))


def save_features(features: Features, path: Path | str) -> Path:
    """Writes the table as Parquet, whole or not at all, and returns its path.

    path: a file ending in .parquet, or a folder that gets features.parquet. Raises FeaturesError where the
    table does not fit itself or holds NaN vectors.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = _file(path)
    check(features, str(path))
    flat = np.ascontiguousarray(features.vectors, np.float32).reshape(-1)
    columns = {
        "key": pa.array(features.keys, pa.string()),
        "patient": pa.array(features.patients, pa.string()),
        "view": pa.array(features.views, pa.string()),
        "split": pa.array(features.splits, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), features.vectors.shape[1]),
    }
    for finding, label_N in zip(features.findings, features.labels.T, strict=True):
        columns[f"label:{finding}"] = pa.array(label_N.astype(np.float32), from_pandas=True)
    card = {
        "version": VERSION,
        "level": features.level,
        "backbone": features.backbone,
        "manifest": features.manifest,
        "findings": features.findings,
    }
    table = pa.table(columns).replace_schema_metadata({"vetdino": json.dumps(card)})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)
    return path


def load_features(path: Path | str) -> Features:
    """The table that `save_features` wrote. Raises FeaturesError where it is missing or damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    path = _file(path)
    if not path.is_file():
        raise FeaturesError(f"{path}: no feature table here; make one with `vetdino embed`")
    try:
        table = parquet.read_table(path)
        card = json.loads((table.schema.metadata or {})[b"vetdino"])
        if card["version"] != VERSION:
            raise FeaturesError(
                f"{path}: version {card['version']}, this vetdino reads {VERSION}; embed again"
            )
        features = _from_table(table, card)
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        raise FeaturesError(
            f"{path}: damaged or not a feature table; write it anew with `vetdino embed`"
        ) from None
    check(features, str(path))
    return features


def _from_table(table: Any, card: dict[str, Any]) -> Features:
    texts = {name: tuple(table[name].to_pylist()) for name in ("key", "patient", "split", "view")}
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    labels = [table[f"label:{finding}"].to_numpy() for finding in card["findings"]]
    return Features(
        keys=texts["key"],
        patients=texts["patient"],
        splits=texts["split"],
        views=texts["view"],
        vectors=flat.reshape(table.num_rows, vectors.type.list_size),
        findings=tuple(card["findings"]),
        labels=np.stack(labels, axis=1) if labels else np.empty((table.num_rows, 0), np.float32),
        backbone=card["backbone"],
        manifest=card["manifest"],
    )


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path if path.suffix == ".parquet" else path / FILE


def check(features: Features, where: str) -> None:
    """Raises FeaturesError, which begins with `where`, if the parts of a table do not fit one another."""
    rows = len(features.keys)
    lengths = {len(part) for part in (features.patients, features.splits, features.views, features.vectors)}
    if lengths != {rows} or features.labels.shape != (rows, len(features.findings)):
        raise FeaturesError(f"{where}: its columns differ in length; write it anew with `vetdino embed`")
    lost = np.flatnonzero(~np.isfinite(features.vectors).all(axis=1))
    if len(lost):
        raise FeaturesError(
            f"{where}: {len(lost)} of {rows} vectors hold NaN or infinity, the first that of study "
            f"{features.keys[lost[0]]}; check the backbone"
        )
    doubled = rows - len(set(zip(features.keys, features.views, strict=True)))
    if doubled:
        raise FeaturesError(f"{where}: {doubled} rows repeat a study and view; ingest the archive again")
    if features.labels.size and not np.isin(features.labels[~np.isnan(features.labels)], (0, 1)).all():
        raise FeaturesError(f"{where}: a label is neither 1, 0 nor unknown; correct the table of labels")


@dataclass(frozen=True, slots=True)
class _Walk:
    """One pass over the views of some splits."""

    folder: str | Path
    splits: Sequence[str]
    batch: int
    workers: int
    label: str

    def tables(
        self, vectors_of: Callable[[list[np.ndarray]], list[np.ndarray]], digests: Sequence[str]
    ) -> list[Features]:
        """Tables by view, one for each digest. `vectors_of`: views (H, W) uint8 -> (B, D) for each digest."""
        manifest = load_manifest(self.folder)
        total = sum(manifest.studies(split) for split in self.splits)
        if not total:
            raise FeaturesError(f"{self.folder}: no studies in {', '.join(self.splits)}; ingest more")
        rows: list[tuple[Study, int]] = []
        parts: list[list[np.ndarray]] = []
        with Progress(self.label, total) as progress:
            for group, pixels in self._batches(progress):
                rows += group
                parts.append([_directions(vectors_BD, group) for vectors_BD in vectors_of(pixels)])
        columns = zip(digests, zip(*parts, strict=True), strict=True)
        return [self._table(rows, np.concatenate(part), manifest, digest) for digest, part in columns]

    def _batches(self, progress: Progress) -> Iterator[tuple[list[tuple[Study, int]], list[np.ndarray]]]:
        """Decoded views, `batch` at a time, each with its study (without its pictures) and its place there."""

        def views() -> Iterator[tuple[Study, int]]:
            for split in self.splits:
                for study in read(self.folder, split):
                    yield from ((study, index) for index in range(len(study.views)))
                    progress.advance()

        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            for group in _groups(views(), self.batch):
                pixels = list(pool.map(lambda item: _pixels(*item), group))
                yield [(replace(study, views=()), index) for study, index in group], pixels

    def _table(
        self, rows: list[tuple[Study, int]], vectors: np.ndarray, manifest: Any, digest: str
    ) -> Features:
        labels = [[study.labels.get(name, math.nan) for name in manifest.findings] for study, _ in rows]
        features = Features(
            keys=tuple(study.key for study, _ in rows),
            patients=tuple(study.patient for study, _ in rows),
            splits=tuple(study.split for study, _ in rows),
            views=tuple(f"view{index}" for _, index in rows),
            vectors=vectors,
            findings=manifest.findings,
            labels=np.array(labels, np.float32).reshape(len(rows), len(manifest.findings)),
            backbone=digest,
            manifest=manifest.digest,
        )
        check(features, str(self.folder))
        return features


def _directions(vectors_BD: np.ndarray, rows: list[tuple[Study, int]]) -> np.ndarray:
    """The vectors at length 1. Raises FeaturesError that names the first study whose vector points nowhere."""
    length_B = np.linalg.norm(vectors_BD, axis=1)
    for lost in np.flatnonzero(~np.isfinite(length_B) | (length_B == 0)):
        study, index = rows[lost]
        raise FeaturesError(
            f"study {study.key}: the answer to view {index} is NaN, infinite or zero and points nowhere; "
            "check the backbone"
        )
    return unit(vectors_BD)


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


def _pixels(study: Study, index: int) -> np.ndarray:
    """One view of a study, (H, W) uint8."""
    try:
        return study.view(index).pixels
    except (OSError, ValueError):
        raise ShardError(f"study {study.key}: view {index} is no picture; ingest the archive again") from None
