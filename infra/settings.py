"""The settings of a command as its help shows them: flag, values, default and meaning, read from its config class.

A setting's meaning is the docstring under the field, or the `help` of a `tyro.conf.arg`. The same list makes
`--help`, `--help-all` and the reference page.
"""

from __future__ import annotations

import ast
import dataclasses
import shlex
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from ..platform.core.config import default_value, flag_of
from ..platform.core.location import Location

TERMS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH", Location: "PATH|URL", type(None): "None"}
POSITIONAL = typing.get_args(Positional[int])[1]  # the marker that tyro puts into the annotation


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a command.

    path: dotted, as in `config.json`. flag: as typed; of a positional argument its name in capitals. values: what
    may follow the flag. default: as typed; None where the setting is required. group: path of the config it is in.
    """

    path: str
    flag: str
    values: str
    default: str | None
    meaning: str
    group: str
    positional: bool = False

    @property
    def usage(self) -> str:
        """Flag and values, as they are typed."""
        return f"{self.flag} {self.values}".strip()


def settings(default: Any) -> list[Setting]:
    """Every setting of a config class, or of an instance whose values are the defaults; positional ones first."""
    return sorted(_settings(default, ""), key=lambda setting: not setting.positional)


def _settings(default: Any, path: str) -> Iterator[Setting]:
    cls = default if isinstance(default, type) else type(default)
    hints = typing.get_type_hints(cls, include_extras=True)
    meanings = field_docs(cls)
    for field in dataclasses.fields(cls):
        value = default_value(field, default)
        name = f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{name}.")
            continue
        hint, extras = _unwrapped(hints[field.name])
        argument = next((extra for extra in extras if hasattr(extra, "metavar")), None)
        positional = POSITIONAL in extras
        yield Setting(
            path=name,
            flag=argument.metavar if positional and argument else flag_of(name, switch=hint is bool),
            values="" if positional or hint is bool else values_of(hint),
            default=None if value is dataclasses.MISSING else typed(value),
            meaning=(argument and argument.help) or meanings.get(field.name, ""),
            group=path.rstrip("."),
            positional=positional,
        )


def _unwrapped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type inside an Annotated, and what annotates it."""
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def values_of(hint: Any) -> str:
    """What may follow a flag of this type.

    >>> values_of(int | None), values_of(tuple[str, ...]), values_of(Literal["study", "view"])
    ('INT|None', 'STR …', '{study,view}')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys(map(values_of, arguments)))
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        return f"{values_of(arguments[0])} …" if many else " ".join(map(values_of, arguments))
    return TERMS.get(hint, getattr(hint, "__name__", str(hint)).upper())


def typed(value: Any) -> str:
    """A value as it is typed on a command line.

    >>> typed((0.1, 1.0)), typed(None), typed(()), typed("|")
    ('0.1 1.0', 'None', '', "'|'")
    """
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(shlex.quote(str(item)) for item in values if item != "")


def description(default: Any) -> str:
    """The first paragraph of a config class's docstring, as one line."""
    cls = default if isinstance(default, type) else type(default)
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def group_docs(default: Any, path: str = "") -> dict[str, str]:
    """Dotted path of each nested config -> the docstring under its field, or of its class, in one line."""
    docs = {}
    cls = default if isinstance(default, type) else type(default)
    for field in dataclasses.fields(cls):
        value = default_value(field, default)
        if dataclasses.is_dataclass(value):
            name = f"{path}{field.name}"
            docs[name] = field_docs(cls).get(field.name) or description(value)
            docs |= group_docs(value, f"{name}.")
    return docs


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Field name -> the docstring under it, as one line; bases included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _docs_in_source(base)
    return docs


def _docs_in_source(cls: type) -> dict[str, str]:
    for node in ast.walk(_tree(cls.__module__)):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            return {
                field.target.id: " ".join(after.value.value.split())
                for field, after in zip(node.body, node.body[1:], strict=False)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            }
    return {}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8"))


# Help ------------------------------------------------------------------------------------------------------


def help_text(prog: str, default: Any, basic: Sequence[str], whole: bool, width: int) -> str:
    """What `--help` prints: the settings that people change; with `whole` (`--help-all`) the rest by group.

    basic: paths of the settings that the short help shows beside the required ones. width: columns.
    """
    cls = default if isinstance(default, type) else type(default)
    every = settings(default)
    if unknown := set(basic) - {setting.path for setting in every}:
        raise AssertionError(f"{cls.__name__}.basic names no setting: {sorted(unknown)}")
    first = [setting for setting in every if setting.default is None or setting.path in basic]
    first.sort(key=lambda setting: (setting.default is not None, _place(setting, basic)))
    required = [setting.usage for setting in first if setting.default is None]
    lines = [f"usage: {' '.join([prog, *required])} [--setting value …]", ""]
    lines += [*textwrap.wrap(description(default), width), ""]
    lines += table(first, width)
    rest = [setting for setting in every if setting not in first]
    if whole:
        groups = group_docs(default)
        for group in dict.fromkeys(setting.group for setting in rest):
            members = [setting for setting in rest if setting.group == group]
            lines += ["", *textwrap.wrap(f"{group or 'more'}: {groups.get(group, '')}".rstrip(), width)]
            lines += table(members, width)
    elif rest:
        lines += ["", f"{prog} --help-all shows {len(rest)} more settings."]
    return "\n".join(lines)


def _place(setting: Setting, basic: Sequence[str]) -> int:
    return basic.index(setting.path) if setting.path in basic else -1


def table(rows: Iterable[Setting], width: int, left: int = 30) -> list[str]:
    """Settings as lines of two columns; a usage that is too long has a line of its own."""
    lines = []
    for setting in rows:
        default = "required" if setting.default is None else f"default: {setting.default or 'none'}"
        meaning = f"{setting.meaning} ({default})" if not setting.positional else setting.meaning
        wrapped = textwrap.wrap(meaning, max(width - left, 30), break_on_hyphens=False) or [""]
        usage = f"  {setting.usage}"
        if len(usage) > left - 2:
            lines.append(usage)
            usage = ""
        lines += [f"{usage:<{left}}{wrapped[0]}".rstrip(), *(" " * left + line for line in wrapped[1:])]
    return lines
