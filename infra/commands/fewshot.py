"""`vetdino fewshot …`: organs of CT and MRI scans from one labelled example, prepared, measured, or for a person.

A command's settings are the work's own config class, with its places (SRC, VOLUMES, --backbone, --out) added.
No `from __future__ import annotations` here: tyro reads the local classes' own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from ...platform.core.config import cli_config, nearest, part_of
from ...platform.core.errors import ConfigError

if TYPE_CHECKING:
    from ...downstream.volumes.prepared import Volumes
    from ...platform.models.backbone import Backbone

VOLUMES = Annotated[Positional[Path], arg(metavar="VOLUMES")]


def fewshot(arguments: Sequence[str]) -> Path | None:
    """COMMAND …: organs from one labelled scan or a few."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return None
    name, *rest = arguments
    if name not in COMMANDS:
        raise ConfigError(
            f"fewshot knows no '{name}'; {nearest(name, COMMANDS)} (see vetdino fewshot --help)"
        )
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
    from ...downstream.volumes.prepared import PrepareConfig, prepare

    @dataclass(frozen=True, kw_only=True)
    class Prepare(PrepareConfig):
        """Turn scans and their label maps into slices, once, with checks and overlay sheets to look at."""

        source: Annotated[Positional[Path], arg(metavar="SRC")]
        """Folder of scans and labels, or a table (CSV) of image, label, name, modality."""
        out: Annotated[Positional[Path], arg(metavar="OUT")]
        """Folder for volumes/, overlays/, volumes.json and report.csv."""

    asked = cli_config(Prepare, arguments, "vetdino fewshot prepare")
    return prepare(asked.source, asked.out, part_of(PrepareConfig, asked))


def train(arguments: Sequence[str]) -> Path:
    """VOLUMES --backbone B: encoders trained on superpixels, without labels, for each fold and group of organs."""
    from ...downstream.fewshot.learn.training import TrainConfig

    @dataclass(frozen=True, kw_only=True)
    class Train(TrainConfig):
        """Train encoders without labels; `evaluate` with --trained OUT then measures them. Run again, it goes on."""

        volumes: VOLUMES
        """Folder that `vetdino fewshot prepare` left."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published) or timm NAME (random)."""
        out: Path = Path("runs/fewshot-train")
        """Folder for the encoders and their record."""

    asked = cli_config(Train, arguments, "vetdino fewshot train")
    from ...downstream.fewshot.learn.training import train
    from ...downstream.fewshot.sources import loaded
    from ...downstream.volumes.prepared import volumes_of

    backbone = loaded(asked.backbone)
    if backbone is None:
        raise ConfigError("pixels have no network that could be trained; give a backbone")
    return train(volumes_of(asked.volumes), backbone, part_of(TrainConfig, asked), asked.out)


def evaluate(arguments: Sequence[str]) -> Path:
    """VOLUMES: how well organs are found over folds of a prepared folder, beside floors and oracle."""
    from ...downstream.fewshot.experiments import EvaluateConfig

    @dataclass(frozen=True, kw_only=True)
    class Evaluate(EvaluateConfig):
        """Measure segmentation from few labelled scans by the published protocol and on whole volumes."""

        volumes: VOLUMES
        """Folder that `vetdino fewshot prepare` left."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published), timm NAME (random), or
        `pixels` (no network)."""
        trained: Path | None = None
        """Folder that `vetdino fewshot train` left, of this backbone and these scans: its encoders come first."""
        out: Path = Path("runs/fewshot-evaluate")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    asked = cli_config(Evaluate, arguments, "vetdino fewshot evaluate")
    from ...downstream.fewshot.experiments import evaluate

    trained = [asked.trained] if asked.trained else []
    volumes, backbones = _begun(asked, asked.volumes), _one(asked.backbone)
    evaluate(volumes, backbones, part_of(EvaluateConfig, asked), asked.out, trained)
    return asked.out


