"""Ingest: an archive of files or a table of pictures becomes shards, a manifest and `quarantine.csv`.

Each file is read once, in a worker process. The results wait in a small database beside the output folder, so that
a stopped run continues where it was. Then studies are assembled in the order of their keys and written; the folder
appears by one rename.

`quarantine.csv` alone names source paths; only its owner can read it, and it should not travel with the shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from ..core.config import digest, to_json
from ..core.errors import DataError, ShardError
from ..core.progress import Progress, track
from ..data.manifest import VERSION, Manifest, load_manifest, save_manifest
from .assembly import (
    QUARANTINE,
    counts_of,
    foreseen,
    hashed_views,
    judged,
    labels_of,
    refusal_of_archive,
    save_quarantine,
    write_shards,
)
from .config import IngestConfig
from .decoding import DecodeResult, decode_all
from .discovery import ArchiveSource, discover, no_labels_message
from .header import study_uid
from .listings import save_near_duplicates, save_text_boxes
from .pseudonyms import load_secret, pseudonym
from .screening import with_known_search
from .store import ResultStore, result_key

PROVENANCE = "ingest.json"
RESULTS = "parts.sqlite"


def ingest(source: Path, out: Path, config: IngestConfig | None = None) -> Manifest:
    """Turns a folder of DICOM files, or a .csv/.parquet table of pictures, into a folder of shards.

    The same source, secret and settings give the same bytes. A finished `out` of the same source and settings
    is returned as it is. After an error, what was decoded waits beside `out` for the next run.

    Raises DataError where there is nothing to read, labels are of another archive or too much is refused,
    ShardError where the disk refuses.
    """
    config = with_known_search(config or IngestConfig())
    source, out = Path(source), Path(out)
    archive = discover(source, out, config)
    secret = load_secret(config.secret or out.with_name(out.name + ".secret"))
    provenance = {"config_digest": _config_digest(config, secret), "inputs_digest": archive.digest}
    if (finished := _finished(out, provenance, archive.findings)) is not None:
        if refusal := refusal_of_archive(archive.root, finished.counts, config):
            raise DataError(f"{refusal}; {out / QUARANTINE} lists them")
        return finished
    work = out.with_name(f"{out.name}.tmp-{_work_digest(config, secret)[:8]}")
    try:
        return _build(archive, out, work, secret, config, provenance)
    except (OSError, sqlite3.DatabaseError) as error:
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            raise ShardError(
                f"{work}: what is kept there is damaged ({error}); remove it, then run again"
            ) from error
        reason = getattr(error, "strerror", None) or str(error)
        kept = f"; what is decoded is kept in {work}" if (work / RESULTS).exists() else ""
        raise ShardError(
            f"{out}: cannot be written ({reason}); make room or choose another folder, then run again{kept}"
        ) from error
    finally:
        shutil.rmtree(work / "out", ignore_errors=True)


def _config_digest(config: IngestConfig, secret: bytes) -> str:
    """SHA-256 over the settings that change the output, and over a fingerprint of the secret."""
    same = replace(config, secret=None, labels=None, workers=0, timeout_s=0, memory_gib=0)
    settings = json.loads(to_json(same))
    del settings["max_refused"]
    return hashlib.sha256(f"{digest(settings)} {pseudonym(secret, 'fingerprint')}".encode()).hexdigest()


def _work_digest(config: IngestConfig, secret: bytes) -> str:
    """Changes with the settings that change a decoded file: others may change and its result still serves."""
    return pseudonym(secret, f"work:{digest(config.dicom)} {digest(config.shards)}")


def _finished(out: Path, provenance: Mapping[str, str], findings: tuple[str, ...]) -> Manifest | None:
    """The manifest of an output that this run would make again. Raises DataError where `out` holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    with suppress(OSError, ValueError, ShardError):
        if json.loads((out / PROVENANCE).read_text()) == provenance:
            manifest = load_manifest(out)
            if manifest.findings == findings:  # an earlier version may have lost some
                return manifest
    raise DataError(f"{out}: already holds something else; choose another output folder or remove it")


def _build(
    archive: ArchiveSource,
    out: Path,
    work: Path,
    secret: bytes,
    config: IngestConfig,
    provenance: Mapping[str, str],
) -> Manifest:
    """Decodes and assembles in the folder `work`, then renames its `out` to `out`."""
    folder = work / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if archive.tasks[0].named is not None:
        _check_refused(archive, judged(foreseen(archive.root, archive.tasks), config), work, config)
    elif config.labels:
        _check_labels(archive, config.labels)
    with closing(ResultStore(work / RESULTS)) as store:
        keys = _decode_missing(archive, store, secret, config)
        results = judged([store.without_view(key) for key in keys], config)
        counts = _check_refused(archive, results, work, config)
        study_keys: dict[str, list[str]] = {}
        for result, key in zip(results, keys, strict=True):
            if not result.code:
                study_keys.setdefault(result.study, []).append(key)
        labels, labelled = labels_of(archive, study_keys, secret)
        if config.labels and not labelled:
            raise DataError(no_labels_message(config.labels, len(study_keys)))
        shards = write_shards(folder, labels, store, study_keys, secret, config)
    manifest = Manifest(
        version=VERSION,
        name=config.name,
        findings=archive.findings,
        shards=shards,
        counts={**counts, "labelled_studies": labelled},
        config_digest=provenance["config_digest"],
    )
    save_quarantine(folder, archive.tasks, results)
    save_near_duplicates(folder, hashed_views(results))
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")
    save_manifest(folder, manifest)
    save_text_boxes(folder)
    os.replace(folder, out)
    shutil.rmtree(work)
    return manifest


def _check_refused(
    archive: ArchiveSource, results: Sequence[DecodeResult], work: Path, config: IngestConfig
) -> dict[str, int]:
    """The counts. Raises DataError where too many files are refused, and lists them in a table in `work`."""
    counts = counts_of(results)
    if refusal := refusal_of_archive(archive.root, counts, config):
        raise DataError(f"{refusal}; {save_quarantine(work, archive.tasks, results)} lists them")
    return counts


def _check_labels(archive: ArchiveSource, table: Path) -> None:
    """Raises DataError where the label table names no study of a DICOM folder.

    Headers are read until one is named, so that the labels of another archive are noticed before a day of decoding.
    """
    studies = set()
    with Progress("match labels", unit="files") as progress:
        for task in archive.tasks:
            studies.add(study_uid(archive.root / task.path))
            progress.advance()
            if not studies.isdisjoint(archive.labels):
                return
    raise DataError(no_labels_message(table, len(studies - {""})))


def _decode_missing(
    archive: ArchiveSource, store: ResultStore, secret: bytes, config: IngestConfig
) -> list[str]:
    """Decodes every file that has no result yet; returns the keys of all results in the order of the tasks."""
    keys = {task: result_key(archive.root, task, secret) for task in archive.tasks}
    known = store.keys()
    missing = [task for task, key in keys.items() if key not in known]
    try:
        results = decode_all(archive.root, missing, secret, config)
        for task, result in track(results, label="decode", total=len(missing), unit="files"):
            store.put(keys[task], result)
    finally:
        store.commit()
    return [keys[task] for task in archive.tasks]
