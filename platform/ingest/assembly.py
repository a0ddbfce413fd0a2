"""From decoded files to shards: refusals that need the whole archive, counts, shards and `quarantine.csv`."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..core.progress import track
from ..data.manifest import Manifest, Shard
from ..data.shards import ShardWriter
from ..data.study import SPLITS, Study
from .config import IngestConfig
from .decoding import DecodeResult
from .discovery import ArchiveSource, DecodeTask
from .listings import HashedView
from .pseudonyms import owner_only, pseudonym, split_of
from .store import ResultStore
from .tables import Labels

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


def hashed_views(results: Iterable[DecodeResult]) -> Iterator[HashedView]:
    """The accepted views, numbered within their studies as they are written."""
    views = Counter[str]()
    for result in results:
        if not result.code:
            yield HashedView(result.study, views[result.study], result.patient, result.dhash)
            views[result.study] += 1


def foreseen(root: Path, tasks: Sequence[DecodeTask]) -> list[DecodeResult]:
    """What an image table tells of each of its files before any is decoded, identifiers in clear text."""
    results = []
    for task in tasks:
        assert task.named is not None, "a table names each file's patient and study"
        patient, study, _ = task.named
        if not os.path.exists(root / task.path):
            results.append(DecodeResult(code="MISSING_FILE"))
        elif not patient or not study:
            results.append(DecodeResult(code="NO_IDENTITY"))
        else:
            results.append(
                DecodeResult(patient=patient, study=study, file_hash=task.path, pixel_hash=task.path)
            )
    return results


def refusal_of_archive(root: Path, counts: Mapping[str, int], config: IngestConfig) -> str:
    """Why nothing is written of an archive with these counts, empty where something is.

    It has no view, or a larger share is refused than `config.max_refused`.
    """
    if not counts["views"]:
        hint = "; fewer are accepted with --min-views" if "refused.TOO_FEW_VIEWS" in counts else ""
        return f"{root}: none of its {counts['files']} files gave a view ({_reasons(counts)}){hint}"
    if counts["refused"] / counts["files"] > config.max_refused:
        return (
            f"{root}: {counts['refused']} of {counts['files']} files are refused ({_reasons(counts)}), "
            f"more than --max-refused {config.max_refused:g}"
        )
    return ""


def summary(manifest: Manifest) -> str:
    """One line: files read, views written, files refused by reason, findings.

    >>> counts = {"files": 3, "views": 2, "studies": 2, "refused": 1, "duplicates": 0, "refused.NOT_DICOM": 1}
    >>> summary(Manifest(1, "dogs", ("mass",), (), {**counts, "labelled_studies": 1}, ""))
    'read 3 files: wrote 2 views of 2 studies; refused 1 (NOT_DICOM 1); 1 finding (mass), 1 of 2 studies labelled'
    """
    counts = manifest.counts
    parts = [f"wrote {counts['views']} views of {counts['studies']} studies"]
    parts.append(f"refused {counts['refused']}" + (f" ({_reasons(counts)})" if counts["refused"] else ""))
    if counts["duplicates"]:
        parts.append(f"{counts['duplicates']} duplicates left out")
    number = len(manifest.findings)
    if number:
        names = ", ".join(manifest.findings)
        labelled = f"{counts['labelled_studies']} of {counts['studies']} studies labelled"
        parts.append(f"{number} finding{'s' * (number > 1)} ({names}), {labelled}")
    else:
        parts.append("no findings")
    return f"read {counts['files']} files: {'; '.join(parts)}"


def _reasons(counts: Mapping[str, int]) -> str:
    codes = {code.partition(".")[2]: count for code, count in counts.items() if code.startswith("refused.")}
    return ", ".join(f"{code} {count}" for code, count in sorted(codes.items(), key=lambda item: -item[1]))


def labels_of(
    archive: ArchiveSource, studies: Collection[str], secret: bytes
) -> tuple[dict[str, Labels], int]:
    """(labels of each study by its pseudonym, how many studies have a label). studies: pseudonyms."""
    known = {pseudonym(secret, f"study:{study}"): values for study, values in archive.labels.items()}
    no_labels = dict.fromkeys(archive.findings, math.nan)
    labels: dict[str, Labels] = {study: {**no_labels, **known.get(study, {})} for study in studies}
    return labels, sum(any(not math.isnan(value) for value in values.values()) for values in labels.values())


def write_shards(
    folder: Path,
    labels: Mapping[str, Labels],
    store: ResultStore,
    study_keys: Mapping[str, Sequence[str]],
    secret: bytes,
    config: IngestConfig,
) -> tuple[Shard, ...]:
    """The shards. labels: study -> labels. study_keys: study -> keys of its results, in view order.

    Studies are written in the order of their pseudonyms, which are hashes: that is a shuffled order.
    """
    patients = {study: store.without_view(keys[0]).patient for study, keys in study_keys.items()}
    splits = {study: split_of(secret, patient, config) for study, patient in patients.items()}
    patient_splits = {(patients[study], splits[study]) for study in study_keys}
    assert len(patient_splits) == len(set(patients.values())), "a patient is in one split"
    shards: list[Shard] = []
    for split in SPLITS:
        studies = sorted(study for study in study_keys if splits[study] == split)
        with ShardWriter(folder, split, config.shards) as writer:
            for study in track(studies, label=f"write {split}"):
                views = tuple(store.view(key) for key in study_keys[study])
                writer.write(Study(study, patients[study], views, labels[study], split))
        shards += writer.shards
    return tuple(shards)


def save_quarantine(folder: Path, tasks: Sequence[DecodeTask], results: Sequence[DecodeResult]) -> Path:
    """Writes quarantine.csv: path, code and detail of every file that gave no view; the file."""
    path = folder / QUARANTINE
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape", opener=owner_only) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "code", "detail"))
        pairs = zip(tasks, results, strict=True)
        writer.writerows((task.path, result.code, result.detail) for task, result in pairs if result.code)
    return path
