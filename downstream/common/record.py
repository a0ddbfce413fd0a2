"""The folder an experiment leaves: whole or not at all, and only in the place of one of ours."""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ...platform.core.errors import DataError

METRICS = "metrics.json"

LEFT_BY_US = frozenset(
    {METRICS, "config.json", "params.json", "run.json", "metrics.jsonl", "figures", "masks", "overlays"}
)
"""What a folder of ours may hold beside tables (.csv) and pages (.html)."""


@contextmanager
def replaced(out: Path | str) -> Iterator[Path]:
    """A folder to write to, beside `out`; it takes the place of `out` when the block ends well, else it goes.

    Raises DataError before anything is written where `out` holds what such a block never left there.
    """
    out = Path(out).resolve()
    check_ours(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    ending = secrets.token_hex(4)
    new, old = (out.with_name(f".{out.name}.{ending}.{word}") for word in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_ours(out: Path | str) -> None:
    """Raises DataError where a folder holds what no experiment left there: it would be replaced."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; give a folder to write to")
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in held if name not in LEFT_BY_US and not name.endswith((".csv", ".html"))]
    if foreign or (held and METRICS not in held):
        raise DataError(
            f"{out} holds {foreign[0] if foreign else held[0]}, which no experiment left there; give another folder"
        )


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values as JSON can carry them: what is no number is null, a 0 stays 0."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
