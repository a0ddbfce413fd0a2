"""What only all ranges together tell: duplicates in other studies, counts, and the shards of the next version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.platform.ingest.archives import check_counts, expected, output_in
from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.data.checksums import verify
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.ingest.output.store import KNOWN, FileRow, RowWriter
from vetdino.platform.ingest.pseudonyms import pseudonym
from vetdino.platform.ingest.ranges import RANGES, ROWS, Job, RangeTask
from vetdino.platform.ingest.settling import find_duplicates


def duplicates(folder: Path, *ranges: list[FileRow]) -> tuple[dict, set[str]]:
    tasks = []
    for number, rows in enumerate(ranges):
        (folder / RANGES / f"{number}").mkdir(parents=True)
        with RowWriter(folder / RANGES / f"{number}" / ROWS) as writer:
            for row in rows:
                writer.write(row)
        tasks.append(RangeTask(f"{number}", folder))
    losers, orphans = find_duplicates(Job(folder, folder, folder, b"", IngestConfig(), (), {}), tasks)
    return {study: dict(views) for study, views in losers.items()}, orphans


def row(study: str, ordinal: int, pixels: str, **fields: object) -> FileRow:
    return FileRow(b"", ordinal=ordinal, study=study, pixel_hash=pixels, file_hash=f"{ordinal}", **fields)


def test_no_ranges_have_no_duplicates(tmp_path):
    assert duplicates(tmp_path) == ({}, set())


def test_the_first_in_the_archive_stays_wherever_it_is(tmp_path):
    first, second = row("s", 5, "a"), row("t", 3, "a")
    assert duplicates(tmp_path, [first, row("s", 9, "b")], [second]) == ({"s": {5: "the same pixels"}}, set())


def test_a_view_that_an_earlier_version_wrote_stays(tmp_path):
    first, second = row("s", 5, "a", state=KNOWN), replace(row("t", 3, "a"), file_hash="5")
    assert duplicates(tmp_path, [first], [second]) == ({"t": {3: "the same file"}}, set())


def test_duplicates_of_nothing_are_orphans(tmp_path):
    lost = [row("s", 1, "a", code="DUPLICATE"), row("s", 2, "b", code="DUPLICATE")]
    few = row("t", 3, "b", code="TOO_FEW_VIEWS")
    clash = row("t", 3, "a", code="PATIENT_CLASH")
    assert duplicates(tmp_path, lost, [few, clash]) == ({}, {"a"})


@pytest.mark.parametrize("max_bytes", [2000, 10**6])
def test_a_view_of_two_studies_stays_in_the_first(tmp_path, config, max_bytes):
    """Both in one range and across ranges; a study that falls below the least number of views goes, too."""
    config = replace(config, shards=ShardConfig(max_bytes=max_bytes))
    archive = tmp_path / "archive"
    for number in range(20):
        for view in range(2 + number % 2):
            seed = 1000 if view == 1 and number % 4 == 0 else 10 * number + view
            tags = {"SeriesDescription": f"{number} {view}"}
            write_dicom(archive / f"{number:02d}-{view}", f"p{number // 3}", f"1.2.{number}", seed, **tags)
    want = expected(archive, config)
    assert [code for code in want.codes.values()].count("DUPLICATE") == 4
    assert [code for code in want.codes.values()].count("TOO_FEW_VIEWS") == 4
    manifest = ingest(archive, tmp_path / "out", config)
    assert output_in(tmp_path / "out") == want
    check_counts(manifest.counts, want)
    assert verify(tmp_path / "out") == manifest


def test_a_duplicate_takes_the_place_of_a_view_that_is_gone(tmp_path, config):
    config = replace(config, min_views=1)
    archive = tmp_path / "archive"
    for number in range(6):
        write_dicom(archive / f"{number}", f"p{number}", f"1.2.{number}", number)
    write_dicom(archive / "0-again", "p9", "1.2.9", 3, SeriesDescription="again")
    first = ingest(archive, tmp_path / "out", config)
    assert output_in(tmp_path / "out").codes == {"3": "DUPLICATE"}  # `0-again` is before it
    (archive / "0-again").unlink()
    second = ingest(archive, tmp_path / "out", config)
    assert output_in(tmp_path / "out") == expected(archive, config)
    assert (first.counts["views"], second.counts["views"], second.counts["duplicates"]) == (6, 6, 0)
    secret = Path(config.secret).read_bytes()
    assert pseudonym(secret, "study:1.2.3") in output_in(tmp_path / "out").studies
    assert {name: second.counts[name] for name in ("gone.files", "gone.studies", "new.studies")} == {
        "gone.files": 1,
        "gone.studies": 1,
        "new.studies": 1,
    }
    assert load_manifest(tmp_path / "out") == second
