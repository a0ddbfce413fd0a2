"""Settings of the comparison page and the model card; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...platform.core.location import Location


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """What the comparison page shows of the runs."""

    metrics: tuple[str, ...] = ()
    """Metrics to plot: names such as `loss/total`, or groups such as `probe`. Default: probe, loss and health."""
    shards: str = ""
    """Folder of shards; if given, the page shows attention and patch similarity of the backbones side by side."""
    backbones: tuple[Location, ...] = ()
    """Backbone folders to show in addition to those of the trainings."""
    split: Literal["train", "val", "test"] = "test"
    """Split from which example studies are taken."""
    studies: int = 3
    """Number of example studies."""
    resamples: int = 1000
    """Bootstrap resamples of patients for the interval of a difference."""
    seed: int = 0
    """Seed for the bootstrap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What the model card is made from, in addition to the backbone folder."""

    runs: tuple[Location, ...] = ()
    """Evaluations of this backbone. Default: those found beside the backbone or beside its training."""
    shards: str = ""
    """Folder of shards; if given, the card shows the backbone's attention on its studies. Where it is the training
    data, the card takes its counts, too."""
    split: Literal["train", "val", "test"] = "test"
    """Split from which example studies are taken."""
    studies: int = 2
    """Number of example studies."""
    licence: str = ""
    """License of the weights, in your words; empty: the card says that none was stated."""
