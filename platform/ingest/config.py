"""Settings of ingest."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..archive.config import TableConfig
from ..core.errors import ConfigError
from ..core.location import Location
from ..data.config import ShardConfig
from ..dicom.config import DicomConfig


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
