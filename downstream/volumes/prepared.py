"""Scans and label maps of any source, prepared once for few-shot segmentation, and read back slice by slice.

    OUT/volumes/NAME.npz    image and labels (Z, H, W) uint8, and the grid they came from
    OUT/volumes.json        what there is: settings, classes, counts, digests, doubts, what was left out
    OUT/overlays/NAME.png   some slices with the labels outlined: to be looked at before anything is trained
    OUT/report.csv          a line for each file: prepared, doubtful or left out, and why
    OUT/sources.csv         for DICOM: number of a scan -> its folder; only its owner can read it

Eight bits hold all that is used: a window of 400 HU in steps of 1.6 HU, or an MRI's whole clipped range; both lie
far below the noise of a voxel.
"""

# Z, H, W slices, rows and columns as prepared; I, J, K axes as stored.

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.config import atomic_path, atomic_write, digest, to_json
from ...platform.core.errors import DataError
from ...platform.core.progress import track
from .files import kind_of, tall_cards
from .grid import Grid, Spacing, grid_of_card, unplaced
from .names import natural
from .pairs import Found, pairs_of
from .scan import Modality, PrepareConfig, class_names, organs_of, scan_of
from .sheet import sheet

__all__ = ["PrepareConfig", "Volume", "Volumes", "prepare", "save_mask", "to_original", "volumes_of"]

VERSION = 1
"""Of the prepared folder."""

