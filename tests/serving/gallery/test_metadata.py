"""What is known of a gallery's rows: filters, look-ups, and that nothing in a name becomes SQL."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.gallery.tables import VIEWS, table
from vetdino.platform.core.errors import GalleryError
from vetdino.serving.gallery.gallery import Gallery
from vetdino.serving.gallery.metadata import ItemFilter, Metadata, MetadataWriter, item_filter

NASTY = ("x'; DROP TABLE items; --", 'a"b', "50 %", "Ünï\u2028", "?", "[c]", "")


def written(path, features):
    with MetadataWriter(path, features.findings) as writer:
        writer.create()
        writer.add(features, 0)
        writer.index()
    return Metadata(path, features.findings)


@settings(max_examples=50, deadline=None)
@given(
    findings=st.dictionaries(st.sampled_from(["mass", "fluid"]), st.booleans()),
    projections=st.sets(st.sampled_from(VIEWS)),
    split=st.sampled_from([None, "train", "test"]),
    start=st.integers(0, 30),
)
def test_a_filter_gives_the_rows_that_a_loop_gives(tmp_path_factory, findings, projections, split, start):
    features = table(30)
    metadata = written(tmp_path_factory.mktemp("metadata") / "meta.sqlite", features)
    where = ItemFilter(tuple(sorted(findings.items())), tuple(sorted(projections)), split)
    slow = [
        row
        for row in range(30)
        if (split is None or features.splits[row] == split)
        and (not projections or projections & set(features.projections[row].split()))
        and all(
            features.labels[row, features.findings.index(name)] == present
            for name, present in findings.items()
        )
    ]
    assert sorted(metadata.ids(where, start, 99)) == [row for row in slow if row >= start]
    assert metadata.count_of(where) == len(slow)
    assert bool(where) == bool(findings or projections or split)
    metadata.close()


def test_a_row_comes_back_as_it_was(tmp_path):
    features = table()
    metadata = written(tmp_path / "meta.sqlite", features)
    item = metadata.find("key3", "")
    assert (item.id, item.patient, item.split) == (3, features.patients[3], features.splits[3])
    assert item.projections == tuple(features.projections[3].split())
    np.testing.assert_array_equal(list(item.findings.values()), features.labels[3])
    assert metadata.items([3])[3] == item or any(map(math.isnan, item.findings.values()))
    assert metadata.find("key3", "view0") is metadata.find("elsewhere", "") is None
    assert item.patient not in repr(item)


def test_rows_of_a_patient_and_of_a_study_are_found(tmp_path):
    features = replace(
        table(), views=tuple(f"view{row % 2}" for row in range(12)), keys=tuple("aabbccddeeff")
    )
    metadata = written(tmp_path / "meta.sqlite", features)
    mine = [row for row in range(12) if features.patients[row] == features.patients[5]]
    assert metadata.of_patient(features.patients[5]).tolist() == mine
    assert metadata.of_key("c").tolist() == [4, 5]
    assert metadata.of_patient("nobody").tolist() == []


def test_more_rows_than_one_statement_takes(tmp_path):
    metadata = written(tmp_path / "meta.sqlite", table(1300))
    assert len(metadata.items(range(1300))) == 1300
    assert [len(part) for part in metadata.all_items(500)] == [500, 500, 300]


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_a_value_and_never_sql(tmp_path, name):
    features = replace(table(2), keys=(name, "b"), patients=(name, "c"), findings=(name, "fluid"))
    path = tmp_path / "a folder? with #50%" / "meta.sqlite"
    path.parent.mkdir()
    metadata = written(path, features)
    assert metadata.find(name, "").id == 0
    assert metadata.of_patient(name).tolist() == [0]
    for present in (True, False):
        slow = [row for row in range(2) if features.labels[row, 0] == present]
        assert sorted(metadata.ids(ItemFilter(((name, present),)), 0, 2)) == slow
    assert metadata.count == 2


def test_the_file_is_opened_for_reading_alone(tmp_path):
    metadata = written(tmp_path / "meta.sqlite", table())
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        metadata._connection.execute("DELETE FROM items")


def test_what_is_deleted_is_gone_from_the_file(tmp_path):
    features = replace(table(200), keys=tuple(f"canary-key-{row}-end" for row in range(200)))
    path = tmp_path / "meta.sqlite"
    written(path, features).close()
    assert b"canary-key-77-end" in path.read_bytes()
    with MetadataWriter(path, features.findings) as writer:
        writer.delete([77])
    assert b"canary-key-77-end" not in path.read_bytes()
    metadata = Metadata(path, features.findings)
    assert (metadata.count, metadata.deleted.tolist()) == (199, [77])


def test_a_repeated_row_is_refused(tmp_path):
    features = replace(table(3), keys=("a", "b", "a"))
    with pytest.raises(GalleryError, match="already there"):
        written(tmp_path / "one.sqlite", features)
    metadata = tmp_path / "two.sqlite"
    written(metadata, table(3)).close()
    with (
        pytest.raises(GalleryError, match="already there"),
        MetadataWriter(metadata, ("mass", "fluid")) as writer,
    ):
        writer.add(table(3), 3)


def test_findings_that_a_table_lacks_are_unknown(tmp_path):
    path = tmp_path / "meta.sqlite"
    with MetadataWriter(path, ("mass", "fluid")) as writer:
        writer.create()
        writer.add(replace(table(3), findings=("fluid",), labels=np.ones((3, 1), np.float32)), 0)
    findings = Metadata(path, ("mass", "fluid")).find("key1", "").findings
    assert math.isnan(findings["mass"])
    assert findings["fluid"] == 1.0


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "meta.sqlite"
    path.write_bytes(b"no database at all, but of some length" * 100)
    with pytest.raises(GalleryError, match="damaged"):
        Metadata(path, ())
    with pytest.raises(FileNotFoundError):
        Metadata(tmp_path / "none.sqlite", ())


@pytest.mark.parametrize(
    ("wanted", "fact"),
    [
        ({"findings": {"mas": True}}, "no finding 'mas'; the nearest is 'mass'"),
        ({"projections": ["LATERAL"]}, "no projection 'LATERAL'"),
        ({"projections": "VD"}, "give a list"),
        ({"split": "tests"}, "no split 'tests'; the nearest is 'test'"),
    ],
)
def test_a_name_that_the_gallery_does_not_have_is_refused(made, wanted, fact):
    manifest = Gallery.open(made()).manifest
    with pytest.raises(GalleryError, match=fact):
        item_filter(manifest, **({"findings": None, "projections": None, "split": None} | wanted))


def test_projections_that_nobody_knows_are_not_filtered_by(made):
    manifest = Gallery.open(made(replace(table(), projections=()))).manifest
    with pytest.raises(GalleryError, match="not known"):
        item_filter(manifest, None, ["VD"], None)
