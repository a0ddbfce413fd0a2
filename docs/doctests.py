"""An extension of mkdocstrings: examples in docstrings (`>>> …`) become blocks of code on the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences each example, from its first `>>>` to the next empty line."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each documented object."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)


def fenced(match: re.Match[str]) -> str:
    """The example between fences of its own indentation, with an empty line before."""
    indent = match[1]
    return f"\n{indent}```pycon\n{match[0]}\n{indent}```"
