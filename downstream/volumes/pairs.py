"""Which files of a folder are scans, and which labels belong to them, by the layouts that data come in.

A table (CSV: image, label, name, modality); two folders (images/ and labels/, imagesTr/ and labelsTr/, …) or one
(image_ID and label_ID) of the same names; a folder for each scan; tall pictures with a meta.json. A DICOM folder's
name may be a patient's: such scans are numbered, and only a table gives them a name.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...platform.core.errors import DataError
from .files import kind_of, organ_files, tall_cards
from .names import IMAGES, LABELS, is_label, key_of, natural, safe, stem

MODALITIES = ("ct", "mri")


@dataclass(frozen=True, slots=True)
class Found:
    """One scan: where image and label lie, and how both may be called in a report.

    >>> Found("7", Path("a/image_7.nii.gz"), Path("a/label_7.nii.gz"), "image_7.nii.gz", "label_7.nii.gz")
    Found(7, labelled)
    """

    name: str
    image: Path
    label: Path | None
    told: str
    label_told: str = ""
    modality: str = ""

    def __repr__(self) -> str:
        return f"Found({self.name}, {'labelled' if self.label else 'no label'})"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Scans by name, and file -> why it is left out."""

    scans: tuple[Found, ...]
    left_out: Mapping[str, str]


def pairs_of(source: Path) -> Pairs:
    """The scans of a folder or table, sorted by name (2 before 10). Raises DataError where there is none."""
    if source.is_file() and source.suffix.lower() == ".csv":
        scans, left_out = _table(source)
    elif source.is_dir():
        scans, left_out = _folder(source)
    else:
        raise DataError(f"{source}: no such folder or CSV table; give a folder of scans")
    scans = _numbered(scans, source)
    if not scans:
        first = next((f"; {file}: {reason}" for file, reason in left_out.items()), "")
        raise DataError(
            f"{source}: no scan here{first}; give NIfTI files, DICOM or PNG folders, or a table of image,label"
        )
    twice = sorted({scan.name for scan in scans if sum(scan.name == other.name for other in scans) > 1})
    if twice:
        raise DataError(
            f"{source}: several scans are called '{twice[0]}'; name them in a table of image,label,name"
        )
    return Pairs(tuple(sorted(scans, key=lambda scan: natural(scan.name))), dict(sorted(left_out.items())))


Scans = tuple[list[Found], dict[str, str]]


def _folder(source: Path) -> Scans:
    inside = {part.name.casefold(): part for part in sorted(source.iterdir()) if part.is_dir()}
    images = next((inside[word] for word in IMAGES if word in inside), None)
    labels = next((inside[word] for word in LABELS if word in inside), None)
    if images is not None:
        return _by_name(source, _parts(images), _parts(labels) if labels else [])
    if tall_cards(source):
        files = [file for file in _parts(source) if key_of(file.name) in tall_cards(source)]
        return _by_roles(source, files)
    if kind_of(source) in ("dicom", "stack"):
        return _scan(source, source)
    files = [file for file in _parts(source) if kind_of(file) == "nifti"]
    if files:
        return _by_roles(source, files)
    scans, left_out = [], {}
    for number, part in enumerate(sorted(inside.values(), key=lambda part: natural(part.name)), start=1):
        more, less = _scan(source, part, number)
        scans += more
        left_out |= less
    return scans, left_out


def _parts(folder: Path) -> list[Path]:
    """What lies in a folder and may be a scan or labels, by name."""
    parts = [part for part in folder.iterdir() if not part.name.startswith(".") and kind_of(part)]
    return sorted(parts, key=lambda part: natural(part.name))


def _by_roles(source: Path, files: Sequence[Path], name: str = "") -> Scans:
    """Files that lie together, told apart by the words in their names."""
    labels = [file for file in files if is_label(file.name)]
    return _by_name(source, [file for file in files if file not in labels], labels, name)


def _by_name(source: Path, images: Sequence[Path], labels: Sequence[Path], name: str = "") -> Scans:
    """Joins images and labels of the same key. name: of a scan whose key is empty."""
    keys = {file: key_of(file.name) for file in (*images, *labels)}
    known = {keys[file] for file in labels}
    for file in images:  # nnU-Net numbers the channels of a scan
        channel = re.fullmatch(r"(.+)_(\d{4})", keys[file])
        if channel and keys[file] not in known and (channel[1] in known or not known):
            keys[file] = channel[1]
    by_key: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for place, files in enumerate((images, labels)):
        for file in files:
            by_key[keys[file]][place].append(file)
    scans, left_out = [], {}
    for key, (image, label) in by_key.items():
        if not image:
            left_out |= {_told(source, file): "a label without an image of its name" for file in label}
        elif len(label) > 1:
            left_out[_told(source, image[0])] = f"{len(label)} labels of its name; keep one, or give a table"
        else:
            left_out |= {_told(source, file): "a further image or channel of its scan" for file in image[1:]}
            scans.append(
                _found(source, key or name or source.resolve().name, image[0], label[0] if label else None)
            )
    return scans, left_out


