"""SourceFactory answer in the same words, keep their tables, and are never taken for one another."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vetdino.downstream.common import sources as module
from vetdino.downstream.common.config import SourceConfig
from vetdino.downstream.common.sources import SourceFactory, principal_components, source_names
from vetdino.platform.core.errors import ConfigError, FeaturesError
from vetdino.platform.data.manifest import VERSION, Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.extraction import extract, pixel_features
from vetdino.platform.measure.features import load_features, save_features
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.saving import save_backbone

CONFIG = SourceConfig(pixel_side=8, components=5)


def shards(folder, counts, seed=0):
    random = np.random.default_rng(seed)
    written, number = [], 0
    for split, count in counts.items():
        with ShardWriter(folder, split) as writer:
            for _ in range(count):
                views = tuple(
                    View(random.integers(0, 200, (20, 16)).astype(np.uint8), "VD") for _ in range(2)
                )
                writer.write(Study(f"k{number}", f"p{number}", views, {"mass": number % 2}, split))
                number += 1
        written += writer.shards
    save_manifest(folder, Manifest(VERSION, "noise", ("mass",), tuple(written), {}, "c"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shards(tmp_path_factory.mktemp("shards"), {"train": 8, "val": 2, "test": 4})


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    small = BackboneConfig(name="vit_tiny_patch16_224", side=16, patch=8, width=32, depth=2, heads=2)
    place = tmp_path_factory.mktemp("backbone")
    save_backbone(place, random_backbone(small, seed=3))
    return place


def four(folder, origin, out, descriptors=()):
    make = SourceFactory(folder, out, CONFIG, descriptors)
    own = make.backbone("ours", origin)
    return [own, make.random("random", own, seed=1), make.pixels(), make.pca()]


def test_every_source_answers_and_no_two_have_one_digest(folder, origin, tmp_path):
    sources = four(folder, origin, tmp_path)
    tables = [source.features() for source in sources]
    assert len({source.digest for source in sources}) == 4
    for source, table in zip(sources, tables, strict=True):
        assert table.backbone == source.digest
        assert (len(table), table.level) == (14, "study")
        assert len(source.features(level="view")) == 28
    assert [table.vectors.shape[1] for table in tables] == [32, 32, 64, 5]
    np.testing.assert_array_equal(tables[0].vectors, extract(sources[0].backbone, folder).vectors)
    np.testing.assert_array_equal(tables[2].vectors, pixel_features(folder, side=8).vectors)


def test_other_settings_of_a_baseline_are_another_source(folder, tmp_path):
    made = [
        source.digest
        for side, count in ((8, 5), (8, 6), (4, 5))
        for source in (
            SourceFactory(folder, tmp_path, SourceConfig(pixel_side=side, components=count)).pixels(),
            SourceFactory(folder, tmp_path, SourceConfig(pixel_side=side, components=count)).pca(),
        )
    ]
    assert len(set(made)) == 5  # pixels of side 8 are pixels of side 8


def test_all_planned_descriptors_come_from_one_pass(folder, origin, tmp_path, monkeypatch):
    descriptors = (Descriptor(), Descriptor("cls+mean"), Descriptor(blocks=2), Descriptor(level="view"))
    source = four(folder, origin, tmp_path, descriptors)[0]
    walks = []
    monkeypatch.setattr(module, "extract_all", None)  # bound already, as the source was made
    counting = replace(source, extract=lambda wanted: walks.append(len(wanted)) or source.extract(wanted))
    first = counting.features()
    counting.features("cls+mean")
    counting.features(blocks=2)
    counting.features(level="view")
    assert walks == [4]
    counting.features("cls+mean", 2)  # nobody said so before
    assert walks == [4, 1]
    again = counting.features()
    assert walks == [4, 1]
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ours+2blocks.parquet",
        "ours+mean+2blocks.parquet",
        "ours+mean.parquet",
        "ours.parquet",
        "ours.view.parquet",
    ]


def test_a_baseline_has_one_vector_whatever_the_descriptor(folder, origin, tmp_path):
    own, _, pixels, _ = four(folder, origin, tmp_path)
    descriptors = [Descriptor(pool, blocks) for pool in ("cls", "cls+mean") for blocks in (1, 2, 4)]
    assert pixels.available(descriptors) == [Descriptor()]
    assert own.available(descriptors) == [one for one in descriptors if one.blocks <= 2]
    np.testing.assert_array_equal(pixels.features("cls+mean", 4).vectors, pixels.features().vectors)
    with pytest.raises(ConfigError, match="4 "):
        own.features(blocks=4)
    with pytest.raises(ConfigError, match="pixels has no network"):
        SourceFactory(folder, tmp_path).random("random", pixels)


def test_a_kept_table_of_another_backbone_other_shards_or_damaged_is_made_anew(folder, origin, tmp_path):
    source = four(folder, origin, tmp_path / "a")[0]
    good = source.features()
    path = tmp_path / "a" / "ours.parquet"
    for wrong in (replace(good, backbone="other"), replace(good, manifest="other")):
        save_features(wrong, path)
        assert source.features().backbone == source.digest
        assert load_features(path).manifest == source.manifest
    path.write_bytes(path.read_bytes()[:-9])
    np.testing.assert_array_equal(source.features().vectors, good.vectors)


def test_features_of_another_backbone_are_refused(folder, origin, tmp_path):
    own, random, *_ = four(folder, origin, tmp_path)
    with pytest.raises(FeaturesError, match="ours: these features are of another backbone"):
        replace(own, extract=random.extract).features()


def test_a_backbone_that_answers_nan_is_refused_with_the_study(folder, origin, tmp_path):
    import torch

    source = four(folder, origin, tmp_path)[0]
    torch.nn.init.constant_(source.backbone.vit.norm.weight, float("nan"))
    with pytest.raises(FeaturesError, match="study k0"):
        source.features()
    assert not list(tmp_path.iterdir())


def test_principal_components_are_those_of_scikit_learn_on_train_alone(folder):
    views = pixel_features(folder, side=8, level="view")
    ours = principal_components(views, CONFIG)
    train = views.of("train").vectors
    theirs = PCA(5, svd_solver="full").fit(train.astype(np.float64))
    found_VD = theirs.transform(views.vectors.astype(np.float64))
    found_VD /= np.linalg.norm(found_VD, axis=1, keepdims=True)
    signs_D = np.sign((found_VD * ours.vectors).sum(axis=0))
    np.testing.assert_allclose(ours.vectors, signs_D * found_VD, atol=1e-4)
    # What is not in train has no say.
    changed = views.vectors.copy()
    changed[np.array(views.splits) == "test"] = 0.125
    other = principal_components(replace(views, vectors=changed), CONFIG)
    rows = np.array(views.splits) != "test"
    np.testing.assert_array_equal(other.vectors[rows], ours.vectors[rows])


def test_components_are_no_more_than_the_views_of_train_and_two_views_at_least(tmp_path):
    few = pixel_features(shards(tmp_path / "few", {"train": 1, "test": 2}), side=4, level="view")
    assert principal_components(few, CONFIG).vectors.shape == (6, 1)
    with pytest.raises(FeaturesError, match="0 views in the train split"):
        principal_components(few.of("test"), CONFIG)


def test_a_view_at_the_very_mean_stands_as_an_even_vector(folder):
    views = pixel_features(folder, side=8, level="view")
    mean_D = views.of("train").vectors.astype(np.float64).mean(axis=0)
    vectors = views.vectors.copy()
    vectors[-1] = mean_D
    assert np.isfinite(principal_components(replace(views, vectors=vectors), CONFIG).vectors).all()


def test_names_of_sources_differ_and_are_never_those_of_baselines():
    names = source_names(["a/random/backbone", "random", "x/b c", "backbone"])
    assert names == ["random-2", "random-3", "b_c", "backbone"]
