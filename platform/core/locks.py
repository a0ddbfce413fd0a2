"""One writer for each output: a lock file says which run writes there, since when and on which machine.

The file is created whole or not at all by the file system (O_EXCL), so that it holds on network disks too. It lies
beside the folder, `.NAME.lock`, because some commands replace the folder as a whole; inside it where the parent cannot
be written. A lock of a process of this machine that has ended is taken over; nobody can see from here whether a process
of another machine still runs, so its lock is explained and left to the reader.

The lock of a URL is an object `.NAME.lock` beside the folder, which S3 creates whole or not at all (`If-None-Match`).
Other storage looks whether it is there and then writes it, so that two runs that start in one moment may both go on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import LockError, StorageError
from .location import Location
from .node_cache import node_cache
from .storage import Place, explained, filesystem, one_at_a_time, read_bytes, remove

INSIDE = ".vetdino.lock"
"""Name of the lock inside a folder whose parent cannot be written."""

POLL = 0.1
"""Seconds between two looks at a lock that is waited for."""

GRACE = 2.0
"""Seconds after which a lock file without content is no longer taken for one that is being written."""


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds a lock; `token` is different for each lock.

    machine, boot, namespace: digests of the machine, of its start and of its process numbers' namespace (a container
    has its own). started: when the process started, in ticks of the kernel. Facts that a system does not give are "".
    """

    action: str
    pid: int
    since: str
    host: str
    machine: str
    boot: str
    namespace: str
    started: str
    token: str

    @property
    def has_ended(self) -> bool:
        """Whether its process is known to have ended; False where that cannot be known from here."""
        here = _this_process("")
        if self.machine != here.machine:
            return False
        if self.boot != here.boot:
            return True  # the machine was started anew
        return self.namespace == here.namespace and not _is_running(self.pid, self.started)

    def __str__(self) -> str:
        here = _this_process("")
        where = self.host
        if (self.machine, self.namespace) != (here.machine, here.namespace):
            where += ", another machine or container"
        return f"{self.action} (process {self.pid} on {where}, since {self.since})"


@contextmanager
def folder_lock(out: Place, action: str) -> Iterator[None]:
    """Within the `with` block no other run that locks writes to the folder (or file) `out` or to a folder above it.

    Of a URL: to the very same one.

    action: what is done, such as `vetdino pretrain`. Raises LockError where another run writes there, before anything
    is touched, and OSError where the folder, or the parent of a new one, cannot be written. Parents that were made
    for the lock are removed again where nothing was written.
    """
    location = Location(out)
    if not location.is_local:
        with _url_lock(location, action):
            yield
        return
    out = location.path.resolve()
    for folder in (out, *out.parents):
        for lock in _places(folder):
            owner = _read_owner(lock)
            nested = folder != out and owner is not None and owner.token in _held
            if owner is not None and not owner.has_ended and not nested:
                raise _refusal(out, lock, owner)
    if out.is_dir() and not os.access(out, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(out))
    made = [folder for folder in out.parents if not folder.exists()]
    try:
        try:
            held = _acquire(_places(out)[0], out, action)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not out.is_dir():
                raise
            held = _acquire(out / INSIDE, out, action)
        with _released(*held):
            yield
    finally:
        for folder in made:
            with suppress(OSError):  # not empty, or somebody else's by now
                folder.rmdir()


@contextmanager
def file_lock(path: Path | str, action: str, wait_s: float) -> Iterator[None]:
    """Within the `with` block no other process holds the lock of `path`, `.NAME.lock` beside it.

    Waits for it; raises LockError after `wait_s` seconds, OSError where its folder cannot be written.
    """
    path = Path(path).resolve()
    deadline = time.monotonic() + wait_s
    while True:
        try:
            lock = _acquire(path.with_name(f".{path.name}.lock"), path, action)
            break
        except LockError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL)
    with _released(*lock):
        yield


@contextmanager
def _url_lock(location: Location, action: str) -> Iterator[None]:
    """`folder_lock` of a URL. Raises LockError, StorageError."""
    above, _, name = str(location).rpartition("/")
    # A bucket has nothing beside it.
    lock = Location(f"{above}/.{name}.lock" if not above.endswith("/") else f"{location}/{INSIDE}")
    content = json.dumps(asdict(_this_process(action, secrets.token_hex(8)))).encode() + b"\n"
    place = node_cache("locks")
    # Whoever takes over the lock of an ended process is of its machine: a local lock puts them in order.
    with one_at_a_time(place / _digest(str(location))):
        owner, held = _url_owner(lock)
        if held and (owner is None or not owner.has_ended):
            raise _refusal(location, lock, owner)
        if held:
            remove(lock, [""])
        files, path = filesystem(lock)
        with explained(location):
            try:
                files.pipe_file(path, content, mode="create")
            except FileExistsError:
                raise _refusal(location, lock, _url_owner(lock)[0]) from None
    try:
        yield
    finally:
        with suppress(StorageError, OSError):
            if read_bytes(lock) == content:
                remove(lock, [""])


