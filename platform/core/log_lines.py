"""What a command says on stderr besides its progress: a sentence on a terminal, elsewhere one JSON object a line.

A line has `time` (UTC), `level` and `message`, as a line of progress has beside its counts; both have what is known of
the job: `verb`, `run` (a training's name) and `ray_job` (inside `ray job submit`). The error that ends a command is a
plain line, `vetdino: …`, the last.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

SERVICE = "vetdino.service"
"""The logger of the service, which has a handler of its own."""

_job: dict[str, str] = {}


@contextmanager
def job_named(**names: str) -> Iterator[None]:
    """Within the block every line has these keys; they hold no identifier and no path."""
    before = dict(_job)
    _job.update(names)
    try:
        yield
    finally:
        _job.clear()
        _job.update(before)


def stamp(level: str) -> dict[str, str]:
    """What every line has: the time, the level, and what is known of the job."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": time, "level": level, **_ray_job(), **_job}


def say(text: str, level: str = "info") -> None:
    """Print a sentence; level: `info` or `warning`."""
    if sys.stderr.isatty():
        line = f"vetdino: {'' if level == 'info' else f'{level}: '}{text}"
    else:
        line = json.dumps({**stamp(level), "message": text}, ensure_ascii=False)
    print(line, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning."""
    say(text, "warning")


class JsonLines(logging.Formatter):
    """A record as one JSON object; a message that is an object gives its keys."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = record.getMessage()
        content: Any = None
        if text.startswith("{"):
            with suppress(ValueError):
                content = json.loads(text)
        if not isinstance(content, dict):
            content = {"message": text}
        if record.exc_info and record.exc_info[0]:  # not its text, which may quote what was read
            content["error"] = record.exc_info[0].__name__
        return json.dumps({**stamp(record.levelname.lower()), **content}, ensure_ascii=False)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within the block, where stderr is no terminal, what our modules log and Python warns of are lines of JSON."""
    if sys.stderr.isatty():
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(lambda record: record.name != SERVICE)
    loggers = [logging.getLogger(name) for name in (__name__.partition(".")[0], "py.warnings")]
    for logger in loggers:
        logger.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger in loggers:
            logger.removeHandler(handler)


@cache
def _ray_job() -> dict[str, str]:
    """The id under which `ray job submit` knows this process's job, if it is one's."""
    with suppress(ValueError, KeyError, TypeError):
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""))
        return {"ray_job": str(config["metadata"]["job_submission_id"])}
    return {}
