"""Numbers and names of the classes of label maps."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...platform.core.errors import ConfigError, DataError
from .files import file_kind, organ_files
from .names import stem


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
    wrong = [number for number, name in names.items() if not 0 <= number <= 255 or not name]
    if wrong:
        raise ConfigError(
            f"classes '{text}': number {wrong[0]}; classes are numbered 1 to 255, each with a name"
        )
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
