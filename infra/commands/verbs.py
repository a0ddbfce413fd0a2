"""What each verb of the command line does: reads its settings, calls the room that does the work.

A verb takes the words after its name and gives back what `vetdino` prints last: the folder it left. Its
settings are the room's own config class, with the verb's places (OUT, SRC …) added to it; a room is imported
when its verb is called. No `from __future__ import annotations` here: tyro reads the local classes' own.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from tyro.conf import Positional, arg

from ...platform.core.config import cli_config, part_of, to_json
from ...platform.core.errors import ConfigError

T = TypeVar("T")

# What stands on the command line without a flag, by the word that help shows for it.
SRC = Annotated[Positional[Path], arg(metavar="SRC")]
OUT = Annotated[Positional[Path], arg(metavar="OUT")]
BACKBONE = Annotated[Positional[str], arg(metavar="BACKBONE")]
SHARDS = Annotated[Positional[str], arg(metavar="SHARDS")]
BACKBONES = Annotated[Positional[tuple[str, ...]], arg(metavar="BACKBONE…")]
RUNS = Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN…")]


def phantom(arguments: Sequence[str]) -> Path:
    """OUT: generated pictures with their truth; `--kind` says what is pictured."""
    from ...platform.phantom.abdomen.torso import TorsoConfig, torsos
    from ...platform.phantom.dog.archive import PhantomConfig, phantom
    from ...platform.phantom.limb.sonogram import SonogramConfig, sonograms

    Kind = Literal["radiograph", "ultrasound", "volume"]

    @dataclass(frozen=True, kw_only=True)
    class Radiograph(PhantomConfig):
        """Generate radiograph studies whose truth is known: DICOM, labels.csv and truth per view."""

        out: OUT
        """Folder to write into."""
        kind: Kind = "radiograph"
        """What to generate; each kind has settings of its own: see vetdino phantom --kind KIND --help."""

    @dataclass(frozen=True, kw_only=True)
    class Ultrasound(SonogramConfig):
        """Generate b-mode sweeps whose bones are known: images and masks per domain, domains.csv, frames.csv."""

        out: OUT
        """Folder to write into."""
        kind: Kind = "ultrasound"
        """What to generate; each kind has settings of its own: see vetdino phantom --kind KIND --help."""

    @dataclass(frozen=True, kw_only=True)
    class Volume(TorsoConfig):
        """Generate abdominal CT and MRI scans whose organs are known: NIfTI images and labels, classes.json."""

        out: OUT
        """Folder to write into."""
        kind: Kind = "volume"
        """What to generate; each kind has settings of its own: see vetdino phantom --kind KIND --help."""

    kinds = {
        "radiograph": (Radiograph, PhantomConfig, phantom),
        "ultrasound": (Ultrasound, SonogramConfig, sonograms),
        "volume": (Volume, TorsoConfig, torsos),
    }
    # A kind that is none is left to the settings' own parser, which knows how to refuse it.
    peek = ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--kind", nargs="?")
    kind = peek.parse_known_args(arguments)[0].kind
    asks, settings, write = kinds.get(kind, kinds["radiograph"])
    asked = cli_config(asks, arguments, "vetdino phantom")
    write(asked.out, part_of(settings, asked))
    return asked.out


def ingest(arguments: Sequence[str]) -> Path:
    """SRC OUT: an archive becomes shards."""
    from ...platform.ingest.ingest import IngestConfig, ingest

    @dataclass(frozen=True, kw_only=True)
    class Ingest(IngestConfig):
        """Turn a DICOM tree, or an image table (CSV, Parquet), into pseudonymised shards."""

        source: SRC
        """Folder of DICOM files, or a table, a row for each picture (path, patient, study, view, labels)."""
        out: OUT
        """Folder for the shards, manifest.json and quarantine.csv."""

    asked = cli_config(Ingest, arguments, "vetdino ingest")
    ingest(asked.source, asked.out, part_of(IngestConfig, asked))
    return asked.out


def pretrain(arguments: Sequence[str]) -> Path | None:
    """RECIPE: shards become a backbone."""
    from ...pretrain.recipes import RECIPES, PretrainConfig, recipe

    @dataclass(frozen=True, kw_only=True)
    class Pretrain(PretrainConfig):
        """Pretrain a backbone by multi-view distillation; every setting starts from the recipe's."""

        print_config: bool = False
        """Print the whole config as JSON and stop."""

    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, RECIPES))
        print("usage: vetdino pretrain RECIPE --shards DIR --out DIR [--setting value …]\n")
        for name, make in RECIPES.items():
            print(f"  {name:<{width}}   {(make.__doc__ or '').splitlines()[0]}")
        print("\nvetdino pretrain RECIPE --help lists every setting with the recipe's value.")
        return None
    if arguments[0].startswith("-"):
        raise ConfigError(f"the recipe comes first: vetdino pretrain {next(iter(RECIPES))} {arguments[0]} …")
    name, *rest = arguments
    start = recipe(name)
    default = Pretrain(**{field.name: getattr(start, field.name) for field in fields(start)})
    asked = cli_config(default, rest, f"vetdino pretrain {name}")
    config = part_of(PretrainConfig, asked)
    if asked.print_config:
        print(to_json(config), end="")
        return None
    from ...pretrain.job import pretrain

    return pretrain(config)


