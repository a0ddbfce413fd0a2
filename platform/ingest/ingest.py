"""Ingest: an archive of files or a table of pictures becomes shards, a manifest and `quarantine.csv`.

Three steps. Each file is read once, in a worker process that may die, and becomes a part: a view or a
refusal. Parts wait in a small database beside the output folder, so that a stopped run goes on where it was.
Then studies are assembled, in the order of their keys, and written; the folder appears by one rename.

Identifiers stay inside the workers: a part knows its patient and study only as keyed hashes. `quarantine.csv`
alone names source paths; only its owner can read it, and it should not travel with the shards.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import json
import math
import multiprocessing
import os
import secrets
import shutil
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from ..core.config import digest
from ..core.errors import ConfigError, DataError, DicomError, ShardError
from ..core.progress import track
from ..data.shards import (
    VERSION,
    Manifest,
    Shard,
    ShardConfig,
    ShardWriter,
    load_manifest,
    save_manifest,
    stored,
)
from ..data.study import SPLITS, StoredView, Study, View
from .dicom import (
    PIXEL_BYTES_LIMIT,
    DicomConfig,
    gate,
    header_of,
    identity_of,
    is_dicom,
    normalised,
    raw_pixels,
    shrunk,
)
from .tables import TableConfig, read_images, read_labels

QUARANTINE = "quarantine.csv"
PROVENANCE = "ingest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """How an archive becomes shards."""

    name: str = "archive"
    """What the manifest calls the data; no identifier belongs here."""
    secret: Path | None = None
    """File with the key of the pseudonyms; none: OUT.secret beside the output, made on first use. Keep it:
    the same key gives the same pseudonyms and splits."""
    labels: Path | None = None
    """For a DICOM tree: CSV or Parquet, a `study` column (StudyInstanceUID) and a 0/1 column a finding."""
    val: float = 0.1
    """Part of the patients that goes to the val split."""
    test: float = 0.1
    """Part of the patients that goes to the test split; train takes what is left."""
    min_views: int = 1
    """Studies with fewer views are refused."""
    workers: int = 0
    """Processes that decode; 0 takes every core. The output does not depend on it."""
    timeout_s: float = 120.0
    """Seconds a worker may spend on one file before it is ended."""
    memory_gib: float = 4.0
    """Memory a worker may take beyond its own start, in GiB."""
    dicom: DicomConfig = field(default_factory=DicomConfig)
    shards: ShardConfig = field(default_factory=ShardConfig)
    table: TableConfig = field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise ConfigError(f"val {self.val} and test {self.test} must leave something for train")
        if self.min_views < 1:
            raise ConfigError(f"min_views is {self.min_views}; a study has at least 1 view")


def ingest(source: Path, out: Path, config: IngestConfig | None = None) -> Manifest:
    """Turns a folder of DICOM files, or a .csv/.parquet table of pictures, into a folder of shards.

    The same source, secret and settings give the same bytes. A finished `out` of the same source and settings
    is returned as it is. Raises DataError where there is nothing to read, ShardError where the disk refuses.
    """
    config = config or IngestConfig()
    source, out = Path(source), Path(out)
    archive = _table_archive(source, config) if source.is_file() else _tree_archive(source, out, config)
    secret = _secret(config.secret or out.with_name(out.name + ".secret"))
    # What does not change the output is left out; of the secret, a fingerprint.
    essence = digest(replace(config, secret=None, labels=None, workers=0, timeout_s=0, memory_gib=0))
    essence = hashlib.sha256(f"{essence} {pseudonym(secret, 'fingerprint')}".encode()).hexdigest()
    provenance = {"config_digest": essence, "inputs_digest": archive.digest}
    if (done := _finished(out, provenance)) is not None:
        return done
    work = out.with_name(f"{out.name}.tmp-{essence[:8]}")
    try:
        return _build(archive, out, work, secret, config, provenance)
    except (OSError, sqlite3.OperationalError) as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise ShardError(f"{out}: cannot be written ({reason}); make room, then run again") from error
    except DataError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def pseudonym(secret: bytes, text: str) -> str:
    """24 hexadecimal digits for a text: HMAC-SHA256, so that nobody without the secret can try names.

    >>> pseudonym(b"key", "Rex")
    '42355f1ec3ef1ee99c5ce4a9'
    """
    return hmac.new(secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:24]


def split_of(secret: bytes, patient: str, config: IngestConfig) -> str:
    """The split of a patient's pseudonym, the same whatever else the archive holds."""
    place = int(pseudonym(secret, f"split:{patient}"), 16) / 16**24
    if place < config.test:
        return "test"
    return "val" if place < config.test + config.val else "train"


