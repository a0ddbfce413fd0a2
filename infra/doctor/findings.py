"""One finding a line: its state, what was found, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

GIB = 2**30

State: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    mend: what to do; empty where nothing is to be done. A problem keeps work from being done, a warning may slow or
    limit it.

    >>> print(Finding("problem", "--out /data: Permission denied", "choose another folder"))
    problem  --out /data: Permission denied; choose another folder
    """

    state: State
    what: str
    mend: str = ""

    def __str__(self) -> str:
        text = f"{self.what}; {self.mend}" if self.mend else self.what
        return f"{self.state:<7}  {' '.join(text.split())}"

    def at(self, place: str) -> Finding:
        """The same of a named machine."""
        return replace(self, what=f"{place}: {self.what}")


def guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one more where it fails itself, for that is our mistake and hides what it would find."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(
            "warning",
            f"{name}: the check failed itself ({type(error).__name__}: {error})",
            "look yourself, and report this line",
        )


def size(count: float) -> str:
    """Bytes as people say them.

    >>> size(64 * 2**20), size(141 * 2**30), size(3.5 * 2**40)
    ('64 MiB', '141 GiB', '3.5 TiB')
    """
    for unit, name in ((2**40, "TiB"), (2**30, "GiB")):
        if count >= unit:
            text = f"{count / unit:.1f}" if count < 10 * unit else f"{count / unit:.0f}"
            return f"{text.removesuffix('.0')} {name}"
    return f"{count / 2**20:.0f} MiB"
