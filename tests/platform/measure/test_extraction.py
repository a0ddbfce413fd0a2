"""Features of generated shards: one row a study or a view, by a backbone or by pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.platform.core.errors import ConfigError, FeaturesError, ShardError
from vetdino.platform.data.manifest import VERSION, Manifest, load_manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter, read, read_shard
from vetdino.platform.data.study import StoredView, Study, View
from vetdino.platform.measure import extraction as module
from vetdino.platform.measure.descriptors import Descriptor
from vetdino.platform.measure.extraction import extract, extract_all, pixel_features
from vetdino.platform.models.backbone import random_backbone, random_like
from vetdino.platform.models.config import BackboneConfig


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


def test_rows_know_the_projections_of_their_views(folder, backbone, tmp_path):
    assert set(extract(backbone, folder, ("test",)).projections) == {"VD"}
    views = (View(np.full((40, 56), 99, np.uint8), "VD"), View(np.full((40, 56), 50, np.uint8), "LLAT"))
    with ShardWriter(tmp_path, "test") as writer:
        writer.write(Study("k", "p", views, {}, "test"))
    save_manifest(tmp_path, Manifest(VERSION, "two", (), tuple(writer.shards), {}, "c"))
    assert extract(backbone, tmp_path, ("test",)).projections == ("LLAT VD",)
    assert extract(backbone, tmp_path, ("test",), level="view").projections == ("VD", "LLAT")


@pytest.mark.parametrize("pool", ["cls", "cls+mean"])
def test_a_table_has_the_probes_of_its_backbone(folder, backbone, pool):
    probes = extract(backbone, folder, ("test",), pool=pool).probes
    again = module.probed(backbone, Descriptor(pool))
    assert probes.cosines(again.vectors).min() > 0.99999
    assert probes.cosines(module.probed(random_like(backbone, 1), Descriptor(pool)).vectors).min() < 0.999


def test_shards_of_other_views_than_promised_are_refused(tmp_path, backbone):
    manifest = load_manifest(shards(tmp_path, {"test": 3}))
    for more in (-1, 1):
        promised = tuple(replace(shard, views=shard.views + more) for shard in manifest.shards)
        save_manifest(tmp_path, replace(manifest, shards=promised))
        with pytest.raises(ShardError, match="6 views, the manifest promises"):
            extract(backbone, tmp_path, ("test",))


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
    with pytest.raises(ConfigError, match="the backbone has 2"):
        extract(backbone, folder, ("test",), blocks=3)


def test_one_pass_gives_what_several_would(folder, backbone, monkeypatch):
    descriptors = [
        Descriptor(pool, blocks, level)
        for pool in ("cls", "cls+mean")
        for blocks in (1, 2)
        for level in ("study", "view")
    ]
    each = [
        extract(backbone, folder, ("val",), pool=one.pool, blocks=one.blocks, level=one.level)
        for one in descriptors
    ]
    passes = []
    monkeypatch.setattr(module, "read_shard", lambda *given: passes.append(given) or read_shard(*given))
    together = extract_all(backbone, folder, descriptors, ("val",))
    assert len(passes) == 1
    for one, other in zip(together, each, strict=True):
        assert (one.backbone, one.views, one.keys) == (other.backbone, other.views, other.keys)
        np.testing.assert_array_equal(one.vectors, other.vectors)
    assert len({one.backbone for one in together}) == 4


def test_pixels_are_a_baseline_that_knows_bright_squares(folder):
    pixels = pixel_features(folder, side=8)
    assert pixels.vectors.shape == (20, 64)
    alike = pixels.vectors @ pixels.vectors.T
    mass = pixels.labels[:, 0] == 1
    assert alike[mass][:, mass].mean() > alike[mass][:, ~mass].mean()


def test_a_black_view_counts_as_even_gray(tmp_path):
    with ShardWriter(tmp_path, "test") as writer:
        writer.write(Study("k", "p", (View(np.zeros((9, 9), np.uint8)),), {}, "test"))
    save_manifest(tmp_path, Manifest(VERSION, "black", (), tuple(writer.shards), {}, "c"))
    np.testing.assert_allclose(pixel_features(tmp_path, side=4).vectors, np.full((1, 16), 0.25))


def test_another_seed_is_another_backbone(folder, backbone):
    ours, random = (extract(each, folder, ("test",)) for each in (backbone, random_like(backbone, 7)))
    assert ours.backbone != random.backbone
    assert not np.allclose(ours.vectors, random.vectors)


def test_a_backbone_that_answers_nan_is_refused(folder, backbone):
    lost = random_like(backbone, 0)
    torch.nn.init.constant_(lost.vit.norm.weight, float("nan"))
    with pytest.raises(FeaturesError, match="study k015: the vector of view 0 is NaN"):
        extract(lost, folder, ("test",))


def test_a_split_without_studies_and_a_view_that_is_no_picture_are_refused(tmp_path, backbone):
    shards(tmp_path, {"test": 2}, broken=True)
    with pytest.raises(FeaturesError, match="no studies in train"):
        extract(backbone, tmp_path, ("train",))
    with pytest.raises(ShardError, match="study k000: view 0 is no picture"):
        extract(backbone, tmp_path, ("test",))
