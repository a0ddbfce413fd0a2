"""One range of studies, from its rows to its shards: decoded in the order of the studies, judged, written once.

A range is a part of the hashes of studies. It is worked on in a folder of its own, an attempt, which becomes the
range's result by one rename. An attempt that was stopped stays: a line of its log tells what became of each file, its
tars hold the views, also those of a tar that was not closed. Ranges that overlap it take from there what they need,
under other settings of the assembly too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tarfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ..archive.discovery import DecodeTask, ListedFile
from ..archive.tables import Labels
from ..core.errors import ShardError
from ..data.samples import padded_size, sample_key, study_from_files
from ..data.shards import ShardWriter
from ..data.study import SPLITS, StoredView, Study
from .assembly import judged
from .config import IngestConfig
from .decoding import DecodePool, DecodeResult, Task, decode
from .output.store import GONE, KNOWN, NEW, FileRow, RowWriter, read_rows
from .pseudonyms import TAG, split_of, unseal

RANGES = "ranges"
"""Folder of the attempts and results of all ranges, in the work folder."""

DONE = "done.json"
ROWS = "rows.arrow"
LOG = "log.jsonl"

JUDGED = ("DUPLICATE", "PATIENT_CLASH", "TOO_FEW_VIEWS")
"""Codes that depend on other files: such a file was decoded, and its view may count when the others change."""

RETRIED = ("DECODER_CRASHED", "DECODE_FAILED", "UNREADABLE_HEADER", "FILE_CHANGED")
"""Refusals that more time, more memory or a permission may change: such a file is decoded again."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers need to know. labels: study's pseudonym -> finding -> value. out: has the earlier versions."""

    root: Path | str
    work: Path
    out: Path
    secret: bytes = field(repr=False)
    config: IngestConfig
    findings: tuple[str, ...]
    labels: Mapping[str, Labels] = field(repr=False)

    def labels_of(self, study: str) -> tuple[dict[str, float], bool, str]:
        """(labels of a study, whether one is known, a hash of them)."""
        values = {**dict.fromkeys(self.findings, math.nan), **self.labels.get(study, {})}
        text = json.dumps({name: None if math.isnan(value) else value for name, value in values.items()})
        labelled = any(not math.isnan(value) for value in values.values())
        return values, labelled, hashlib.sha256(text.encode()).hexdigest()[:12] if values else ""


@dataclass(frozen=True, slots=True)
class RangeTask:
    """One range. name: `LOW-HIGH-DIGEST`, bounds of its hashes and a digest over all that its result depends on."""

    name: str
    rows: Path

    @property
    def bounds(self) -> tuple[str, str]:
        """Lowest hash, and the first above."""
        low, high, _ = self.name.split("-", 2)
        return low, high


def write_range(
    job: Job, pool: DecodePool, task: RangeTask, on_files: Callable[[int, int], None]
) -> dict[str, Any]:
    """Decodes and writes a range into its folder; the content of its DONE file.

    on_files: called with how many files were decoded, and how many were taken from an earlier attempt. Raises
    FileNotFoundError where the folder of ranges is gone: a node that was cut off may get its task after the run's end.
    """
    return _Range(job, task, on_files).write(pool)


def finished_range(job: Job, task: RangeTask) -> dict[str, Any] | None:
    """The content of the DONE file of a range; None where it is to be written, or files are to be decoded again."""
    with suppress(OSError, ValueError):
        done = json.loads((job.work / RANGES / task.name / DONE).read_text())
        return None if done["retried"] else done
    return None


@dataclass(slots=True, eq=False)
class _Pending:
    """A study whose files are being decoded. results: of `decode`, before they are judged; None: not there yet."""

    rows: list[FileRow]
    gone: list[FileRow]
    results: list[DecodeResult | None] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    is_kept: bool = False


