"""What the commands share: the base class of their configs, and arguments that several of them have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from ...platform.core.locks import folder_lock

SOURCE = (
    "Backbone folder, weights file (PATH, or PATH#heads=N,sha256=HEX), timm:NAME (published weights) or random:NAME "
    "(random weights)"
)
BACKBONE = Annotated[Positional[str], arg(metavar="BACKBONE", help=f"{SOURCE}.")]
BackboneSetting = Annotated[str, arg(help=f"{SOURCE}.")]
BackboneOrPixels = Annotated[str, arg(help=f"{SOURCE}, or `pixels` (no network).")]
SHARDS = Annotated[
    Positional[str], arg(metavar="SHARDS", help="Folder of shards that `vetdino ingest` wrote.")
]
OUT = Annotated[Positional[Path], arg(metavar="OUT", help="Folder to write into.")]
VOLUMES = Annotated[
    Positional[Path], arg(metavar="VOLUMES", help="Folder that `vetdino fewshot prepare` wrote.")
]
BUNDLE = Annotated[Positional[Path], arg(metavar="BUNDLE", help="Folder that `vetdino index build` wrote.")]
RecordFolder = Annotated[
    Path,
    arg(help="Folder for metrics.json, tables and figures; what an earlier call left there is replaced."),
]


class Command:
    """One command of the command line. A subclass is a frozen dataclass whose fields are its settings.

    basic: paths of the settings that `--help` shows; `--help-all` shows all. A command that writes has a field `out`.
    """

    __slots__ = ()
    basic: ClassVar[tuple[str, ...]] = ()

    def locked(self, action: str) -> AbstractContextManager[None]:
        """Within its `with` block no other run writes to `out`, see `folder_lock`; nothing where there is no `out`."""
        out = getattr(self, "out", None)
        return nullcontext() if out is None else folder_lock(out, action)

    @classmethod
    def parse_start(cls, arguments: Sequence[str]) -> tuple[Any, list[str], str]:
        """The class or instance whose values the flags change, the remaining arguments, and what to add to the
        program's name in help and errors. Raises ConfigError where the first arguments are wrong."""
        return cls, list(arguments), ""

    def run(self) -> Path | None:
        """Do the work; the path that the command line prints last, or None."""
        raise NotImplementedError
