"""Prepares the scans and label maps of a folder or table, once, for few-shot segmentation (`vetdino fewshot prepare`).

    OUT/volumes/NAME.npz    image and labels (Z, H, W) uint8, and the grid they came from
    OUT/volumes.json        settings, classes, counts, digests, doubts, files that were left out
    OUT/overlays/NAME.png   some slices with the labels outlined: look at them before you train anything
    OUT/report.csv          a line for each file: prepared, doubtful or left out, and why
    OUT/sources.csv         for DICOM: number of a scan -> its folder; only its owner can read it

Eight bits suffice: a window of 400 HU in steps of 1.6 HU, or an MRI's whole clipped range; both steps are far below
the noise of a voxel.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.config import digest, to_json
from ...platform.core.errors import DataError
from ...platform.core.files import atomic_path, atomic_write
from ...platform.core.location import Location
from ...platform.core.mirror import place_of
from ...platform.core.progress import track
from .classes import class_names, label_classes
from .config import PrepareConfig
from .discovery import ScanFiles, find_scans
from .files import file_kind, tall_cards
from .label_values import LabelValues
from .overlays import overlay_sheet
from .prepare_scan import check_scan, prepare_scan
from .volume import MANIFEST, VERSION

REPORT, SOURCES = "report.csv", "sources.csv"

Cards = Mapping[str, Mapping[str, Any]]
"""Name of a scan -> its entry in volumes.json."""


def prepare(source: Path | str, out: Path | str, config: PrepareConfig | None = None) -> Path:
    """Prepares every scan of a folder or table; returns `out`. Unusable files are left out and reported.

    All headers are checked first. Run again, it does only what is missing or has changed. The same source and settings
    give the same bytes. Raises DataError where no scan can be prepared, ConfigError for names of classes that cannot be
    read.
    """
    source, out, config = Path(source), Path(out), config or PrepareConfig()
    scans, left_out = find_scans(source)
    names = class_names(config.classes, source)
    usable = _with_good_headers(scans, config, left_out)
    _raise_if_none(usable, source, left_out)
    names, values = label_classes([scan.label for scan in usable], names)
    cards: dict[str, dict[str, Any]] = {}
    for scan in track(usable, label="prepare", unit="scans"):
        try:
            cards[scan.name] = _prepare_one(scan, out, config, names, values)
        except DataError as reason:
            left_out[scan.shown_as] = str(reason)
    _raise_if_none(cards, source, left_out)
    seen = {int(number) for card in cards.values() for number in card["counts"]}
    classes = {number: names.get(number, f"class {number}") for number in sorted(seen | names.keys())}
    for card in cards.values():
        present = card["counts"].keys() if card["labelled"] else {str(number) for number in classes}
        card["absent"] = [number for number in classes if str(number) not in present]
    _write_report(out / REPORT, scans, cards, classes, left_out)
    _write_sources(out / SOURCES, scans)
    manifest = {
        "version": VERSION,
        "config": json.loads(to_json(config)),
        "classes": {str(number): name for number, name in classes.items()},
        "label_values": {str(number): value for number, value in values.values.items()},
        "volumes": cards,
        "left_out": left_out,
    }
    atomic_write(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    print("\n".join(_summary_lines(cards, classes, left_out, place_of(out))), file=sys.stderr)
    return out


def _with_good_headers(
    scans: Sequence[ScanFiles], config: PrepareConfig, left_out: dict[str, str]
) -> list[ScanFiles]:
    """The scans whose headers can be used; the others are left out, and said at once: reading takes long."""
    usable = []
    for scan in track(scans, label="check headers", unit="scans"):
        try:
            check_scan(scan, config)
            usable.append(scan)
        except DataError as reason:
            left_out[scan.shown_as] = str(reason)
            print(f"left out by its header: {scan.shown_as}: {reason}", file=sys.stderr, flush=True)
    return usable


def _raise_if_none(scans: Sized, source: Path, left_out: Mapping[str, str]) -> None:
    """Raises DataError where no scan is left."""
    if not scans:
        file, why = next(iter(left_out.items()))
        raise DataError(f"{source}: {len(left_out)} files and no scan can be prepared; {file}: {why}")


def _prepare_one(
    scan: ScanFiles, out: Path, config: PrepareConfig, names: Mapping[int, str], values: LabelValues
) -> dict[str, Any]:
    """The card of a scan, prepared now or earlier from the same files. Raises DataError."""
    path, overlay = out / "volumes" / f"{scan.name}.npz", out / "overlays" / f"{scan.name}.png"
    inputs = _inputs_digest(scan, config, names, values)
    card = _read_card(path)
    if card is None or card["inputs"] != inputs or not overlay.is_file():
        image_ZHW, labels_ZHW, card = prepare_scan(scan, config, values)
        card["inputs"] = inputs
        plane = card["grid"]["plane"]
        sheet = overlay_sheet(image_ZHW, labels_ZHW, names, title=_title(scan.name, card), plane=plane)
        atomic_write(overlay, sheet)
        arrays: dict[str, Any] = (
            {"image": image_ZHW} if labels_ZHW is None else {"image": image_ZHW, "labels": labels_ZHW}
        )
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, card=json.dumps(card), **arrays)
    card["file"] = path.relative_to(out).as_posix()
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return card


def _inputs_digest(
    scan: ScanFiles, config: PrepareConfig, names: Mapping[int, str], values: LabelValues
) -> str:
    """sha256 over everything that a prepared scan depends on: settings, classes, and its files."""
    stated = f"{scan.modality} {scan.spacing} {scan.axes}"
    sha = hashlib.sha256(f"{VERSION} {digest(replace(config, classes=''))} {stated}".encode())
    sha.update(json.dumps([sorted(names.items()), sorted(values.numbers.items()), values.white]).encode())
    for path in (scan.image, scan.label):
        if path is None:
            continue
        if path.is_file() and file_kind(path) == "picture":
            sha.update(json.dumps(tall_cards(path.parent), sort_keys=True).encode())
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
        for file in files:
            sha.update(f"\0{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()


def _read_card(path: Path) -> dict[str, Any] | None:
    """The card inside a prepared file, None where there is none or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return json.loads(str(file["card"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _title(name: str, card: Mapping[str, Any]) -> str:
    shape = "x".join(map(str, card["shape"]))
    spacing = "x".join(f"{size:.3g}" for size in card["spacing"]) + " mm" if card["in_mm"] else "unknown size"
    return f"{name}: {card['modality'].upper()}, {shape} voxels of {spacing}"


def _write_report(
    path: Path,
    scans: Sequence[ScanFiles],
    cards: Cards,
    classes: Mapping[int, str],
    left_out: Mapping[str, str],
) -> None:
    rows = [(file, "", "left out", reason) for file, reason in sorted(left_out.items())]
    for scan in scans:
        if scan.name in cards:
            card = cards[scan.name]
            absent = ", ".join(classes[number] for number in card["absent"])
            remarks = [*card["doubts"], *([f"without {absent}"] if absent else []), *card["notes"]]
            state = "doubtful" if card["doubts"] else "prepared"
            rows.append((scan.shown_as, scan.name, state, "; ".join(remarks)))
    atomic_write(path, _csv_text(("file", "name", "state", "reason"), rows))


def _write_sources(path: Path, scans: Sequence[ScanFiles]) -> None:
    """The folders of DICOM scans, which the report does not name; readable by the owner alone."""
    rows = [
        (scan.name, str(scan.image), str(scan.label or ""))
        for scan in scans
        if file_kind(scan.image) == "dicom"
    ]
    if rows:
        with atomic_path(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(_csv_text(("name", "image", "label"), rows))


def _csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _summary_lines(
    cards: Cards, classes: Mapping[int, str], left_out: Mapping[str, str], out: Path | Location
) -> list[str]:
    """A line for each file that was left out or is doubtful, and a summary."""
    lines = [f"left out: {file}: {reason}" for file, reason in left_out.items()]
    lines += [f"look at: {name}: {doubt}" for name, card in cards.items() for doubt in card["doubts"]]
    absent = Counter(number for card in cards.values() for number in card["absent"])
    if absent:
        labelled = sum(card["labelled"] for card in cards.values())
        counts = [f"{classes[number]} in {labelled - absent[number]}" for number in sorted(absent)]
        more = f" and {len(counts) - 6} more" if len(counts) > 6 else ""
        lines.append(f"classes not in all of {labelled} labelled scans: {', '.join(counts[:6])}{more}")
    planes = Counter(card["grid"]["plane"] for card in cards.values())
    if len(planes) > 1:
        counts = [f"{count} {plane}" for plane, count in sorted(planes.items())]
        lines.append(
            f"sliced in several planes: {', '.join(counts)}; where they should be alike, give --plane"
        )
    unknown = sum(not card["in_mm"] for card in cards.values())
    if unknown:
        lines.append(f"spacing unknown of {unknown} scans: no volumes and distances; give --stack-spacing")
    guessed = Counter(card["modality"] for card in cards.values() if card["guessed"])
    if guessed:
        modalities = ", ".join(f"{guessed[modality]} {modality}" for modality in sorted(guessed))
        lines.append(f"modality guessed from values: {modalities}; where this is wrong, give --modality")
    slices = sum(card["shape"][0] for card in cards.values())
    doubtful = sum(bool(card["doubts"]) for card in cards.values())
    lines.append(
        f"{len(cards)} scans prepared ({slices} slices), {len(left_out)} left out, {doubtful} doubtful: {out / REPORT}"
    )
    return lines
