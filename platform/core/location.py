"""A place that a setting names: a local path, or a URL of object storage such as `s3://bucket/shards`.

A `Location` of a URL never becomes a `pathlib.Path`, which would turn `s3://bucket` into `/cwd/s3:/bucket`: `Path(…)`,
`open` and every library that takes a path accept a local one as it is, and raise ConfigError for a URL.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from .errors import ConfigError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_CUT_URL = re.compile(r"(s3a?|gs|gcs|az|abfss?|adl|memory|hdfs|https?|file):/(?!/)", re.IGNORECASE)
_SECRETS = re.compile(r"[?&](X-Amz-\w+|sig|signature|token|access_token)=", re.IGNORECASE)


class Location:
    """A local path or a URL; `str` gives the text that makes an equal one again.

    `file://` is a local path. The key of a URL stays as it is (`//`, `..`, spaces and `#` are part of a name on object
    storage), but for slashes at its end.

    >>> str(Location("s3://bucket/shards/") / "manifest.json"), Location("file:///data/x").path.as_posix()
    ('s3://bucket/shards/manifest.json', '/data/x')
    """

    __slots__ = ("_path", "_url")

    def __init__(self, place: str | os.PathLike[str] | Location) -> None:
        """Raises ConfigError for a URL that names nothing, has one slash only, or holds a password or signature."""
        self._url, self._path = "", Path()
        if isinstance(place, Location):
            self._url, self._path = place._url, place._path
            return
        text = os.fspath(place)
        match = _URL.fullmatch(text) if isinstance(place, str) else None
        if match is None:
            if cut := _CUT_URL.match(text):
                raise ConfigError(f"{text}: a URL has two slashes; write {cut[1]}://{text[cut.end() :]}")
            self._path = Path(place)
            return
        scheme, rest = match[1].lower(), match[2].rstrip("/")
        if not rest:
            raise ConfigError(f"{scheme}://: names no bucket or folder; give more of the URL")
        if ":" in rest.partition("/")[0].rpartition("@")[0] or _SECRETS.search(rest):
            raise ConfigError(
                f"a {scheme}:// URL holds a password or a signature, which would be written into records; leave it "
                "out and set the variables of your storage (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …)"
            )
        if scheme == "file":
            self._path = Path(rest.removeprefix("localhost"))
            if not self._path.is_absolute():
                raise ConfigError(f"file://{rest}: is not absolute; write file:///FOLDER, or the path alone")
            return
        self._url = f"{scheme}://{rest}"

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine's file system."""
        return not self._url

    @property
    def path(self) -> Path:
        """The local path. Raises ConfigError for a URL."""
        if self._url:
            raise ConfigError(f"{self._url}: a URL, and only a local path can be used here")
        return self._path

    @property
    def name(self) -> str:
        """The last part of the path or of the URL."""
        return self._url.rpartition("/")[2] if self._url else self._path.name

    @property
    def parent(self) -> Location:
        """The folder that it is in. Raises ConfigError for the top of a URL."""
        return Location(self._url.rpartition("/")[0]) if self._url else Location(self._path.parent)

    def absolute(self) -> Location:
        """The same place for a process with another working directory."""
        return self if self._url else Location(self._path.resolve())

    def __truediv__(self, name: str | os.PathLike[str]) -> Location:
        """What lies below; `name` is relative."""
        if not self._url:
            return Location(self._path / name)
        below = name if isinstance(name, str) else Path(name).as_posix()
        return Location(f"{self._url}/{below}")

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return self._url or str(self._path)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and (self._url, self._path) == (other._url, other._path)

    def __hash__(self) -> int:
        return hash((self._url, self._path))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """How pydantic reads it from a text or a path, and writes it as a text."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validated, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def _validated(cls, value: Any) -> Location:
        from pydantic_core import PydanticCustomError

        if not isinstance(value, str | os.PathLike):
            raise PydanticCustomError("path", "Input should be a path or a URL")
        try:
            return cls(value)
        except ConfigError as error:
            raise PydanticCustomError("location", "{reason}", {"reason": str(error)}) from None
