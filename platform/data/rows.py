"""A study as a row of the index: where its bytes are in the shards, and what is known of it without its pictures.

N studies, F findings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import ShardError
from .manifest import Manifest, Shard, open_shard
from .samples import Sample, tar_samples
from .study import SPLITS

VERSION = 1
"""Version of the columns."""

COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "shard": pa.string(),
    "offset": pa.int64(),
    "length": pa.int64(),
    "patient": pa.string(),
    "split": pa.string(),
    "projections": pa.string(),
    "modality": pa.string(),
    "sha256": pa.binary(32),
}
"""The columns before those of the labels; docs/formats.md says what they hold."""

LABEL = "label:"
"""Begins the name of a finding's column: float32, null where unknown."""

CHUNK = 2**20
"""Bytes that are hashed at once behind the last sample of a shard."""


def study_row(sample: Sample, shard: str) -> dict[str, Any]:
    """The row of a sample in the tar `shard`. Raises ShardError where its files do not fit together."""
    study = sample.study()
    return {
        "key": sample.key,
        "shard": shard,
        "offset": sample.offset,
        "length": sample.length,
        "patient": study.patient,
        "split": study.split,
        "projections": " ".join(view.projection for view in study.views),
        "modality": " ".join(sorted({view.modality for view in study.views} - {""})),
        "sha256": sample.digest,
        **{LABEL + finding: value for finding, value in study.labels.items()},
    }


def rows_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows as a table, with a column for each finding that one of them names."""
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    findings = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    for name in findings:  # a label that is not a number is null
        columns[name] = pa.array([row.get(name) for row in rows], pa.float32(), from_pandas=True)
    return pa.table(columns)


def with_findings(table: pa.Table, findings: Sequence[str]) -> pa.Table:
    """The table with columns for exactly these findings: null where no study names one."""
    columns = [table[name] for name in COLUMNS]
    for finding in findings:
        present = LABEL + finding in table.column_names
        columns.append(table[LABEL + finding] if present else pa.nulls(len(table), pa.float32()))
    return pa.table(columns, schema(findings))


def schema(findings: Sequence[str]) -> pa.Schema:
    """The columns of an index over studies with these findings."""
    return pa.schema([*COLUMNS.items(), *((LABEL + finding, pa.float32()) for finding in findings)])


def label_matrix(table: pa.Table, findings: Sequence[str]) -> np.ndarray:
    """The labels of a table's studies, (N, F) float32: 1 present, 0 absent, NaN unknown or not a column."""
    labels_NF = np.full((len(table), len(findings)), np.nan, np.float32)
    for number, finding in enumerate(findings):
        if LABEL + finding in table.column_names:
            labels_NF[:, number] = table[LABEL + finding].to_numpy()
    return labels_NF


def view_counts(table: pa.Table) -> np.ndarray:
    """The number of views of each study, (N,) int64."""
    return pc.count_substring(table["projections"], " ").to_numpy().astype(np.int64) + 1


def reading_order(manifest: Manifest) -> list[Shard]:
    """The shards split by split: a study's row has the place that it has in them."""
    return [shard for split in SPLITS for shard in manifest.of(split)]


def shards_digest(manifest: Manifest) -> str:
    """SHA-256 in hexadecimal over all that decides the rows: the shards with their digests, and the findings."""
    facts = [VERSION, manifest.findings, [asdict(shard) for shard in reading_order(manifest)]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class ShardScan:
    """What one reading of a whole tar gave.

    sha256: of all its bytes, hexadecimal. rows: of the studies before the first fault. fault: what stopped the reading
    or contradicts the manifest; "" for nothing.
    """

    shard: Shard
    sha256: str
    rows: pa.Table
    fault: str

    def check(self, path: str) -> pa.Table:
        """The rows. Raises ShardError, which names `path`, where the tar is not what was written."""
        if self.fault:
            raise ShardError(self.fault)
        if self.sha256 != self.shard.sha256:
            raise ShardError(
                f"{path}: its bytes are not those that were written; copy it again, or ingest again"
            )
        return self.rows

    def __repr__(self) -> str:
        return f"ShardScan({self.shard.path}, {len(self.rows)} studies)"


def scan_shard(files: fsspec.AbstractFileSystem, root: str, shard: Shard) -> ShardScan:
    """Reads a whole tar below `root`. Raises ShardError where it is missing."""
    path = f"{root}/{shard.path}"
    rows: list[dict[str, Any]] = []
    fault = ""
    with open_shard(files, path, cache=False) as opened:
        file = _HashedFile(opened)
        try:
            rows.extend(_rows(cast("IO[bytes]", file), path, shard))
        except ShardError as error:
            fault = str(error)
        while file.read(CHUNK):
            pass
    if not fault and len(rows) != shard.studies:  # cut between two files, a tar looks whole
        fault = f"{path}: {len(rows)} studies, the manifest promises {shard.studies}; ingest again"
    return ShardScan(shard, file.sha256.hexdigest(), rows_table(rows), fault)


def _rows(file: IO[bytes], path: str, shard: Shard) -> Iterator[dict[str, Any]]:
    for number, sample in enumerate(tar_samples(file, path), start=1):
        try:
            yield study_row(sample, shard.path)
        except ShardError as error:
            raise ShardError(f"{path}: study {number} of {shard.studies}: {error}") from None


class _HashedFile:
    """A file that is read from front to back, and hashed on the way."""

    def __init__(self, file: Any) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        content: bytes = self._file.read(size)
        self.sha256.update(content)
        return content
