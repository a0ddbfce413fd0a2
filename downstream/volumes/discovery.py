"""Finds the scans of a folder or table, and the labels that belong to them, in the layouts that data come in.

A table (CSV: image, label, name, modality, spacing, axes); two folders (images/ and labels/, imagesTr/ and labelsTr/,
…) or one (image_ID and label_ID) of the same names; a folder for each scan; tall pictures with a meta.json. A DICOM
folder's name may be a patient's: such scans are numbered, and only a table gives them a name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...platform.core.errors import DataError
from ..common.csv_table import read_csv_rows
from .config import world_axes
from .files import file_kind, organ_files, tall_cards
from .grid import Spacing
from .names import IMAGES, LABELS, is_label, natural_key, safe_name, scan_key, stem

MODALITIES = ("ct", "mri")


@dataclass(frozen=True, slots=True)
class ScanFiles:
    """One scan: where image and label lie, and their names in reports, which never hold a patient's name.

    >>> ScanFiles("7", Path("a/image_7.nii.gz"), Path("a/label_7.nii.gz"), "image_7.nii.gz", "label_7.nii.gz")
    ScanFiles(7, labelled)
    """

    name: str
    image: Path
    label: Path | None
    shown_as: str
    label_shown_as: str = ""
    modality: str = ""
    spacing: Spacing | None = None
    """mm (slice, row, column) of pictures, where a table gives them."""
    axes: str = ""
    """Directions of the axes of pictures, where a table gives them."""

    def __repr__(self) -> str:
        return f"ScanFiles({self.name}, {'labelled' if self.label else 'no label'})"


ScanList = tuple[list[ScanFiles], dict[str, str]]
"""Scans, and file -> why it is left out."""


def find_scans(source: Path) -> ScanList:
    """The scans of a folder or table, sorted by name (2 before 10). Raises DataError where there is none."""
    if source.is_file() and source.suffix.lower() == ".csv":
        scans, left_out = _from_table(source)
    elif source.is_dir():
        scans, left_out = _from_folder(source)
    else:
        raise DataError(f"{source}: no such folder or CSV table; give a folder of scans")
    scans = _number_nameless(scans)
    if not scans:
        first = next((f"; {file}: {reason}" for file, reason in left_out.items()), "")
        raise DataError(
            f"{source}: no scan here{first}; give NIfTI files, DICOM or PNG folders, or a table of image,label"
        )
    names = [scan.name for scan in scans]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(
            f"{source}: several scans are called '{repeated[0]}'; name them in a table of image,label,name"
        )
    return sorted(scans, key=lambda scan: natural_key(scan.name)), dict(sorted(left_out.items()))


def _from_folder(source: Path) -> ScanList:
    folders = {part.name.casefold(): part for part in sorted(source.iterdir()) if part.is_dir()}
    images = next((folders[word] for word in IMAGES if word in folders), None)
    labels = next((folders[word] for word in LABELS if word in folders), None)
    if images is not None:
        return _join_by_key(source, _scan_parts(images), _scan_parts(labels) if labels else [])
    if cards := tall_cards(source):
        return _join_by_words(source, [file for file in _scan_parts(source) if scan_key(file.name) in cards])
    if file_kind(source) in ("dicom", "stack"):
        return _from_scan_folder(source, source)
    files = [file for file in _scan_parts(source) if file_kind(file) == "nifti"]
    if files:
        return _join_by_words(source, files)
    scans: list[ScanFiles] = []
    left_out: dict[str, str] = {}
    ordered = sorted(folders.values(), key=lambda part: natural_key(part.name))
    for number, folder in enumerate(ordered, start=1):
        more, less = _from_scan_folder(source, folder, number)
        scans += more
        left_out |= less
    return scans, left_out


def _scan_parts(folder: Path) -> list[Path]:
    """Files and folders directly in a folder that may be a scan or labels, in natural order."""
    parts = [part for part in folder.iterdir() if not part.name.startswith(".") and file_kind(part)]
    return sorted(parts, key=lambda part: natural_key(part.name))


def _join_by_words(source: Path, files: Sequence[Path]) -> ScanList:
    """Joins files of one folder, told apart by the words for image and label in their names."""
    labels = [file for file in files if is_label(file.name)]
    return _join_by_key(source, [file for file in files if file not in labels], labels)


def _join_by_key(source: Path, images: Sequence[Path], labels: Sequence[Path], name: str = "") -> ScanList:
    """Joins images and labels of the same key. name: of a scan whose key is empty."""
    keys = {file: scan_key(file.name) for file in (*images, *labels)}
    known = {keys[file] for file in labels}
    for file in images:  # nnU-Net numbers the channels of a scan
        channel = re.fullmatch(r"(.+)_(\d{4})", keys[file])
        if channel and keys[file] not in known and (channel[1] in known or not known):
            keys[file] = channel[1]
    by_key: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for place, files in enumerate((images, labels)):
        for file in files:
            by_key[keys[file]][place].append(file)
    scans: list[ScanFiles] = []
    left_out: dict[str, str] = {}
    for key, (image, label) in by_key.items():
        if not image:
            left_out |= {_shown_as(source, file): "a label without an image of its name" for file in label}
        elif len(label) > 1:
            left_out[_shown_as(source, image[0])] = (
                f"{len(label)} labels of its name; keep one, or give a table"
            )
        else:
            left_out |= {
                _shown_as(source, file): "a further image or channel of its scan" for file in image[1:]
            }
            scan_name = key or name or source.resolve().name
            scans.append(_scan_files(source, scan_name, image[0], label[0] if label else None))
    return scans, left_out


def _from_scan_folder(source: Path, folder: Path, number: int = 1) -> ScanList:
    """A folder of one scan (or of several without labels), at any depth. number: its place among its siblings."""
    images: list[Path] = []
    labels: list[Path] = []
    for part in _parts_below(folder):
        words = part.relative_to(folder).parts
        (labels if any(is_label(word) for word in words) else images).append(part)
    name = folder.resolve().name
    if len(images) == 1 and len(labels) <= 1:
        return [_scan_files(source, name, images[0], labels[0] if labels else None)], {}
    if not images:
        return [], {_shown_as(source, label): "a label without an image beside it" for label in labels}
    if not labels:
        return [_scan_files(source, _nested_name(folder, image), image, None) for image in images], {}
    if all(part.is_file() and part.parent == folder for part in (*images, *labels)):
        scans, left_out = _join_by_key(source, images, labels, name)
        return [replace(scan, name=_nested_name(folder, folder / scan.name)) for scan in scans], left_out
    # The name of a folder of DICOM files may be a patient's.
    dicom = any(file_kind(image) == "dicom" for image in images)
    place = f"DICOM folder {number}" if dicom else _shown_as(source, folder)
    counts = f"{len(images)} images and {len(labels)} labels"
    return [], {place: f"{counts}, and which belong together is unknown; give a table"}


def _parts_below(folder: Path) -> Iterable[Path]:
    """Files and folders at or below a folder that hold a scan or labels."""
    kind = file_kind(folder)
    if kind in ("dicom", "stack"):
        yield folder
    elif kind == "organs" and is_label(folder.name) and len(organ_files(folder)) > 1:
        yield folder
        return
    for part in sorted(folder.iterdir(), key=lambda part: natural_key(part.name)):
        if part.is_dir() and not part.name.startswith("."):
            yield from _parts_below(part)
        elif file_kind(part) == "nifti":
            yield part


def _nested_name(folder: Path, part: Path) -> str:
    """A name for one of several scans of a folder: the folder's and that of the part."""
    inner = "-".join(stem(word) for word in part.relative_to(folder).parts)
    return f"{folder.resolve().name}-{inner}" if inner else folder.resolve().name


