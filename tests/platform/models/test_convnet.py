"""CNNs as students: what timm loads from their folder, and what everything else says of it."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.platform.models.examples import images_of
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.card import WEIGHTS
from vetdino.platform.models.config import BackboneConfig
from vetdino.platform.models.convnet import load_convnet, of_side, random_convnet, save_convnet, timm_patch
from vetdino.platform.models.loading import load


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_timm_loads_what_was_saved_in_three_lines(name, tmp_path):
    network = random_convnet(BackboneConfig(name=name, side=64), 0).eval()
    card = save_convnet(tmp_path, network)
    model = timm.create_model(card.config.name, in_chans=1, num_classes=0).eval()
    model.load_state_dict(load_file(tmp_path / "backbone.safetensors"))
    images = images_of(2, side=64)
    assert torch.equal(model(images), network.tokens(images).cls)
    assert network.tokens(images).cls.shape[1] == network.width
    assert torch.equal(load_convnet(tmp_path).tokens(images).cls, network.tokens(images).cls)


def test_half_precision_halves_the_file_and_keeps_counts_whole(tmp_path):
    network = random_convnet(BackboneConfig(name="resnet10t", side=64), 0).eval()
    save_convnet(tmp_path / "whole", network)
    save_convnet(tmp_path / "half", network, "float16")
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.52 * sizes[0]
    stored = load_file(tmp_path / "half" / WEIGHTS)
    counts = [value for name, value in stored.items() if name.endswith("num_batches_tracked")]
    assert {value.dtype for value in counts} == {torch.int64}
    images = images_of(2, side=64)
    torch.testing.assert_close(
        load_convnet(tmp_path / "half").tokens(images).cls, network.tokens(images).cls, atol=2e-2, rtol=2e-2
    )


def test_images_are_prepared_as_for_a_backbone():
    network = of_side(random_convnet(BackboneConfig(name="resnet10t", side=64), 0), 96)
    prepared = network.prepare_many([np.full((96, 96), 128, np.uint8)])
    assert prepared.shape == (1, 1, 96, 96)
    assert prepared.mean().item() == pytest.approx((128 / 255 - 0.5) / 0.25, abs=1e-6)


def test_everything_else_says_that_it_takes_vision_transformers_and_what_to_do(tmp_path):
    save_convnet(tmp_path, random_convnet(BackboneConfig(name="resnet10t", side=64), 0))
    with pytest.raises(
        ConfigError, match=r"holds a resnet10t, and this takes Vision Transformers; load it with timm"
    ):
        load(tmp_path)


def test_a_damaged_folder_is_refused(tmp_path):
    save_convnet(tmp_path, random_convnet(BackboneConfig(name="resnet10t", side=64), 0))
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="the folder is damaged"):
        load_convnet(tmp_path)


def test_a_patch_is_that_of_a_vision_transformer():
    assert [timm_patch(name) for name in ("vit_small_patch14_dinov2", "resnet10t")] == [14, None]
    with pytest.raises(ConfigError, match="no timm model"):
        timm_patch("resnet10x")


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_shared_batch_norms_keep_names_and_what_is_computed_alone(name):
    network = random_convnet(BackboneConfig(name=name, side=64), 0).eval()
    images, names = images_of(2, side=64), list(network.state_dict())
    before = network.tokens(images).cls
    network.share_batch_norms()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert network.batch_norms
    assert len(norms) > 5
    assert list(network.state_dict()) == names
    assert torch.equal(network.eval().tokens(images).cls, before)