# What there is to read ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """One file to read. named: patient, study (in clear) and projection where a table names them."""

    path: str
    named: tuple[str, str, str] | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """All files of a source in the order of their paths, and what is known about their studies.

    labels: study in clear -> finding -> 1, 0 or NaN. digest: over paths, sizes, tables.
    """

    root: Path
    tasks: tuple[Task, ...]
    findings: tuple[str, ...]
    labels: Mapping[str, Mapping[str, float]]
    digest: str


def _tree_archive(source: Path, out: Path, config: IngestConfig) -> Archive:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or table; give a DICOM folder or a .csv/.parquet table")
    if out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out}: lies inside the source; choose an output folder outside {source}")
    findings, labels = read_labels(config.labels) if config.labels else ((), {})
    paths = [
        path for path in _files(source) if config.labels is None or not _same(source / path, config.labels)
    ]
    if not paths:
        raise DataError(f"{source}: an empty folder; give a folder that holds DICOM files")
    hashed = _inputs_digest(source, paths, config.labels)
    return Archive(source, tuple(Task(path) for path in paths), findings, labels, hashed)


def _table_archive(source: Path, config: IngestConfig) -> Archive:
    findings, rows = read_images(source, config.table)
    rows = sorted(rows, key=lambda row: (row.path, row.study))
    labels: dict[str, dict[str, float]] = {}
    for row in rows:
        known = labels.setdefault(row.study, dict(row.labels))
        for finding, value in row.labels.items():  # present in one view is present in the study
            known[finding] = float(np.fmax(known[finding], value))
    tasks = tuple(Task(row.path, (row.patient, row.study, row.projection)) for row in rows)
    hashed = _inputs_digest(source.parent, [row.path for row in rows], source)
    return Archive(source.parent, tasks, findings, labels, hashed)


def _files(folder: Path) -> list[str]:
    """Every ordinary file below a folder, relative, in the order of their names."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with suppress(OSError):
                if stat.S_ISREG(os.stat(path).st_mode):
                    found.append(Path(path).relative_to(folder).as_posix())
    return sorted(found)


def _same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _inputs_digest(root: Path, paths: Iterable[str], table: Path | None) -> str:
    """Over the names and sizes of all files, and the content of a table."""
    hashed = hashlib.sha256(table.read_bytes() if table else b"")
    for path in paths:
        with suppress(OSError):
            hashed.update(os.fsencode(f"{path}\0{os.stat(root / path).st_size}\0"))
    return hashed.hexdigest()


def _secret(path: Path) -> bytes:
    """The key in a file; 32 random bytes, for the owner's eyes only, where there is no file yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "xb", opener=_private) as file:
            file.write(secrets.token_bytes(32))
    key = path.read_bytes()
    if len(key) < 16:
        raise ConfigError(f"{path}: a secret of {len(key)} bytes can be guessed; give a file of 16 or more")
    return key


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _finished(out: Path, provenance: Mapping[str, str]) -> Manifest | None:
    """The manifest of an output that is already what was asked for. Raises DataError where it is not."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    with suppress(OSError, ValueError, ShardError):
        if json.loads((out / PROVENANCE).read_text()) == provenance:
            return load_manifest(out)
    raise DataError(f"{out}: already holds something else; choose another output folder or remove it")


# One file, in a worker ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one file: a view with its pseudonyms, or a code and a detail. No identifier in clear."""

    code: str = ""
    detail: str = ""
    patient: str = ""
    study: str = ""
    file_hash: str = ""
    pixel_hash: str = ""
    view: StoredView | None = None