def _from_table(table: Path) -> ScanList:
    """Rows of image, label, name, modality, and of pictures spacing and axes; files relative to the table.

    Raises DataError.
    """
    rows = read_csv_rows(table, "scan", ("image",), ("label", "name", "modality", "spacing", "axes"))
    scans: list[ScanFiles] = []
    left_out: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        image, label, name = row["image"], row.get("label", ""), row.get("name", "")
        modality = row.get("modality", "").casefold()
        modality = "mri" if modality == "mr" else modality
        if modality and modality not in MODALITIES:
            raise DataError(
                f"{table}: line {number}: modality '{modality}'; give one of {', '.join(MODALITIES)}"
            )
        missing = [file for file in (image, label) if file and not (table.parent / file).exists()]
        if missing or not image:
            reason = f"no file {missing[0]}" if missing else "no image is named"
            left_out[f"{table.name}, line {number}"] = reason
            continue
        scan = _scan_files(table.parent, name or scan_key(Path(image).name), table.parent / image, None)
        if name:
            scan = replace(scan, name=safe_name(name), shown_as=scan.shown_as or safe_name(name))
        if label:
            label_path = table.parent / label
            scan = replace(scan, label=label_path, label_shown_as=_shown_as(table.parent, label_path))
        spacing, axes = _stack_geometry(f"{table}: line {number}", scan.image, row)
        scans.append(replace(scan, modality=modality, spacing=spacing, axes=axes))
    return scans, left_out


def _stack_geometry(place: str, image: Path, row: Mapping[str, str]) -> tuple[Spacing | None, str]:
    """(mm of slice, row, column, axes) that a row gives for its pictures. Raises DataError."""
    text, axes = row.get("spacing", ""), row.get("axes", "").upper()
    if (text or axes) and file_kind(image) not in ("stack", "picture"):
        raise DataError(f"{place}: spacing and axes are for pictures; this file has its own")
    try:
        world_axes(axes or "SPL")
    except DataError as reason:
        raise DataError(f"{place}: {reason}") from None
    if not text:
        return None, axes
    try:
        z, y, x = (float(part) for part in re.split(r"[x\s]+", text))
        if not all(0 < size < float("inf") for size in (z, y, x)):
            raise ValueError
    except ValueError:
        raise DataError(
            f"{place}: spacing '{text}'; give mm of slice, row and column, as 5x0.8x0.8"
        ) from None
    return (z, y, x), axes


def _scan_files(source: Path, name: str, image: Path, label: Path | None) -> ScanFiles:
    """A scan; one of DICOM files gets no name yet, and its paths are not shown."""
    if file_kind(image) == "dicom":
        return ScanFiles("", image, label, "")
    label_shown_as = _shown_as(source, label) if label else ""
    return ScanFiles(safe_name(name), image, label, _shown_as(source, image), label_shown_as)


def _number_nameless(scans: Sequence[ScanFiles]) -> list[ScanFiles]:
    """The scans, those of DICOM files without a name numbered in the order of their paths."""
    nameless = sorted(
        (scan for scan in scans if not scan.name), key=lambda scan: natural_key(str(scan.image))
    )
    names = {scan.image: f"dicom-{number}" for number, scan in enumerate(nameless, start=1)}
    return [
        replace(scan, name=name, shown_as=name, label_shown_as=f"label of {name}")
        if (name := names.get(scan.image, ""))
        else scan
        for scan in scans
    ]


def _shown_as(source: Path, file: Path) -> str:
    return file.relative_to(source).as_posix() if file.is_relative_to(source) else file.name
