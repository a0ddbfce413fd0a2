"""A table of features comes back from disk as it was; what does not fit together is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.core.errors import ConfigError, FeaturesError, StorageError
from vetdino.platform.core.location import Location
from vetdino.platform.core.storage import listing, write_bytes
from vetdino.platform.measure.features import (
    Features,
    FeatureTable,
    by_study,
    load_features,
    save_features,
)
from vetdino.platform.measure.probes import Probes, probe_pictures


def table(rows=4, width=3, findings=("mass",), seed=0, views=None):
    random = np.random.default_rng(seed)
    labels = np.where(random.random((rows, len(findings))) < 0.3, np.nan, 1.0)
    return Features(
        keys=tuple(f"k{row}" for row in range(rows)),
        patients=tuple(f"p{row // 2}" for row in range(rows)),
        splits=tuple("train" if row % 2 else "test" for row in range(rows)),
        views=views or ("",) * rows,
        vectors=random.normal(size=(rows, width)).astype(np.float32),
        findings=findings,
        labels=labels.astype(np.float32),
        backbone="b",
        manifest="m",
    )


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(0, 9),
    width=st.integers(1, 5),
    findings=st.lists(st.text(min_size=1, max_size=8), max_size=3, unique=True),
    by_view=st.booleans(),
)
def test_a_table_comes_back_from_disk_as_it_was(tmp_path_factory, rows, width, findings, by_view):
    views = tuple(f"view{row}" for row in range(rows)) if by_view else None
    features = table(rows, width, tuple(findings), views=views)
    path = save_features(features, tmp_path_factory.mktemp("features"))
    back = load_features(path.parent)
    assert (back.keys, back.patients, back.splits, back.views) == (
        features.keys,
        features.patients,
        features.splits,
        features.views,
    )
    assert (back.findings, back.backbone, back.manifest) == (features.findings, "b", "m")
    np.testing.assert_array_equal(back.vectors, features.vectors)
    np.testing.assert_array_equal(back.labels, features.labels)


def test_others_can_read_the_table_too(tmp_path):
    path = save_features(table(), tmp_path / "any.parquet")
    frame = pyarrow.parquet.read_table(path).to_pandas()
    assert list(frame.columns) == ["key", "patient", "view", "split", "vector", "label:mass"]
    assert frame["vector"][0].shape == (3,)


def test_a_split_and_rows_can_be_taken_out():
    features = table(5)
    assert features.of("train").keys == ("k1", "k3")
    assert features.rows([4, 0]).patients == ("p2", "p0")
    assert len(features.of("val")) == 0
    assert repr(features) == "Features(5 rows by study, 3 dimensions)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vectors": np.full((4, 3), np.nan, np.float32)},
            "4 of 4 vectors hold NaN or infinity, the first that of study k0",
        ),
        ({"keys": ("k0", "k0", "k2", "k3")}, "1 rows repeat"),
        ({"patients": ("p",)}, "differ in length"),
        ({"projections": ("VD",)}, "differ in length"),
        ({"labels": np.full((4, 1), 0.5, np.float32)}, "neither 1, 0 nor unknown"),
    ],
)
def test_a_table_that_does_not_fit_itself_is_refused_and_not_written(tmp_path, change, message):
    with pytest.raises(FeaturesError, match=message):
        save_features(replace(table(), **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_is_missing_damaged_or_foreign_is_refused(tmp_path):
    with pytest.raises(FeaturesError, match="no feature table here"):
        load_features(tmp_path)
    path = save_features(table(), tmp_path)
    foreign = pyarrow.parquet.read_table(path).replace_schema_metadata(None)
    pyarrow.parquet.write_table(foreign, tmp_path / "foreign.parquet")
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-20])
    for name in ("foreign", "cut"):
        with pytest.raises(FeaturesError, match="damaged or not a feature table"):
            load_features(tmp_path / f"{name}.parquet")


def test_bytes_that_changed_inside_the_vectors_are_noticed(tmp_path):
    path = save_features(table(), tmp_path)
    content = bytearray(path.read_bytes())
    place = content.index(table().vectors[0].astype(np.float32).tobytes()[:8])
    content[place + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FeaturesError, match="damaged"):
        load_features(path)
    parquet = pyarrow.parquet.read_table(save_features(table(), tmp_path / "old"))
    pyarrow.parquet.write_table(parquet, path)  # as before there were checksums
    np.testing.assert_array_equal(load_features(path).vectors, table().vectors)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        save_features(table(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def probed(features):
    probes = Probes(probe_pictures(), np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    return replace(
        features, probes=probes, projections=tuple(f"LLAT VD{row}" for row in range(len(features)))
    )


def test_projections_and_probes_come_back_and_need_not_be_there(tmp_path):
    features = probed(table())
    back = load_features(save_features(features, tmp_path / "with"))
    assert back.projections == features.projections
    assert back.probes.pictures == features.probes.pictures
    np.testing.assert_allclose(back.probes.vectors, features.probes.vectors, atol=1e-6)
    without = load_features(save_features(table(), tmp_path / "without"))
    assert (without.projections, without.probes) == ((), None)
    assert (features.rows([2]).projections, without.rows([2]).projections) == (("LLAT VD2",), ())


def test_a_study_has_the_projections_of_all_its_views():
    views = replace(table(4, views=("view0", "view1", "view0", "view1")), keys=("a", "a", "b", "b"))
    known = replace(views, projections=("VD", "LLAT", "VD", "VD"))
    assert by_study(known).projections == ("LLAT VD", "VD")
    assert by_study(views).projections == ()


def test_a_table_is_read_in_parts_that_together_are_the_whole(tmp_path):
    features = probed(table(10, views=tuple(f"view{row}" for row in range(10))))
    part = FeatureTable(save_features(features, tmp_path))
    assert (part.rows, part.level, part.head.findings, len(part.head)) == (10, "view", ("mass",), 0)
    assert repr(part) == "FeatureTable(10 rows by view)"
    parts = list(part.batches(4))
    assert [len(one) for one in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([one.vectors for one in parts]), features.vectors)
    np.testing.assert_array_equal(np.concatenate([one.labels for one in parts]), features.labels)
    assert sum((tuple(one.keys) for one in parts), ()) == features.keys
    assert sum((tuple(one.projections) for one in parts), ()) == features.projections


def test_a_large_table_is_stored_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("vetdino.platform.measure.features.GROUP", 4)
    path = save_features(table(10), tmp_path)
    assert pyarrow.parquet.ParquetFile(path).metadata.num_row_groups == 3
    assert len(load_features(path)) == 10


def test_a_damaged_part_is_refused(tmp_path):
    path = save_features(table(10), tmp_path)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    part = FeatureTable(path)
    path.write_bytes(content)
    with pytest.raises(FeaturesError, match="damaged or not a feature table"):
        list(part.batches(4))


def test_float16_stays_float16(tmp_path):
    half = replace(table(), vectors=table().vectors.astype(np.float16))
    back = load_features(save_features(half, tmp_path))
    assert back.vectors.dtype == np.float16
    np.testing.assert_array_equal(back.vectors, half.vectors)
    assert by_study(replace(half, views=("view0",) * 4)).vectors.dtype == np.float32


def test_neighboring_rows_are_views_of_the_vectors_and_others_copies():
    features = table(6)
    assert np.shares_memory(features.rows([2, 3, 4]).vectors, features.vectors)
    assert not np.shares_memory(features.rows([4, 3]).vectors, features.vectors)
    np.testing.assert_array_equal(features.rows([4, 3]).vectors, features.vectors[[4, 3]])


def test_a_table_that_was_loaded_is_taken_apart_like_one_in_memory(tmp_path):
    features = probed(table(9, views=tuple(f"view{row % 2}" for row in range(9))))
    back = load_features(save_features(features, tmp_path))
    for one, other in ((back.of("train"), features.of("train")), (back.rows([8, 0]), features.rows([8, 0]))):
        assert (one.keys, one.patients, one.splits, one.views) == (
            other.keys,
            other.patients,
            other.splits,
            other.views,
        )
        assert one.projections == other.projections
    assert (back.level, len(back.of("val"))) == ("view", 0)


@pytest.mark.slow
def test_a_table_is_saved_to_a_url_and_loaded_from_it(s3, tmp_path):
    place = f"{s3.bucket}/features"
    assert save_features(table(), place) == Location(f"{place}/features.parquet")
    assert save_features(table(5), f"{place}/any.parquet") == Location(f"{place}/any.parquet")
    assert set(listing(place)) == {"features.parquet", "any.parquet"}  # and no lock
    for source, rows in ((place, 4), (Location(f"{place}/any.parquet"), 5)):
        np.testing.assert_array_equal(load_features(source).vectors, table(rows).vectors)
    write_bytes(f"{place}/features.parquet", b"x")
    with pytest.raises(FeaturesError, match=f"^{place}/features.parquet: damaged"):
        load_features(place)
    write_bytes(f"{place}/_features.json", b"{}")
    for taken in (place, f"{place}/more.parquet"):
        with pytest.raises(FeaturesError, match=f"^{place}: holds what `vetdino embed` wrote"):
            save_features(table(), taken)
    with pytest.raises(StorageError, match="nothing is there"):
        load_features(f"{place}/nowhere")


def test_a_table_at_a_url_is_not_sought_in_a_folder_of_its_name():
    with pytest.raises(ConfigError, match=r"^s3://bucket/features: a URL"):
        FeatureTable("s3://bucket/features")