def replay(arguments: Sequence[str]) -> None:
    """RUN: look again at a step whose loss was no finite number."""

    @dataclass(frozen=True, kw_only=True)
    class Replay:
        """Say where a bad step of a training began: losses, and the first output and gradient that are none."""

        run: Annotated[Positional[Path], arg(metavar="RUN")]
        """Folder of the training."""
        step: int
        """The step, one of those in the folder's `bad`."""

    asked = cli_config(Replay, arguments, "vetdino replay")
    from ...pretrain.replay import replay_of

    print(replay_of(asked.run, asked.step))


def embed(arguments: Sequence[str]) -> Path:
    """BACKBONE SHARDS OUT: features of every study."""

    @dataclass(frozen=True, kw_only=True)
    class Embed:
        """Write what a backbone makes of each study (or view) as a Parquet table beside its labels."""

        backbone: BACKBONE
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published) or timm NAME (random)."""
        shards: SHARDS
        """Folder of shards, or its URL."""
        out: OUT
        """Folder for features.parquet."""
        level: Literal["study", "view"] = "study"
        """One vector for each study (mean of its views) or one for each view."""
        splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
        """Which splits to embed."""
        batch: int = 64
        """Views for each pass through the backbone."""

    asked = cli_config(Embed, arguments, "vetdino embed")
    from ...platform.measure.features import extract, save_features
    from ...platform.models.backbone import load

    features = extract(load(asked.backbone), asked.shards, asked.splits, level=asked.level, batch=asked.batch)
    save_features(features, asked.out)
    return asked.out


def evaluate(arguments: Sequence[str]) -> Path:
    """BACKBONE SHARDS: how good the backbone is, beside random weights, raw pixels and their PCA."""
    from ...downstream.evaluate import EvaluateConfig, evaluate

    @dataclass(frozen=True, kw_only=True)
    class Evaluate(EvaluateConfig):
        """Say how good a backbone is, beside the same network at random weights, raw pixels and their PCA."""

        backbone: BACKBONE
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published) or timm NAME (random)."""
        shards: SHARDS
        """Folder of shards, or its URL."""
        out: Path = Path("runs/evaluate")
        """Folder for tables and figures."""

    asked = cli_config(Evaluate, arguments, "vetdino evaluate")
    evaluate(asked.backbone, asked.shards, asked.out, part_of(EvaluateConfig, asked))
    return asked.out


def compare_backbones(arguments: Sequence[str]) -> Path:
    """BACKBONE…: any number of them on equal terms, beside random weights, raw pixels and their PCA."""
    from ...downstream.evaluate import EvaluateConfig, compare_backbones

    @dataclass(frozen=True, kw_only=True)
    class CompareBackbones(EvaluateConfig):
        """Measure backbones on the same studies; differences are the first one's against each other."""

        backbones: BACKBONES
        """Backbone folders, weights files or timm names; the first is held against the others."""
        shards: str
        """Folder of shards, or its URL."""
        out: Path = Path("runs/compare-backbones")
        """Folder for tables and figures."""

    asked = cli_config(CompareBackbones, arguments, "vetdino compare-backbones")
    compare_backbones(asked.backbones, asked.shards, asked.out, part_of(EvaluateConfig, asked))
    return asked.out


def zeroshot(arguments: Sequence[str]) -> Path | None:
    """COMMAND …: experiments on b-mode frames, and masks for new ones."""
    from .zeroshot import zeroshot

    return zeroshot(arguments)


def fewshot(arguments: Sequence[str]) -> Path | None:
    """COMMAND …: organs of CT and MRI scans from one labelled example."""
    from .fewshot import fewshot

    return fewshot(arguments)


def compare(arguments: Sequence[str]) -> Path:
    """RUN…: trainings and evaluations side by side on one page."""
    from ..pages.compare import CompareConfig, compare

    @dataclass(frozen=True, kw_only=True)
    class Compare(CompareConfig):
        """Hold runs against the first: settings, curves, figures with paired differences, on one HTML page."""

        runs: RUNS
        """Folders of trainings and evaluations; the others are held against the first."""
        out: Path = Path("compare.html")
        """The page; it holds all it shows and fetches nothing."""

    asked = cli_config(Compare, arguments, "vetdino compare")
    return compare(asked.runs, asked.out, part_of(CompareConfig, asked))


def report(arguments: Sequence[str]) -> Path:
    """BACKBONE: its model card."""
    from ..pages.report import ReportConfig, report

    @dataclass(frozen=True, kw_only=True)
    class Report(ReportConfig):
        """Write a backbone's model card as Markdown and HTML, from its files and its evaluations."""

        backbone: Annotated[Positional[Path], arg(metavar="BACKBONE")]
        """Backbone folder."""
        out: Path = Path("runs/report")
        """Folder for card.md, card.html and pictures."""

    asked = cli_config(Report, arguments, "vetdino report")
    return report(asked.backbone, asked.out, part_of(ReportConfig, asked))


def demo(arguments: Sequence[str]) -> Path | None:
    """Everything on generated studies, then the page."""
    from ..demo import DemoConfig, demo

    return demo(cli_config(DemoConfig, arguments, "vetdino demo"))


def app(arguments: Sequence[str]) -> None:
    """The page: patch similarity, attention, nearest studies."""
    from ...serving.app import AppConfig, serve

    serve(cli_config(AppConfig, arguments, "vetdino app"))
