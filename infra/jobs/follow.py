"""A job seen from here: its log with the progress as a bar, and how it ended."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from typing import TYPE_CHECKING

from ...platform.core.errors import ClusterError
from ...platform.core.log_lines import say
from ...platform.core.progress import RelayedProgress
from .client import reported

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

PAUSE_S = 1.0
"""Seconds before a log whose connection broke is read again."""
TRIES = 20
"""How often in a row that is tried without a new line of the log."""


class LogPrinter:
    """Prints a job's log as the command itself would: progress as a bar, errors on stderr, results on stdout.

    A log that is read again from its beginning goes on where it was.
    """

    def __init__(self, progress: RelayedProgress) -> None:
        self._progress = progress
        self._printed = self._read = 0
        self._rest = ""

    @property
    def lines(self) -> int:
        """How many lines were printed."""
        return self._printed

    def restart(self) -> None:
        """What follows is the log from its beginning."""
        self._read, self._rest = 0, ""

    def feed(self, text: str) -> None:
        """A piece of the log; a line is printed when it is whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._print(line)

    def finish(self) -> None:
        """Prints a last line without its end, and takes the bar away."""
        if self._rest:
            self._print(self._rest)
            self._rest = ""
        self._progress.close()

    def _print(self, line: str) -> None:
        self._read += 1
        if self._read <= self._printed:
            return
        self._printed = self._read
        if not self._progress.show(line):
            text = _sentence(line)
            print(text or line, file=sys.stderr if text else sys.stdout, flush=True)


def _sentence(line: str) -> str:
    """What a command says on stderr besides its progress, as it would here; "" for a line of its results.

    Away from a terminal, as in a job, that is an object with `time`, `level` and `message`, or an error's plain line.
    """
    if line.startswith("vetdino: "):
        return line
    try:
        record = json.loads(line) if line.startswith('{"time": ') else None
    except ValueError:
        return ""
    if not isinstance(record, dict) or not {"level", "message"} <= record.keys():
        return ""
    if not sys.stderr.isatty():
        return line
    level = "" if record["level"] == "info" else f"{record['level']}: "
    return f"vetdino: {level}{record['message']}"


def follow(client: JobSubmissionClient, job: str) -> int:
    """Print a job's log until it ends; its exit code, see `exit_code`. Raises ClusterError."""
    printer, failures = LogPrinter(RelayedProgress()), 0
    try:
        while True:
            before = printer.lines
            try:
                asyncio.run(_tail(client, job, printer))
                details = client.get_job_info(job)
                if details.status.is_terminal():
                    return exit_code(details)
            except ClusterError:
                raise
            except Exception:  # the connection broke, or the node with the log is lost
                failures = failures + 1 if printer.lines == before else 1
                if failures == TRIES:
                    return _end_without_log(client, job)
            time.sleep(PAUSE_S)
            printer.restart()
    finally:
        printer.finish()


def _end_without_log(client: JobSubmissionClient, job: str) -> int:
    """The exit code of a job whose log cannot be read on. Raises ClusterError where it has not ended."""
    with reported(client.get_address()):
        details = client.get_job_info(job)
    if not details.status.is_terminal():
        raise ClusterError(
            f"{job} is {details.status.value}, but its log cannot be read; see `vetdino jobs list`"
        )
    say(f"the rest of the log of {job} cannot be read", "warning")
    return exit_code(details)


async def _tail(client: JobSubmissionClient, job: str, printer: LogPrinter) -> None:
    async for text in client.tail_job_logs(job):
        printer.feed(text)


def exit_code(details: JobDetails) -> int:
    """How an ended job's command ended: its exit code, 128 + the signal that killed it, 143 where the job was stopped.

    Raises ClusterError with Ray's reason where the command did not start.
    """
    code = details.driver_exit_code
    if code is not None:
        return code if code >= 0 else 128 - code
    if details.status.value == "STOPPED":
        return 128 + signal.SIGTERM
    if details.status.value == "SUCCEEDED":
        return 0
    lines = [line.strip() for line in (details.message or "no reason").splitlines() if line.strip()]
    raise ClusterError(
        f"Ray could not run {details.submission_id} ({(lines or ['no reason'])[-1][:300]}); do the nodes have "
        "vetdino's dependencies? The cluster's dashboard shows more"
    )
