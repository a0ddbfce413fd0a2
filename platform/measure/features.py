"""A table of feature vectors with what is known of their studies, in one Parquet file or in a folder of parts.

N rows, D dimensions, F findings.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core.errors import FeaturesError
from ..core.files import atomic_path, explain_os_error
from ..core.location import Location
from ..core.mirror import published
from ..core.storage import Place, localized, naming, read_bytes
from ..core.vectors import mean_vectors
from .descriptors import RowLevel
from .probes import Probes
from .texts import Column, Texts, group_starts, rows_of, take_rows, text_codes

FILE = "features.parquet"
"""A table in one file, as `save_features` writes it."""

INDEX = "_features.json"
"""In a folder of parts: what holds for all of them, written last. Readers of Parquet pass over names with `_`."""

VERSION = 1

GROUP = 16_384
"""Rows that are stored together in the file, so that a reader can take a part at a time."""

IN_MEMORY = 2**28
"""Bytes of vectors up to which a table is read into memory; more lie in a temporary file that is mapped."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Feature vectors, row by row.

    keys, patients, splits: (N,) each. views: "" at study level, else "view0", "view1", … as in the shard.
    vectors: (N, D) float32 of length 1, or float16 where the table is; of a large table that was loaded, a read-only
    map of a file. At level patch, (N, rows, columns, D) float16, the tokens of a view's patches. labels: (N, F)
    float32, 1 present, 0 absent, NaN unknown.
    backbone, manifest: digests of what made the vectors and of the shards they were made from.
    projections: (N,) each the projections of the row's views, sorted, with spaces between ("LLAT VD"); () where they
    are not known. probes: what the backbone made of eight generated pictures; None where nobody has tried.
    """

    keys: Column
    patients: Column
    splits: Column
    views: Column
    vectors: np.ndarray
    findings: tuple[str, ...]
    labels: np.ndarray
    backbone: str
    manifest: str
    projections: Column = ()
    probes: Probes | None = None

    @property
    def level(self) -> RowLevel:
        """What a row is."""
        if self.vectors.ndim > 2:
            return "patch"
        return "view" if len(rows_of(self.views, {""})) < len(self.views) else "study"

    def of(self, split: str) -> Features:
        """The rows of one split."""
        return self.rows(rows_of(self.splits, {split}))

    def rows(self, rows: Sequence[int] | np.ndarray) -> Features:
        """These rows, in this order. The vectors of neighboring rows are a view of this table's, not a copy."""
        chosen = _as_slice(np.asarray(rows, np.int64))
        return replace(
            self,
            keys=take_rows(self.keys, chosen),
            patients=take_rows(self.patients, chosen),
            splits=take_rows(self.splits, chosen),
            views=take_rows(self.views, chosen),
            vectors=self.vectors[chosen],
            labels=self.labels[chosen],
            projections=take_rows(self.projections, chosen) if len(self.projections) else (),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Features({len(self)} rows by {self.level}, {self.vectors.shape[-1]} dimensions)"


def _as_slice(rows_M: np.ndarray) -> np.ndarray | slice:
    """The rows, or the slice that they are."""
    if len(rows_M) and (np.diff(rows_M) == 1).all():
        return slice(int(rows_M[0]), int(rows_M[-1]) + 1)
    return rows_M


def by_study(views: Features) -> Features:
    """A row for each study out of rows by view: the mean of its views' vectors, made length 1.

    The views of a study are neighboring rows, as extraction leaves them.
    """
    starts = group_starts(views.keys)
    spans = zip(starts, [*starts[1:], len(views)], strict=True)
    return replace(
        views.rows(starts),
        views=("",) * len(starts),
        vectors=mean_vectors(views.vectors, starts, "the studies"),
        projections=tuple(_joined(views.projections[start:stop]) for start, stop in spans)
        if len(views.projections)
        else (),
    )


def _joined(projections: Sequence[str]) -> str:
    return " ".join(sorted(set(projections)))


def save_features(features: Features, path: Place) -> Path | Location:
    """Writes the table as one Parquet file, whole or not at all, and returns its place.

    path: a file ending in .parquet, or a folder that gets features.parquet; local, or a URL. Raises FeaturesError
    where the parts of the table differ in length or it holds NaN vectors, StorageError, OSError.
    """
    place = Location(path)
    folder, file = (place.parent, place) if place.name.endswith(".parquet") else (place, place / FILE)
    if read_bytes(folder / INDEX) is not None:
        raise FeaturesError(f"{folder}: holds what `vetdino embed` wrote; give another folder")
    check_features(features, str(file))
    facts = {"manifest": features.manifest, **_probes_card(features.probes)}
    if file.is_local:
        with atomic_path(file.path) as temporary:
            write_table(features, temporary, facts)
        return file.path
    with published(file, "vetdino.save_features") as local:
        write_table(features, local, facts)
    return file


def write_table(features: Features, place: Any, facts: Mapping[str, Any]) -> None:
    """Writes a checked table as Parquet to a path or an open file. facts: for the schema's metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "key": pa.array(features.keys, pa.string()),
        "patient": pa.array(features.patients, pa.string()),
        "view": pa.array(features.views, pa.string()),
        "split": pa.array(features.splits, pa.string()),
        **_vector_column(features.vectors),
    }
    if len(features.projections):
        columns["projections"] = pa.array(features.projections, pa.string())
    for finding, label_N in zip(features.findings, features.labels.T, strict=True):
        columns[f"label:{finding}"] = pa.array(label_N.astype(np.float32), from_pandas=True)
    card = {
        "version": VERSION,
        "level": features.level,
        "backbone": features.backbone,
        "findings": features.findings,
        **facts,
    }
    table = pa.table(columns).replace_schema_metadata({"vetdino": json.dumps(card)})
    # Of vectors no two numbers are alike: a dictionary of them took ten times as long to read.
    repeating = [name for name in columns if name not in ("vector", "patches")]
    parquet.write_table(
        table, place, row_group_size=GROUP, use_dictionary=repeating, write_page_checksum=True
    )


def _vector_column(vectors: np.ndarray) -> dict[str, Any]:
    """Column name -> vectors (N, D) as lists of fixed size, or patch tokens (N, rows, columns, D) as tensors."""
    import pyarrow as pa

    kind = np.float16 if vectors.dtype == np.float16 else np.float32
    flat = pa.array(np.ascontiguousarray(vectors, kind).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(vectors.shape[1:])))
    if vectors.ndim == 2:
        return {"vector": lists}
    tensor = pa.fixed_shape_tensor(pa.from_numpy_dtype(kind), vectors.shape[1:])
    return {"patches": pa.ExtensionArray.from_storage(tensor, lists)}


def _probes_card(probes: Probes | None) -> dict[str, Any]:
    return {"probes": probes.to_json()} if probes else {}


@dataclass(frozen=True, slots=True)
class TableIndex:
    """What holds for all parts of a table: the content of `_features.json`. parts: file name -> rows, in order."""

    level: RowLevel
    dtype: str
    backbone: str
    manifest: str
    findings: tuple[str, ...]
    parts: Mapping[str, int]
    probes: Probes | None

    def to_text(self) -> str:
        """As JSON."""
        card = {
            "version": VERSION,
            "level": self.level,
            "dtype": self.dtype,
            "backbone": self.backbone,
            "manifest": self.manifest,
            "findings": self.findings,
            "rows": sum(self.parts.values()),
            "parts": self.parts,
            **_probes_card(self.probes),
        }
        return json.dumps(card, indent=1) + "\n"


def load_features(path: Place) -> Features:
    """The table that `vetdino embed` or `save_features` wrote.

    path: the folder, or a Parquet file; what lies at a URL is copied to this machine first. Vectors of more than
    256 MiB lie in a temporary file without a name, which is mapped, so that only what is used takes memory. Raises
    FeaturesError where the table is missing or damaged, or where the temporary file finds no room; StorageError.
    """
    copy = localized(path)
    with naming({str(copy): str(Location(path))}):
        return FeatureTable(copy).read()


class FeatureTable:
    """The files of a feature table, to be read whole or a part at a time.

    Raises FeaturesError where one is missing, damaged or of another version, ConfigError for a URL.
    """

    def __init__(self, path: Path | str) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.path, self._card, self._parts = _opened(Location(path).path)
        try:
            with parquet.ParquetFile(self._parts[0][0]) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
            card = self._card or json.loads((schema.metadata or {})[b"vetdino"])
            if not self._card and "shard" in card:
                raise FeaturesError(f"{self.path}: one part of a table; give the folder that it lies in")
            self.rows = self._card["rows"] if self._card else rows
            self._card, version = card, card["version"]
            # A part of no rows has all but the rows.
            self.head = _from_arrow(schema.empty_table(), card)
        except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError, TypeError):
            raise self._damaged() from None
        if version != VERSION:
            raise FeaturesError(f"{self.path}: version {version}, this vetdino reads {VERSION}; embed again")

    @property
    def level(self) -> RowLevel:
        """What a row is."""
        level = self._card.get("level")
        return "view" if level == "view" else "patch" if level == "patch" else "study"

    def read(self) -> Features:
        """The whole table, checked. Raises FeaturesError where it is damaged or its vectors find no room."""
        import pyarrow as pa

        columns: dict[str, list[Any]] = {name: [] for name in TEXTS}
        labels = np.empty((self.rows, len(self.head.findings)), np.float32)
        shape = (self.rows, *self.head.vectors.shape[1:])
        with _VectorStore(shape, self.head.vectors.dtype, self.path) as store:
            for batch in self._batches(GROUP):
                part = self._converted(batch)
                check_values(part, str(self.path))
                labels[store.rows : store.rows + len(part)] = part.labels[: max(0, self.rows - store.rows)]
                store.append(part.vectors)
                for name in TEXTS:
                    if name in batch.schema.names:
                        columns[name].append(batch.column(name))
            if store.rows != self.rows:
                raise self._damaged()
            vectors = store.vectors()
        has_projections = bool(columns["projections"])
        texts = {name: self._column(columns.pop(name)) for name in TEXTS}
        features = replace(
            self.head,
            keys=texts["key"],
            patients=texts["patient"],
            splits=texts["split"],
            views=texts["view"],
            vectors=vectors,
            labels=labels,
            projections=texts["projections"] if has_projections else (),
        )
        _check_repeats(features, str(self.path))
        pa.default_memory_pool().release_unused()
        return features

    def batches(self, rows: int = GROUP) -> Iterator[Features]:
        """The table in parts of at most `rows` rows, each checked. Raises FeaturesError where one is damaged."""
        for batch in self._batches(rows):
            features = self._converted(batch)
            check_features(features, str(self.path))
            yield features

    def _batches(self, rows: int) -> Iterator[Any]:
        """Arrow's record batches. Raises FeaturesError."""
        import pyarrow as pa
        from pyarrow import parquet

        for path, expected in self._parts:
            done = 0
            try:
                with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                    if expected is not None:
                        self._check_part(path, file.schema_arrow.metadata or {})
                    for batch in file.iter_batches(rows):
                        done += batch.num_rows
                        yield batch
            except (pa.ArrowException, OSError):
                raise self._damaged(path) from None
            if expected is not None and done != expected:
                raise self._damaged(path)

    def _check_part(self, path: Path, metadata: Mapping[bytes, bytes]) -> None:
        """Raises FeaturesError for a part of another table than the folder's, as a copy that broke off may leave."""
        try:
            part = json.loads(metadata[b"vetdino"])
            others = [
                name for name in ("backbone", "level", "dtype", "findings") if part[name] != self._card[name]
            ]
        except (KeyError, ValueError, TypeError):
            raise self._damaged(path) from None
        if others:
            raise FeaturesError(
                f"{path}: its {others[0]} is another than that of {INDEX}; copy the folder again, or write it anew "
                "with `vetdino embed`"
            )

    def _converted(self, batch: Any) -> Features:
        """A batch as features. Raises FeaturesError where it is none."""
        import pyarrow as pa

        try:
            card = {**self._card, "probes": None}  # they are in the head
            return replace(_from_arrow(pa.Table.from_batches([batch]), card), probes=self.head.probes)
        except (pa.ArrowException, KeyError, ValueError, AttributeError):
            raise self._damaged() from None

    def _column(self, chunks: list[Any]) -> Column:
        import pyarrow as pa

        return Texts.from_arrow(pa.chunked_array(chunks, pa.string()))

    def _damaged(self, path: Path | None = None) -> FeaturesError:
        return FeaturesError(
            f"{path or self.path}: damaged or not a feature table; write it anew with `vetdino embed`"
        )

    def __repr__(self) -> str:
        return f"FeatureTable({self.rows} rows by {self.level})"


TEXTS = ("key", "patient", "split", "view", "projections")
"""The columns that hold texts; the last is not in every table."""


def _opened(path: Path) -> tuple[Path, dict[str, Any], list[tuple[Path, int | None]]]:
    """Path for messages, card of a folder of parts ({} of a single file), and the files with their rows if known."""
    if path.is_dir() and (path / INDEX).is_file():
        try:
            card = json.loads((path / INDEX).read_text())
            parts: list[tuple[Path, int | None]] = [
                (path / name, int(rows)) for name, rows in card["parts"].items()
            ]
            if not parts or not isinstance(card["rows"], int):
                raise ValueError(card)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise FeaturesError(
                f"{path / INDEX}: damaged; write it anew with `vetdino embed`, which keeps whole parts"
            ) from None
        for part, _ in parts:
            if not part.is_file():
                raise FeaturesError(
                    f"{part}: missing, though {INDEX} lists it; run `vetdino embed` again, which keeps the others"
                )
        return path, card, parts
    single = path / FILE if path.is_dir() or path.suffix != ".parquet" else path
    if single.is_file():
        return single, {}, [(single, None)]
    if path.is_dir() and any(path.glob("*.parquet")):
        raise FeaturesError(f"{path}: its embedding is not finished; run the same `vetdino embed` again")
    raise FeaturesError(f"{single}: no feature table here; make one with `vetdino embed`")


class _VectorStore:
    """The vectors of a table as they are read, in memory or in a temporary file."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, path: Path) -> None:
        self.shape, self.dtype, self.path, self.rows = shape, dtype, path, 0
        self.bytes = int(np.prod(shape)) * dtype.itemsize
        self._array: np.ndarray | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _VectorStore:
        if self.bytes <= IN_MEMORY:
            self._array = np.empty(self.shape, self.dtype)
        else:
            self._file = tempfile.TemporaryFile(prefix="vetdino-features-")
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, vectors: np.ndarray) -> None:
        """Rows that come next; those beyond the promised number are counted alone."""
        try:
            if self._file is not None:
                self._file.write(np.ascontiguousarray(vectors).data)
            elif self._array is not None and self.rows + len(vectors) <= len(self._array):
                self._array[self.rows : self.rows + len(vectors)] = vectors
        except OSError as error:
            raise FeaturesError(
                f"{self.path}: its vectors ({self.bytes / 2**30:.1f} GiB) do not fit: "
                f"{explain_os_error(error, tempfile.gettempdir())}, or set TMPDIR to another folder"
            ) from None
        self.rows += len(vectors)

    def vectors(self) -> np.ndarray:
        """All of them; the file is removed when nothing uses them any more."""
        if self._file is None:
            assert self._array is not None
            return self._array
        self._file.flush()
        return np.memmap(self._file, self.dtype, "r", shape=self.shape)


def _from_arrow(table: Any, card: Mapping[str, Any]) -> Features:
    texts = {name: Texts.from_arrow(table[name]) for name in TEXTS if name in table.column_names}
    labels = [table[f"label:{finding}"].to_numpy() for finding in card["findings"]]
    return Features(
        keys=texts["key"],
        patients=texts["patient"],
        splits=texts["split"],
        views=texts["view"],
        vectors=_vectors_from_arrow(table),
        findings=tuple(card["findings"]),
        labels=np.stack(labels, axis=1) if labels else np.empty((table.num_rows, 0), np.float32),
        backbone=card["backbone"],
        manifest=card["manifest"],
        projections=texts.get("projections", ()),
        probes=Probes.from_json(card["probes"]) if card.get("probes") else None,
    )


def _vectors_from_arrow(table: Any) -> np.ndarray:
    if "patches" not in table.column_names:
        lists = table["vector"].combine_chunks()
        return lists.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, lists.type.list_size)
    shape = tuple(table["patches"].type.shape)
    storage = table["patches"].combine_chunks().storage
    return storage.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, *shape)


def check_features(features: Features, where: str) -> None:
    """Raises FeaturesError, which begins with `where`, for columns of different lengths, NaN or repeated rows."""
    rows = len(features.keys)
    lengths = {len(part) for part in (features.patients, features.splits, features.views, features.vectors)}
    if len(features.projections):
        lengths.add(len(features.projections))
    if lengths != {rows} or features.labels.shape != (rows, len(features.findings)):
        raise FeaturesError(f"{where}: its columns differ in length; write it anew with `vetdino embed`")
    check_values(features, where)
    _check_repeats(features, where)


def check_values(features: Features, where: str) -> None:
    """Raises FeaturesError, which begins with `where`, for NaN vectors and for labels that are none."""
    rows, bad, wrong_label = len(features), list[int](), False
    for start in range(0, rows, GROUP):
        block = slice(start, start + GROUP)
        finite_B = np.isfinite(features.vectors[block]).reshape(len(features.vectors[block]), -1).all(axis=1)
        bad += (start + np.flatnonzero(~finite_B)).tolist()
        labels = features.labels[block]
        wrong_label |= not np.isin(labels[~np.isnan(labels)], (0, 1)).all()
    if bad:
        raise FeaturesError(
            f"{where}: {len(bad)} of {rows} vectors hold NaN or infinity, the first that of study "
            f"{features.keys[bad[0]]}; check the backbone"
        )
    if wrong_label:
        raise FeaturesError(f"{where}: a label is neither 1, 0 nor unknown; correct the table of labels")


def _check_repeats(features: Features, where: str) -> None:
    """Raises FeaturesError where two rows are of one study and view."""
    key_N, view_N = text_codes(features.keys).astype(np.int64), text_codes(features.views).astype(np.int64)
    repeated = len(features) - len(np.unique(key_N * (view_N.max(initial=0) + 1) + view_N))
    if repeated:
        raise FeaturesError(f"{where}: {repeated} rows repeat a study and view; ingest the archive again")
