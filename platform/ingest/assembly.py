"""Refusals that need more than one file, the counts, and `quarantine.csv`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..archive.discovery import DecodeTask, ListedFile
from ..data.manifest import Manifest
from .config import IngestConfig
from .decoding import DecodeResult
from .pseudonyms import owner_only

QUARANTINE = "quarantine.csv"

CHANGES = ("new", "changed", "gone")
"""Names in a manifest's counts, `new.files`, `gone.studies`, …: what differs from the version before."""


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
    """The counts of these files."""
    accepted = [result for result in results if not result.code]
    studies, patients = ({getattr(result, name) for result in accepted} for name in ("study", "patient"))
    return counted(len(results), Counter(result.code for result in results), len(studies), len(patients))


def counted(files: int, codes: Mapping[str, int], studies: int, patients: int) -> dict[str, int]:
    """files = views + refused + duplicates, refused by code, and how many studies and patients are left.

    codes: how many files have each, "" for a view.
    """
    refused = {code: count for code, count in codes.items() if count and code not in ("", "DUPLICATE")}
    counts = {
        "files": files,
        "views": codes.get("", 0),
        "refused": sum(refused.values()),
        "duplicates": codes.get("DUPLICATE", 0),
        "studies": studies,
        "patients": patients,
    }
    assert files == counts["views"] + counts["refused"] + counts["duplicates"], "a file is missing"
    return counts | {f"refused.{code}": refused[code] for code in sorted(refused)}


def foreseen(entries: Iterable[ListedFile]) -> list[DecodeResult]:
    """What an image table tells of each of its files before any is decoded, identifiers in clear text."""
    results = []
    for entry in entries:
        task = entry.task
        assert task.named is not None, "a table names each file's patient and study"
        patient, study, _ = task.named
        if entry.size < 0:
            results.append(DecodeResult(code="MISSING_FILE"))
        elif not patient or not study:
            results.append(DecodeResult(code="NO_IDENTITY"))
        else:
            results.append(
                DecodeResult(patient=patient, study=study, file_hash=task.path, pixel_hash=task.path)
            )
    return results


def refusal_of_archive(root: Path | str, counts: Mapping[str, int], config: IngestConfig) -> str:
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
    if changes := changes_text(counts):
        parts.append(changes)
    return f"read {counts['files']} files: {'; '.join(parts)}"


def changes_text(counts: Mapping[str, int]) -> str:
    """What differs from the version before; empty for a first version.

    >>> changes_text({"new.files": 3, "gone.files": 1, "new.studies": 2})
    'since the version before: files 3 new, 1 gone; studies 2 new'
    """
    groups = []
    for unit in ("files", "studies"):
        words = [f"{counts[name]} {kind}" for kind in CHANGES if counts.get(name := f"{kind}.{unit}")]
        groups += [f"{unit} {', '.join(words)}"] if words else []
    return f"since the version before: {'; '.join(groups)}" if groups else ""


def _reasons(counts: Mapping[str, int]) -> str:
    codes = {code.partition(".")[2]: count for code, count in counts.items() if code.startswith("refused.")}
    return ", ".join(f"{code} {count}" for code, count in sorted(codes.items(), key=lambda item: -item[1]))


@contextmanager
def quarantine_table(path: Path) -> Iterator[Callable[[DecodeTask, str, str], None]]:
    """Writes quarantine.csv, for its owner alone: within the `with` block a function adds (task, code, detail)."""
    path.unlink(missing_ok=True)
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape", opener=owner_only) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "code", "detail"))
        yield lambda task, code, detail: writer.writerow((task.path, code, detail))
