"""Settings of ingest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..core.errors import ConfigError
from ..core.location import Location
from ..data.config import ShardConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomConfig:
    """Which files become views, and how their pixels are normalized."""

    modalities: tuple[str, ...] = ("CR", "DX", "RG", "MG")
    """Modalities taken as radiographs."""
    burned_in: Literal["refuse", "mask", "report", "keep"] = "refuse"
    """What to do with text burned into the pixels, which may name the patient: refuse the file; mask: paint the
    text over (refused where BurnedInAnnotation is YES and none is found); report: keep it and list it in text.csv;
    keep: neither search nor list."""
    search_text: Literal["auto", "untagged", "all", "none"] = "auto"
    """Which pictures are searched for text by a network: untagged (unless BurnedInAnnotation is NO), all, or none, so
    that the tag alone decides. auto: untagged where the extra `ocr` is installed, else none."""
    crop: bool = False
    """Cut off the collimated border, where the header's collimator or shutter ends, if the pixels agree, else by the
    pixels alone."""
    side: int = 512
    """Long side of a stored view, in pixels; smaller pictures keep their size."""
    min_side: int = 16
    """A picture with a side below this, in pixels, is refused."""
    max_saturated: float = 0.3
    """A window of the file is ignored where it turns more than this fraction of the pixels black or white; pixels
    at the detector's limits do not count."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Where no window of the file can be used, these percentiles of the pixels become black and white."""
    border: float = 0.05
    """Fraction of each side left out when window and percentiles are judged: collimation lies there."""

    def __post_init__(self) -> None:
        if self.burned_in in ("mask", "report") and self.search_text == "none":
            raise ConfigError(
                f"burned_in {self.burned_in} needs the pixels searched; drop search_text none or choose refuse or keep"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig:
    """Which columns of an image table mean what; an empty name is looked for among the usual ones."""

    path: str = ""
    """Column of the picture's file, relative to the table's folder."""
    patient: str = ""
    """Column of the patient; no patient is ever divided between splits."""
    study: str = ""
    """Column of the study; views of one study form pairs."""
    view: str = ""
    """Column of the projection (AP, PA, LATERAL, VD, ...)."""
    labels: str = ""
    """Column that lists the findings as text, `A,B` for columns of labels (1, 0, yes, no; -1 or nothing where unknown),
    or `*` for every other column that mostly holds labels; without it, `*` for --labels. A cell that is no label is an
    error."""
    separators: str = "|,;"
    """Characters that separate findings in a list."""
    absent: tuple[str, ...] = ("No Finding", "Normal", "No Fracture")
    """Texts that mean: examined, and every finding of the table is absent."""
    unknown: tuple[str, ...] = ("unlabelled", "unlabeled", "unknown")
    """Texts that mean, as an empty cell does: every finding is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """How an archive becomes shards."""

    name: str = "archive"
    """Name of the data in the manifest; it must not identify anybody."""
    secret: Location | None = None
    """File with the key of the pseudonyms; none: OUT.secret beside a local output, made on first use. Keep it:
    the same key gives the same pseudonyms and splits."""
    labels: Location | None = None
    """CSV or Parquet with a `study` column (StudyInstanceUID, or the study of an image table) and a 0/1 column per
    finding. What is present in one of a study's rows is present in the study."""
    val: float = 0.1
    """Fraction of the patients in the val split."""
    test: float = 0.1
    """Fraction of the patients in the test split; the rest is train."""
    min_views: int = 1
    """Studies with fewer views are refused."""
    max_refused: float = 1.0
    """Share of the files that may be refused, duplicates not counted; above it nothing is written."""
    workers: int = 0
    """Processes that decode; 0 takes every core. The output does not depend on it."""
    timeout_s: float = 120.0
    """Seconds a worker may spend on one file before it is killed."""
    memory_gib: float = 4.0
    """Memory in GiB that a worker may take beyond what it has at its start."""
    dicom: DicomConfig = field(default_factory=DicomConfig)
    shards: ShardConfig = field(default_factory=ShardConfig)
    table: TableConfig = field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        for name in ("secret", "labels"):  # paths in code, too
            if (place := getattr(self, name)) is not None:
                object.__setattr__(self, name, Location(place))
        if min(self.val, self.test) < 0 or self.val + self.test >= 1:
            raise ConfigError(f"val {self.val} and test {self.test} must leave something for train")
        if self.min_views < 1:
            raise ConfigError(f"min_views is {self.min_views}; a study has at least 1 view")
        if not 0 <= self.max_refused <= 1:
            raise ConfigError(f"max_refused is {self.max_refused}; a share is between 0 and 1")
