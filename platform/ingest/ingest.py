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
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from ..core.config import digest
from ..core.errors import DataError, ShardError
from ..core.progress import track
from ..data.manifest import VERSION, Manifest, load_manifest, save_manifest
from .assembly import counts_of, judged, no_views_message, save_quarantine, write_shards
from .config import IngestConfig
from .decoding import decode_all
from .discovery import ArchiveSource, discover
from .pseudonyms import load_secret, pseudonym
from .store import ResultStore, result_key

PROVENANCE = "ingest.json"


def ingest(source: Path, out: Path, config: IngestConfig | None = None) -> Manifest:
    """Turns a folder of DICOM files, or a .csv/.parquet table of pictures, into a folder of shards.

    The same source, secret and settings give the same bytes. A finished `out` of the same source and settings
    is returned as it is. Raises DataError where there is nothing to read, ShardError where the disk refuses.
    """
    config = config or IngestConfig()
    source, out = Path(source), Path(out)
    archive = discover(source, out, config)
    secret = load_secret(config.secret or out.with_name(out.name + ".secret"))
    provenance = {"config_digest": _config_digest(config, secret), "inputs_digest": archive.digest}
    if (finished := _finished(out, provenance)) is not None:
        return finished
    work = out.with_name(f"{out.name}.tmp-{provenance['config_digest'][:8]}")
    try:
        return _build(archive, out, work, secret, config, provenance)
    except (OSError, sqlite3.OperationalError) as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise ShardError(f"{out}: cannot be written ({reason}); make room, then run again") from error
    except DataError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _config_digest(config: IngestConfig, secret: bytes) -> str:
    """SHA-256 over the settings that change the output, and over a fingerprint of the secret."""
    settings = digest(replace(config, secret=None, labels=None, workers=0, timeout_s=0, memory_gib=0))
    return hashlib.sha256(f"{settings} {pseudonym(secret, 'fingerprint')}".encode()).hexdigest()


def _finished(out: Path, provenance: Mapping[str, str]) -> Manifest | None:
    """The manifest of an output that this run would make again. Raises DataError where `out` holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    with suppress(OSError, ValueError, ShardError):
        if json.loads((out / PROVENANCE).read_text()) == provenance:
            return load_manifest(out)
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
    with closing(ResultStore(work / "parts.sqlite")) as store:
        keys = _decode_missing(archive, store, secret, config)
        results = judged([store.without_view(key) for key in keys], config)
        study_keys: dict[str, list[str]] = {}
        for result, key in zip(results, keys, strict=True):
            if not result.code:
                study_keys.setdefault(result.study, []).append(key)
        if not study_keys:
            raise DataError(no_views_message(archive.root, results))
        shards, labelled = write_shards(folder, archive, store, study_keys, secret, config)
    if config.labels and not labelled:
        raise DataError(
            f"{config.labels}: names none of the {len(study_keys)} studies; give the labels of this archive"
        )
    manifest = Manifest(
        version=VERSION,
        name=config.name,
        findings=archive.findings,
        shards=shards,
        counts={**counts_of(results), "labelled_studies": labelled},
        config_digest=provenance["config_digest"],
    )
    save_quarantine(folder, archive.tasks, results)
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")
    save_manifest(folder, manifest)
    os.replace(folder, out)
    shutil.rmtree(work)
    return manifest


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