class _Range:
    def __init__(self, job: Job, task: RangeTask, on_files: Callable[[int, int], None]) -> None:
        self._job, self._task, self._on_files = job, task, on_files
        folder = job.work / RANGES
        self._earlier = Attempts(folder, task)
        self._shards = SampleReader()
        self._folder = folder / f"{task.name}.{_next_number(folder, task.name)}"
        self._folder.mkdir()
        self._pending: deque[_Pending] = deque()
        self._superseded: list[tuple[str, str]] = []
        self._studies: Counter[str] = Counter()
        """How many are new, changed or gone since the version before."""
        self._refused = Counter[str]()
        self._new = self._retried = 0

    def write(self, pool: DecodePool) -> dict[str, Any]:
        self._writers = {
            split: ShardWriter(self._folder, split, self._job.config.shards, keep_parts=True)
            for split in SPLITS
        }
        with ExitStack() as stack:
            self._log = stack.enter_context(open(self._folder / LOG, "w", buffering=1))
            self._rows = stack.enter_context(RowWriter(self._folder / ROWS))
            for writer in self._writers.values():
                stack.enter_context(writer)
            taken = 0
            for answer in pool.map(self._tasks()):
                study = self._pending[0]
                if answer is not None:
                    study.results[study.missing[taken]] = answer
                    taken += 1
                else:
                    self._finish(self._pending.popleft())
                    taken = 0
        return self._close()

    def _close(self) -> dict[str, Any]:
        for writer in self._writers.values():
            save_rows(self._folder, writer)
        done = {
            "shards": [asdict(shard) for split in SPLITS for shard in self._writers[split].shards],
            "superseded": self._superseded,
            "studies": self._studies,
            "new": self._new,
            "retried": self._retried,
            "refused": self._refused,
        }
        (self._folder / DONE).write_text(json.dumps(done))
        result = self._folder.with_name(self._task.name)
        if result.exists():  # with files that were to be decoded again
            os.replace(result, result.with_name(f"{result.name}.{_next_number(result.parent, result.name)}"))
        os.replace(self._folder, result)
        return done

    def _tasks(self) -> Iterator[Task | None]:
        """The files to decode of each study; None after each study."""
        for route, group in groupby(read_rows(self._task.rows), key=lambda row: row.route):
            study = self._study(route, list(group))
            self._pending.append(study)
            for index in study.missing:
                yield decode, entry_of(self._job.secret, study.rows[index])
            yield None
            new = sum(row.state == NEW for row in study.rows)
            self._on_files(len(study.missing), new - len(study.missing))
            self._new += new

    def _study(self, route: str, rows: list[FileRow]) -> _Pending:
        """A study, with what is known of its files and which of them are missing."""
        study = _Pending(
            [row for row in rows if row.state != GONE], [row for row in rows if row.state == GONE]
        )
        labels = self._job.labels_of(route)[2]
        study.is_kept = not study.gone and all(
            row.state == KNOWN and (row.code or row.labels == labels) for row in study.rows
        )
        if study.is_kept:
            return study
        earlier = self._earlier.of(route)
        study.results = [self._known(row, earlier) for row in study.rows]
        if all(study.results):  # what is no duplicate, no clash and among enough is needed
            verdicts = self._judged(study)
            needed = [not verdict.code for verdict in verdicts]
        else:
            stored: dict[str, int] = {}
            for index in self._in_order(study):
                if (result := study.results[index]) is not None and result.view is not None:
                    is_first = study.rows[index].state == KNOWN
                    stored.setdefault(result.pixel_hash, -1 if is_first else index)
            needed = [
                result is None or not (result.code or stored.get(result.pixel_hash, index) < index)
                for index, result in enumerate(study.results)
            ]
        study.missing = [
            index
            for index, result in enumerate(study.results)
            if needed[index] and (result is None or result.view is None)
        ]
        return study

    def _known(self, row: FileRow, earlier: Mapping[bytes, DecodeResult]) -> DecodeResult | None:
        """What became of a file in an earlier version or attempt, before it was judged; None where nothing did."""
        if row.state == NEW:
            result = earlier.get(_identity(row))
            return None if result is None or result.code in RETRIED else result
        view = None
        if not row.code:
            sample = self._shards.study(self._job.out / row.shard, row.study)
            if sample is None:
                raise ShardError(
                    f"{self._job.out / row.shard}: a study is missing; remove the folder and ingest again"
                )
            view = _stored(sample, row.view)
        code = "" if row.code in JUDGED else row.code
        return DecodeResult(
            code,
            "" if not code else row.detail,
            row.patient,
            row.study,
            row.file_hash,
            row.pixel_hash,
            row.dhash,
            view,
        )

    def _in_order(self, study: _Pending) -> list[int]:
        """Indices of a study's files, the one that stays first where several have equal pixels."""
        return sorted(
            range(len(study.rows)),
            key=lambda index: (study.rows[index].state != KNOWN or bool(study.rows[index].code), index),
        )

    def _judged(self, study: _Pending) -> list[DecodeResult]:
        """The results with the codes that depend on the study's other files."""
        order = self._in_order(study)
        results = judged([_needed(study.results[index]) for index in order], self._job.config)
        return [result for _, result in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]

    def _finish(self, study: _Pending) -> None:
        """Writes a study whose files are all there, and what became of each."""
        if study.is_kept:
            for row in study.rows:
                self._rows.write(row)
            return
        results = [_needed(result) for result in study.results]
        for index, result in enumerate(results):
            if not result.code and result.study != study.rows[index].route:
                results[index] = DecodeResult("FILE_CHANGED", "it names another study than before")
        study.results = list(results)
        verdicts = self._judged(study)
        accepted = [index for index, verdict in enumerate(verdicts) if not verdict.code]
        before = sorted((row for row in (*study.rows, *study.gone) if row.shard), key=lambda row: row.view)
        labels, labelled, labels_hash = self._job.labels_of(results[accepted[0]].study if accepted else "")
        places: dict[int, tuple[str, str, int]] = {}
        views = [(results[index].file_hash, labels_hash) for index in accepted]
        if views == [(row.file_hash, row.labels) for row in before]:
            places = {i: (row.split, row.shard, row.view) for i, row in zip(accepted, before, strict=True)}
        else:
            if before:
                self._superseded.append((before[0].shard, before[0].study))
            self._studies["new" if not before else "changed" if accepted else "gone"] += bool(
                before or accepted
            )
            if accepted:
                places = self._write_study(results, accepted, labels)
        for index, (row, result) in enumerate(zip(study.rows, results, strict=True)):
            self._write_row(row, result, verdicts[index], places.get(index), (labels_hash, labelled))

    def _write_study(
        self, results: Sequence[DecodeResult], accepted: Sequence[int], labels: Mapping[str, float]
    ) -> dict[int, tuple[str, str, int]]:
        """The place of each accepted view, (split, shard, index in the study), after the study is in a shard."""
        first = results[accepted[0]]
        split = split_of(self._job.secret, first.patient, self._job.config)
        views = tuple(_needed(results[index].view) for index in accepted)
        writer = self._writers[split]
        writer.write(Study(first.study, first.patient, views, labels, split))
        shard = f"{self._task.name}/{split}-{len(writer.shards):06d}.tar"
        return {index: (split, shard, number) for number, index in enumerate(accepted)}

    def _write_row(
        self,
        row: FileRow,
        result: DecodeResult,
        verdict: DecodeResult,
        place: tuple[str, str, int] | None,
        labels: tuple[str, bool],
    ) -> None:
        """Writes what became of a file: for this version its row, for later attempts a line of the log."""
        split, shard, number = place or ("", "", -1)
        was_in_shard = bool(shard) and not shard.startswith(self._task.name)
        row = replace(
            row,
            state=KNOWN if was_in_shard else NEW,
            code=verdict.code,
            detail=verdict.detail,
            study=result.study,
            patient=result.patient,
            file_hash=result.file_hash,
            pixel_hash=result.pixel_hash,
            dhash=result.dhash,
            split=split,
            shard=shard,
            view=number,
            labels=labels[0] if place else "",
            labelled=labels[1] and place is not None,
        )
        self._rows.write(row)
        self._retried += verdict.code in RETRIED
        self._refused.update([verdict.code] if verdict.code not in ("", "DUPLICATE") else [])
        local = bool(shard) and not was_in_shard
        record = {
            "route": row.route,
            "file": _identity(row).hex(),
            "code": result.code,
            "detail": result.detail,
            "study": result.study,
            "patient": result.patient,
            "file_hash": row.file_hash,
            "pixel_hash": row.pixel_hash,
            "dhash": row.dhash,
            "shard": shard.rpartition("/")[2] if local else "",
            "view": number,
            "view_hash": _view_hash(result.view) if local and result.view is not None else "",
        }
        self._log.write(json.dumps(record) + "\n")