def compare(arguments: Sequence[str]) -> Path:
    """VOLUMES --backbones B…: encoders side by side on equal terms, held against the first."""
    from ...downstream.fewshot.measure import FewshotConfig

    @dataclass(frozen=True, kw_only=True)
    class Compare(FewshotConfig):
        """Measure encoders on the same scans; differences are each one's from the first, with a paired test."""

        volumes: VOLUMES
        """Folder that `vetdino fewshot prepare` left."""
        backbones: tuple[str, ...]
        """Backbone folders, weights files, timm:NAME (published), timm NAME (random), `pixels` (no network); the
        others are held against the first."""
        trained: tuple[Path, ...] = ()
        """Folders that `vetdino fewshot train` left, of these backbones and scans: rows of their own."""
        out: Path = Path("runs/fewshot-compare")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    asked = cli_config(Compare, arguments, "vetdino fewshot compare")
    if len({*asked.backbones, *asked.trained}) < 2:
        raise ConfigError("compare holds encoders against the first; give two or more to --backbones")
    from ...downstream.fewshot.experiments import compare
    from ...downstream.fewshot.sources import backbones_of

    volumes = _begun(asked, asked.volumes)
    backbones = backbones_of(asked.backbones)
    compare(volumes, backbones, part_of(FewshotConfig, asked), asked.out, asked.trained)
    return asked.out


def kshot(arguments: Sequence[str]) -> Path:
    """VOLUMES --backbone B: what more labelled scans add, by the way in which they are pooled."""
    from ...downstream.fewshot.experiments import KshotConfig

    @dataclass(frozen=True, kw_only=True)
    class Kshot(KshotConfig):
        """Measure with 1, 2, 4 labelled scans on the same queries, for each rule that pools several."""

        volumes: VOLUMES
        """Folder that `vetdino fewshot prepare` left."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published), timm NAME (random), or
        `pixels` (no network)."""
        out: Path = Path("runs/fewshot-kshot")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    asked = cli_config(Kshot, arguments, "vetdino fewshot kshot")
    from ...downstream.fewshot.experiments import kshot

    volumes, backbones = _begun(asked, asked.volumes), _one(asked.backbone)
    kshot(volumes, backbones, part_of(KshotConfig, asked), asked.out)
    return asked.out


def xdomain(arguments: Sequence[str]) -> Path:
    """VOLUMES VOLUMES… --backbone B: scans of one folder teach scans of another, the whole matrix."""
    from ...downstream.fewshot.experiments import XdomainConfig

    @dataclass(frozen=True, kw_only=True)
    class Xdomain(XdomainConfig):
        """Measure every pair of folders, one's labelled scans teaching the other's; classes are matched by name."""

        volumes: Annotated[Positional[tuple[Path, ...]], arg(metavar="VOLUMES VOLUMES…")]
        """Two or more folders that `vetdino fewshot prepare` left."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published), timm NAME (random), or
        `pixels` (no network)."""
        trained: tuple[Path, ...] = ()
        """Folders that `vetdino fewshot train` left, of this backbone: each answers where the folder that it was
        trained on teaches."""
        out: Path = Path("runs/fewshot-xdomain")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    asked = cli_config(Xdomain, arguments, "vetdino fewshot xdomain")
    from ...downstream.fewshot.experiments import xdomain

    folders = [_begun(asked, folder) for folder in asked.volumes]
    xdomain(folders, _one(asked.backbone), part_of(XdomainConfig, asked), asked.out, asked.trained)
    return asked.out


