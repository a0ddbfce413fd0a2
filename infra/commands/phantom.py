"""`vetdino phantom OUT`: generated radiographs, ultrasound frames or CT/MRI volumes with their truth."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import arg

from ...platform.core.config import subconfig
from ...platform.phantom.config import PhantomConfig, SonogramConfig, TorsoConfig
from .arguments import OUT, Command

Kind = Annotated[
    Literal["radiograph", "ultrasound", "volume"],
    arg(help="What to generate; each kind has its own settings: vetdino phantom --kind KIND --help."),
]


@dataclass(frozen=True, kw_only=True)
class PhantomRadiographs(PhantomConfig, Command):
    """Generate radiograph studies with known truth: DICOM files, labels.csv and truth per view."""

    basic: ClassVar = ("kind", "studies", "side", "seed", "workers")
    out: OUT
    kind: Kind = "radiograph"

    @classmethod
    def parse_start(cls, arguments: Sequence[str]) -> tuple[Any, list[str], str]:
        peek = ArgumentParser(add_help=False, allow_abbrev=False)
        peek.add_argument("--kind", nargs="?")
        kind = peek.parse_known_args(arguments)[0].kind
        # An unknown kind goes to the radiographs' parser, which refuses it and names the three.
        return KINDS.get(kind, PhantomRadiographs), list(arguments), ""

    def run(self) -> Path:
        from ...platform.phantom.dog.archive import write_radiographs

        write_radiographs(self.out.path, subconfig(PhantomConfig, self))
        return self.out.path


@dataclass(frozen=True, kw_only=True)
class PhantomUltrasound(SonogramConfig, Command):
    """Generate b-mode sweeps with known bones: images and masks for each domain, domains.csv, frames.csv."""

    basic: ClassVar = ("kind", "domains", "frames", "side", "seed", "workers")
    out: OUT
    kind: Kind = "ultrasound"

    def run(self) -> Path:
        from ...platform.phantom.limb.archive import write_sonograms

        write_sonograms(self.out.path, subconfig(SonogramConfig, self))
        return self.out.path


@dataclass(frozen=True, kw_only=True)
class PhantomVolumes(TorsoConfig, Command):
    """Generate abdominal CT and MRI scans with known organs: NIfTI images and labels, classes.json."""

    basic: ClassVar = ("kind", "scans", "modality", "side", "seed", "workers")
    out: OUT
    kind: Kind = "volume"

    def run(self) -> Path:
        from ...platform.phantom.abdomen.archive import write_volumes

        write_volumes(self.out.path, subconfig(TorsoConfig, self))
        return self.out.path


KINDS = {"radiograph": PhantomRadiographs, "ultrasound": PhantomUltrasound, "volume": PhantomVolumes}
