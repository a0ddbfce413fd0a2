"""After all ranges: views that are elsewhere too, the counts, and what becomes of each shard. All of it streams."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..core.files import atomic_path
from ..data.config import ShardConfig
from ..data.index_file import index_table
from ..data.manifest import Shard
from ..data.rows import reading_order
from ..data.samples import tar_samples
from ..data.shards import ShardWriter
from ..data.study import SPLITS, Study
from .assembly import QUARANTINE, counted, quarantine_table
from .cut import is_routed, tables_of
from .headers import Block
from .output.store import (
    GONE,
    KNOWN,
    RUN_ROWS,
    SCHEMA,
    FileRow,
    Sorter,
    hex_bounds,
    intervals_for,
    read_tables,
    rows_of,
    table_of,
)
from .output.versions import STORED, Version
from .ranges import DONE, RANGES, ROWS, Job, RangeTask, entry_of, index_rows, save_rows

Places = dict[str, str]
"""Name of a shard while it is made (`RANGE/train-000000.tar`, or its name in the version before) -> its final name."""

Losers = Mapping[str, Mapping[int, str]]
"""Study -> ordinal of a view that another study has -> what is the same."""


@dataclass(slots=True, eq=False)
class Settled:
    """All rows as they will be, in the order of the archive, and what follows from them.

    edits: shard -> study -> indices of the views that stay in it; none: the study leaves the shard.
    """

    rows: Sorter
    counts: dict[str, int]
    edits: dict[str, dict[str, tuple[int, ...]]]
    studies: Counter[str]


@dataclass(frozen=True, slots=True)
class PlacedShard:
    """A shard of the new version.

    source: the file that gets its name, None where it lies in the output already. rows: the file of its studies' rows.
    """

    shard: Shard
    source: Path | None = None
    rows: Path | None = None


def find_duplicates(job: Job, ranges: Sequence[RangeTask]) -> tuple[Losers, set[str]]:
    """(views whose pixels another study has, too; pixel hashes of duplicates whose first view is gone).

    A view that an earlier version wrote stays; else the first in the order of the archive does.
    """
    sorter = Sorter(job.work / "runs", "pixel_hash")
    for task in ranges:
        for table in read_tables(job.work / RANGES / task.name / ROWS):
            sorter.add(table.filter(pc.is_in(table["code"], pa.array(["", "TOO_FEW_VIEWS", "DUPLICATE"]))))
    losers: dict[str, dict[int, str]] = defaultdict(dict)
    orphans: set[str] = set()
    for table in sorter.intervals(hex_bounds(intervals_for(sorter.rows))):
        table = table.filter(pc.not_equal(table["pixel_hash"], ""))
        is_duplicate = pc.equal(table["code"], "DUPLICATE")
        views, duplicates = table.filter(pc.invert(is_duplicate)), table.filter(is_duplicate)
        orphans |= set(duplicates["pixel_hash"].to_pylist()) - set(views["pixel_hash"].to_pylist())
        counts = views.group_by("pixel_hash").aggregate([("ordinal", "count")])
        several = counts.filter(pc.greater(counts["ordinal_count"], 1))["pixel_hash"]
        same: dict[str, list[FileRow]] = defaultdict(list)
        for row in rows_of(views.filter(pc.is_in(views["pixel_hash"], several))):
            same[row.pixel_hash].append(row)
        for rows in same.values():
            first, *others = sorted(rows, key=lambda row: (row.state != KNOWN, row.ordinal))
            for row in others:
                is_copy = row.file_hash == first.file_hash
                losers[row.study][row.ordinal] = "the same file" if is_copy else "the same pixels"
    return losers, orphans


def settle(job: Job, ranges: Sequence[RangeTask], blocks: Sequence[Block], losers: Losers) -> Settled:
    """The rows of all ranges without the losers, and those of the files that belong to none."""
    rows, patients = Sorter(job.work / "runs", "ordinal"), Sorter(job.work / "runs", "patient")
    settled = Settled(rows, Counter(), defaultdict(dict), Counter())
    codes: Counter[str] = Counter()

    def add(table: pa.Table) -> None:
        rows.add(table)
        first_views = table.filter(pc.equal(table["view"], 0))
        patients.add(first_views)
        settled.counts["studies"] += first_views.num_rows
        settled.counts["labelled_studies"] += pc.sum(first_views["labelled"]).as_py() or 0
        codes.update({item["values"]: item["counts"] for item in pc.value_counts(table["code"]).to_pylist()})

    for block in blocks:
        for table in tables_of(block):
            add(table.filter(pc.and_(pc.invert(is_routed(table)), pc.not_equal(table["state"], GONE))))
    affected: dict[str, list[FileRow]] = defaultdict(list)
    names = pa.array(sorted(losers), pa.string())
    for task in ranges:
        done = json.loads((job.work / RANGES / task.name / DONE).read_text())
        settled.studies.update(done["studies"])
        for shard, study in done["superseded"]:
            settled.edits[shard][study] = ()
        for table in read_tables(job.work / RANGES / task.name / ROWS):
            loses = pc.is_in(table["study"], names)
            for row in rows_of(table.filter(loses)):
                affected[row.study].append(row)
            add(table.filter(pc.invert(loses)))
    for study, of_study in affected.items():
        shards = {row.shard for row in of_study if row.shard}
        of_study, stay = _without(of_study, losers[study], job.config.min_views)
        for shard in shards:
            settled.edits[shard][study] = stay
        add(table_of(of_study))
    settled.counts = _counts(rows.rows, codes, settled.counts, _distinct(patients))
    return settled


def _without(
    rows: Sequence[FileRow], losers: Mapping[int, str], min_views: int
) -> tuple[list[FileRow], tuple[int, ...]]:
    """The rows of a study without some of its views, and the indices of the views that stay in its shard."""

    def out_of_shard(row: FileRow, code: str, detail: str) -> FileRow:
        none = replace(row, split="", shard="", view=-1, labels="", labelled=False)
        return replace(none, code=code, detail=detail)

    rows = [
        out_of_shard(row, "DUPLICATE", losers[row.ordinal]) if row.ordinal in losers else row for row in rows
    ]
    left = [row for row in rows if row.code in ("", "TOO_FEW_VIEWS")]
    if len(left) < min_views:
        few = f"{len(left)} of at least {min_views}"
        return [out_of_shard(row, "TOO_FEW_VIEWS", few) if row in left else row for row in rows], ()
    stay = tuple(sorted(row.view for row in left))
    return [replace(row, view=stay.index(row.view)) if row in left else row for row in rows], stay


def _distinct(sorter: Sorter) -> int:
    """How many patients there are."""
    tables = sorter.intervals(hex_bounds(intervals_for(sorter.rows)))
    return sum(pc.count_distinct(table["patient"]).as_py() for table in tables)


def _counts(files: int, codes: Counter[str], of_studies: Mapping[str, int], patients: int) -> dict[str, int]:
    """The counts of all files. codes: how many files have each, "" for a view."""
    return counted(files, codes, of_studies["studies"], patients) | {
        "labelled_studies": of_studies["labelled_studies"]
    }


def arrange_shards(
    job: Job, ranges: Sequence[RangeTask], settled: Settled, before: Version | None
) -> tuple[list[PlacedShard], Places]:
    """The shards of the new version in reading order: those that are still right, then new ones by range."""
    placed, places = list[PlacedShard](), Places()
    last = {split: before.last_number(split) if before else -1 for split in SPLITS}

    def place(shard: Shard, source: Path) -> None:
        making = shard.path
        edits = settled.edits.get(making, {})
        folder = job.work / "rewritten" / making.replace("/", "-")
        made = (
            _rewritten(source, shard, edits, folder)
            if edits
            else PlacedShard(shard, source, index_rows(source))
        )
        if made is not None:
            last[shard.split] += 1
            places[making] = f"{shard.split}-{last[shard.split]:06d}.tar"
            placed.append(replace(made, shard=replace(made.shard, path=places[making])))

    for split in SPLITS:
        for shard in before.manifest.of(split) if before else ():
            if shard.path in settled.edits:
                place(shard, job.out / shard.path)
            else:
                places[shard.path] = shard.path
                placed.append(PlacedShard(shard))
        for task in ranges:
            folder = job.work / RANGES / task.name
            for fields in json.loads((folder / DONE).read_text())["shards"]:
                if fields["split"] == split:
                    place(
                        Shard(**{**fields, "path": f"{task.name}/{fields['path']}"}), folder / fields["path"]
                    )
    return placed, places


def _rewritten(
    source: Path, shard: Shard, edits: Mapping[str, tuple[int, ...]], folder: Path
) -> PlacedShard | None:
    """A shard without the studies and views that leave it; None where nothing stays."""
    if len(edits) == shard.studies and not any(edits.values()):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    writer = ShardWriter(folder, shard.split, ShardConfig(max_bytes=2 * shard.bytes))
    with writer:
        for study in _studies(source):
            stay = edits.get(study.key, range(len(study.views)))
            if stay:
                writer.write(replace(study, views=tuple(study.views[index] for index in stay)))
    if not writer.shards:
        return None
    save_rows(folder, writer)
    [rewritten] = writer.shards
    path = folder / rewritten.path
    return PlacedShard(rewritten, path, index_rows(path))


def rows_in_order(placed: Sequence[PlacedShard], before: Version | None) -> Iterator[pa.Table]:
    """The rows of the index, shard by shard, under the shards' final names."""
    known: dict[str, pa.Table] = {}
    if before is not None and any(new.rows is None for new in placed):
        table, start = index_table(before.out, before.manifest), 0
        for shard in reading_order(before.manifest):
            known[shard.path] = table.slice(start, shard.studies)
            start += shard.studies
    for made in placed:
        if made.rows is None:
            yield known[made.shard.path]
        else:
            with pa.OSFile(str(made.rows)) as file:
                table = pa.ipc.open_file(file).read_all()
            names = pa.array([made.shard.path] * table.num_rows, pa.string())
            yield table.set_column(table.schema.get_field_index("shard"), "shard", names)


