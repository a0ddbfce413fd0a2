"""A table of feature vectors with what is known of their studies, and its Parquet file.

N rows, D dimensions, F findings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import FeaturesError
from ..core.files import atomic_path
from .descriptors import Level
from .neighbors import unit_vectors
from .probes import Probes

FILE = "features.parquet"
VERSION = 1

GROUP = 16_384
"""Rows that are stored together in the file, so that a reader can take a part at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Feature vectors, row by row.

    keys, patients, splits: (N,) each. views: "" at study level, else "view0", "view1", … as in the shard.
    vectors: (N, D) float32 of length 1. labels: (N, F) float32, 1 present, 0 absent, NaN unknown.
    backbone, manifest: digests of what made the vectors and of the shards they were made from.
    projections: (N,) each the projections of the row's views, sorted, with spaces between ("LLAT VD"); () where they
    are not known. probes: what the backbone made of eight generated pictures; None where nobody has tried.
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
    projections: tuple[str, ...] = ()
    probes: Probes | None = None

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
            projections=tuple(self.projections[row] for row in rows) if self.projections else (),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Features({len(self)} rows by {self.level}, {self.vectors.shape[-1]} dimensions)"


def by_study(views: Features) -> Features:
    """A row for each study out of rows by view: the mean of its views' vectors, made length 1.

    The views of a study are neighboring rows, as extraction leaves them.
    """
    starts = [row for row, key in enumerate(views.keys) if not row or key != views.keys[row - 1]]
    counts_N1 = np.diff([*starts, len(views)]).astype(np.float32)[:, None]
    means_ND = np.add.reduceat(views.vectors, starts) / counts_N1
    spans = zip(starts, [*starts[1:], len(views)], strict=True)
    return replace(
        views.rows(starts),
        views=("",) * len(starts),
        vectors=unit_vectors(means_ND, "the studies"),
        projections=tuple(_joined(views.projections[start:stop]) for start, stop in spans)
        if views.projections
        else (),
    )


def _joined(projections: Sequence[str]) -> str:
    return " ".join(sorted(set(projections)))


def save_features(features: Features, path: Path | str) -> Path:
    """Writes the table as Parquet, whole or not at all, and returns its path.

    path: a file ending in .parquet, or a folder that gets features.parquet. Raises FeaturesError where the parts of
    the table differ in length or it holds NaN vectors.
    """
    import pyarrow as pa
    from pyarrow import parquet

    path = _file(path)
    check_features(features, str(path))
    flat = np.ascontiguousarray(features.vectors, np.float32).reshape(-1)
    columns = {
        "key": pa.array(features.keys, pa.string()),
        "patient": pa.array(features.patients, pa.string()),
        "view": pa.array(features.views, pa.string()),
        "split": pa.array(features.splits, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), features.vectors.shape[1]),
    }
    if features.projections:
        columns["projections"] = pa.array(features.projections, pa.string())
    for finding, label_N in zip(features.findings, features.labels.T, strict=True):
        columns[f"label:{finding}"] = pa.array(label_N.astype(np.float32), from_pandas=True)
    card = {
        "version": VERSION,
        "level": features.level,
        "backbone": features.backbone,
        "manifest": features.manifest,
        "findings": features.findings,
        **({"probes": features.probes.to_json()} if features.probes else {}),
    }
    table = pa.table(columns).replace_schema_metadata({"vetdino": json.dumps(card)})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, row_group_size=GROUP, write_page_checksum=True)
    return path


def load_features(path: Path | str) -> Features:
    """The table that `save_features` wrote. Raises FeaturesError where it is missing or damaged."""
    table = FeatureTable(path)
    features = table.read()
    check_features(features, str(table.path))
    return features


class FeatureTable:
    """The Parquet file of a feature table, to be read whole or a part at a time.

    Raises FeaturesError where it is missing, damaged or of another version.
    """

    def __init__(self, path: Path | str) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.path = _file(path)
        if not self.path.is_file():
            raise FeaturesError(f"{self.path}: no feature table here; make one with `vetdino embed`")
        try:
            with parquet.ParquetFile(self.path) as file:
                schema, self.rows = file.schema_arrow, file.metadata.num_rows
            self._card = json.loads((schema.metadata or {})[b"vetdino"])
            version = self._card["version"]
            # A part of no rows has all but the rows.
            self.head = _from_arrow(schema.empty_table(), self._card)
        except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
            raise self._damaged() from None
        if version != VERSION:
            raise FeaturesError(f"{self.path}: version {version}, this vetdino reads {VERSION}; embed again")

    @property
    def level(self) -> Level:
        """What a row is."""
        return "view" if self._card.get("level") == "view" else "study"

    def read(self) -> Features:
        """The whole table, unchecked. Raises FeaturesError where it is damaged."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            return _from_arrow(parquet.read_table(self.path, page_checksum_verification=True), self._card)
        except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
            raise self._damaged() from None

    def batches(self, rows: int = GROUP) -> Iterator[Features]:
        """The table in parts of at most `rows` rows, each checked. Raises FeaturesError where one is damaged."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(rows):
                    features = _from_arrow(pa.Table.from_batches([batch]), self._card)
                    check_features(features, str(self.path))
                    yield features
        except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
            raise self._damaged() from None

    def _damaged(self) -> FeaturesError:
        return FeaturesError(
            f"{self.path}: damaged or not a feature table; write it anew with `vetdino embed`"
        )

    def __repr__(self) -> str:
        return f"FeatureTable({self.rows} rows by {self.level})"


def _from_arrow(table: Any, card: dict[str, Any]) -> Features:
    texts = {name: tuple(table[name].to_pylist()) for name in ("key", "patient", "split", "view")}
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    labels = [table[f"label:{finding}"].to_numpy() for finding in card["findings"]]
    has_projections = "projections" in table.column_names
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
        projections=tuple(table["projections"].to_pylist()) if has_projections else (),
        probes=Probes.from_json(card["probes"]) if card.get("probes") else None,
    )


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path if path.suffix == ".parquet" else path / FILE


def check_features(features: Features, where: str) -> None:
    """Raises FeaturesError, which begins with `where`, for columns of different lengths, NaN or repeated rows."""
    rows = len(features.keys)
    lengths = {len(part) for part in (features.patients, features.splits, features.views, features.vectors)}
    if features.projections:
        lengths.add(len(features.projections))
    if lengths != {rows} or features.labels.shape != (rows, len(features.findings)):
        raise FeaturesError(f"{where}: its columns differ in length; write it anew with `vetdino embed`")
    bad = np.flatnonzero(~np.isfinite(features.vectors).all(axis=1))
    if len(bad):
        raise FeaturesError(
            f"{where}: {len(bad)} of {rows} vectors hold NaN or infinity, the first that of study "
            f"{features.keys[bad[0]]}; check the backbone"
        )
    repeated = rows - len(set(zip(features.keys, features.views, strict=True)))
    if repeated:
        raise FeaturesError(f"{where}: {repeated} rows repeat a study and view; ingest the archive again")
    if features.labels.size and not np.isin(features.labels[~np.isnan(features.labels)], (0, 1)).all():
        raise FeaturesError(f"{where}: a label is neither 1, 0 nor unknown; correct the table of labels")