def _url_owner(lock: Location) -> tuple[LockOwner | None, bool]:
    """Who holds the lock of a URL, as far as its content says, and whether there is one."""
    content = read_bytes(lock)
    try:
        return (None if content is None else LockOwner(**json.loads(content))), content is not None
    except (ValueError, TypeError):
        return None, True


def _places(folder: Path) -> list[Path]:
    """Where the lock of a folder may be, the usual place first."""
    beside = [folder.with_name(f".{folder.name}.lock")] if folder.name else []
    return [*beside, folder / INSIDE]


_held: set[str] = set()
"""Tokens of the locks of this process: a run may lock a folder inside its own."""


@contextmanager
def _released(lock: Path, content: bytes) -> Iterator[None]:
    """Within the block the lock is held; afterwards it is removed, if it still is the one with this content."""
    token = json.loads(content)["token"]
    _held.add(token)
    try:
        yield
    finally:
        _held.discard(token)
        with suppress(OSError):
            if lock.read_bytes() == content:
                lock.unlink()


def _acquire(lock: Path, out: Path, action: str) -> tuple[Path, bytes]:
    """The lock file and its content, once it is ours. Raises LockError where another run holds it."""
    content = json.dumps(asdict(_this_process(action, secrets.token_hex(8)))).encode() + b"\n"
    deadline = time.monotonic() + GRACE
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileNotFoundError:  # another run has just removed the parent that it had made
            if time.monotonic() > deadline:
                raise
            continue
        except FileExistsError:
            owner = _read_owner(lock)
            if owner is not None and owner.has_ended and _take_over(lock, owner, content):
                return lock, content
            if owner is not None and not owner.has_ended:
                raise _refusal(out, lock, owner) from None
            if time.monotonic() > deadline:
                raise _refusal(out, lock, owner) from None
            time.sleep(POLL)
            continue
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            lock.unlink(missing_ok=True)
            raise
        return lock, content


def _take_over(lock: Path, owner: LockOwner, content: bytes) -> bool:
    """Whether the lock of an ended process became ours; False where another process was faster.

    Those that try are processes of one machine, so the kernel's lock on the file puts them in order.
    """
    import fcntl  # not on Windows, where no process is known to have ended

    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _read_owner(lock) != owner:
            return False
        new = lock.with_name(f"{lock.name}.{secrets.token_hex(4)}")
        new.write_bytes(content)
        os.replace(new, lock)
        return True
    except OSError:  # held by another process, or a disk without such locks
        return False
    finally:
        os.close(descriptor)


def _refusal(out: Path | Location, lock: Path | Location, owner: LockOwner | None) -> LockError:
    if owner is None:
        return LockError(
            f"{out}: {lock} is there but does not say whose it is; remove it if no run writes there, or choose another "
            "folder"
        )
    return LockError(
        f"{out}: {owner} is writing there; wait for its end or choose another folder, and remove {lock} if that run "
        "has ended"
    )


def _read_owner(lock: Path) -> LockOwner | None:
    """Who holds a lock; None where there is no lock or its content is not whole."""
    try:
        return LockOwner(**json.loads(lock.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _this_process(action: str, token: str = "") -> LockOwner:
    """The facts of this process."""
    host = socket.gethostname()
    return LockOwner(
        action=action,
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        host=host,
        machine=_digest(host, _text("/etc/machine-id")),
        boot=_digest(_text("/proc/sys/kernel/random/boot_id")),
        namespace=_digest(_link("/proc/self/ns/pid")),
        started=_started(os.getpid()),
        token=token,
    )


def _is_running(pid: int, started: str) -> bool:
    """Whether the process of this number runs and is the one that started then; a zombie does not."""
    if os.name == "nt":
        return True  # signal 0 would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's, and runs
    now = _started(pid)
    return now != "zombie" and (not now or not started or now == started)


def _started(pid: int) -> str:
    """When a process started, in ticks of the kernel; "" where the system does not say, `zombie` after its end."""
    # Behind the name in parentheses, which may hold anything: state, 18 others, start (man proc_pid_stat).
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return ""
    return "zombie" if fields[0] in "ZX" else fields[19]


def _digest(*facts: str) -> str:
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