def _scan(source: Path, folder: Path, number: int = 1) -> Scans:
    """A folder of one scan (or of several without labels), however deep its files lie; number: its place."""
    images, labels = [], []
    for part in _within(folder):
        words = part.relative_to(folder).parts
        (labels if any(is_label(word) for word in words) else images).append(part)
    name = folder.resolve().name
    if len(images) == 1 and len(labels) <= 1:
        return [_found(source, name, images[0], labels[0] if labels else None)], {}
    if not images:
        return [], {_told(source, label): "a label without an image beside it" for label in labels}
    if not labels:
        return [_found(source, _joined(folder, image), image, None) for image in images], {}
    if all(part.is_file() and part.parent == folder for part in (*images, *labels)):
        scans, left_out = _by_name(source, images, labels, name)
        return [replace(scan, name=_joined(folder, folder / scan.name)) for scan in scans], left_out
    told = f"{len(images)} images and {len(labels)} labels"
    # The name of a folder of DICOM files may be a patient's.
    where = (
        f"DICOM folder {number}" if any(kind_of(one) == "dicom" for one in images) else _told(source, folder)
    )
    return [], {where: f"{told}, and which belong together is not told; give a table"}


def _within(folder: Path) -> Iterable[Path]:
    """Files and folders at or below a folder that hold a scan or labels."""
    kind = kind_of(folder)
    if kind in ("dicom", "stack"):
        yield folder
    elif kind == "organs" and is_label(folder.name) and len(organ_files(folder)) > 1:
        yield folder
        return
    for part in sorted(folder.iterdir(), key=lambda part: natural(part.name)):
        if part.is_dir() and not part.name.startswith("."):
            yield from _within(part)
        elif kind_of(part) == "nifti":
            yield part


def _joined(folder: Path, part: Path) -> str:
    """A name for one of several scans of a folder."""
    inner = "-".join(stem(word) for word in part.relative_to(folder).parts)
    return f"{folder.resolve().name}-{inner}" if inner else folder.resolve().name


def _table(table: Path) -> Scans:
    """Rows of image, label, name, modality; files relative to the table. Raises DataError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                {(key or "").strip().casefold(): (value or "").strip() for key, value in row.items() if key}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a readable CSV table ({type(error).__name__})") from None
    if not rows:
        raise DataError(f"{table}: a table without rows; one for each scan: image,label,name,modality")
    if "image" not in rows[0]:
        raise DataError(f"{table}: no column 'image'; found {', '.join(rows[0])}")
    scans, left_out = [], {}
    for number, row in enumerate(rows, start=2):
        image, label = row["image"], row.get("label", "")
        modality = {"mr": "mri"}.get(row.get("modality", "").casefold(), row.get("modality", "").casefold())
        if modality and modality not in MODALITIES:
            raise DataError(
                f"{table}: line {number}: modality '{modality}'; give one of {', '.join(MODALITIES)}"
            )
        missing = [file for file in (image, label) if file and not (table.parent / file).exists()]
        if missing or not image:
            told = f"{table.name}, line {number}"
            left_out[told] = f"no file {missing[0]}" if missing else "no image is named"
            continue
        found = _found(table.parent, row.get("name") or key_of(Path(image).name), table.parent / image, None)
        if row.get("name"):
            found = replace(found, name=safe(row["name"]), told=found.told or safe(row["name"]))
        if label:
            found = replace(
                found, label=table.parent / label, label_told=_told(table.parent, table.parent / label)
            )
        scans.append(replace(found, modality=modality))
    return scans, left_out


def _found(source: Path, name: str, image: Path, label: Path | None) -> Found:
    """A scan; one of DICOM files gets no name yet, and its paths are not told."""
    if kind_of(image) == "dicom":
        return Found("", image, label, "")
    label_told = _told(source, label) if label else ""
    return Found(safe(name), image, label, _told(source, image), label_told)


def _numbered(scans: Sequence[Found], source: Path) -> list[Found]:
    """The scans, those of DICOM files without a name numbered in the order of their paths."""
    nameless = sorted((scan for scan in scans if not scan.name), key=lambda scan: natural(str(scan.image)))
    names = {scan.image: f"dicom-{number}" for number, scan in enumerate(nameless, start=1)}
    return [
        replace(
            scan, name=names[scan.image], told=names[scan.image], label_told=f"label of {names[scan.image]}"
        )
        if scan.image in names
        else scan
        for scan in scans
    ]


def _told(source: Path, file: Path) -> str:
    return file.relative_to(source).as_posix() if file.is_relative_to(source) else file.name