def _studies(path: Path) -> Iterator[Study]:
    with open(path, "rb") as file:
        for sample in tar_samples(file, str(path)):
            yield sample.study()


def write_tables(job: Job, settled: Settled, places: Places, files: Path) -> Path:
    """Writes the table of files, and quarantine.csv in the work folder; the latter's path."""
    quarantine = job.work / QUARANTINE
    schema = pa.schema([SCHEMA.field(name) for name in STORED])
    making, final = pa.array([*places, ""], pa.string()), pa.array([*places.values(), ""], pa.string())
    bounds = list(range(RUN_ROWS // 2, settled.rows.rows + RUN_ROWS // 2, RUN_ROWS // 2)) or [1]
    with (
        atomic_path(files) as part,
        pq.ParquetWriter(part, schema, compression="zstd", write_page_checksum=True) as writer,
        quarantine_table(quarantine) as refuse,
    ):
        for table in settled.rows.intervals(bounds):
            names = final.take(pc.index_in(table["shard"], making).combine_chunks())
            table = table.set_column(table.schema.get_field_index("shard"), "shard", names)
            writer.write_table(table.select(STORED).cast(schema))
            for row in rows_of(table.filter(pc.not_equal(table["code"], ""))):
                refuse(entry_of(job.secret, row).task, row.code, row.detail)
    return quarantine
