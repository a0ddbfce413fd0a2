"""Zero-shot and few-shot runs that lie in a folder, to be shown: what was measured, the summary, the figures.

Only what `vetdino zeroshot` and `vetdino fewshot` left is read, and of their tables only `summary.csv`: a table by
image or by scan names those.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...platform.core.errors import ConfigError, DataError
from ..studies import NotHereError

METRICS, SUMMARY, FIGURES = "metrics.json", "summary.csv", "figures"

DEEPEST = 3
"""Folders below the given one in which runs are looked for."""

FILE_BYTES = 32 << 20
"""A larger file is not read."""

ROWS = 2000
"""Lines of a summary that are shown."""

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class ShownRun:
    """One run. number: names it in requests; title: its folder, below the one that is shown.

    kind: `zero-shot` or `few-shot`. backbone, digest: its label and digest. figures: their names. left_out: how many
    things were not measured. problem: why nothing else is known; empty where all is well.
    """

    number: str
    title: str
    kind: str = ""
    experiment: str = ""
    backbone: str = ""
    digest: str = ""
    figures: tuple[str, ...] = ()
    left_out: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class RunResults:
    """What a run measured. metrics: name -> value, None where it is undefined.

    columns, rows: of its summary, as text; both empty where it has none. rows_in_file: all of them, shown or not.
    notes: how to read it.
    """

    run: ShownRun
    metrics: Mapping[str, float | None]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    rows_in_file: int
    notes: str

    def __repr__(self) -> str:
        return f"RunResults({self.run.title}, {len(self.metrics)} metrics, {len(self.rows)} rows)"


class ShownRuns:
    """The runs in a folder, or in folders below it; read anew whenever they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where there is no such folder."""
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no folder here; give one that holds runs of zeroshot or fewshot")
        self._folder = folder.resolve()

    def list(self) -> list[ShownRun]:
        """All runs, by title."""
        found = (_run(path, self._folder) for path in self._folders())
        return sorted((run for run in found if run is not None), key=lambda run: run.title)

    def results(self, number: str) -> RunResults:
        """Raises NotHereError where there is no such run, DataError where it is damaged."""
        path, run = self._find(number)
        content = _content(path)
        columns, rows, count = _summary(path / SUMMARY)
        return RunResults(
            run=run,
            metrics={name: _number(value) for name, value in content.get("metrics", {}).items()},
            columns=columns,
            rows=rows,
            rows_in_file=count,
            notes=" ".join(str(content[name]) for name in ("notes", "intervals") if content.get(name)),
        )

    def figure(self, number: str, name: str) -> bytes:
        """A figure as PNG. Raises NotHereError where there is none of this name."""
        path, run = self._find(number)
        if name not in run.figures:
            raise NotHereError("There is no such figure here.")
        png = _bytes(path / FIGURES / f"{name}.png")
        if not png.startswith(PNG):
            raise DataError(f"The figure {name} is damaged; run the experiment again.")
        return png

    def _find(self, number: str) -> tuple[Path, ShownRun]:
        for path in self._folders():
            if _number_of(path, self._folder) == number and (run := _run(path, self._folder)):
                return path, run
        raise NotHereError("There is no such run here.")

    def _folders(self) -> Iterator[Path]:
        """Folders that hold a metrics.json; those below one of them are not looked at, and no link is followed."""
        for place, folders, files in os.walk(self._folder):
            path = Path(place)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            if METRICS in files:
                yield path
            if METRICS in files or len(path.relative_to(self._folder).parts) == DEEPEST:
                folders.clear()

    def __repr__(self) -> str:
        return f"ShownRuns({self._folder})"


def _number_of(path: Path, folder: Path) -> str:
    return hashlib.sha256(path.relative_to(folder).as_posix().encode()).hexdigest()[:12]


def _run(path: Path, folder: Path) -> ShownRun | None:
    """The run of a folder; None where another command left it."""
    title = path.relative_to(folder).as_posix()
    number, title = _number_of(path, folder), folder.name if title == "." else title
    try:
        content = _content(path)
    except DataError as error:
        return ShownRun(number, title, problem=str(error))
    if not isinstance(content.get("experiment"), str):
        return None
    backbone: Any = content.get("backbone")
    backbone = backbone if isinstance(backbone, dict) else {}
    return ShownRun(
        number=number,
        title=title,
        kind="zero-shot" if "domains" in content else "few-shot",
        experiment=content["experiment"],
        backbone=str(backbone.get("label", "")),
        digest=str(backbone.get("digest", "")),
        figures=tuple(sorted(one.stem for one in (path / FIGURES).glob("*.png") if _is_plain(one, path))),
        left_out=len(content.get("left_out") or ()),
    )


def _content(path: Path) -> dict[str, Any]:
    """What metrics.json holds. Raises DataError where it is damaged."""
    try:
        content = json.loads(_bytes(path / METRICS)) if _is_plain(path / METRICS, path) else None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("metrics", {}), dict):
        raise DataError(f"{METRICS} of this run is damaged; run the experiment again.")
    return content


def _summary(path: Path) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], int]:
    """Columns, the first rows, and the number of all rows of a summary; nothing where there is none."""
    if not _is_plain(path, path.parent):
        return (), (), 0
    try:
        columns, *rows = csv.reader(_bytes(path).decode().splitlines())
    except (ValueError, csv.Error):
        raise DataError(f"{SUMMARY} of this run is damaged; run the experiment again.") from None
    return tuple(columns), tuple(map(tuple, rows[:ROWS])), len(rows)


def _bytes(path: Path) -> bytes:
    """Raises DataError for a file that cannot be read or is larger than any of ours."""
    try:
        if path.stat().st_size > FILE_BYTES:
            raise DataError(f"{path.name} of this run has more than {FILE_BYTES >> 20} MiB and is not shown.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} of this run cannot be read ({error.strerror}).") from None


def _is_plain(path: Path, folder: Path) -> bool:
    """Whether a file is there and lies in a folder, whatever links lead to."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _number(value: Any) -> float | None:
    """A metric as JSON can carry it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return float(value) if is_number else None