def index_rows(shard: Path) -> Path:
    """The file with the rows of a shard's studies for the index, before the shard is in the output."""
    return shard.with_suffix(".arrow")


def save_rows(folder: Path, writer: ShardWriter) -> None:
    """Writes the rows of each shard for the index beside it."""
    for shard, table in zip(writer.shards, writer.rows, strict=True):
        with (
            pa.OSFile(str(index_rows(folder / shard.path)), "wb") as file,
            pa.ipc.new_file(file, table.schema) as rows,
        ):
            rows.write_table(table)


def entry_of(secret: bytes, row: FileRow) -> ListedFile:
    """The file of a row."""
    return ListedFile(DecodeTask.from_text(unseal(secret, row.task)), row.size, row.stamp)


def _needed(value: Any) -> Any:
    assert value is not None, "all files of a study are decoded before it is judged"
    return value


def _identity(row: FileRow) -> bytes:
    """Changes with the file's path, what a table says of it, its size and its stamp."""
    return hashlib.sha256(row.task[:TAG] + f"{row.size} {row.stamp}".encode()).digest()[:TAG]


def _view_hash(view: StoredView | None) -> str:
    return hashlib.sha256(view.encoded).hexdigest()[:32] if view is not None else ""


def _stored(sample: Study, number: int) -> StoredView | None:
    """A view of a sample; None where it has none of this number."""
    if number >= len(sample.views):
        return None
    view = sample.views[number]
    assert isinstance(view, StoredView), "what is read from a shard is encoded"
    return view


