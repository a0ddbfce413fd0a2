"""Settings as a frozen dataclass in code, as flags on a command line and as JSON in a folder.

The same dotted path names a setting everywhere: `crops.global_side` in code and in MLflow,
`--crops.global-side` on the command line, nested objects in `config.json`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ConfigError
from .location import Location

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Scalar = str | int | float | bool | None


def to_json(config: Any) -> str:
    """The config as indented JSON, in the order of its fields; `from_json` gives an equal one back."""
    return json.dumps(_plain(config), indent=2) + "\n"


def from_json(cls: type[T], text: str, source: str = "") -> T:
    """The config that `text` describes; keys left out keep their defaults.

    source: the file's name, for messages. Raises ConfigError where the text is not JSON, a key is unknown (the
    nearest known one is named) or a value has another type; only a list becomes a tuple, and a string a path or a tuple
    of one.
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
        return TypeAdapter(cls).validate_json(json.dumps(_several(cls, data)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"])) or "the whole"
        if first["type"] == "location":  # the value may hold a password
            raise ConfigError(f"{where}setting '{path}': {first['msg']}") from None
        raise ConfigError(f"{where}setting '{path}' holds {first['input']!r}: {first['msg']}") from None


def digest(config: Any) -> str:
    """sha256 (hex) of the config's canonical JSON: equal settings, equal digest."""
    canonical = json.dumps(_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def flat(config: Any) -> dict[str, Scalar]:
    """Dotted path -> value, for MLflow and tables; a tuple becomes its JSON text.

    >>> @dataclasses.dataclass
    ... class Optim:
    ...     lr: float = 0.1
    ...     betas: tuple[float, float] = (0.9, 0.99)
    >>> flat(Optim())
    {'lr': 0.1, 'betas': '[0.9, 0.99]'}
    """
    return dict(_flat(_plain(config), ""))


def cli_config(default: T | type[T], args: Sequence[str], prog: str) -> T:
    """The config of a class's defaults, or of an instance, changed by flags such as `--crops.global-side 96`.

    An unknown flag or a bad value prints one line to stderr, the nearest known name in it, and raises SystemExit(2).
    """
    import sys

    import tyro

    cls = default if isinstance(default, type) else type(default)
    start: dict[str, Any] = {} if isinstance(default, type) else {"default": default}
    known = [word for key in _keys(cls) for word in flag_of(key, switch=True).split(", ")]
    flags = [word.partition("=")[0].replace("_", "-") for word in args if word.startswith("--")]
    for flag in flags:  # before tyro, which would first complain of what is missing
        if flag not in known:
            same_name = [other for other in known if flag.lstrip("-") in other.lstrip("-").split(".")]
            hint = nearest(flag, same_name or known)
            print(f"{prog}: unknown argument {flag}; {hint} (see {prog} --help)", file=sys.stderr)
            raise SystemExit(2)
    complaint = StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(
                cls,
                args=list(args),
                prog=prog,
                add_help=False,
                config=(tyro.conf.AvoidSubcommands,),
                registry=argument_types(),
                **start,
            )
    except SystemExit as stop:
        if stop.code:
            print(
                f"{prog}: {_plain_message(complaint.getvalue(), args)} (see {prog} --help)", file=sys.stderr
            )
        raise


def argument_types() -> Any:
    """What tyro has to know of our own types: a `Location` is one word."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def location(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Location] | None:
        if info.type is not Location:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH|URL",
            instance_from_str=lambda words: Location(words[0]),
            is_instance=lambda value: isinstance(value, Location),
            str_from_instance=lambda place: [str(place)],
        )

    return registry


def with_settings(default: T | type[T], settings: Mapping[str, Any]) -> T:
    """The config of a class's defaults, or of an instance, with settings changed by dotted path.

    Raises ConfigError where a path is unknown (the nearest is named), a value has another type, or a setting
    without a default is missing.

    >>> @dataclasses.dataclass
    ... class Training:
    ...     steps: int
    ...     lr: float = 0.1
    >>> with_settings(Training, {"steps": 3, "lr": 0.5})
    Training(steps=3, lr=0.5)
    """
    return _with_settings(default, settings, "")


def _with_settings(default: T | type[T], settings: Mapping[str, Any], group: str) -> T:
    """`with_settings` of a nested config; `group`: its dotted path with a dot at the end, for messages."""
    from pydantic import TypeAdapter, ValidationError

    cls = default if isinstance(default, type) else type(default)
    hints, known = typing.get_type_hints(cls), {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for path, value in sorted(settings.items()):
        name, _, rest = path.partition(".")
        if name not in known or (rest and not _parts(hints[name])):
            close = nearest(f"{group}{path}", [f"{group}{key}" for key in _keys(cls)])
            raise ConfigError(f"unknown setting '{group}{path}'; {close}")
        if rest:
            inner = values[name] if name in values else default_value(known[name], default)
            values[name] = _with_settings(inner, {rest: value}, f"{group}{name}.")
            continue
        try:
            plain = str(value) if isinstance(value, Path | Location) else value
            plain = (plain,) if isinstance(plain, str) and _takes_several(hints[name]) else plain
            values[name] = TypeAdapter(hints[name]).validate_python(plain)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "location":  # the value may hold a password
                raise ConfigError(f"setting '{group}{name}': {first['msg']}") from None
            raise ConfigError(f"setting '{group}{name}' is {value!r}: {first['msg']}") from None
    if not isinstance(default, type):
        return dataclasses.replace(default, **values)
    for name, field in known.items():
        if name not in values and default_value(field, cls) is dataclasses.MISSING:
            raise ConfigError(f"setting '{group}{name}' is missing")
    return cls(**values)


def default_value(field: dataclasses.Field[Any], default: Any) -> Any:
    """A field's value in an instance, or its default in a class; `dataclasses.MISSING` where it has none."""
    if not isinstance(default, type):
        return getattr(default, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def flag_of(path: str, switch: bool = False) -> str:
    """A setting's flag on the command line; a switch has one for on and one for off.

    >>> flag_of("crops.global_side"), flag_of("optim.compile", switch=True)
    ('--crops.global-side', '--optim.compile, --optim.no-compile')
    """
    group, dot, name = path.replace("_", "-").rpartition(".")
    flag = f"--{group}{dot}{name}"
    return f"{flag}, --{group}{dot}no-{name}" if switch else flag


def subconfig(cls: type[T], config: Any) -> T:
    """The `cls` whose fields are all in a larger config, such as that of a command, which adds its folders.

    >>> @dataclasses.dataclass
    ... class Training:
    ...     rate: float = 1.0
    >>> @dataclasses.dataclass
    ... class TrainCommand(Training):
    ...     out: str = "here"
    >>> subconfig(Training, TrainCommand(rate=2.0))
    Training(rate=2.0)
    """
    return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word, which names the most similar known one.

    >>> nearest("evalute", ["evaluate", "prepare"])
    "the nearest is 'evaluate'"
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return f"the nearest is '{near[0]}'" if near else "there is none"


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


def _parts(hint: Any) -> list[type[DataclassInstance]]:
    """The dataclasses inside a type: itself, a side of a union, an element of a tuple or list."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType, typing.Annotated, tuple, list):
        return [part for argument in typing.get_args(hint) for part in _parts(argument)]
    return []


def _takes_several(hint: Any) -> bool:
    """Whether a setting is a tuple of any length."""
    return typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is Ellipsis


def _several(cls: type[DataclassInstance], data: Any) -> Any:
    """The data of a config with a list of one where a string stands and several may."""
    if not isinstance(data, dict):
        return data
    hints = typing.get_type_hints(cls)
    return {
        key: [value] if isinstance(value, str) and _takes_several(hints[key]) else value
        for key, value in data.items()
    }


def _keys(cls: type[DataclassInstance], path: str = "") -> Iterator[str]:
    """Dotted paths of every setting of a config class, those of nested configs included."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        parts = _parts(hints[field.name])
        if not parts:
            yield path + field.name
        for part in parts:
            yield from _keys(part, f"{path}{field.name}.")


def _unknown_keys(cls: type[DataclassInstance], data: Any, path: str = "") -> Iterator[str]:
    """Dotted paths in `data` that name no field of the config."""
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


def _plain_message(box: str, args: Sequence[str]) -> str:
    """tyro's message as one line: what is missing without its help, a wrong value with the type that it should have."""
    message = _one_line(box)
    if message.startswith("Missing from "):
        lines = (line.strip("│").rstrip() for line in box.splitlines())
        missing = [match[1] for line in lines if (match := re.match(r" {5,6}(\S.*)", line))]
        return f"missing: {', '.join(missing)}"
    if not (match := re.match(r"Error parsing (--[\w.-]+): (.*)", message)):
        return message
    flag, reason = match.groups()
    kinds = {"int()": "a whole number", "to float": "a number", "NoneType": "None"}
    expected = " or ".join(kind for sign, kind in kinds.items() if sign in reason)
    place = next((number for number, word in enumerate(args, 1) if word == flag), len(args))
    values = " ".join(itertools.takewhile(lambda word: not word.startswith("--"), args[place:]))
    if not values:
        return message
    return f"{flag}: '{values}' is not {expected}" if expected else f"{flag}: cannot read '{values}'"


def _one_line(box: str) -> str:
    """tyro's message, a box of several lines, as one line: the text above its first rule.

    Where the terminal knows ASCII only, the box has no sides, its rules are dashes, and one is under its title.
    """
    lines = [line.strip("│╭╮╰╯ \t") for line in box.splitlines()]
    is_rule = [bool(line) and set(line) <= {"─", "-"} for line in lines]
    first = 2 if is_rule[1:2] == [True] else 1
    last = next((number for number in range(first, len(lines)) if is_rule[number]), len(lines))
    return " ".join(filter(None, lines[first:last])) or "cannot read these arguments"
