"""A backbone walks over studies and leaves a table of vectors: one per study, or one per view.

N rows, D dimensions, F findings; B images of a batch, S side of an image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .config import atomic_path
from .errors import FeaturesError, ShardError
from .neighbours import unit
from .progress import Progress
from .shards import load_manifest, read
from .study import SPLITS, Study

if TYPE_CHECKING:
    from .backbone import Backbone

Level = Literal["study", "view"]
Pool = Literal["cls", "cls+mean"]

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
    batch: int = 64,
    workers: int = 2,
    label: str = "features",
) -> Features:
    """The features of a folder of shards, in the order of the splits and, in each, of the shards.

    A view's vector is its CLS token (`cls+mean`: with the mean of its patch tokens after it), made length 1;
    a study's is the mean of its views', made length 1. `workers` threads decode views, `batch` at a time.
    Raises ShardError for damaged shards, FeaturesError for a backbone that answers with NaN.
    """

    def vectors_of(pixels: list[np.ndarray]) -> np.ndarray:
        tokens = backbone.tokens(backbone.prepare_many(pixels))
        vectors_BD = tokens.cls
        if pool == "cls+mean":
            import torch

            vectors_BD = torch.cat([vectors_BD, tokens.patches.mean(dim=1)], dim=1)
        return vectors_BD.float().cpu().numpy()

    digest = backbone.card.digest if pool == "cls" else f"{backbone.card.digest}+mean"
    walk = _Walk(folder, splits, level, batch, workers, label)
    return walk.features(vectors_of, digest)


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
    from .backbone import letterboxed

    def vectors_of(pixels: list[np.ndarray]) -> np.ndarray:
        flat_BD = np.stack([letterboxed(view, side).ravel() for view in pixels]).astype(np.float32)
        return np.where(flat_BD.any(axis=1, keepdims=True), flat_BD, 1.0)

    return _Walk(folder, splits, level, batch, workers, "pixels").features(vectors_of, f"pixels-{side}")


def save_features(features: Features, path: Path | str) -> Path:
    """Writes the table as Parquet, whole or not at all, and returns its path.

    path: a file ending in .parquet, or a folder that gets features.parquet. Raises FeaturesError where the
    table does not fit itself or holds NaN vectors.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = _file(path)
    _check(features, str(path))
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
    _check(features, str(path))
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


def _check(features: Features, where: str) -> None:
    """Raises FeaturesError where the parts of a table do not fit one another."""
    rows = len(features.keys)
    lengths = {len(part) for part in (features.patients, features.splits, features.views, features.vectors)}
    if lengths != {rows} or features.labels.shape != (rows, len(features.findings)):
        raise FeaturesError(f"{where}: its columns differ in length; write it anew with `vetdino embed`")
    lost = int((~np.isfinite(features.vectors)).any(axis=1).sum())
    if lost:
        raise FeaturesError(f"{where}: {lost} of {rows} vectors hold NaN or infinity; check the backbone")
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
    level: Level
    batch: int
    workers: int
    label: str

    def features(self, vectors_of: Callable[[list[np.ndarray]], np.ndarray], digest: str) -> Features:
        """`vectors_of`: views (H, W) uint8 -> (B, D)."""
        manifest = load_manifest(self.folder)
        total = sum(manifest.studies(split) for split in self.splits)
        if not total:
            raise FeaturesError(f"{self.folder}: no studies in {', '.join(self.splits)}; ingest more")
        studies: list[Study] = []
        parts: list[np.ndarray] = []
        with Progress(self.label, total) as progress:
            for pixels in self._batches(studies, progress):
                parts.append(unit(vectors_of(pixels), "the backbone's answers"))
        return self._table(studies, np.concatenate(parts), manifest, digest)

    def _batches(self, studies: list[Study], progress: Progress) -> Iterator[list[np.ndarray]]:
        """Decoded views, `batch` at a time; the studies gone by are appended, without their pictures."""

        def views() -> Iterator[tuple[Study, int]]:
            for split in self.splits:
                for study in read(self.folder, split):
                    yield from ((study, index) for index in range(len(study.views)))
                    studies.append(replace(study, views=tuple(replace(v, encoded=b"") for v in study.views)))
                    progress.advance()

        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            for group in _groups(views(), self.batch):
                yield list(pool.map(lambda item: _pixels(*item), group))

    def _table(self, studies: list[Study], vectors_VD: np.ndarray, manifest: Any, digest: str) -> Features:
        counts = [len(study.views) for study in studies]
        if self.level == "study":
            starts = np.cumsum([0, *counts[:-1]])
            means_ND = np.add.reduceat(vectors_VD, starts) / np.array(counts, np.float32)[:, None]
            rows, names, vectors = studies, [""] * len(studies), unit(means_ND, "the studies")
        else:
            rows = [study for study in studies for _ in study.views]
            names = [f"view{index}" for count in counts for index in range(count)]
            vectors = vectors_VD
        labels = [[study.labels.get(name, math.nan) for name in manifest.findings] for study in rows]
        features = Features(
            keys=tuple(study.key for study in rows),
            patients=tuple(study.patient for study in rows),
            splits=tuple(study.split for study in rows),
            views=tuple(names),
            vectors=vectors,
            findings=manifest.findings,
            labels=np.array(labels, np.float32).reshape(len(rows), len(manifest.findings)),
            backbone=digest,
            manifest=manifest.digest,
        )
        _check(features, str(self.folder))
        return features


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
