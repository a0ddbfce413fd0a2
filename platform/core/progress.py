"""Progress of a long task: a bar on a terminal, elsewhere a line of JSON every few seconds.

Both go to stderr; stdout is for results.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from .log_lines import stamp

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

LINE_EVERY = 5.0
"""Seconds between two lines of JSON."""

FIELDS = (
    *("progress", "done", "total", "unit", "per_second", "seconds", "seconds_left", "finished"),
    *("time", "level", "verb", "run", "ray_job"),
)
"""Keys of a line of JSON that are no notes."""


class Progress:
    """Counts finished units; use it as a context manager.

    label: the task; total: expected units, None where unknown; unit: what is counted, in the plural.

    >>> with Progress("decode", total=2) as progress:
    ...     progress.advance(loss=0.5)
    ...     progress.done
    1
    """

    def __init__(self, label: str, total: int | None = None, unit: str = "studies") -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self.notes: dict[str, Any] = {}
        self._bar: Any = None
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        self._began = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = _bar(self.label, self.total, self.unit)
            self._bar.start()
        return self

    def advance(self, n: int = 1, **notes: Any) -> None:
        """Counts `n` more units; notes (`loss=0.31`) are shown beside the bar until they change."""
        self.done += n
        self.notes.update(notes)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, notes=_notes_text(self.notes))
        elif time.monotonic() - self._last_line >= LINE_EVERY:
            self._print_line(finished=False)

    def stage(self, text: str) -> None:
        """Shows what is done while no unit is finished (`starting Ray`); a new stage is printed at once, "" ends it."""
        if text == self.notes.get("stage", ""):
            return
        self.notes.pop("stage", None)
        if text:
            self.notes["stage"] = text
        if self._bar is None and text:
            self._print_line(finished=False)
        self.advance(0)

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return self.done / max(time.monotonic() - self._began, 1e-9)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        finished = kind is None and (self.total is None or self.done >= self.total)
        if finished:
            self.stage("")
        if self._bar is not None:
            self._bar.stop()
        else:
            self._print_line(finished)

    def _print_line(self, finished: bool) -> None:
        """Prints one line of JSON: label, count, rate, seconds left, time, job and the notes."""
        self._last_line = time.monotonic()
        left = None
        if self.total is not None and self.done:
            left = round((self.total - self.done) / self.rate, 1)
        line = {
            "progress": self.label,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "per_second": round(self.rate, 2),
            "seconds": round(self._last_line - self._began, 1),
            "seconds_left": 0.0 if finished else left,
            "finished": finished,
            **stamp("info"),
            **{key: _rounded(value) for key, value in self.notes.items()},
        }
        print(json.dumps(line, default=str), file=sys.stderr, flush=True)


def track(items: Iterable[T], *, label: str, total: int | None = None, unit: str = "studies") -> Iterator[T]:
    """Yields the items and counts them; `total` is their length where they have one.

    >>> list(track("ab", label="letters"))
    ['a', 'b']
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()


class RelayedProgress:
    """Shows the progress of a process elsewhere, from the lines of JSON that it prints: the bar that it would draw
    here, or the lines unchanged where stderr is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._label: object = None

    def show(self, line: str) -> bool:
        """Whether the line was one of progress, which is then shown."""
        record = _progress_record(line)
        if record is None:
            return False
        if not sys.stderr.isatty():
            print(line, file=sys.stderr, flush=True)
            return True
        label, total = str(record["progress"]), record.get("total")
        if self._bar is None or label != self._label:
            self.close()
            self._label = label
            self._bar = _bar(label, total, str(record.get("unit", "")))
            self._bar.start()
        notes = {key: value for key, value in record.items() if key not in FIELDS}
        task = self._bar.task_ids[0]
        self._bar.update(task, total=total, completed=record["done"], notes=_notes_text(notes), refresh=True)
        if record.get("finished"):
            self.close()
        return True

    def close(self) -> None:
        """Ends the bar; what it showed last stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _progress_record(line: str) -> dict[str, Any] | None:
    """What `Progress` printed as this line; None for any other line."""
    if not line.startswith('{"progress": '):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record.get("done"), int) else None


def tables_console() -> Console:
    """A rich console on stdout that wraps no table in a pipe, which has no width."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=1000)


def _bar(label: str, total: int | None, unit: str) -> Any:
    """A rich bar with count, rate, time left and notes, one task, not yet started."""
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    class Rate(rich.ProgressColumn):
        def render(self, task: rich.Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} {unit}/s" if speed else "", style="progress.data.speed")

    bar = rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        Rate(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[notes]}"),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # results in a pipe stay on stdout while a bar is drawn
    )
    bar.add_task(label, total=total, notes="")
    return bar


def _notes_text(notes: dict[str, Any]) -> str:
    return "  ".join(f"{key} {_rounded(value)}" for key, value in notes.items())


def _rounded(value: Any) -> Any:
    """A float to four significant digits, anything else unchanged."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
