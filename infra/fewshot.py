"""`vetdino fewshot …`: organs of CT and MRI scans from one labelled example, prepared, measured, or for a person.

A command's settings are the work's own config class, with its places (SRC, VOLUMES, --backbone, --out) added.
No `from __future__ import annotations` here: tyro reads the local classes' own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tyro.conf import Positional, arg

from ..platform.config import cli_config
from ..platform.errors import ConfigError

T = TypeVar("T")

PIXELS = "pixels"
"""In place of a backbone: no network, grey values, gradients and where in the body they lie."""


def fewshot(arguments: Sequence[str]) -> Path | None:
    """COMMAND …: organs from one labelled scan or a few."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return None
    name, *rest = arguments
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"fewshot knows no '{name}'; the nearest is '{near}' (see vetdino fewshot --help)")
    return COMMANDS[name](rest)


def overview() -> str:
    """What `vetdino fewshot --help` prints."""
    told = {name: (command.__doc__ or "").rstrip(".").partition(": ") for name, command in COMMANDS.items()}
    left = {name: f"{name} {usage}" for name, (usage, _, _) in told.items()}
    width = max(map(len, left.values()))
    lines = "\n".join(f"  {left[name]:<{width}}   {words}" for name, (_, _, words) in told.items())
    return (
        f"usage: vetdino fewshot COMMAND … [--setting value …]\n\n{lines}\n\n"
        "vetdino fewshot COMMAND --help lists the settings."
    )


def prepare(arguments: Sequence[str]) -> Path:
    """SRC OUT: scans and label maps (NIfTI, DICOM, pictures) -> a prepared folder."""
    from ..downstream.volumes import PrepareConfig, prepare

    @dataclass(frozen=True, kw_only=True)
    class Prepare(PrepareConfig):
        """Turn scans and their label maps into slices, once, with checks and overlay sheets to look at."""

        source: Annotated[Positional[Path], arg(metavar="SRC")]
        """Folder of scans and labels, or a table (CSV) of image, label, name, modality."""
        out: Annotated[Positional[Path], arg(metavar="OUT")]
        """Folder for volumes/, overlays/, volumes.json and report.csv."""

    asked = cli_config(Prepare, arguments, "vetdino fewshot prepare")
    return prepare(asked.source, asked.out, _part(PrepareConfig, asked))


def evaluate(arguments: Sequence[str]) -> Path:
    """VOLUMES: how well organs are found over folds of a prepared folder, beside floors and oracle."""
    from ..downstream.fewshot import FewshotConfig

    @dataclass(frozen=True, kw_only=True)
    class Evaluate(FewshotConfig):
        """Measure one-shot segmentation by the published protocol and on whole volumes."""

        volumes: Annotated[Positional[Path], arg(metavar="VOLUMES")]
        """Folder that `vetdino fewshot prepare` left."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published), timm NAME (random), or
        `pixels` (no network)."""
        out: Path = Path("runs/fewshot-evaluate")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    asked = cli_config(Evaluate, arguments, "vetdino fewshot evaluate")
    config = _part(FewshotConfig, asked)
    from ..downstream.fewshot import evaluate
    from ..downstream.fewshot_record import record
    from ..downstream.fewshot_sources import sources_of
    from ..downstream.ultrasound_record import check_ours
    from ..downstream.volumes import volumes_of
    from ..platform.backbone import load

    check_ours(asked.out)  # before the work, not after it
    volumes = volumes_of(asked.volumes)
    backbone = None if asked.backbone == PIXELS else load(asked.backbone)
    record(evaluate(volumes, sources_of(backbone, config), config), volumes, backbone, config, asked.out)
    return asked.out


def segment(arguments: Sequence[str]) -> Path:
    """SCAN… --support S --mask M: organs of new scans from one labelled scan, as NIfTI and overlays."""
    from ..downstream.fewshot_segment import SegmentConfig, segment

    @dataclass(frozen=True, kw_only=True)
    class Segment(SegmentConfig):
        """Find in new scans what a mask shows in a supporting one; masks lie on the new scans' own grids."""

        scans: Annotated[Positional[tuple[Path, ...]], arg(metavar="SCAN…")]
        """New scans: NIfTI files, folders of DICOM slices or of pictures."""
        support: Path
        """The labelled scan."""
        mask: Path
        """Its label map, any number of classes."""
        backbone: str
        """Backbone folder, weights file, timm:NAME, timm NAME (random), or `pixels` (no network)."""
        out: Path
        """Folder for masks/ (NIfTI), overlays/ and metrics.json."""

    asked = cli_config(Segment, arguments, "vetdino fewshot segment")
    if not asked.scans:
        raise ConfigError(
            "no scan given: vetdino fewshot segment SCAN… --support S --mask M --backbone B --out DIR"
        )
    from ..platform.backbone import load

    backbone = None if asked.backbone == PIXELS else load(asked.backbone)
    segment(asked.scans, asked.support, asked.mask, backbone, asked.out, _part(SegmentConfig, asked))
    return asked.out


COMMANDS = {"prepare": prepare, "evaluate": evaluate, "segment": segment}
"""Word after `vetdino fewshot` -> what does it; its docstring is its line of help."""


def _part(cls: type[T], asked: Any) -> T:
    """The work's own config out of what was asked: the places that the command added are left behind."""
    return cls(**{field.name: getattr(asked, field.name) for field in fields(cls)})
