"""near_duplicates.csv and text.csv: what is listed, the same whoever worked, and nothing that names anybody."""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.platform.dicom.test_burned_in import written
from tests.platform.ingest.radiographs import radiograph, saved
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.shards import read
from vetdino.platform.data.study import SPLITS
from vetdino.platform.dicom.config import DicomConfig
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.ingest.output import listings
from vetdino.platform.ingest.output.listings import HashedView, hashed_views, save_near_duplicates
from vetdino.platform.ingest.output.store import FileRow, table_of

NAME = "Mueller, Anna"


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def hashed(study: int, view: int, patient: int, dhash: int) -> HashedView:
    return HashedView(f"{study:024x}", view, f"{patient:024x}", f"{dhash:080x}")


def test_no_views_no_rows(tmp_path):
    assert rows_of(save_near_duplicates(tmp_path, [])) == []
    header = (tmp_path / "near_duplicates.csv").read_text()
    assert header == "study,view,other_study,other_view,relation,distance\n"


def test_pairs_name_whether_study_and_patient_are_the_same(tmp_path):
    views = [
        hashed(5, 0, 1, 0b1),
        hashed(5, 1, 1, 0b11),
        hashed(6, 0, 1, 0b1),
        hashed(2, 3, 9, 0b10000001),
        hashed(7, 0, 8, 2**300 - 1),
    ]
    save_near_duplicates(tmp_path, [views])
    content = (tmp_path / "near_duplicates.csv").read_bytes()
    random.Random(0).shuffle(views)
    save_near_duplicates(tmp_path, [iter(views)])
    assert (tmp_path / "near_duplicates.csv").read_bytes() == content
    found = {
        (
            int(row["study"], 16),
            row["view"],
            int(row["other_study"], 16),
            row["other_view"],
            row["relation"],
            row["distance"],
        )
        for row in rows_of(tmp_path / "near_duplicates.csv")
    }
    assert found == {
        (2, "3", 5, "0", "other patient", "1"),
        (2, "3", 5, "1", "other patient", "2"),
        (5, "0", 5, "1", "same study", "1"),
        (5, "0", 6, "0", "other study", "0"),
    }


def test_many_views_are_listed_in_parts_by_equal_hashes(tmp_path, monkeypatch, caplog):
    words = random.Random(1)
    hashes = [words.getrandbits(320) for _ in range(60)]
    views = [hashed(n, 0, n, hashes[n % 60] ^ (n >= 120)) for n in range(180)]
    refused = FileRow(b"x", 1, "1", code="LOW_CONTRAST")
    rows = [FileRow(b"x", 1, "1", study=v.study, patient=v.patient, view=0, dhash=v.dhash) for v in views]
    pq.write_table(table_of([*rows, refused]), tmp_path / "files.parquet")
    [part] = hashed_views(tmp_path / "files.parquet")
    assert list(part) == views
    save_near_duplicates(tmp_path, [views])
    whole = rows_of(tmp_path / "near_duplicates.csv")
    assert not caplog.messages
    monkeypatch.setattr(listings, "MOST", 50)
    parts = [list(part) for part in hashed_views(tmp_path / "files.parquet")]
    assert sorted(chain(*parts)) == sorted(views)
    assert [len(part) for part in parts] == pytest.approx([45] * 4, abs=25)
    save_near_duplicates(tmp_path, iter(parts))
    found = rows_of(tmp_path / "near_duplicates.csv")
    equal = [row for row in whole if row["distance"] == "0"]
    assert sorted(map(str, found)) == sorted(map(str, equal))
    assert len(equal) == 60
    assert caplog.messages == [
        "more than 50 views: of near-duplicates only those with one and the same hash are listed"
    ]


def texture(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 4095, (9, 12)).astype(np.float32)
    return cv2.resize(small, (400, 300), interpolation=cv2.INTER_CUBIC).clip(0, 4095).astype(np.uint16)


@pytest.fixture
def dirty(tmp_path) -> Path:
    """Four files: a picture, nearly the same under another patient, one with a name in its pixels, one tagged YES."""
    folder = tmp_path / "dirty"
    folder.mkdir()
    copy = cv2.GaussianBlur(texture(1), (0, 0), 1.5)
    name = written(NAME).astype(np.uint16) * 16
    files = {
        "a": radiograph(texture(1), PatientID="Rex", StudyInstanceUID="1.2.1"),
        "b": radiograph(copy, PatientID="Bello", StudyInstanceUID="1.2.2"),
        "c": radiograph(name, PatientID="Hasso", StudyInstanceUID="1.2.3"),
        "d": radiograph(texture(2), PatientID="Hasso", StudyInstanceUID="1.2.4", BurnedInAnnotation="YES"),
    }
    for path, dataset in files.items():
        (folder / path).write_bytes(saved(dataset))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "codes", "actions"),
    [
        ("refuse", {"c": "BURNED_IN", "d": "BURNED_IN"}, []),
        ("mask", {"d": "BURNED_IN"}, ["masked"]),
        ("report", {}, ["kept", "kept"]),
    ],
)
def test_an_archive_with_a_name_in_its_pixels(dirty, tmp_path, config, policy, codes, actions):
    settings = replace(
        config, min_views=1, dicom=DicomConfig(burned_in=policy), shards=ShardConfig(encoding="png16")
    )
    out = tmp_path / "out"
    manifest = ingest(dirty, out, settings)
    assert manifest.counts["views"] == 4 - len(codes)
    assert {row["path"]: row["code"] for row in rows_of(out / "quarantine.csv")} == codes
    near = rows_of(out / "near_duplicates.csv")
    assert [row["relation"] for row in near] == ["other patient"]
    listed = rows_of(out / "text.csv")
    assert sorted({row["study"]: row["action"] for row in listed}.values()) == actions
    assert {row["tagged"] for row in listed} == (
        {"0", "1"} if policy == "report" else {"0"} if actions else set()
    )
    studies = {study.key: study for split in SPLITS for study in read(out, split)}
    for row in listed:
        if row["action"] == "masked":
            pixels = studies[row["study"]].view(0).pixels
            top, bottom = (int(float(row[edge]) * 300) for edge in ("top", "bottom"))
            assert pixels[top:bottom].max() < 130
    for path in sorted(out.iterdir()):
        assert b"ueller" not in path.read_bytes()
    assert ingest(dirty, out, settings) == manifest  # finished: nothing is done again
    ingest(dirty, tmp_path / "again", replace(settings, workers=1))
    for path in sorted(out.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