MANIFEST, REPORT, SOURCES = "volumes.json", "report.csv", "sources.csv"


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One prepared scan: slices from the feet up, seen as radiologists see them.

    >>> Volume("7", np.zeros((5, 8, 8), np.float32), None, (5.0, 1.0, 1.0), "ct", None)
    Volume(7, ct 5x8x8, no labels)
    """

    name: str
    image_ZHW: np.ndarray
    """float32, 0 to 255: the CT window, or an MRI from its least to its clipped value."""
    labels_ZHW: np.ndarray | None
    """uint8 class numbers, 0 is background."""
    spacing: Spacing
    """mm from slice to slice, row to row, column to column."""
    modality: Modality
    affine: np.ndarray | None
    """(4, 4) of the scan as stored: index -> mm in RAS+."""
    grid: Grid | None = None
    """How the stored scan became these slices, to bring masks back."""

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_ZHW.shape))
        if self.labels_ZHW is None:
            return f"Volume({self.name}, {self.modality} {shape}, no labels)"
        count = np.count_nonzero(np.unique(self.labels_ZHW))
        return f"Volume({self.name}, {self.modality} {shape}, {count} classes)"


@dataclass(frozen=True, slots=True, eq=False)
class Volumes:
    """A prepared folder. cards: name -> what volumes.json says of a scan; names in natural order (2 before 10)."""

    folder: Path
    classes: Mapping[int, str]
    names: tuple[str, ...]
    cards: Mapping[str, Mapping[str, Any]] = field(repr=False)
    left_out: Mapping[str, str] = field(default_factory=dict, repr=False)
    digest: str = ""
    """sha256 over names, classes and files: equal data, equal digest."""

    def load(self, name: str) -> Volume:
        """Reads one scan. Raises DataError where it is not among the names or its file is damaged."""
        if name not in self.cards:
            raise DataError(f"{self.folder}: no scan '{name}'; there are {', '.join(self.names)}")
        path = self.folder / self.cards[name]["file"]
        try:
            with path.open("rb") as stream, np.load(stream) as file:
                card = json.loads(str(file["card"]))
                image_ZHW = file["image"].astype(np.float32)
                labels_ZHW = file["labels"] if "labels" in file.files else None
            grid = grid_of_card(card["grid"])
            return Volume(name, image_ZHW, labels_ZHW, grid.spacing, card["modality"], grid.affine, grid)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path}: damaged ({type(error).__name__}); run `vetdino fewshot prepare` again"
            ) from None

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Volume]:
        return map(self.load, self.names)


def prepare(source: Path | str, out: Path | str, config: PrepareConfig | None = None) -> Path:
    """Prepares every scan of a folder or table; gives back `out`. What cannot be used is left out and said.

    Run again, it does only what is missing or has changed. The same source and settings give the same bytes.
    Raises DataError where no scan can be prepared, ConfigError for names of classes that cannot be read.
    """
    source, out, config = Path(source), Path(out), config or PrepareConfig()
    pairs = pairs_of(source)
    names = class_names(config.classes, source)
    organs = organs_of([scan.label for scan in pairs.scans], names)
    names = names or {number: name for name, number in organs.items()}
    cards: dict[str, dict[str, Any]] = {}
    left_out = dict(pairs.left_out)
    for scan in track(pairs.scans, label="prepare", unit="scans"):
        try:
            cards[scan.name] = _one(scan, out, config, names, organs)
        except DataError as reason:
            left_out[scan.told] = str(reason)
    if not cards:
        file, reason = next(iter(left_out.items()))
        raise DataError(f"{source}: {len(left_out)} files and no scan can be prepared; {file}: {reason}")
    seen = {int(number) for card in cards.values() for number in card["counts"]}
    classes = {number: names.get(number, f"class {number}") for number in sorted(seen | names.keys())}
    for card in cards.values():
        there = card["counts"].keys() if card["labelled"] else {str(number) for number in classes}
        card["absent"] = [number for number in classes if str(number) not in there]
    _write_tables(out, pairs.scans, cards, classes, left_out)
    manifest = {
        "version": VERSION,
        "config": json.loads(to_json(config)),
        "classes": {str(number): name for number, name in classes.items()},
        "volumes": cards,
        "left_out": left_out,
    }
    atomic_write(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    _say(cards, classes, left_out, out)
    return out


def volumes_of(folder: Path | str) -> Volumes:
    """The scans of a folder that `prepare` left. Raises DataError where it is none."""
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["version"] != VERSION:
            raise DataError(
                f"{path}: version {manifest['version']}, this vetdino reads {VERSION}; prepare again"
            )
        cards = manifest["volumes"]
        classes = {int(number): name for number, name in manifest["classes"].items()}
        told = json.dumps(
            [[name, cards[name]["sha256"]] for name in sorted(cards)] + [sorted(classes.items())]
        )
        return Volumes(
            folder,
            classes,
            tuple(sorted(cards, key=natural)),
            cards,
            manifest["left_out"],
            hashlib.sha256(told.encode()).hexdigest(),
        )
    except FileNotFoundError:
        raise DataError(f"{folder}: no {MANIFEST} here; make it with `vetdino fewshot prepare`") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise DataError(f"{path}: damaged; run `vetdino fewshot prepare` again") from None


def to_original(mask_ZHW: np.ndarray, volume: Volume) -> np.ndarray:
    """A mask on the prepared slices, brought back to the scan as stored: (I, J, K), dtype kept, 0 where it was cut.

    Raises DataError where the mask has another shape, or the volume does not know where it came from.
    """
    if volume.grid is None:
        raise DataError(f"{volume.name}: it does not know its original grid; prepare it from its file")
    return unplaced(mask_ZHW, volume.grid)


def save_mask(path: Path | str, mask_ZHW: np.ndarray, volume: Volume) -> Path:
    """Writes a mask as NIfTI (.nii or .nii.gz, uint8) over the original scan; the same mask gives the same bytes."""
    import nibabel

    path = Path(path)
    array = np.ascontiguousarray(to_original(mask_ZHW, volume), np.uint8)
    content = nibabel.Nifti1Image(array, volume.affine).to_bytes()
    atomic_write(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def _one(
    scan: Found, out: Path, config: PrepareConfig, names: Mapping[int, str], organs: Mapping[str, int]
) -> dict[str, Any]:
    """The card of a scan that is prepared now, or was before from the same files. Raises DataError."""
    path, overlay = out / "volumes" / f"{scan.name}.npz", out / "overlays" / f"{scan.name}.png"
    inputs = _inputs(scan, config, names)
    card = _card_of(path)
    if card is None or card["inputs"] != inputs or not overlay.is_file():
        image_ZHW, labels_ZHW, card = scan_of(scan, config, organs)
        card["inputs"] = inputs
        atomic_write(overlay, sheet(image_ZHW, labels_ZHW, names, title=_title(scan.name, card)))
        arrays = {"image": image_ZHW} if labels_ZHW is None else {"image": image_ZHW, "labels": labels_ZHW}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, card=json.dumps(card), **arrays)
    card["file"] = path.relative_to(out).as_posix()
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return card


def _inputs(scan: Found, config: PrepareConfig, names: Mapping[int, str]) -> str:
    """sha256 of all that a prepared scan follows from."""
    told = hashlib.sha256(f"{VERSION} {digest(replace(config, classes=''))} {scan.modality}".encode())
    told.update(json.dumps(sorted(names.items())).encode())
    for place in (scan.image, scan.label):
        if place is None:
            continue
        if place.is_file() and kind_of(place) == "picture":
            told.update(json.dumps(tall_cards(place.parent), sort_keys=True).encode())
        files = [place] if place.is_file() else sorted(file for file in place.iterdir() if file.is_file())
        for file in files:
            told.update(f"\0{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return told.hexdigest()


def _card_of(path: Path) -> dict[str, Any] | None:
    """The card inside a prepared file, None where there is none or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return json.loads(str(file["card"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _title(name: str, card: Mapping[str, Any]) -> str:
    shape, spacing = ("x".join(f"{number:.3g}" for number in card[what]) for what in ("shape", "spacing"))
    return f"{name}: {card['modality'].upper()}, {shape} voxels of {spacing} mm"


# What is said ------------------------------------------------------------------------------------


def _write_tables(
    out: Path,
    scans: Sequence[Found],
    cards: Mapping[str, Mapping[str, Any]],
    classes: Mapping[int, str],
    left_out: Mapping[str, str],
) -> None:
    """report.csv, and sources.csv where scans are numbered."""
    rows = [(file, "", "left out", reason) for file, reason in sorted(left_out.items())]
    for scan in scans:
        if scan.name in cards:
            card = cards[scan.name]
            absent = ["without " + ", ".join(classes[number] for number in card["absent"])] * bool(
                card["absent"]
            )
            state = "doubtful" if card["doubts"] else "prepared"
            rows.append((scan.told, scan.name, state, "; ".join([*card["doubts"], *absent, *card["notes"]])))
    atomic_write(out / REPORT, _csv(("file", "name", "state", "reason"), rows))
    hidden = [scan for scan in scans if kind_of(scan.image) == "dicom"]
    if hidden:
        with atomic_path(out / SOURCES) as temporary:
            temporary.touch(mode=0o600)
            places = [(scan.name, str(scan.image), str(scan.label or "")) for scan in hidden]
            temporary.write_text(_csv(("name", "image", "label"), places))


def _csv(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def _say(
    cards: Mapping[str, Mapping[str, Any]], classes: Mapping[int, str], left_out: Mapping[str, str], out: Path
) -> None:
    """One line for each file that was left out or is doubtful, and one for the whole, to stderr."""
    lines = [f"left out: {file}: {reason}" for file, reason in left_out.items()]
    lines += [f"look at: {name}: {doubt}" for name, card in cards.items() for doubt in card["doubts"]]
    absent = Counter(number for card in cards.values() for number in card["absent"])
    if absent:
        labelled = sum(card["labelled"] for card in cards.values())
        told = [f"{classes[number]} in {labelled - absent[number]}" for number in sorted(absent)]
        more = f" and {len(told) - 6} more" if len(told) > 6 else ""
        lines.append(f"classes not in all of {labelled} labelled scans: {', '.join(told[:6])}{more}")
    guessed = Counter(card["modality"] for card in cards.values() if card["guessed"])
    if guessed:
        counts = ", ".join(f"{guessed[kind]} {kind}" for kind in sorted(guessed))
        lines.append(f"modality guessed from values: {counts}; where this is wrong, give --modality")
    slices = sum(card["shape"][0] for card in cards.values())
    doubtful = sum(bool(card["doubts"]) for card in cards.values())
    lines.append(
        f"{len(cards)} scans prepared ({slices} slices), {len(left_out)} left out, {doubtful} doubtful: {out / REPORT}"
    )
    print("\n".join(lines), file=sys.stderr)
