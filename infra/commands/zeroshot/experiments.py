"""The five experiments on b-mode frames: each takes DOMAINS and a backbone and writes one folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from ....downstream.ultrasound.config import (
    AssessConfig,
    CrossDomainConfig,
    NoiseConfig,
    SameDomainConfig,
    ScatterConfig,
)
from ....platform.core.config import subconfig
from ....platform.core.location import Location
from ..arguments import BackboneSetting, Command, RecordFolder

BASIC = (
    "out",
    "facet",
    "block",
    "attention_block",
    "stride",
    "cosegment.vote",
    "cosegment.heads",
    "cosegment.tau",
    "tokencut.tau",
    "seed",
)


@dataclass(frozen=True, kw_only=True)
class Experiment(Command):
    """What the five share: the arguments, and reading them before the hours of work."""

    name: ClassVar[str]
    config_class: ClassVar[type]
    domains: Annotated[Positional[Location], arg(metavar="DOMAINS")]
    """Folder of domains, each with images/ and masks/ of the same names; one such domain; or a table (CSV) of
    domain, folder, subject, device, body_part."""
    backbone: BackboneSetting
    out: RecordFolder

    def experiment(self) -> Callable[..., Any]:
        """The function that runs it on domains, a backbone and a config."""
        raise NotImplementedError

    def run(self) -> Path:
        from ....downstream.common.record import check_ours
        from ....downstream.ultrasound.domains import read_domains
        from ....downstream.ultrasound.record import record
        from ....platform.models.loading import load

        check_ours(self.out.path)
        config: Any = subconfig(self.config_class, self)
        domains, backbone = read_domains(self.domains.path), load(self.backbone, config.device)
        result = self.experiment()(domains, backbone, config)
        record(self.name, result, domains, backbone, config, self.out.path)
        return self.out.path


@dataclass(frozen=True, kw_only=True)
class Assess(AssessConfig, Experiment):
    """Show one image of each domain through all blocks: principal components, attention, best buddies."""

    name, config_class = "assess", AssessConfig
    basic: ClassVar = (*BASIC, "buddies")
    out: RecordFolder = Location("runs/zeroshot-assess")

    def experiment(self) -> Callable[..., Any]:
        from ....downstream.ultrasound.experiments.assess import assess

        return assess


@dataclass(frozen=True, kw_only=True)
class Scatter(ScatterConfig, Experiment):
    """Show the patches of all domains in three dimensions."""

    name, config_class = "scatter", ScatterConfig
    basic: ClassVar = (*BASIC, "images")
    out: RecordFolder = Location("runs/zeroshot-scatter")

    def experiment(self) -> Callable[..., Any]:
        from ....downstream.ultrasound.experiments.scatter import scatter

        return scatter


@dataclass(frozen=True, kw_only=True)
class SameDomain(SameDomainConfig, Experiment):
    """Co-segment growing sets of images of each domain."""

    name, config_class = "same-domain", SameDomainConfig
    basic: ClassVar = (*BASIC, "sizes", "seeds")
    out: RecordFolder = Location("runs/zeroshot-same-domain")

    def experiment(self) -> Callable[..., Any]:
        from ....downstream.ultrasound.experiments.same_domain import same_domain

        return same_domain


@dataclass(frozen=True, kw_only=True)
class CrossDomain(CrossDomainConfig, Experiment):
    """Co-segment images of two domains together."""

    name, config_class = "cross-domain", CrossDomainConfig
    basic: ClassVar = (*BASIC, "images")
    out: RecordFolder = Location("runs/zeroshot-cross-domain")

    def experiment(self) -> Callable[..., Any]:
        from ....downstream.ultrasound.experiments.cross_domain import cross_domain

        return cross_domain


@dataclass(frozen=True, kw_only=True)
class Noise(NoiseConfig, Experiment):
    """Co-segment images under growing noise."""

    name, config_class = "noise", NoiseConfig
    basic: ClassVar = (*BASIC, "images", "levels", "space")
    out: RecordFolder = Location("runs/zeroshot-noise")

    def experiment(self) -> Callable[..., Any]:
        from ....downstream.ultrasound.experiments.noise import noise

        return noise
