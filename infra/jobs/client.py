"""The cluster that jobs are sent to: its address, its token, and one line where it does not answer."""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ...platform.core.errors import ClusterError
from ...platform.core.extras import require_extra

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT = "http://127.0.0.1:8265"
PORT = 8265
"""Where a Ray head listens for jobs."""
RAY_CLIENT_PORT = 10001
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
WAIT_S = 15.0
"""Seconds that a cluster may take to answer the first request."""
START_S = 60.0
"""Seconds that a cluster may need after its start until it takes jobs."""


def cluster_address(setting: str | None) -> str:
    """The address to send jobs to: the setting, else that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else this machine.

    >>> cluster_address("head:8265"), cluster_address("https://ray.example/")
    ('http://head:8265', 'https://ray.example')
    """
    given = setting or next(filter(None, map(os.environ.get, VARIABLES)), DEFAULT)
    if re.fullmatch(rf"[^/]+:{PORT}", given):  # Ray would take this port for that of its workers, and wait
        given = f"http://{given}"
    return given.rstrip("/")


def shown_address(address: str) -> str:
    """The address without what may be a password.

    >>> shown_address("https://me:secret@ray.example:8265"), shown_address("auto")
    ('https://ray.example:8265', 'auto')
    """
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def job_client(setting: str | None) -> JobSubmissionClient:
    """A connection to the cluster, with its token where it wants one.

    setting: `http://HOST:8265`, `ray://HOST:10001`, HOST:PORT of a Ray's head, `auto` for the Ray of this machine, or
    None. Raises ConfigError where Ray is not installed; ClusterError where nobody answers, what answers is no Ray, or
    the token is missing or wrong.
    """
    require_extra("ray", "a job on a cluster")
    address = cluster_address(setting)
    if address.startswith(("http://", "https://")):
        if _wants_token(address):
            _use_token(address)
    else:
        _check_listens(address)
        if token_source():  # whether the Ray behind it wants one cannot be found out
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ[VARIABLES[0]] = address  # Ray lets its variables win over what it is given
    with reported(address):
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard_sdk", "job.sdk"):  # they tell of each upload and each connection that ends
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        return JobSubmissionClient(address)


def start_job(
    client: JobSubmissionClient, command: Sequence[str], package: Path, variables: dict[str, str]
) -> str:
    """Upload the package and run `vetdino COMMAND` from it; the job's name. Raises ClusterError.

    variables: the job's environment, beside that of its node.
    """
    deadline = time.monotonic() + START_S
    with reported(client.get_address()):
        while True:
            try:
                return client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "vetdino", *command]),
                    runtime_env={"working_dir": str(package), "env_vars": variables},
                )
            except RuntimeError as error:  # so answers a head that has just been started
                if "No available agent" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"no node of the Ray at {shown_address(client.get_address())} takes jobs; is its agent running "
                        "(dashboard_agent.log on the head)?"
                    ) from None
            time.sleep(1)


@contextmanager
def reported(address: str) -> Iterator[None]:
    """Within the block, what a Ray's client raises becomes a ClusterError of one line."""
    place = shown_address(address)
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:
        text = str(error).strip()
        if type(error).__name__ == "AuthenticationError":
            raise ClusterError(_token_message(place)) from None
        if "does not exist" in text and "status code 404" in text:
            raise ClusterError(
                f"the Ray at {place} knows no such job; `vetdino jobs list` shows all"
            ) from None
        if "status code 413" in text:
            raise ClusterError(
                f"{place} refused the upload as too large (HTTP 413); raise the limit of the proxy before the Ray"
            ) from None
        reason = (text.splitlines() or [type(error).__name__])[0]
        raise ClusterError(
            f"the Ray at {place} cannot be used ({reason[:300]}); is it running, and reached from here?"
        ) from error


# Tokens ----------------------------------------------------------------------------------------------------


def token_source() -> str:
    """Where Ray finds the cluster's token, in its own order; empty where there is none. Never the token."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"{path} (RAY_AUTH_TOKEN_PATH)" if Path(path).is_file() else ""
    usual = Path.home() / ".ray" / "auth_token"
    return str(usual) if usual.is_file() else ""


def _wants_token(address: str) -> bool:
    """Whether a Ray refuses a request without a token, which is not shown to one that does not ask for it."""
    place = shown_address(address)
    if urlsplit(address).username:
        raise ClusterError(f"{place}: leave user and password out; Ray's jobs are protected by a token")
    try:
        with urlopen(f"{address}/api/jobs/", timeout=WAIT_S):
            return False
    except HTTPError as error:
        if error.code in (401, 403):
            return True
        raise ClusterError(
            f"{place} answers, but with HTTP {error.code}: give the address of a Ray's dashboard, as http://HOST:{PORT}"
        ) from None
    except (URLError, OSError, ValueError) as error:
        raise ClusterError(_silent(place, getattr(error, "reason", error))) from None


def _use_token(address: str) -> None:
    """Lets Ray send its token. Raises ClusterError where there is none."""
    if not token_source():
        raise ClusterError(_token_message(shown_address(address)))
    os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported


def _token_message(place: str) -> str:
    cure = "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it (on the head: `ray get-auth-token`)"
    if source := token_source():
        return f"the Ray at {place} refuses the token of {source}; {cure}"
    return f"the Ray at {place} wants its token, and none is here; {cure}"


def _check_listens(address: str) -> None:
    """Raises ClusterError where nobody listens at a Ray's own port: Ray would wait long and end the process."""
    if address == "auto":
        return
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "ray"):
        raise ClusterError(
            f"{shown_address(address)}: give http://HOST:{PORT}, ray://HOST:{RAY_CLIENT_PORT} or auto"
        )
    try:
        place = urlsplit(f"//{rest}")
        port = place.port or (RAY_CLIENT_PORT if scheme else 6379)
        socket.create_connection((place.hostname or "", port), WAIT_S).close()
    except (OSError, ValueError) as error:
        raise ClusterError(_silent(shown_address(address), error)) from None


def _silent(place: str, reason: object) -> str:
    return (
        f"no Ray answers at {place} ({getattr(reason, 'strerror', None) or reason}); give --address or set "
        f"RAY_ADDRESS, as http://HOST:{PORT}"
    )
