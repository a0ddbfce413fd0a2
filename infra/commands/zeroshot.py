"""`vetdino zeroshot …`: the experiments on b-mode frames, and masks for a person with new frames.

A command's settings are the experiment's own config class, with its places (DOMAINS, --backbone, --out) added.
No `from __future__ import annotations` here: tyro reads the local classes' own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ...platform.core.config import cli_config, nearest, part_of
from ...platform.core.errors import ConfigError

COMMANDS = {
    "assess": "one image a domain through all blocks: components, attention, best buddies",
    "scatter": "patches of all domains in three dimensions",
    "same-domain": "co-segmentation of growing sets of each domain",
    "cross-domain": "co-segmentation of two domains together",
    "noise": "co-segmentation under growing noise",
    "segment": "masks for new frames, no truth needed",
}
"""Word after `vetdino zeroshot` -> what it does."""


def zeroshot(arguments: Sequence[str]) -> Path | None:
    """COMMAND …: an experiment on b-mode frames without training, or masks for new ones."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return None
    name, *rest = arguments
    if name not in COMMANDS:
        raise ConfigError(
            f"zeroshot knows no '{name}'; {nearest(name, COMMANDS)} (see vetdino zeroshot --help)"
        )
    return _segment(rest) if name == "segment" else _experiment(name, rest)


def overview() -> str:
    """What `vetdino zeroshot --help` prints."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}   {words}" for name, words in COMMANDS.items())
    return (
        "usage: vetdino zeroshot COMMAND DOMAINS --backbone B --out DIR [--setting value …]\n"
        "       vetdino zeroshot segment IMAGES… --backbone B --out DIR [--setting value …]\n\n"
        f"{lines}\n\n"
        "DOMAINS: a folder of domains, each with images/ and masks/ of the same names; one such domain; or a\n"
        "table (CSV) of domain, folder, subject, device, body_part. vetdino zeroshot COMMAND --help lists the\n"
        "settings."
    )


def _experiment(name: str, arguments: Sequence[str]) -> Path:
    """Runs one of the five and leaves it in --out."""
    config_class, ask = _experiments()[name]

    @dataclass(frozen=True, kw_only=True)
    class Experiment(config_class):
        domains: Annotated[Positional[Path], arg(metavar="DOMAINS")]
        """Folder of domains, one domain, or a table of them."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published) or timm NAME (random)."""
        out: Path = Path(f"runs/zeroshot-{name}")
        """Folder for metrics.json, tables and figures; what an earlier call left there is replaced."""

    Experiment.__doc__ = config_class.__doc__
    asked = cli_config(Experiment, arguments, f"vetdino zeroshot {name}")
    config = part_of(config_class, asked)
    from ...downstream.common.record import check_ours
    from ...downstream.ultrasound.frames import domains_of
    from ...downstream.ultrasound.record import record
    from ...platform.models.backbone import load

    check_ours(asked.out)  # before the hours, not after them
    domains = domains_of(asked.domains)
    backbone = load(asked.backbone)
    record(name, ask(domains, backbone, config), domains, backbone, config, asked.out)
    return asked.out


def _experiments() -> dict[str, tuple[type, Callable[..., Any]]]:
    from ...downstream.ultrasound import experiments, features

    return {
        "assess": (features.AssessConfig, features.assess),
        "scatter": (features.ScatterConfig, features.scatter),
        "same-domain": (experiments.SameDomainConfig, experiments.same_domain),
        "cross-domain": (experiments.CrossDomainConfig, experiments.cross_domain),
        "noise": (experiments.NoiseConfig, experiments.noise),
    }


def _segment(arguments: Sequence[str]) -> Path:
    from ...downstream.ultrasound.segment import SegmentConfig, segment

    @dataclass(frozen=True, kw_only=True)
    class Segment(SegmentConfig):
        """Write a mask and an overlay for each frame; frames given together are segmented together."""

        images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGES…")]
        """Pictures, or folders of them."""
        backbone: str
        """Backbone folder, weights file (PATH or PATH#sha256=HEX), timm:NAME (published) or timm NAME (random)."""
        out: Path
        """Folder for masks/, overlays/ and metrics.json."""

    asked = cli_config(Segment, arguments, "vetdino zeroshot segment")
    if not asked.images:
        raise ConfigError("no image given: vetdino zeroshot segment IMAGES… --backbone B --out DIR")
    config = part_of(SegmentConfig, asked)
    segment(asked.images, asked.backbone, asked.out, config)
    return asked.out
