"""A backbone walks over shards; the table it leaves survives the disk and refuses what does not fit."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.core.errors import ConfigError, FeaturesError, ShardError
from vetdino.platform.data.shards import VERSION, Manifest, ShardWriter, read, save_manifest
from vetdino.platform.data.study import StoredView, Study, View
from vetdino.platform.measure import features as module
from vetdino.platform.measure.features import (
    Descriptor,
    Features,
    extract,
    extract_all,
    load_features,
    pixel_features,
    save_features,
)
from vetdino.platform.models.backbone import BackboneConfig, random_backbone, random_like


def study(number, split, random, views):
    """Noise with a bright square where `mass` is present; `rare` is known of every third study."""
    mass = float(number % 2)
    pictures = []
    for _ in range(views):
        pixels = random.integers(0, 80, (40, 56)).astype(np.uint8)
        pixels[8:20, 8:20] += np.uint8(120 * mass)
        pictures.append(View(pixels, "VD"))
    labels = {"mass": mass, "rare": 1.0 if number % 3 == 0 else np.nan}
    return Study(f"k{number:03d}", f"p{number // 2:03d}", tuple(pictures), labels, split)


def shards(folder, counts, seed=0, broken=False):
    random = np.random.default_rng(seed)
    written, number = [], 0
    for split, count in counts.items():
        with ShardWriter(folder, split) as writer:
            for _ in range(count):
                one = study(number, split, random, views=1 + number % 3)
                if broken:
                    one = replace(one, views=(StoredView(b"no picture"),))
                writer.write(one)
                number += 1
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "squares", ("mass", "rare"), tuple(written), {}, "c"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("shards"), {"train": 12, "val": 3, "test": 5})


@pytest.fixture(scope="module")
def backbone():
    small = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=48, depth=2, heads=2)
    return random_backbone(small, seed=0)


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


def test_every_study_gets_the_mean_of_its_views_directions(folder, backbone):
    features = extract(backbone, folder, ("train", "test"), batch=4)
    assert (len(features), features.level) == (17, "study")
    assert features.splits == ("train",) * 12 + ("test",) * 5
    assert (features.backbone, features.findings) == (backbone.card.digest, ("mass", "rare"))
    for row, one in enumerate(read(folder, "train")):
        images = backbone.prepare_many([view.decode().pixels for view in one.views])
        views_BD = torch.nn.functional.normalize(backbone.tokens(images).cls, dim=-1)
        mean_D = torch.nn.functional.normalize(views_BD.mean(dim=0), dim=-1)
        np.testing.assert_allclose(features.vectors[row], mean_D.numpy(), atol=1e-5)
        assert features.keys[row] == one.key
        assert features.labels[row, 0] == one.labels["mass"]
        assert np.isnan(features.labels[row, 1]) == np.isnan(one.labels["rare"])


def test_views_can_have_rows_of_their_own(folder, backbone):
    by_view = extract(backbone, folder, ("train",), level="view")
    by_study = extract(backbone, folder, ("train",))
    assert by_view.level == "view"
    assert by_view.views[:6] == ("view0", "view0", "view1", "view0", "view1", "view2")
    rows = [row for row, key in enumerate(by_view.keys) if key == "k002"]
    mean_D = by_view.vectors[rows].mean(axis=0)
    np.testing.assert_allclose(by_study.vectors[2], mean_D / np.linalg.norm(mean_D), atol=1e-5)


def test_the_size_of_a_batch_changes_nothing(folder, backbone):
    small, large = (extract(backbone, folder, ("test",), batch=batch) for batch in (1, 64))
    np.testing.assert_allclose(small.vectors, large.vectors, atol=1e-5)


def test_the_mean_of_the_patches_can_be_added(folder, backbone):
    both = extract(backbone, folder, ("test",), pool="cls+mean")
    assert both.vectors.shape == (5, 96)
    assert both.backbone != backbone.card.digest


def test_the_cls_of_the_last_blocks_stand_side_by_side_each_after_the_last_norm(folder, backbone):
    features = extract(backbone, folder, ("test",), blocks=2, level="view")
    assert features.vectors.shape[1] == 96
    one = next(read(folder, "test")).view(0).pixels
    with torch.inference_mode():
        both = backbone.vit.get_intermediate_layers(
            backbone.prepare(one)[None], n=2, norm=True, return_prefix_tokens=True
        )
    cls_D = torch.cat([prefix[0, 0] for _, prefix in both])
    np.testing.assert_allclose(features.vectors[0], (cls_D / cls_D.norm()).numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="3 blocks is asked for, the backbone has 2"):
        extract(backbone, folder, ("test",), blocks=3)


def test_one_walk_gives_what_several_would(folder, backbone, monkeypatch):
    asked = [
        Descriptor(pool, blocks, level)
        for pool in ("cls", "cls+mean")
        for blocks in (1, 2)
        for level in ("study", "view")
    ]
    each = [
        extract(backbone, folder, ("val",), pool=one.pool, blocks=one.blocks, level=one.level)
        for one in asked
    ]
    walks = []
    monkeypatch.setattr(module, "read", lambda *given: walks.append(given) or read(*given))
    together = extract_all(backbone, folder, asked, ("val",))
    assert len(walks) == 1
    for one, other in zip(together, each, strict=True):
        assert (one.backbone, one.views, one.keys) == (other.backbone, other.views, other.keys)
        np.testing.assert_array_equal(one.vectors, other.vectors)
    assert len({one.backbone for one in together}) == 4


def test_pixels_are_the_floor_that_knows_bright_squares(folder):
    pixels = pixel_features(folder, side=8)
    assert pixels.vectors.shape == (20, 64)
    alike = pixels.vectors @ pixels.vectors.T
    mass = pixels.labels[:, 0] == 1
    assert alike[mass][:, mass].mean() > alike[mass][:, ~mass].mean()


def test_a_black_view_counts_as_even_grey(tmp_path):
    with ShardWriter(tmp_path, "test") as writer:
        writer.write(Study("k", "p", (View(np.zeros((9, 9), np.uint8)),), {}, "test"))
    save_manifest(tmp_path, Manifest(VERSION, "black", (), tuple(writer.shards), {}, "c"))
    np.testing.assert_allclose(pixel_features(tmp_path, side=4).vectors, np.full((1, 16), 0.25))


def test_another_seed_is_another_backbone(folder, backbone):
    ours, floor = (extract(each, folder, ("test",)) for each in (backbone, random_like(backbone, 7)))
    assert ours.backbone != floor.backbone
    assert not np.allclose(ours.vectors, floor.vectors)


def test_a_backbone_that_answers_nan_is_refused(folder, backbone):
    lost = random_like(backbone, 0)
    torch.nn.init.constant_(lost.vit.norm.weight, float("nan"))
    with pytest.raises(FeaturesError, match="study k015: the answer to view 0 is NaN"):
        extract(lost, folder, ("test",))


def test_a_split_without_studies_and_a_view_that_is_no_picture_are_refused(tmp_path, backbone):
    shards(tmp_path, {"test": 2}, broken=True)
    with pytest.raises(FeaturesError, match="no studies in train"):
        extract(backbone, tmp_path, ("train",))
    with pytest.raises(ShardError, match="study k000: view 0 is no picture"):
        extract(backbone, tmp_path, ("test",))


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


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        module.save_features(table(), tmp_path)
    assert list(tmp_path.iterdir()) == []