def part_of(root: Path, task: Task, secret: bytes, config: IngestConfig) -> Part:
    """One file as a part; every failure becomes a refusal with a code."""
    try:
        return _part(root, task, secret, config)
    except DicomError as error:
        return Part(code=error.code, detail=error.detail)
    except FileNotFoundError:
        return Part(code="MISSING_FILE")
    except MemoryError:
        return Part(code="DECODE_FAILED", detail="it needs more memory than allowed")
    except OSError as error:
        return Part(code="UNREADABLE_HEADER", detail=error.strerror or type(error).__name__)
    except (
        Exception
    ) as error:  # a header can lie in ways nobody foresaw: that file is refused, the rest goes on
        return Part(code="DECODE_FAILED", detail=type(error).__name__)


def _part(root: Path, task: Task, secret: bytes, config: IngestConfig) -> Part:
    with open(root / task.path, "rb") as file:
        head = file.read(132)
        if task.named is None and not is_dicom(head):
            raise DicomError("NOT_DICOM", "no DICM mark and no leading tag")
        data = head + file.read()
    if is_dicom(head):
        dataset = header_of(data)
        gate(dataset, config.dicom)
        patient, study = asdict(identity_of(dataset)).values()
        raw = raw_pixels(dataset)
        view = normalised(dataset, raw, config.dicom)
    else:
        raw = _picture(data)
        view = _plain(raw, config.dicom)
    if task.named is not None:
        patient, study, projection = task.named
        view = replace(view, projection=projection, facts={**view.facts, "projection_source": "table"})
    if not patient or not study:
        raise DicomError("NO_IDENTITY", "no study" if patient else "no patient")
    return Part(
        patient=pseudonym(secret, f"patient:{patient}"),
        study=pseudonym(secret, f"study:{study}"),
        file_hash=hashlib.sha256(data).hexdigest(),
        pixel_hash=hashlib.sha256(f"{raw.shape} {raw.dtype}".encode() + raw.tobytes()).hexdigest(),
        view=stored(view, config.shards),
    )


def _picture(data: bytes) -> np.ndarray:
    """Grey pixels (H, W) of a JPEG, PNG or TIFF, uint8 or as stored. Raises DicomError NOT_PICTURE."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as picture:
            if picture.width * picture.height * 4 > PIXEL_BYTES_LIMIT:
                raise DicomError("NOT_PICTURE", f"{picture.width}x{picture.height} pixels are too many")
            if not picture.mode.startswith(("I", "F")):
                picture = picture.convert("L")
            return np.asarray(picture)
    except DicomError:
        raise
    except Exception as error:
        raise DicomError("NOT_PICTURE", type(error).__name__) from None


def _plain(raw: np.ndarray, config: DicomConfig) -> View:
    """A picture that brings no window: 8 bits as they are, more between percentiles; bright is dense."""
    if min(raw.shape) < config.min_side:
        raise DicomError("NOT_RADIOGRAPH", f"{raw.shape[0]}x{raw.shape[1]} pixels")
    low, high = np.percentile(raw, config.percentiles)
    if not high > low:
        raise DicomError("LOW_CONTRAST", "constant pixels")
    if raw.dtype == np.uint8:
        return View(pixels=shrunk(raw, config.side), facts={"voi": "none"})
    grey = np.clip((raw.astype(np.float32) - low) / (high - low), 0, 1)
    pixels = np.rint(shrunk(grey, config.side) * 255).astype(np.uint8)
    return View(pixels=pixels, facts={"voi": "percentiles"})


def _work(pipe: Connection, root: Path, secret: bytes, config: IngestConfig) -> None:
    """A worker's life: greets, then answers each task with a part until the pipe closes."""
    import signal

    import cv2
    import imagecodecs  # noqa: F401  before memory is limited
    import pydicom.pixels  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    cv2.setNumThreads(1)
    _limit_memory(config.memory_gib)
    quiet = os.open(os.devnull, os.O_WRONLY)
    with suppress(EOFError, BrokenPipeError):  # the parent went
        pipe.send(None)
        os.dup2(quiet, 1)  # C libraries print what they read, and that may be a name
        os.dup2(quiet, 2)
        while True:
            pipe.send(part_of(root, pipe.recv(), secret, config))


