"""Three hosts on one machine: network namespaces with addresses and names of their own, joined by a bridge.

Hosts share this machine's disks and cores, and reach one another by address only. One can be cut off (`cut_off`) and
lose all its processes at once (`kill`).
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree, which
from typing import IO

BRIDGE = "vdhosts"
PREFIX = "vdhost"
OPERATOR = "10.77.0.254"
"""Address of this machine itself, from where jobs are submitted."""

NAMES = Path("/etc/netns")
"""`ip netns exec` mounts the files of NAMES/HOST over those of /etc."""

LOCK = Path("/run/vetdino-hosts.lock")


class HostsError(Exception):
    """Why there can be no hosts here, in one line."""


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace."""

    number: int

    @property
    def name(self) -> str:
        """Of the namespace, and its host name."""
        return f"{PREFIX}{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number + 1}"

    @property
    def cable(self) -> str:
        """The bridge's end of its only link; the other end is `eth0` in each host."""
        return f"{BRIDGE}{self.number}"

    def command(self, words: Sequence[str]) -> list[str]:
        """A command as it runs on this host."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', self.name]
        return ["ip", "netns", "exec", self.name, *named, *words]

    def start(
        self, words: Sequence[str], log: IO[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        """A process of this host; ended by `kill`."""
        return subprocess.Popen(
            self.command(words),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            text=True,
        )

    def run(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        """What a command prints that ends soon. Raises subprocess.CalledProcessError."""
        done = subprocess.run(
            self.command(words),
            env=dict(environment),
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        return done.stdout

    def cut_off(self) -> None:
        _ip("link", "set", self.cable, "down")

    def reconnect(self) -> None:
        _ip("link", "set", self.cable, "up")

    def kill(self) -> int:
        """SIGKILL to all its processes; how many there were."""
        return _kill_all(self.name)


HOSTS = tuple(Host(number) for number in range(3))


def setup_commands(hosts: Sequence[Host] = HOSTS) -> list[list[str]]:
    """What `ip` is called with, in this order, to build the network."""
    commands = [
        ["link", "add", BRIDGE, "type", "bridge"],
        ["address", "add", f"{OPERATOR}/24", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
    ]
    for host in hosts:
        inside = ["-n", host.name]
        commands += [
            ["netns", "add", host.name],
            ["link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name],
            ["link", "set", host.cable, "master", BRIDGE, "up"],
            [*inside, "address", "add", f"{host.address}/24", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "link", "set", "lo", "up"],
        ]
    return commands


def names_file(hosts: Sequence[Host] = HOSTS) -> str:
    """/etc/hosts of each host: gloo and Ray look up the host's own name."""
    return "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts)


@contextmanager
def network() -> Iterator[tuple[Host, ...]]:
    """Within the `with` block the hosts are there; after it neither they nor any process of theirs.

    Raises HostsError where that cannot be.
    """
    if os.geteuid() or not which("ip"):
        raise HostsError("three hosts need root and the command `ip` (package iproute2): network namespaces")
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HostsError(f"another run has the hosts ({LOCK} is locked); wait for its end") from None
        _remove()  # what a killed run has left
        try:
            for host in HOSTS:
                (NAMES / host.name).mkdir(parents=True, exist_ok=True)
                (NAMES / host.name / "hosts").write_text(names_file())
            for command in setup_commands():
                _ip(*command)
            yield HOSTS
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # nothing is left half-removed
            _remove()


def _remove() -> None:
    for host in HOSTS:
        with suppress(subprocess.CalledProcessError):  # it is not there
            _kill_all(host.name)
        for command in (["link", "del", host.cable], ["netns", "del", host.name]):
            with suppress(subprocess.CalledProcessError):
                _ip(*command)
        rmtree(NAMES / host.name, ignore_errors=True)
    with suppress(subprocess.CalledProcessError):
        _ip("link", "del", BRIDGE)


def _kill_all(name: str) -> int:
    killed: set[int] = set()
    deadline = time.monotonic() + 30
    while pids := {int(pid) for pid in _ip("netns", "pids", name).split()}:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= pids
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name}: processes {sorted(pids)} do not end")
        time.sleep(0.1)
    return len(killed)


def _ip(*words: str) -> str:
    """What `ip` prints. Raises subprocess.CalledProcessError."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout
