"""A setting's three faces: a frozen dataclass in code, flags on a command line, JSON in a folder.

The same dotted path names a setting everywhere: `crops.global_side` in code and in MLflow,
`--crops.global-side` on the command line, nested objects in `config.json`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import secrets
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from .errors import ConfigError

T = TypeVar("T")
Scalar = str | int | float | bool | None


def to_json(config: Any) -> str:
    """The config as indented JSON, in the order of its fields; `from_json` gives an equal one back."""
    return json.dumps(_plain(config), indent=2) + "\n"


def from_json(cls: type[T], text: str, source: str = "") -> T:
    """The config that `text` describes; keys left out keep their defaults.

    `source` is named in messages (a file). Raises ConfigError where the text is no JSON, a key is unknown
    (the nearest known one is named) or a value has another type: nothing is converted but a list to a tuple
    and a string to a path.
    """
    from pydantic import TypeAdapter, ValidationError

    where = f"{source}: " if source else ""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}not JSON ({error}); write it anew with `--print-config`") from None
    for key in _unknown_keys(cls, data):
        raise ConfigError(f"{where}unknown setting '{key}'; {nearest(key, list(_keys(cls)))}")
    try:
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"{where}setting '{path}' holds {first['input']!r}: {first['msg']}") from None


def digest(config: Any) -> str:
    """sha256 (hex) of the config's canonical JSON: equal settings, equal digest."""
    canonical = json.dumps(_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def flat(config: Any) -> dict[str, Scalar]:
    """Dotted path -> value, for MLflow and tables; what is no scalar (a tuple) becomes its JSON text.

    >>> @dataclasses.dataclass
    ... class Optim:
    ...     lr: float = 0.1
    ...     betas: tuple[float, float] = (0.9, 0.99)
    >>> flat(Optim())
    {'lr': 0.1, 'betas': '[0.9, 0.99]'}
    """
    return dict(_flat(_plain(config), ""))


def cli_config(default: T | type[T], args: Sequence[str], prog: str) -> T:
    """`default` changed by flags such as `--crops.global-side 96`; `--help` prints them all, exit code 0.

    An unknown flag or a bad value prints one line to stderr, the nearest known name in it, exit code 2.
    """
    import sys

    import tyro

    cls = default if isinstance(default, type) else type(default)
    start = {} if isinstance(default, type) else {"default": default}
    complaint = StringIO()
    try:
        with redirect_stderr(complaint):
            config, unknown = tyro.cli(
                cls,
                args=list(args),
                prog=prog,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands,),
                **start,
            )
    except SystemExit as stop:
        if stop.code:
            print(f"{prog}: {_one_line(complaint.getvalue())} (see {prog} --help)", file=sys.stderr)
        raise
    if unknown:
        word = unknown[0].partition("=")[0]
        known = ["--" + key.replace("_", "-") for key in _keys(cls)]
        print(f"{prog}: unknown argument {word}; {nearest(word, known)}", file=sys.stderr)
        raise SystemExit(2)
    return config


def part_of(cls: type[T], asked: Any) -> T:
    """The `cls` inside a config that has its settings and more, such as a command's with the places added.

    >>> @dataclasses.dataclass
    ... class Work:
    ...     rate: float = 1.0
    >>> @dataclasses.dataclass
    ... class Command(Work):
    ...     out: str = "here"
    >>> part_of(Work, Command(rate=2.0))
    Work(rate=2.0)
    """
    return cls(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(cls)})


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known.

    >>> nearest("evalute", ["evaluate", "prepare"])
    "the nearest is 'evaluate'"
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return f"the nearest is '{near[0]}'" if near else "there is none"


def atomic_write(path: Path | str, content: bytes | str) -> None:
    """Writes a file whole or not at all; makes its folder. Raises OSError with nothing left behind."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, else it goes.

    For writers that want a file name of their own (Parquet, FAISS).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _plain(config: Any) -> Any:
    """The config as JSON types. Not pydantic's own text, which turns infinity into null."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(config)).dump_python(config, mode="json")


def _flat(data: Any, path: str) -> Iterator[tuple[str, Scalar]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(data) if isinstance(data, list) else data


def _parts(hint: Any) -> list[type]:
    """The dataclasses inside a type: itself, a side of a union, an element of a tuple or list."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, typing.Annotated, tuple, list):
        return [part for argument in typing.get_args(hint) for part in _parts(argument)]
    return []


def _keys(cls: type, path: str = "") -> Iterator[str]:
    """Dotted paths of every setting of a config class, those of nested configs included."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        parts = _parts(hints[field.name])
        if not parts:
            yield path + field.name
        for part in parts:
            yield from _keys(part, f"{path}{field.name}.")


def _unknown_keys(cls: type, data: Any, path: str = "") -> Iterator[str]:
    """Dotted paths in `data` that no field of the config answers to."""
    if not isinstance(data, dict):
        return
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    for key, value in data.items():
        if key not in names:
            yield path + key
            continue
        values = value if isinstance(value, list) else [value]
        for part in _parts(hints[key]):
            for item in values:
                yield from _unknown_keys(part, item, f"{path}{key}.")


def _one_line(box: str) -> str:
    """What tyro says in a box of several lines, as one: the lines above its first rule."""
    lines = [line.strip("│╭╮╰╯ \t") for line in box.splitlines()]
    said = []
    for line in lines[1:]:
        if line and set(line) == {"─"}:
            break
        said.append(line)
    return " ".join(filter(None, said)) or "cannot read these arguments"