def _limit_memory(gib: float) -> None:
    """Caps this process's address space at what it has plus `gib`, where the system can say what it has."""
    status = Path("/proc/self/statm")
    if status.exists():
        import resource

        now = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + int(gib * 2**30), resource.RLIM_INFINITY))


_HEAVY = ["cv2", "imagecodecs", "numpy", "PIL.Image", "pydicom.encaps", "pydicom.pixels", __name__]
"""Modules that the mother of all workers imports once, so that a new worker starts in a moment."""


class _Hand:
    """One worker process and the pipe to it."""

    def __init__(self, *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")  # a fork of a process with threads may hang
        context.set_forkserver_preload(_HEAVY)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.since = 0.0

    def greet(self) -> None:
        try:
            self.pipe.recv()
        except EOFError:
            raise RuntimeError("a decoding worker ended before its first file") from None

    def take(self, task: Task) -> None:
        self.task, self.since = task, time.monotonic()
        with suppress(BrokenPipeError):  # its end is noticed when the answer is awaited
            self.pipe.send(task)

    def answer(self) -> Part:
        self.task = None
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return Part(code="DECODER_CRASHED", detail="the decoder ended")

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def parts_of(
    root: Path, tasks: Sequence[Task], secret: bytes, config: IngestConfig
) -> Iterator[tuple[Task, Part]]:
    """Each task with its part, as they come. A worker that dies or is too slow costs only its file."""
    count = min(config.workers or os.cpu_count() or 1, len(tasks))
    waiting = iter(tasks)
    hands = [_Hand(root, secret, config) for _ in range(count)]
    try:
        for hand in hands:
            hand.greet()
        for hand, task in zip(hands, waiting, strict=False):
            hand.take(task)
        while busy := [hand for hand in hands if hand.task is not None]:
            patience = min(hand.since for hand in busy) + config.timeout_s - time.monotonic()
            ready = wait([hand.pipe for hand in busy], timeout=max(0.0, patience))
            for hand in busy:
                late = time.monotonic() - hand.since >= config.timeout_s
                if hand.pipe not in ready and not late:
                    continue
                task = hand.task
                if hand.pipe in ready:
                    part = hand.answer()
                else:
                    part = Part(code="DECODER_CRASHED", detail=f"no answer within {config.timeout_s:g} s")
                if part.code == "DECODER_CRASHED":
                    hand.end()
                    place = hands.index(hand)
                    hand = hands[place] = _Hand(root, secret, config)
                    hand.greet()
                hand.task = None
                if (following := next(waiting, None)) is not None:
                    hand.take(following)
                yield task, part
    finally:
        for hand in hands:
            hand.end()


# Parts that wait ---------------------------------------------------------------------------------


class _Parts:
    """Parts on disk by what they were made from, so that a stopped run goes on."""

    def __init__(self, path: Path) -> None:
        self._base = sqlite3.connect(path)
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS parts (key TEXT PRIMARY KEY, record TEXT, encoded BLOB)"
        )
        self._since = time.monotonic()

    def put(self, key: str, part: Part) -> None:
        record = {name: value for name, value in asdict(part).items() if name != "view"}
        encoded = None
        if part.view is not None:
            record["view"] = {name: value for name, value in asdict(part.view).items() if name != "encoded"}
            encoded = part.view.encoded
        self._base.execute(
            "INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", (key, json.dumps(record), encoded)
        )
        if time.monotonic() - self._since > 2:
            self.commit()

    def commit(self) -> None:
        self._base.commit()
        self._since = time.monotonic()

    def keys(self) -> set[str]:
        return {key for (key,) in self._base.execute("SELECT key FROM parts")}

    def outline(self, key: str) -> Part:
        """A part without its view."""
        (record,) = self._base.execute("SELECT record FROM parts WHERE key = ?", (key,)).fetchone()
        return Part(**{name: value for name, value in json.loads(record).items() if name != "view"})

    def view(self, key: str) -> StoredView:
        record, encoded = self._base.execute(
            "SELECT record, encoded FROM parts WHERE key = ?", (key,)
        ).fetchone()
        view = json.loads(record)["view"]
        view["spacing"] = tuple(view["spacing"]) if view["spacing"] else None
        return StoredView(encoded=encoded, **view)

    def close(self) -> None:
        self._base.close()


