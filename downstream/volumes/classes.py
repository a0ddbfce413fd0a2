"""Numbers and names of the classes of label maps."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...platform.core.errors import ConfigError, DataError
from .files import StackGeometry, file_kind, organ_files, stored_labels
from .label_values import MAX_CLASS, LabelValues
from .names import stem
from .nifti import label_bits

MAX_VALUE = 65535
"""Largest label value that can be named."""


def class_names(text: str, source: Path) -> dict[int, str]:
    """Number -> name from `1=liver,2=spleen`, a JSON or CSV file, or the source's own file; without background.

    JSON: {"1": "liver"} or {"liver": 1}, plain or under "labels" (dataset.json of nnU-Net); CSV: number,name.
    Raises ConfigError where it cannot be read.
    """
    if not text:
        folder = source if source.is_dir() else source.parent
        usual = [folder / name for name in ("classes.json", "dataset.json") if (folder / name).is_file()]
        if not usual:
            return {}
        text = str(usual[0])
    pairs: list[tuple[Any, ...]]
    try:
        if text.lower().endswith(".json"):
            content = json.loads(Path(text).read_text())
            content = content.get("labels", content)
            pairs = [
                (value, key) if isinstance(value, int) else (key, value) for key, value in content.items()
            ]
        elif text.lower().endswith(".csv"):
            with Path(text).open(newline="", encoding="utf-8-sig") as file:
                pairs = [(row[0], row[1]) for row in csv.reader(file) if row and row[0].strip().isdecimal()]
        else:
            pairs = [tuple(part.split("=", 1)) for part in text.split(",") if part.strip()]
        names = {int(number): str(name).strip() for number, name in pairs}
    except (OSError, ValueError, AttributeError, IndexError, TypeError) as error:
        raise ConfigError(
            f"classes '{text}' cannot be read ({type(error).__name__}); write 1=liver,2=spleen"
        ) from None
    wrong = [number for number, name in names.items() if not 0 <= number <= MAX_VALUE or not name]
    if wrong:
        raise ConfigError(
            f"classes '{text}': number {wrong[0]}; classes are numbered 1 to {MAX_VALUE}, each with a name"
        )
    if len(names) > MAX_CLASS:
        raise ConfigError(f"classes '{text}': {len(names)} of them, {MAX_CLASS} at most; name those to keep")
    names.pop(0, None)
    return names


def organ_classes(labels: Sequence[Path | None], names: Mapping[int, str]) -> dict[str, int]:
    """Organ -> class number, for labels that are folders of one NIfTI file per organ (TotalSegmentator's).

    With names, only the organs that they name count; without, all of them, numbered alphabetically.
    Raises DataError for more than 255.
    """
    folders = [folder for folder in labels if folder is not None and file_kind(folder) == "organs"]
    organs = sorted({stem(file.name) for folder in folders for file in organ_files(folder)})
    if names:
        return {name: number for number, name in names.items() if name in organs}
    if len(organs) > 255:
        raise DataError(f"{len(organs)} organs, 255 classes at most; name the classes to keep with --classes")
    return {organ: number for number, organ in enumerate(organs, start=1)}


def label_classes(
    labels: Sequence[Path | None], names: Mapping[int, str]
) -> tuple[dict[int, str], LabelValues]:
    """(names by class number, how label values become class numbers) for the labels of a folder.

    Where a named value, or without names any value in the files, is above 255, classes are numbered from 1 in the order
    of their values. Raises DataError for more than 255 organs.
    """
    organs = organ_classes(labels, names)
    if organs and not names:
        return {number: name for name, number in organs.items()}, LabelValues(organs)
    values = sorted(names) if names else _large_values(labels)
    if not values or values[-1] <= MAX_CLASS:
        return dict(names), LabelValues(organs, white=MAX_CLASS not in names)
    numbers = {value: number for number, value in enumerate(values, start=1)}
    renamed = {number: names.get(value, f"value {value}") for value, number in numbers.items()}
    organs = {organ: numbers[value] for organ, value in organs.items()}
    return renamed, LabelValues(organs, numbers, white=False)


def _large_values(labels: Sequence[Path | None]) -> list[int]:
    """All values of the label maps, sorted, where one of them is above 255; else none.

    Only files whose values can be are read. What cannot be read, or is no class number, is refused later with its scan.
    """
    found: set[int] = set()
    for path in labels:
        kind = "" if path is None else file_kind(path)
        if path is None or kind in ("", "organs", "dicom") or (kind == "nifti" and label_bits(path) == 8):
            continue
        try:
            values = stored_labels(path, StackGeometry()).values
        except DataError:
            continue
        whole = np.isfinite(values).all() and values.min() >= 0 and (values == np.rint(values)).all()
        if whole:
            found |= {int(value) for value in np.unique(values)}
    found.discard(0)
    usable = found and MAX_CLASS < max(found) <= MAX_VALUE and len(found) <= MAX_CLASS
    return sorted(found) if usable else []
