"""Ingest: an archive of files or a table of pictures becomes shards, a manifest and `quarantine.csv`.

1. `headers`: files are listed as a stream; of each the header is read, which tells its study.
2. `cut`: their rows are sorted by study and cut into ranges.
3. `ranges`: each range is decoded and written into shards of its own.
4. `settling`: what is a duplicate in another study, the counts, the shards' names.
5. The shards get their names in the output; `manifest.json` comes last (`versions`).

Steps 1 and 3 are done by a `team`: this machine's cores, or a Ray cluster's. What is finished waits in a work folder
beside the output, so that a stopped run continues where it was. No step holds all files in memory.

`quarantine.csv` alone names source paths; only its owner can read it, and it should not travel with the shards.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..archive.discovery import ArchiveSource, discover, no_labels_message
from ..core.config import digest, to_json
from ..core.errors import DataError, ShardError
from ..core.files import atomic_write
from ..core.gauges import report as report_metric
from ..core.location import Location
from ..core.progress import Progress
from ..data.index_file import save_index
from ..data.manifest import VERSION, Manifest, save_manifest
from ..dicom.screening import with_known_search
from .assembly import CHANGES, QUARANTINE, counts_of, foreseen, judged, quarantine_table, refusal_of_archive
from .config import IngestConfig
from .cut import cut_ranges
from .headers import HEADERS, Block, BlockTask, block_at, blocks_of, rows_of_archive, scan_block
from .output.listings import NEAR_DUPLICATES, hashed_views, save_near_duplicates, save_text_boxes
from .output.store import KNOWN
from .output.versions import (
    PROVENANCE,
    Provenance,
    Version,
    files_name,
    keep_manifest,
    link_or_copy,
    newest_version,
    remove_older_files,
)
from .pseudonyms import load_secret, pseudonym
from .ranges import RANGES, Job, RangeTask, finished_range, write_range
from .settling import (
    Losers,
    PlacedShard,
    arrange_shards,
    find_duplicates,
    rows_in_order,
    settle,
    write_tables,
)
from .team import Report, Team, open_team

FILES = "files.parquet"

log = logging.getLogger(__name__)


def ingest(source: Path | str | Location, out: Path, config: IngestConfig | None = None) -> Manifest:
    """Turns a folder of DICOM files, or a .csv/.parquet table of pictures, into a folder of shards.

    The same source, secret and settings give the same bytes, whoever works. Where `out` holds shards of the same
    settings and secret, only what is new in the source is decoded, and a new version of the manifest lists the old
    shards and new ones; where nothing is new it is returned as it is. After an error, what was decoded waits beside
    `out` for the next run. source: a path or a URL.

    Raises DataError where there is nothing to read, labels are of another archive, too much is refused, or `out` holds
    something else; ShardError where the disk refuses.
    """
    config = config or IngestConfig()
    config = replace(config, dicom=with_known_search(config.dicom))
    out = Path(out)
    archive = discover(source, out, config.table, config.labels)
    secret_file = Path(config.secret) if config.secret else out.with_name(out.name + ".secret")
    _check_secret_file(out, secret_file)
    secret = load_secret(secret_file)
    made = Provenance(_config_digest(config, secret), pseudonym(secret, "fingerprint"), archive.digest)
    before = newest_version(out, made)
    work = out.with_name(f"{out.name}.tmp-{_work_digest(config, secret)[:8]}")
    labels = {pseudonym(secret, f"study:{study}"): values for study, values in archive.labels.items()}
    job = Job(archive.root, work, out, secret, config, archive.findings, labels)
    run = _Run(archive, job, made, before)
    if before is not None and run.is_finished():
        if refusal := refusal_of_archive(archive.root, before.manifest.counts, config):
            raise DataError(f"{refusal}; {out / QUARANTINE} lists them")
        shutil.rmtree(work, ignore_errors=True)  # of a run that was killed at its very end
        return before.manifest
    try:
        work.mkdir(parents=True, exist_ok=True)
        _warn_of_other_work(work)
        return run.make(secret_file)
    except (OSError, pa.ArrowInvalid) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        if isinstance(error, pa.ArrowInvalid):
            raise ShardError(
                f"{work}: what is kept there is damaged ({reason}); remove it, then run again"
            ) from error
        kept = f"; what is decoded is kept in {work}" if (work / RANGES).exists() else ""
        raise ShardError(
            f"{out}: cannot be written ({reason}); make room or choose another folder, then run again{kept}"
        ) from error


def _check_secret_file(out: Path, secret: Path) -> None:
    """Raises DataError where shards are there and their secret is not: a new one would give other pseudonyms."""
    if (out / PROVENANCE).exists() and not secret.exists():
        raise DataError(
            f"{secret}: the secret of the shards in {out} is not there; give its file with --secret"
        )


def _warn_of_other_work(work: Path) -> None:
    """Says that a run with another secret, or other settings of decoding, has left its work."""
    for other in sorted(work.parent.glob(f"{work.name.rpartition('-')[0]}-????????")):
        if other != work:
            log.warning("%s: kept, but of no use here: decoded with another secret or other settings", other)


def _config_digest(config: IngestConfig, secret: bytes) -> str:
    """SHA-256 over the settings that change the output, and over a fingerprint of the secret."""
    same = replace(config, secret=None, labels=None, workers=0, timeout_s=0, memory_gib=0)
    settings = json.loads(to_json(same))
    del settings["max_refused"]
    return hashlib.sha256(f"{digest(settings)} {pseudonym(secret, 'fingerprint')}".encode()).hexdigest()


def _work_digest(config: IngestConfig, secret: bytes) -> str:
    """Changes with the settings that change a decoded file: others may change and its result still serves."""
    return pseudonym(secret, f"work 2:{digest(config.dicom)} {digest(config.shards)}")


def _is_same(manifest: Manifest, before: Manifest) -> bool:
    """Whether two manifests list the same, apart from what they say of the versions before them."""

    def counts(of: Manifest) -> dict[str, int]:
        return {name: count for name, count in of.counts.items() if name.partition(".")[0] not in CHANGES}

    return replace(manifest, counts=counts(manifest)) == replace(before, counts=counts(before))


@dataclass(frozen=True, slots=True)
class _Run:
    """One ingest. before: the version that `out` holds."""

    archive: ArchiveSource
    job: Job
    made: Provenance
    before: Version | None

    def is_finished(self) -> bool:
        """Whether the output is what this run would make again."""
        assert self.before is not None
        if (
            self.before.made.tables != self.made.tables
            or self.before.manifest.findings != self.archive.findings
        ):
            return False
        rows = rows_of_archive(self.archive.entries(), self.before.rows(), self.job.secret, Counter())
        return all(row.state == KNOWN for row in rows)

    def make(self, secret_file: Path) -> Manifest:
        """Makes the next version; its manifest."""
        job = self.job
        if self.archive.rows is not None:
            self._check_table()
        tally: Counter[str] = Counter()
        with ExitStack() as stack:
            with Progress("read headers", unit="files") as progress:
                team = stack.enter_context(open_team(job, secret_file, progress.stage))
                blocks = self._read_headers(team, progress, tally)
            ranges, losers = self._write_ranges(team, blocks)
        settled = settle(job, ranges, blocks, losers)
        if refusal := refusal_of_archive(job.root, settled.counts, job.config):
            raise DataError(f"{refusal}; {write_tables(job, settled, {}, job.work / FILES)} lists them")
        if job.config.labels and not settled.counts["labelled_studies"]:
            raise DataError(no_labels_message(Path(job.config.labels), settled.counts["studies"]))
        shards, places = arrange_shards(job, ranges, settled, self.before)
        manifest = Manifest(
            version=VERSION,
            name=job.config.name,
            findings=self.archive.findings,
            shards=tuple(placed.shard for placed in shards),
            counts={**settled.counts, **self._changes(tally, settled.studies)},
            config_digest=self.made.settings,
        )
        if self.before is not None and _is_same(manifest, self.before.manifest):
            self._publish(None, shards, write_tables(job, settled, places, job.work / FILES))
            manifest = self.before.manifest
        else:
            self._publish(manifest, shards, write_tables(job, settled, places, job.work / FILES))
        shutil.rmtree(job.work)
        return manifest

    def _check_table(self) -> None:
        """Raises DataError where an image table tells before any decoding that nothing will be written."""
        job = self.job
        entries = list(self.archive.entries())
        results = judged(foreseen(entries), job.config)
        if refusal := refusal_of_archive(job.root, counts_of(results), job.config):
            with quarantine_table(job.work / QUARANTINE) as refuse:
                for entry, result in zip(entries, results, strict=True):
                    if result.code:
                        refuse(entry.task, result.code, result.detail)
            raise DataError(f"{refusal}; {job.work / QUARANTINE} lists them")

    def _changes(self, files: Counter[str], studies: Counter[str]) -> dict[str, int]:
        """Counts of what differs from the version before; empty for a first version."""
        if self.before is None:
            return {}
        of = {"files": files, "studies": studies}
        return {
            f"{kind}.{unit}": counter[kind]
            for unit, counter in of.items()
            for kind in CHANGES
            if counter[kind]
        }

    def _publish(self, manifest: Manifest | None, shards: Sequence[PlacedShard], quarantine: Path) -> None:
        """Gives the new shards their names and puts the tables beside them; manifest None: the old one still holds."""
        job, before = self.job, self.before
        folder = job.work / "out" if before is None else job.out
        if before is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        number = (before.number if before else 0) + (manifest is not None)
        for placed in shards:
            if placed.source is not None:
                link_or_copy(placed.source, folder / placed.shard.path)
        link_or_copy(job.work / FILES, folder / files_name(number))
        link_or_copy(quarantine, folder / QUARANTINE)
        save_near_duplicates(job.work, hashed_views(job.work / FILES))
        link_or_copy(job.work / NEAR_DUPLICATES, folder / NEAR_DUPLICATES)
        if manifest is not None:
            if before is not None:
                keep_manifest(before)
            save_index(folder, manifest, rows_in_order(shards, before))
            save_text_boxes(folder, manifest)
            save_manifest(folder, manifest)
            if before is not None:
                remove_older_files(before)
        atomic_write(folder / PROVENANCE, json.dumps(asdict(self.made), indent=1) + "\n")
        if before is None:
            os.replace(folder, job.out)

    def _read_headers(self, team: Team, progress: Progress, tally: Counter[str]) -> list[Block]:
        """The blocks of the archive, in its order."""
        job = self.job
        folder = job.work / HEADERS
        folder.mkdir(exist_ok=True)
        before = self.before.rows() if self.before else iter(())
        paths: list[Path] = []

        def tasks() -> Iterator[BlockTask]:
            for task in blocks_of(rows_of_archive(self.archive.entries(), before, job.secret, tally), folder):
                paths.append(task.path)
                yield task

        def count(read: int, reused: int) -> None:
            progress.advance(read)
            report_metric("vetdino_ingest_headers", read)

        for _, scanned in team.run(scan_block, tasks(), count):
            _report_refused(scanned)
        blocks: list[Block] = []
        for path in paths:
            blocks.append(block_at(path, sum((blocks[-1].start, blocks[-1].files)) if blocks else 0))
        if tally["gone"] and not tally["changed"] and not any(block.known for block in blocks):
            raise DataError(
                f"{job.out}: holds the shards of another archive, no file of which is in {job.root}; "
                "choose another output folder"
            )
        return blocks

    def _write_ranges(self, team: Team, blocks: Sequence[Block]) -> tuple[tuple[RangeTask, ...], Losers]:
        """The ranges, all written, and the views of theirs that are duplicates of another study's."""
        job = self.job
        depends_on = hashlib.sha256(repr((self.made, job.findings)).encode()).hexdigest()
        revived: set[str] = set()
        total = sum(block.new for block in blocks)
        (job.work / RANGES).mkdir(exist_ok=True)
        with Progress("decode", total=total, unit="files") as progress:

            def report(decoded: int, reused: int) -> None:
                progress.total = (progress.total or 0) - reused
                progress.advance(decoded)
                report_metric("vetdino_ingest_files", decoded)

            while True:
                cut = cut_ranges(job, blocks, revived, depends_on)
                # Without any study, files are refused for another reason, which is said when all are settled.
                unlabelled = cut.studies and not cut.labelled
                if job.config.labels and self.archive.rows is None and unlabelled:
                    raise DataError(no_labels_message(Path(job.config.labels), cut.studies))
                for _, written in team.run(write_range, self._unfinished(cut.ranges, report), report):
                    _report_refused(written)
                    studies = sum(shard["studies"] for shard in written["shards"])
                    report_metric("vetdino_ingest_studies", studies)
                losers, orphans = find_duplicates(job, cut.ranges)
                if not orphans - revived:
                    return cut.ranges, losers
                revived |= orphans

    def _unfinished(self, ranges: Sequence[RangeTask], report: Report) -> Iterator[RangeTask]:
        for task in ranges:
            if (done := finished_range(self.job, task)) is None:
                yield task
            else:
                report(0, done["new"])


def _report_refused(result: Mapping[str, Any]) -> None:
    for code, count in result["refused"].items():
        report_metric("vetdino_ingest_refused", count, code)