def cca_audit(arguments: Sequence[str]) -> Path:
    """VOLUMES --backbone B: what cutting masks to connected components does to each slice, and its ceiling."""
    from ...downstream.fewshot.audits.components import CcaConfig

    @dataclass(frozen=True, kw_only=True)
    class CcaAudit(CcaConfig):
        """Cut answers, and the truth itself, to their surest component, to as many as the support shows, or not."""

        volumes: VOLUMES
        """Folder that `vetdino fewshot prepare` left."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published), timm NAME (random), or
        `pixels` (no network)."""
        out: Path = Path("runs/fewshot-cca-audit")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    asked = cli_config(CcaAudit, arguments, "vetdino fewshot cca-audit")
    from ...downstream.fewshot.audits.components import cca_audit
    from ...downstream.fewshot.audits.record import cca_left, label_of, record
    from ...downstream.fewshot.sources import loaded

    config = part_of(CcaConfig, asked)
    volumes, backbone = _begun(asked, asked.volumes), loaded(asked.backbone)
    found = cca_audit(volumes, backbone, config)
    record(cca_left(found, label_of(backbone), config), volumes, backbone, config, asked.out)
    return asked.out


def ttt_audit(arguments: Sequence[str]) -> Path:
    """VOLUMES --backbone B: what training on the slice that is asked does: steps, wrong labels, reset, order."""
    from ...downstream.fewshot.audits.adaptation import TttConfig

    @dataclass(frozen=True, kw_only=True)
    class TttAudit(TttConfig):
        """Train on every slice asked and answer again, in several ways, each held against no training."""

        volumes: VOLUMES
        """Folder that `vetdino fewshot prepare` left."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published) or timm NAME (random)."""
        trained: Path | None = None
        """Folder that `vetdino fewshot train` left: its encoders are audited, each in its fold."""
        out: Path = Path("runs/fewshot-ttt-audit")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    asked = cli_config(TttAudit, arguments, "vetdino fewshot ttt-audit")
    from ...downstream.fewshot.audits.adaptation import ttt_audit
    from ...downstream.fewshot.audits.record import label_of, record, ttt_left
    from ...downstream.fewshot.learn.learnable import Learnable
    from ...downstream.fewshot.learn.training import device_of, trained_of
    from ...downstream.fewshot.sources import loaded

    config = part_of(TttConfig, asked)
    device = device_of(config.device)
    volumes, backbone = _begun(asked, asked.volumes), loaded(asked.backbone)
    if backbone is None:
        raise ConfigError(
            "ttt-audit trains a network; pixels have none, give --backbone a backbone or timm name"
        )
    if asked.trained is None:
        fresh = Learnable(backbone, config.learn, config.slices, config.seed).to(device)
        found = ttt_audit(volumes, lambda _: fresh, config)
    else:
        own = trained_of(
            asked.trained, backbone, config.slices, volumes=volumes, folds=config.folds, device=device
        )
        found = ttt_audit(volumes, lambda lesson: own[lesson.fold, lesson.organ], config)
    record(ttt_left(found, label_of(backbone), config), volumes, backbone, config, asked.out)
    return asked.out


def segment(arguments: Sequence[str]) -> Path:
    """SCAN… --support S --mask M: organs of new scans from one labelled scan, as NIfTI and overlays."""
    from ...downstream.fewshot.segment import SegmentConfig, segment

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
    from ...downstream.fewshot.sources import loaded

    backbone = loaded(asked.backbone)
    segment(asked.scans, asked.support, asked.mask, backbone, asked.out, part_of(SegmentConfig, asked))
    return asked.out


def _begun(asked: Any, folder: Path) -> "Volumes":
    """The prepared folder. What is in --out is looked at first: before the work, not after it."""
    from ...downstream.common.record import check_ours
    from ...downstream.volumes.prepared import volumes_of

    check_ours(asked.out)
    return volumes_of(folder)


def _one(source: str) -> "dict[str, Backbone | None]":
    """The only encoder of a table, under the name that it has there."""
    from ...downstream.fewshot.sources import PIXELS, loaded

    return {PIXELS if source == PIXELS else "encoder": loaded(source)}


COMMANDS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "kshot": kshot,
    "xdomain": xdomain,
    "cca-audit": cca_audit,
    "ttt-audit": ttt_audit,
    "segment": segment,
}
"""Word after `vetdino fewshot` -> what does it; its docstring is its line of help."""
