"""`vetdino ingest SRC OUT`: an archive becomes shards."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from ...platform.core.config import subconfig
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
    source: Annotated[Positional[Path], arg(metavar="SRC")]
    """Folder of DICOM files, or a table with one row for each image (path, patient, study, view, labels)."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder for the shards, manifest.json, report.html and quarantine.csv."""

    def run(self) -> Path:
        from ...platform.ingest.assembly import summary
        from ...platform.ingest.ingest import ingest
        from ..pages.ingest_report import write_ingest_report

        manifest = ingest(self.source, self.out, subconfig(IngestConfig, self))
        facts = write_ingest_report(self.out)
        for line in (*facts.notes(), summary(manifest)):
            print(line, file=sys.stderr, flush=True)
        return self.out
