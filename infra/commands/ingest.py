"""`vetdino ingest SRC OUT`: an archive becomes shards."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from tyro.conf import Positional, arg

from ...platform.core.config import subconfig
from ...platform.core.errors import ConfigError
from ...platform.core.location import Location
from ...platform.ingest.config import IngestConfig
from .arguments import Command


@dataclass(frozen=True, kw_only=True)
class Ingest(IngestConfig, Command):
    """Turn a DICOM tree, or an image table (CSV, Parquet), into pseudonymized shards."""

    basic: ClassVar = (
        "name",
        "labels",
        "val",
        "test",
        "min_views",
        "max_refused",
        "workers",
        "secret",
        "table.labels",
    )
    streamed: ClassVar = ("source",)
    source: Annotated[Positional[Location], arg(metavar="SRC")]
    """Folder of DICOM files, or a table with one row for each image (path, patient, study, view, labels)."""
    out: Annotated[Positional[Location], arg(metavar="OUT")]
    """Folder for the shards, manifest.json, report.html and quarantine.csv."""

    def prepared(self, action: str) -> AbstractContextManager[Self]:
        if self.secret is None and not self.out.is_local:
            raise ConfigError(
                f"{self.out}: a URL is no place for the key of the pseudonyms; give its file with --secret (one that "
                "is not there yet is made)"
            )
        return super().prepared(action)

    def run(self) -> Path:
        from ...platform.ingest.assembly import summary
        from ...platform.ingest.ingest import ingest
        from ..pages.ingest_report import write_ingest_report

        manifest = ingest(self.source, self.out.path, subconfig(IngestConfig, self))
        facts = write_ingest_report(self.out.path)
        for line in (*facts.notes(), summary(manifest)):
            print(line, file=sys.stderr, flush=True)
        return self.out.path
