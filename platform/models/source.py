"""What a person names as a backbone, taken apart: the kind of source, its place, and what is said of it.

PATH or URL             a backbone folder, or a weights file
PATH#heads=6,eps=1e-5   a weights file, and what its tensors do not tell
timm:NAME random:NAME   a timm architecture with published or random weights
…#depth=10,side=224     any of them: its first 10 blocks and last norm, shown images of 224 pixels
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.config import nearest
from ..core.errors import CheckpointError, ConfigError
from ..core.storage import localized
from .card import CARD, WEIGHTS

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights as timm's hub names them."""

RANDOM, TIMM = "random:", "timm:"
"""Before a timm name: random weights, or the published ones."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a person says of a backbone; None and "" where nothing is said.

    All but the sha256, depth and side tell what the tensors of a weights file do not.
    """

    sha256: str = ""
    """Refuses a file with another one; 64 hexadecimal digits, in lower case."""
    timm: str = ""
    """The timm architecture that it is: heads, epsilon and, of the published weights, normalization and side."""
    heads: int | None = None
    """Attention heads a block."""
    eps: float | None = None
    """Epsilon of the layer norms."""
    mean: tuple[float, ...] | None = None
    """Subtracted from pixels scaled to 0..1: one number, or one for each of three channels."""
    std: tuple[float, ...] | None = None
    """Divides what is left."""
    depth: int | None = None
    """The first so many blocks and the last norm are the backbone; None: all blocks."""
    side: int | None = None
    """Side of the images that it is shown, in pixels; None: its own."""


@dataclass(frozen=True, slots=True)
class BackboneSource:
    """What `load` is given, taken apart."""

    kind: Literal["random", "timm", "folder", "file"]
    place: str
    """A timm name, or a local path."""
    options: SourceOptions = field(default=SourceOptions(), repr=False)


def split_source(source: str | Path) -> tuple[str, SourceOptions]:
    """`PATH#name=value,…` -> the path or name, and what is said of it.

    >>> split_source("dino.pth")[0], split_source("dino.pth#heads=6").__getitem__(1).heads
    ('dino.pth', 6)
    >>> split_source("vit.pth#mean=0.48/0.46/0.41,std=0.27")[1].mean
    (0.48, 0.46, 0.41)

    Raises ConfigError for an unknown option (the nearest is named) and for a value that it cannot have.
    """
    match = re.search(r"#(\w+=[^#]*)$", str(source))
    if not match:
        return str(source), SourceOptions()
    texts: dict[str, str] = {}
    for part in match[1].split(","):
        name, _, text = part.partition("=")
        if name not in OPTIONS:
            raise ConfigError(
                f"{source}: unknown option '{name}' of a backbone; {nearest(name, list(OPTIONS))}"
            )
        texts[name] = text
    return str(source)[: match.start()], parse_options(texts, str(source))


def parse_options(texts: Mapping[str, str], source: str) -> SourceOptions:
    """Options by name, read from their texts. Raises ConfigError, after `source`, for a value that cannot be."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        parse, expected = OPTIONS[name]
        try:
            values[name] = parse(text)
        except ValueError:
            raise ConfigError(f"{source}: {name} '{text}' is not {expected}") from None
    if ("mean" in values) != ("std" in values):
        raise ConfigError(f"{source}: mean and std go together; give both")
    return SourceOptions(**values)


def parse_source(source: str | Path) -> BackboneSource:
    """Where the weights are that a person names. The weights file of a backbone folder is that folder; what lies at a
    URL is copied to this machine.

    >>> parse_source("timm:vit_small_patch16_224")
    BackboneSource(kind='timm', place='vit_small_patch16_224')

    Raises ConfigError for a bare timm name, which does not say which weights, and where more than depth and side is
    said of a name or a folder, CheckpointError for a path without weights, StorageError.
    """
    place, options = split_source(source)
    for prefix in (RANDOM, TIMM):
        if place.startswith(prefix):
            if options.sha256:
                raise ConfigError(
                    f"{source}: a timm name has no file whose sha256 could be checked; give the file"
                )
            _refuse_options(source, options, "a timm name")
            kind: Literal["random", "timm"] = "random" if prefix == RANDOM else "timm"
            return BackboneSource(kind, place.removeprefix(prefix), options)
    path = _local_copy(place) if "://" in place else Path(place)
    folder = path.parent if path.name == WEIGHTS and path.is_file() else path
    if (folder / CARD).is_file():
        _refuse_options(source, options, f"{folder / CARD}")
        return BackboneSource("folder", str(folder), options)
    if path.is_file():
        return BackboneSource("file", str(path), options)
    raise _no_backbone(source, place)


def _local_copy(url: str) -> Path:
    """The copy on this machine; that of weights which are described beside them comes with their whole folder."""
    folder, _, name = url.rpartition("/")
    return localized(folder) / name if name in (WEIGHTS, *HUB_FILES) else localized(url)


def absolute_source(source: str) -> str:
    """The same source for a process with another working directory: a path is made absolute, its options stay."""
    place, _ = split_source(source)
    if "://" in place:
        return source
    return f"{Path(place).resolve()}{source[len(place) :]}" if Path(place).exists() else source


def _no_backbone(source: str | Path, place: str) -> ConfigError | CheckpointError:
    """The error for what is neither a path with weights nor a name with a prefix."""
    import timm

    if timm.is_model(place):
        return ConfigError(
            f"{place} is no path; give {RANDOM}{place} for random weights or {TIMM}{place} for the published ones"
        )
    path = Path(place)
    if path.exists() or path.suffix or "/" in place:
        return CheckpointError(
            f"{source}: no backbone here; expected a folder with {CARD}, a weights file, {TIMM}NAME or {RANDOM}NAME"
        )
    near = nearest(place, timm.list_models("*vit*"))
    return ConfigError(
        f"{place} is no path and no timm model ({near}); give a path, {TIMM}NAME or {RANDOM}NAME"
    )


def _refuse_options(source: str | Path, options: SourceOptions, teller: str) -> None:
    """Raises ConfigError where what is known already is said."""
    said = [name for name in TELLING if getattr(options, name)]
    if said:
        raise ConfigError(f"{source}: {said[0]} is for weights files, here {teller} says it; leave it out")


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError
    return text.lower()


def _positive(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def parse(text: str) -> int | float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    return parse


def _channels(text: str) -> tuple[float, ...]:
    values = tuple(map(float, text.split("/")))
    if len(values) not in (1, 3) or not all(abs(value) < float("inf") for value in values):
        raise ValueError
    return values


def _spread(text: str) -> tuple[float, ...]:
    values = _channels(text)
    if min(values) <= 0:
        raise ValueError
    return values


def _timm_name(text: str) -> str:
    if not text:
        raise ValueError
    return text


OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "sha256": (_sha256, "64 hexadecimal digits, as `sha256sum PATH` prints them"),
    "timm": (_timm_name, "the name of a timm model"),
    "heads": (_positive(int), "a number of heads"),
    "eps": (_positive(float), "a number above 0"),
    "mean": (_channels, "one number, or three joined by /"),
    "std": (_spread, "one number above 0, or three joined by /"),
    "depth": (_positive(int), "a number of blocks"),
    "side": (_positive(int), "a number of pixels"),
}
"""Option -> how its text is read, and what it has to be."""

TELLING = ("timm", "heads", "eps", "mean", "std")
"""Options that tell what the tensors of a weights file do not."""
