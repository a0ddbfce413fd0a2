"""From decoded files to shards: refusals that need the whole archive, counts, shards and `quarantine.csv`."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.progress import track
from ..data.manifest import Shard
from ..data.shards import ShardWriter
from ..data.study import SPLITS, Study
from .config import IngestConfig
from .decoding import DecodeResult
from .discovery import ArchiveSource, DecodeTask
from .pseudonyms import owner_only, pseudonym, split_of
from .store import ResultStore

QUARANTINE = "quarantine.csv"


def judged(results: Sequence[DecodeResult], config: IngestConfig) -> list[DecodeResult]:
    """The results, with a code for patient clashes, duplicates, and views of studies with too few of them."""
    patients: dict[str, set[str]] = {}
    for result in results:
        if not result.code:
            patients.setdefault(result.study, set()).add(result.patient)
    file_hashes: set[str] = set()
    pixel_hashes: set[str] = set()
    unique: list[DecodeResult] = []
    for result in results:
        if not result.code:
            count = len(patients[result.study])
            if count > 1:
                result = DecodeResult(code="PATIENT_CLASH", detail=f"its study names {count} patients")
            elif result.file_hash in file_hashes:
                result = DecodeResult(code="DUPLICATE", detail="the same file")
            elif result.pixel_hash in pixel_hashes:
                result = DecodeResult(code="DUPLICATE", detail="the same pixels")
            else:
                file_hashes.add(result.file_hash)
                pixel_hashes.add(result.pixel_hash)
        unique.append(result)
    views = Counter(result.study for result in unique if not result.code)
    return [
        DecodeResult(code="TOO_FEW_VIEWS", detail=f"{views[result.study]} of at least {config.min_views}")
        if not result.code and views[result.study] < config.min_views
        else result
        for result in unique
    ]


def counts_of(results: Sequence[DecodeResult]) -> dict[str, int]:
    """files = views + refused + duplicates, refused by code, and how many studies and patients are left."""
    accepted = [result for result in results if not result.code]
    codes = Counter(result.code for result in results if result.code)
    duplicates = codes.pop("DUPLICATE", 0)
    counts = {
        "files": len(results),
        "views": len(accepted),
        "refused": codes.total(),
        "duplicates": duplicates,
        "studies": len({result.study for result in accepted}),
        "patients": len({result.patient for result in accepted}),
    }
    assert counts["files"] == counts["views"] + counts["refused"] + counts["duplicates"], "a file is missing"
    return {**counts, **{f"refused.{code}": codes[code] for code in sorted(codes)}}


def no_views_message(root: Path, results: Sequence[DecodeResult]) -> str:
    """The error for an archive of which no file gave a view: the commonest reasons."""
    codes = Counter(result.code for result in results).most_common(3)
    reasons = ", ".join(f"{code} {count}" for code, count in codes)
    hint = "; fewer are accepted with --min-views" if codes[0][0] == "TOO_FEW_VIEWS" else ""
    return f"{root}: none of its {len(results)} files gave a view ({reasons}){hint}"


def write_shards(
    folder: Path,
    archive: ArchiveSource,
    store: ResultStore,
    study_keys: Mapping[str, Sequence[str]],
    secret: bytes,
    config: IngestConfig,
) -> tuple[tuple[Shard, ...], int]:
    """(shards, number of studies with a label). study_keys: study -> keys of its results, in view order.

    Studies are written in the order of their pseudonyms, which are hashes: that is a shuffled order.
    """
    labels = {pseudonym(secret, f"study:{study}"): values for study, values in archive.labels.items()}
    no_labels = dict.fromkeys(archive.findings, math.nan)
    patients = {study: store.without_view(keys[0]).patient for study, keys in study_keys.items()}
    splits = {study: split_of(secret, patient, config) for study, patient in patients.items()}
    patient_splits = {(patients[study], splits[study]) for study in study_keys}
    assert len(patient_splits) == len(set(patients.values())), "a patient is in one split"
    shards: list[Shard] = []
    labelled = 0
    for split in SPLITS:
        studies = sorted(study for study in study_keys if splits[study] == split)
        with ShardWriter(folder, split, config.shards) as writer:
            for study in track(studies, label=f"write {split}"):
                values = labels.get(study, no_labels)
                labelled += any(not math.isnan(value) for value in values.values())
                views = tuple(store.view(key) for key in study_keys[study])
                writer.write(Study(study, patients[study], views, values, split))
        shards += writer.shards
    return tuple(shards), labelled


def save_quarantine(folder: Path, tasks: Sequence[DecodeTask], results: Sequence[DecodeResult]) -> None:
    """Writes quarantine.csv: path, code and detail of every file that gave no view."""
    path = folder / QUARANTINE
    with open(path, "x", newline="", encoding="utf-8", errors="surrogateescape", opener=owner_only) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "code", "detail"))
        pairs = zip(tasks, results, strict=True)
        writer.writerows((task.path, result.code, result.detail) for task, result in pairs if result.code)
