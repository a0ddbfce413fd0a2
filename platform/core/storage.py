"""Object storage: file systems of URLs, what they refuse in one line, and inputs copied to this machine.

A URL is read and written through fsspec. s3fs and botocore try again, with pauses that grow, where a bucket answers
503 or a connection breaks; what they give up on becomes a StorageError.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, StorageError, UnansweredError, VetdinoError
from .extras import require_extra
from .location import Location
from .node_cache import node_cache

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Place = str | os.PathLike[str] | Location
"""What functions take for a folder or a file; a text may be a URL."""

TRIES = 6
"""How often botocore tries a request; AWS_MAX_ATTEMPTS sets another number."""

UNANSWERED = "the storage does not answer"
"""How the explanation begins of a storage that may be well again soon."""

OLD = 24 * 3600.0
"""Seconds after which the copy of an earlier version of an input is removed."""

DRIVERS = {"s3": "s3fs", "s3a": "s3fs"}
"""Scheme of a URL -> the library that reads it and that an extra of ours brings."""


def filesystem(place: Place) -> tuple[AbstractFileSystem, str]:
    """The file system of a place, and its path there.

    Raises ConfigError for a web address, or where the URL's library is missing.

    Made anew in each process that asks: those of object storage do not survive a fork.
    """
    import fsspec

    location = Location(place)
    if location.is_local:
        return fsspec.filesystem("file"), str(location.path.absolute())
    url = str(location)
    scheme = url.partition("://")[0]
    if scheme in ("http", "https"):  # fsspec would take the links of a page for the files of a folder
        raise ConfigError(
            f"{url}: a web address, and no folder can be listed or written there; download what you need, or give "
            "a URL of object storage such as s3://BUCKET/FOLDER (AWS_ENDPOINT_URL names the server)"
        )
    if driver := DRIVERS.get(scheme):
        require_extra(driver, url)
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in DRIVERS and "AWS_MAX_ATTEMPTS" not in os.environ:
        mode = os.environ.get("AWS_RETRY_MODE", "standard")
        options["config_kwargs"] = {"retries": {"total_max_attempts": TRIES, "mode": mode}}
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ValueError as error:
        raise ConfigError(f"{url}: {error}; give a local path or a URL such as s3://BUCKET/FOLDER") from None
    except ImportError as error:
        raise ConfigError(f"{url}: {' '.join(str(error).split())}") from None


def is_local(files: AbstractFileSystem) -> bool:
    """Whether a file system is that of this machine."""
    return "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


@contextmanager
def explained(place: Place | None) -> Iterator[None]:
    """Within the block, what object storage refuses is raised as a StorageError that names the place.

    FileNotFoundError and errors that name a local file go through. place: None where others than object storage may
    refuse something, too; then only what its client library raises is explained.
    """
    try:
        yield
    except Exception as error:
        explanation = explanation_of(error)
        if explanation is None or (place is None and not _is_of_client(error)):
            raise
        kind = UnansweredError if explanation.startswith(UNANSWERED) else StorageError
        raise kind(f"{place or 'object storage'}: {explanation}") from error


def explanation_of(error: BaseException) -> str | None:
    """What object storage refused, and what to do; None for any other error."""
    name, is_client = type(error).__name__, _is_of_client(error)
    if not is_client and (not isinstance(error, OSError) or error.filename):
        return None
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        return (
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and "
            "AWS_ENDPOINT_URL for a storage that is not Amazon's"
        )
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", "") or name)
    if code == "NoSuchBucket":
        return "there is no such bucket; check the URL"
    if isinstance(error, FileNotFoundError):
        return None
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    full = status == 507 or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or any(word in code for word in ("Quota", "InsufficientStorage", "StorageFull")):
        return f"the storage is full ({code}); make room there, or choose another place"
    if status in (401, 403) or isinstance(error, PermissionError):
        return f"access is denied ({code}); check the credentials and what they may read and write"
    if status == 429 or status >= 500 or not status or isinstance(error, TimeoutError | ConnectionError):
        detail = f"{status} {code}" if status else code
        return f"the storage does not answer, after all retries ({detail}); run again when it is well"
    reason = getattr(error, "strerror", None) or str(error)
    return f"{' '.join(reason.split())} ({code}); look for the cause at the storage"


def _is_of_client(error: BaseException) -> bool:
    """Whether the libraries that talk to object storage raised an error, or what it was made from."""
    modules = (type(one).__module__.partition(".")[0] for one in (error, error.__cause__))
    return any(module in ("botocore", "aiobotocore", "aiohttp") for module in modules)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file on object storage: bytes, and a text that changes with its content."""

    size: int
    tag: str