def _next_number(folder: Path, name: str) -> int:
    """The number of the next attempt at a range."""
    taken = [path.suffix[1:] for path in folder.glob(f"{name}.*")]
    return max((int(number) for number in taken if number.isdecimal()), default=0) + 1


class Attempts:
    """What earlier attempts and results know of the files of a range, study by study, in the order of their hashes."""

    def __init__(self, folder: Path, task: RangeTask) -> None:
        low, high = task.bounds
        found = []
        for path in sorted(folder.glob("*/" + LOG)):
            first, last = RangeTask(path.parent.name, path).bounds
            if first < high and low < last:
                found.append(path)
        self._logs = [_Log(path) for path in found]
        self._samples = SampleReader()

    def of(self, route: str) -> dict[bytes, DecodeResult]:
        """What is known of each file of a study, its view included where it is there and whole."""
        known: dict[bytes, DecodeResult] = {}
        for log in self._logs:
            for record in log.records(route):
                result = self._result(log.folder, record)
                file = bytes.fromhex(record["file"])
                if result is not None and (file not in known or known[file].view is None):
                    known[file] = result
        return known

    def _result(self, folder: Path, record: Mapping[str, Any]) -> DecodeResult | None:
        view = None
        if record["shard"]:
            path = folder / record["shard"]
            sample = self._samples.study(path if path.exists() else Path(f"{path}.part"), record["study"])
            view = _stored(sample, record["view"]) if sample is not None else None
            if view is None or _view_hash(view) != record["view_hash"]:
                return None
        names = ("code", "detail", "patient", "study", "file_hash", "pixel_hash", "dhash")
        return DecodeResult(**{name: record[name] for name in names}, view=view)


class _Log:
    """The log of an attempt, read from its start to its end."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._groups = groupby(self._lines(path), key=lambda record: record["route"])
        self._next = next(self._groups, None)

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        with open(path) as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:  # cut where the run was killed
                    return

    def records(self, route: str) -> list[dict[str, Any]]:
        """The records of a study; routes come in their order."""
        while self._next is not None and self._next[0] < route:
            self._next = next(self._groups, None)
        if self._next is None or self._next[0] != route:
            return []
        records = list(self._next[1])
        self._next = next(self._groups, None)
        return records


class SampleReader:
    """Single studies of tars that are sorted by study, read in that order; a tar may be cut at its end."""

    def __init__(self) -> None:
        self._tars: dict[Path, _Tar] = {}
        self._last: tuple[Path, str, Study | None] | None = None

    def study(self, path: Path, key: str) -> Study | None:
        """The study with a key; None where the tar has none, or not all of it."""
        if self._last is None or self._last[:2] != (path, key):
            tar = self._tars.setdefault(path, _Tar(path))
            self._last = (path, key, tar.study(key))
        return self._last[2]


class _Tar:
    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def study(self, key: str) -> Study | None:
        files: dict[str, bytes] = {}
        with suppress(OSError, tarfile.HeaderError, ShardError), open(self._path, "rb") as file:
            for header, start in self._headers(file):
                name = sample_key(header.name)
                if name == key:
                    file.seek(start)
                    files[header.name] = file.read(header.size)
                    if len(files[header.name]) < header.size:
                        return None
                elif name > key:
                    break
                self._offset = start + padded_size(header.size)
            return study_from_files(key, files)
        return None

    def _headers(self, file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, int]]:
        """(header, first byte of the content) of each file after those that were passed."""
        offset = self._offset
        while True:
            file.seek(offset)
            block = file.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE or not any(block):
                return
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            yield header, offset + tarfile.BLOCKSIZE
            offset += tarfile.BLOCKSIZE + padded_size(header.size)
