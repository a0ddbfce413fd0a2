"""`vetdino submit COMMAND …` runs a command as a job on a Ray cluster; `vetdino jobs` lists, shows and stops jobs."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import urlsplit

from tyro.conf import Positional, arg

from ...platform.core.errors import ClusterError, ConfigError
from ...platform.core.location import Location
from ...platform.core.log_lines import say
from .arguments import Command

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

AddressSetting = Annotated[
    str | None,
    arg(
        help="The cluster: http://HOST:8265, ray://HOST:10001, or `auto` for the Ray of this machine. None: that of "
        "RAY_ADDRESS, else http://127.0.0.1:8265."
    ),
]
JOB = Annotated[
    Positional[str], arg(metavar="JOB", help="Name of the job, raysubmit_…, see `vetdino jobs list`.")
]

OWN_FLAGS = ("--address", "--detach", "--no-detach")
"""Settings of `vetdino submit`, which may stand anywhere; no command that runs in a job has one of that name."""

SOURCES = ("backbone", "backbones", "teacher", "student", "start")
"""Settings that name a file or folder, or something that is neither."""

PASSED_ALONG = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME")
"""Variables that the job gets from here. Keys and passwords stay here: a job's variables can be read in Ray's pages."""

STOP_WAIT_S = 60
"""Seconds that a stopped job has to end by itself, as Ctrl-C would end it; Ray's own 3 leave locks behind."""


@dataclass(frozen=True, kw_only=True)
class Submit(Command):
    """Run a command as a job on a Ray cluster, whose nodes have vetdino's dependencies; vetdino itself travels with it.

    Its progress is shown as if it ran here, and its exit code is this command's. Ctrl-C leaves the job alone.
    """

    basic: ClassVar = ("command", "address", "detach")
    command: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="COMMAND…",
            help="A command of vetdino with its arguments. Paths are absolute, on a disk that all nodes share, or "
            "URLs.",
        ),
    ]
    address: AddressSetting = None
    detach: bool = False
    """Print the job's name and end, without waiting for it."""

    @classmethod
    def parse_start(cls, arguments: Sequence[str]) -> tuple[Any, list[str], str]:
        own: list[str] = []
        command: list[str] = []
        words = iter(arguments)
        for word in words:
            flag = word.partition("=")[0]
            if flag in OWN_FLAGS or (not command and word.startswith("-")):
                own += [word, *itertools.islice(words, word == "--address")]
            else:
                command.append(word)
        return (cls(command=tuple(command)) if command else cls), own, ""

    def run(self) -> None:
        from ..jobs.client import job_client, shown_address
        from ..jobs.follow import follow

        client = job_client(self.address)
        job = self._submitted(client)
        address = f" --address {shown_address(self.address)}" if self.address else ""
        again = f"`vetdino jobs logs{address} {job}` shows it, `vetdino jobs stop{address} {job}` ends it"
        say(f"{job} is submitted to {shown_address(client.get_address())}: {again}")
        if self.detach:
            print(job)
            return
        try:
            code = follow(client, job)
        except KeyboardInterrupt:
            say(f"{job} goes on: {again}")
            raise
        if code:
            raise SystemExit(code)

    def _submitted(self, client: JobSubmissionClient) -> str:
        """Upload vetdino and start the job; its name."""
        from ..jobs.client import start_job
        from ..jobs.package import write_package

        variables = _variables()
        variables["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_WAIT_S)
        with tempfile.TemporaryDirectory(prefix="vetdino-") as folder:
            return start_job(client, self.command, write_package(Path(folder) / "vetdino.zip"), variables)


def _variables() -> dict[str, str]:
    """The variables of here that the job gets; which, and which not, is printed. Raises ConfigError where one holds a
    password."""
    given = {name: os.environ[name] for name in PASSED_ALONG if os.environ.get(name)}
    tracking = urlsplit(given.get("MLFLOW_TRACKING_URI", ""))
    if tracking.password:
        raise ConfigError(
            "MLFLOW_TRACKING_URI holds a password, which Ray's pages would show; leave it out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the nodes"
        )
    if tracking.geturl() and tracking.scheme not in ("http", "https"):
        del given["MLFLOW_TRACKING_URI"]
        say("MLFLOW_TRACKING_URI is no server's: the job does not get it")
    if given:
        say(f"the job gets from here: {', '.join(given)}")
    return given


def check_for_job(config: Any) -> None:
    """Raises ConfigError where a command's settings contradict each other, or a path is relative: a job runs in
    another folder, on another machine."""
    if hasattr(config, "check"):
        config.check()
    for name, value in _values(config):
        if isinstance(value, Location):
            relative = value.is_local and not value.path.is_absolute()
        else:
            relative = _is_relative_file(name, value)
        if relative:
            raise ConfigError(
                f"{name} {value} is relative, and a job runs in another folder on another machine; give an absolute "
                "path on a disk that all nodes share, or a URL"
            )


def _is_relative_file(name: str, value: Any) -> bool:
    """Whether a backbone setting names, relative to this folder, a file or folder that is here."""
    if name.rpartition(".")[2] not in SOURCES or not isinstance(value, str | Path):
        return False
    path = Path(str(value).partition("#")[0])
    return bool(path.parts) and not path.is_absolute() and path.exists()


def _values(config: Any, group: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every setting; of a tuple each of its items."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{group}{field.name}.")
        else:
            for item in value if isinstance(value, tuple) else (value,):
                yield f"{group}{field.name}", item


@dataclass(frozen=True, kw_only=True)
class JobsList(Command):
    """List the jobs of a Ray cluster, the newest first: name, state, start and command."""

    basic: ClassVar = ("address",)
    address: AddressSetting = None

    def run(self) -> None:
        from ..jobs.client import job_client, reported

        client = job_client(self.address)
        with reported(client.get_address()):
            jobs = [details for details in client.list_jobs() if details.submission_id]
        for details in sorted(jobs, key=lambda details: details.start_time or 0, reverse=True):
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((details.start_time or 0) / 1000))
            command = details.entrypoint.removeprefix("python -m ")
            print(f"{details.submission_id}  {details.status.value:<9}  {began}  {command}")


@dataclass(frozen=True, kw_only=True)
class JobsLogs(Command):
    """Show a job's log with its progress, until it ends; the exit code is the job's."""

    basic: ClassVar = ("address",)
    job: JOB
    address: AddressSetting = None

    def run(self) -> None:
        from ..jobs.client import job_client, reported
        from ..jobs.follow import follow

        client = job_client(self.address)
        with reported(client.get_address()):
            client.get_job_info(self.job)
        if code := follow(client, self.job):
            raise SystemExit(code)


@dataclass(frozen=True, kw_only=True)
class JobsStop(Command):
    """Stop a job as Ctrl-C would, and wait for its end; what it has finished is kept."""

    basic: ClassVar = ("address",)
    job: JOB
    address: AddressSetting = None

    def run(self) -> None:
        from ..jobs.client import job_client, reported

        client = job_client(self.address)
        deadline = time.monotonic() + STOP_WAIT_S + 30
        with reported(client.get_address()):
            client.stop_job(self.job)
            while not (status := client.get_job_info(self.job).status).is_terminal():
                if time.monotonic() > deadline:
                    raise ClusterError(f"{self.job} is still {status.value}; see the cluster's dashboard")
                time.sleep(0.5)
        print(f"{self.job} {status.value}")