def version_tag(facts: Mapping[str, Any]) -> str:
    """What a store says of a file's content: its hash, else when it was written. facts: of fsspec's `info`."""
    tags = (facts.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created"))
    return str(next(filter(None, tags), ""))


def listing(place: Place) -> dict[str, StoredFile]:
    """Name below the place -> file; "" where the place is a file itself, nothing where nothing is there.

    Raises StorageError, also for a name that would leave the folder that it is copied to.
    """
    files, root = filesystem(place)
    with explained(place):
        try:
            found = files.find(root, detail=True)
        except FileNotFoundError:
            return {}
    entries: dict[str, StoredFile] = {}
    for path, facts in found.items():
        name = path.removeprefix(root).removeprefix("/")
        if (path != root and not path.startswith(f"{root}/")) or path.endswith("/"):
            continue
        parts = PurePosixPath(name).parts
        if name and ("/".join(parts) != name or ".." in parts or "\0" in name):
            # Not its name, which may be a patient's.
            raise StorageError(f"{place}: holds a file whose name no folder can hold (.., //); rename it")
        entries[name] = StoredFile(int(facts["size"] or 0), version_tag(facts))
    return entries


def download(place: Place, targets: Mapping[str, Path], sizes: Mapping[str, StoredFile]) -> None:
    """Copies files below a place to local ones, each whole or not at all. Raises StorageError, OSError."""
    files, root = filesystem(place)
    drafts = {
        name: path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp") for name, path in targets.items()
    }
    for path in targets.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with explained(place):
            try:
                files.get([_below(root, name) for name in targets], [str(path) for path in drafts.values()])
            except FileNotFoundError as error:
                if error.filename:
                    raise
                raise StorageError(
                    f"{place}: changed while it was read; run the same command again"
                ) from None
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT) and not _is_of_client(error):
                    raise OSError(error.errno, error.strerror, str(node_cache("inputs"))) from error
                raise
        for name, draft in drafts.items():
            if not draft.is_file() or draft.stat().st_size != sizes[name].size:
                raise StorageError(f"{place}: a file came cut off; run the same command again")
        for name, draft in drafts.items():
            os.replace(draft, targets[name])
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def upload(place: Place, sources: Mapping[str, Path]) -> None:
    """Copies local files below a place; each appears whole. Raises StorageError, OSError."""
    files, root = filesystem(place)
    if sources:
        with explained(place):
            files.put([str(path) for path in sources.values()], [_below(root, name) for name in sources])


def remove(place: Place, names: list[str]) -> None:
    """Removes files below a place, those that are missing passed over. Raises StorageError."""
    files, root = filesystem(place)
    with explained(place):
        for name in names:
            with suppress(FileNotFoundError):
                files.rm_file(_below(root, name))


def read_bytes(place: Place) -> bytes | None:
    """Content of a file; None where there is none. Raises StorageError."""
    files, path = filesystem(place)
    with explained(place), suppress(FileNotFoundError):
        return files.cat_file(path)
    return None


def write_bytes(place: Place, content: bytes) -> None:
    """Writes a file, whole or not at all. Raises StorageError, OSError."""
    location = Location(place)
    if location.is_local:
        from .files import atomic_write

        atomic_write(location.path, content)
        return
    files, path = filesystem(location)
    with explained(place):
        files.pipe_file(path, content)


def _below(root: str, name: str) -> str:
    return f"{root}/{name}" if name else root


def localized(place: Place) -> Path:
    """A local path of an input: itself, or a copy on this machine of the file or folder at a URL.

    The copy is made once for each state of the URL (names, sizes, and what the storage says of the content) and is
    shared by all processes. Raises StorageError where nothing is there or it cannot be read.
    """
    location = Location(place)
    if location.is_local:
        return location.path
    entries = listing(location)
    if not entries:
        raise StorageError(f"{location}: nothing is there; check the URL")
    if "" in entries and len(entries) > 1:
        entries = {"": entries[""]}
    state = json.dumps([[name, entry.size, entry.tag] for name, entry in sorted(entries.items())])
    home = node_cache("inputs") / _digest(str(location))
    copy = home / _digest(state)
    target = copy / location.name
    home.mkdir(parents=True, exist_ok=True)
    if not copy.is_dir():
        with one_at_a_time(home / ".lock"):
            if not copy.is_dir():
                _fetch(location, entries, copy)
    _remove_old(home, copy)
    return target


def _fetch(location: Location, entries: Mapping[str, StoredFile], copy: Path) -> None:
    draft = copy.with_name(f".{copy.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    try:
        target = draft / location.name
        download(location, {name: target / name if name else target for name in entries}, entries)
        os.replace(draft, copy)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_old(home: Path, copy: Path) -> None:
    """Removes copies of earlier states, once nobody can be expected to read them any more."""
    os.utime(copy)
    for other in home.iterdir():
        with suppress(OSError):
            if other.is_dir() and other != copy and time.time() - other.stat().st_mtime > OLD:
                shutil.rmtree(other)


@contextmanager
def naming(urls: Mapping[str, str]) -> Iterator[None]:
    """Within the block, errors for people name the URL and not its copy on this machine. urls: copy -> URL."""
    try:
        yield
    except VetdinoError as error:
        text = str(error)
        for path, url in urls.items():
            text = text.replace(path, url)
        error.args = (text,)
        raise


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Within the block no other process of this machine is in one with the same lock file."""
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
