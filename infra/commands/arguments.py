"""What the commands share: the base class of their configs, and arguments that several of them have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from tyro.conf import Positional, arg

from ...platform.core.location import Location
from ...platform.core.storage import explained, localized, naming

SOURCE = (
    "Backbone folder, weights file (PATH or URL, or PATH#heads=N,sha256=HEX), timm:NAME (published weights) or "
    "random:NAME (random weights); behind any, #depth=N,side=PX gives its first N blocks, shown PX pixels"
)
BACKBONE = Annotated[Positional[str], arg(metavar="BACKBONE", help=f"{SOURCE}.")]
BackboneSetting = Annotated[str, arg(help=f"{SOURCE}.")]
BackboneOrPixels = Annotated[str, arg(help=f"{SOURCE}, or `pixels` (no network).")]
SHARDS = Annotated[
    Positional[Location], arg(metavar="SHARDS", help="Folder of shards that `vetdino ingest` wrote.")
]
OUT = Annotated[Positional[Location], arg(metavar="OUT", help="Folder to write into.")]
VOLUMES = Annotated[
    Positional[Location], arg(metavar="VOLUMES", help="Folder that `vetdino fewshot prepare` wrote.")
]
BUNDLE = Annotated[
    Positional[Location], arg(metavar="BUNDLE", help="Folder that `vetdino index build` wrote.")
]
RecordFolder = Annotated[
    Location,
    arg(help="Folder for metrics.json, tables and figures; what an earlier call left there is replaced."),
]


class Command:
    """One command of the command line. A subclass is a frozen dataclass whose fields are its settings.

    basic: paths of the settings that `--help` shows; `--help-all` shows all. written: fields that name what it writes
    or changes. streamed: fields that name folders of shards, which are read where they are. Other locations are inputs.
    """

    __slots__ = ()
    basic: ClassVar[tuple[str, ...]] = ()
    written: ClassVar[tuple[str, ...]] = ("out",)
    streamed: ClassVar[tuple[str, ...]] = ("shards",)

    def prepared(self, action: str) -> AbstractContextManager[Self]:
        """The command with local paths in place of URLs, to `run` within the `with` block.

        Inputs are copied to this machine; what is written is uploaded when the block ends well, see `published`. No
        other run writes there meanwhile. Raises LockError, StorageError.
        """
        return self._prepared(action)

    @contextmanager
    def _prepared(self, action: str) -> Iterator[Self]:
        from ...platform.core.mirror import published

        urls: dict[str, str] = {}
        with explained(None), ExitStack() as stack, naming(urls):

            def as_input(name: str, location: Location) -> Location:
                if location.is_local or name in (*self.written, *self.streamed):
                    return location
                path = localized(location)
                urls[str(path)] = str(location)
                return Location(path)

            def as_output(name: str, location: Location) -> Location:
                if name not in self.written or (location.is_local and name != "out"):
                    return location  # a gallery that is changed has a lock of its own
                path = stack.enter_context(published(location, action))
                if not location.is_local:
                    urls[str(path)] = str(location)
                return Location(path)

            # Inputs first: what is missing is noticed before anything is locked.
            yield _with_locations(_with_locations(self, as_input), as_output)

    def shown(self, written: Path | Location, local: Self) -> Path | Location:
        """What `run` of the prepared command returned, as a URL where that is where it lies."""
        if isinstance(written, Location):
            return written
        for name in self.written:
            place, folder = getattr(self, name, None), getattr(local, name, None)
            if not isinstance(place, Location) or not isinstance(folder, Location) or place.is_local:
                continue
            if written.is_relative_to(folder.path):
                below = written.relative_to(folder.path).as_posix()
                return place if below == "." else place / below
        return written

    @classmethod
    def parse_start(cls, arguments: Sequence[str]) -> tuple[Any, list[str], str]:
        """The class or instance whose values the flags change, the remaining arguments, and what to add to the
        program's name in help and errors. Raises ConfigError where the first arguments are wrong."""
        return cls, list(arguments), ""

    def run(self) -> Path | Location | None:
        """Do the work; the place that the command line prints last, or None."""
        raise NotImplementedError


def _with_locations(config: Any, local: Callable[[str, Location], Location], group: str = "") -> Any:
    """A config with `local(dotted name, location)` in place of each location."""

    def changed(name: str, value: Any) -> Any:
        if isinstance(value, Location):
            return local(name, value)
        if isinstance(value, tuple):
            return tuple(changed(name, item) for item in value)
        return _with_locations(value, local, f"{name}.") if dataclasses.is_dataclass(value) else value

    return dataclasses.replace(
        config,
        **{
            field.name: changed(group + field.name, getattr(config, field.name))
            for field in dataclasses.fields(config)
        },
    )