def _part_key(root: Path, task: Task, secret: bytes) -> str:
    """Changes with the file (by size and time) and with what a table says about it; holds no path."""
    seen = ""
    with suppress(OSError):
        status = os.stat(root / task.path)
        seen = f"{status.st_size} {status.st_mtime_ns}"
    return pseudonym(secret, f"part:{task.path}\0{task.named}\0{seen}")


# From parts to shards ----------------------------------------------------------------------------


def _build(
    archive: Archive,
    out: Path,
    work: Path,
    secret: bytes,
    config: IngestConfig,
    provenance: Mapping[str, str],
) -> Manifest:
    work.mkdir(parents=True, exist_ok=True)
    finished = work / "out"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    with closing(_Parts(work / "parts.sqlite")) as parts:
        keys = _decode(archive, parts, secret, config)
        outlines = _judged([parts.outline(key) for key in keys], config)
        places: dict[str, list[str]] = {}
        for part, key in zip(outlines, keys, strict=True):
            if not part.code:
                places.setdefault(part.study, []).append(key)
        counts = _counts(outlines)
        if not places:
            raise DataError(_nothing(archive, outlines))
        shards, labelled = _write(finished, archive, parts, places, secret, config)
    if config.labels and not labelled:
        raise DataError(
            f"{config.labels}: names none of the {len(places)} studies; give the labels of this archive"
        )
    manifest = Manifest(
        version=VERSION,
        name=config.name,
        findings=archive.findings,
        shards=shards,
        counts={**counts, "labelled_studies": labelled},
        config_digest=provenance["config_digest"],
    )
    _save_quarantine(finished / QUARANTINE, archive.tasks, outlines)
    (finished / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")
    save_manifest(finished, manifest)
    os.replace(finished, out)
    shutil.rmtree(work)
    return manifest


def _decode(archive: Archive, parts: _Parts, secret: bytes, config: IngestConfig) -> list[str]:
    """Sees to it that every task has its part; returns their keys in the order of the tasks."""
    keys = {task: _part_key(archive.root, task, secret) for task in archive.tasks}
    known = parts.keys()
    missing = [task for task, key in keys.items() if key not in known]
    try:
        answers = parts_of(archive.root, missing, secret, config)
        for task, part in track(answers, label="decode", total=len(missing), unit="files"):
            parts.put(keys[task], part)
    finally:
        parts.commit()
    return [keys[task] for task in archive.tasks]


def _judged(outlines: Sequence[Part], config: IngestConfig) -> list[Part]:
    """The outlines, with refusals that only the whole archive tells: clashes, duplicates, lonely views."""
    patients: dict[str, set[str]] = {}
    for part in outlines:
        if not part.code:
            patients.setdefault(part.study, set()).add(part.patient)
    seen: dict[str, set[str]] = {"file": set(), "pixel": set()}
    judged: list[Part] = []
    for part in outlines:
        if not part.code and len(patients[part.study]) > 1:
            part = Part(code="PATIENT_CLASH", detail=f"its study names {len(patients[part.study])} patients")
        elif not part.code and part.file_hash in seen["file"]:
            part = Part(code="DUPLICATE", detail="the same file")
        elif not part.code and part.pixel_hash in seen["pixel"]:
            part = Part(code="DUPLICATE", detail="the same pixels")
        if not part.code:
            seen["file"].add(part.file_hash)
            seen["pixel"].add(part.pixel_hash)
        judged.append(part)
    views = Counter(part.study for part in judged if not part.code)
    return [
        Part(code="TOO_FEW_VIEWS", detail=f"{views[part.study]} of at least {config.min_views}")
        if not part.code and views[part.study] < config.min_views
        else part
        for part in judged
    ]


def _counts(outlines: Sequence[Part]) -> dict[str, int]:
    """files = views + refused + duplicates, refused by code, and how many studies and patients are left."""
    kept = [part for part in outlines if not part.code]
    codes = Counter(part.code for part in outlines if part.code)
    duplicates = codes.pop("DUPLICATE", 0)
    counts = {
        "files": len(outlines),
        "views": len(kept),
        "refused": codes.total(),
        "duplicates": duplicates,
        "studies": len({part.study for part in kept}),
        "patients": len({part.patient for part in kept}),
    }
    assert counts["files"] == counts["views"] + counts["refused"] + counts["duplicates"], (
        "a file went missing"
    )
    return {**counts, **{f"refused.{code}": codes[code] for code in sorted(codes)}}


def _nothing(archive: Archive, outlines: Sequence[Part]) -> str:
    codes = Counter(part.code for part in outlines).most_common(3)
    reasons = ", ".join(f"{code} {count}" for code, count in codes)
    hint = "; fewer are accepted with --min-views" if codes[0][0] == "TOO_FEW_VIEWS" else ""
    return f"{archive.root}: none of its {len(outlines)} files gave a view ({reasons}){hint}"


def _write(
    folder: Path,
    archive: Archive,
    parts: _Parts,
    places: Mapping[str, Sequence[str]],
    secret: bytes,
    config: IngestConfig,
) -> tuple[tuple[Shard, ...], int]:
    """(shards, studies with a label); studies go by their keys, which are hashes: already shuffled."""
    labels = {pseudonym(secret, f"study:{study}"): values for study, values in archive.labels.items()}
    nothing = dict.fromkeys(archive.findings, math.nan)
    patients = {study: parts.outline(keys[0]).patient for study, keys in places.items()}
    splits = {study: split_of(secret, patient, config) for study, patient in patients.items()}
    homes = {(patients[study], splits[study]) for study in places}
    assert len(homes) == len(set(patients.values())), "a patient lives in one split"
    shards: list[Shard] = []
    labelled = 0
    for split in SPLITS:
        chosen = sorted(study for study in places if splits[study] == split)
        with ShardWriter(folder, split, config.shards) as writer:
            for study in track(chosen, label=f"write {split}"):
                values = labels.get(study, nothing)
                labelled += any(not math.isnan(value) for value in values.values())
                views = tuple(parts.view(key) for key in places[study])
                writer.write(Study(study, patients[study], views, values, split))
        shards += writer.shards
    return tuple(shards), labelled


def _save_quarantine(path: Path, tasks: Sequence[Task], outlines: Sequence[Part]) -> None:
    """path, code, detail of every file that gave no view."""
    with open(path, "x", newline="", encoding="utf-8", errors="surrogateescape", opener=_private) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "code", "detail"))
        judged = zip(tasks, outlines, strict=True)
        rows.writerows((task.path, part.code, part.detail) for task, part in judged if part.code)
