"""Which weights of a backbone are trained, which stay, and how trained weights are saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.learn.config import LearnConfig
from vetdino.downstream.fewshot.learn.encoder import (
    CARD,
    WEIGHTS,
    TrainableEncoder,
    load_encoder,
    with_neighbors,
)
from vetdino.downstream.fewshot.learn.lora import LoraLinear
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.slices import standardized, with_coordinates
from vetdino.downstream.fewshot.method.token_features import TokenFeatures
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.backbone import random_backbone, random_like
from vetdino.platform.models.config import BackboneConfig

GRID = SliceConfig(grid=4, coordinates=0)


def scan(seed: int = 0) -> Volume:
    random = np.random.default_rng(seed)
    image = random.uniform(0, 255, (4, 32, 32)).astype(np.float32)
    return Volume(f"s{seed}", image, None, (5.0, 1.0, 1.0), "mri", None)


def trained(encoder: TrainableEncoder, steps: int = 2) -> TrainableEncoder:
    """A few steps of some loss."""
    sgd = torch.optim.SGD(encoder.trainable_parameters(), 0.05)
    images = encoder.network_input(with_neighbors(standardized(scan()), [0, 1], encoder.learn.neighbours))
    for _ in range(steps):
        sgd.zero_grad()
        features = encoder.tokens(images)
        (features * torch.linspace(-1, 1, features.shape[1])[:, None, None]).mean().mul(10).backward()
        sgd.step()
    return encoder


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    "slices",
    [
        GRID,
        SliceConfig(grid=7, stride=4, coordinates=0),
        SliceConfig(grid=4, layers=(0, -1), debias=2, enlarged=6, coordinates=0),
        SliceConfig(grid=4, coordinates=0.5),
    ],
)
def test_the_start_is_the_frozen_backbone_bit_for_bit(tiny, slices):
    encoder = TrainableEncoder(tiny, slices=slices)
    assert torch.equal(encoder(scan(), [2, 0]), TokenFeatures(tiny, slices)(scan(), [2, 0]))


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_giant_patch14_dinov2"])
def test_any_vit_of_timm_gets_four_lora_layers_per_block(name):
    config = BackboneConfig(name=name, side=28, patch=7, width=32, heads=2, depth=2)
    backbone = random_backbone(config, seed=0).eval()
    encoder = TrainableEncoder(backbone, slices=GRID)
    assert sum(isinstance(module, LoraLinear) for module in encoder.modules()) == 4 * 2
    assert torch.equal(encoder(scan(), [1]), TokenFeatures(backbone, GRID)(scan(), [1]))


def test_only_lora_and_adapter_are_trained_and_all_of_them_are(tiny):
    encoder = trained(TrainableEncoder(tiny, LearnConfig(neighbours=3), GRID))
    for name, parameter in encoder.named_parameters():
        trained_here = name.endswith(("down_RC", "up_CR")) or name.startswith("adapter.")
        assert parameter.requires_grad is trained_here, name
        if trained_here:
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    assert len(encoder.trainable_parameters()) == 2 * 4 * 2 + 1


def test_the_backbones_weights_are_untouched_and_the_features_are_not(tiny):
    before, asks = state(tiny), [parameter.requires_grad for parameter in tiny.parameters()]
    encoder = TrainableEncoder(tiny, slices=GRID)
    frozen = {
        name: value for name, value in state(encoder).items() if "_RC" not in name and "_CR" not in name
    }
    start = encoder(scan(), [1])
    trained(encoder)
    assert (encoder(scan(), [1]) - start).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in state(tiny).items())
    after = state(encoder)
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert [parameter.requires_grad for parameter in tiny.parameters()] == asks
    assert not any(isinstance(module, LoraLinear) for module in tiny.modules())


def test_lora_changes_the_weight_by_a_product_of_its_rank(tiny):
    encoder = trained(TrainableEncoder(tiny, LearnConfig(rank=2), GRID))
    merged = random_like(tiny)
    merged.load_state_dict(tiny.state_dict())
    for name, module in encoder.backbone.named_modules():
        if isinstance(module, LoraLinear):
            assert torch.linalg.matrix_rank(module.up_CR @ module.down_RC) == 2
            with torch.no_grad():
                merged.get_submodule(name).weight.add_(module.up_CR @ module.down_RC)
    expected = TokenFeatures(merged, GRID)(scan(), [1])
    torch.testing.assert_close(encoder(scan(), [1]), expected, atol=1e-5, rtol=1e-4)


def test_training_and_inference_give_the_same_features(tiny):
    slices = SliceConfig(grid=4, debias=2, coordinates=0.5)
    encoder = trained(TrainableEncoder(tiny, slices=slices))
    tokens = encoder.tokens(encoder.network_input(standardized(scan())[[2]]))
    assert tokens.requires_grad
    found = encoder(scan(), [2])
    assert not found.requires_grad
    torch.testing.assert_close(
        found, with_coordinates(tokens.detach(), scan(), [2], 0.5), atol=1e-5, rtol=1e-5
    )


def test_the_removed_position_directions_stay_the_same_in_training(tiny):
    slices = SliceConfig(grid=4, debias=2, coordinates=0)
    encoder = trained(TrainableEncoder(tiny, slices=slices))
    directions_CR = TokenFeatures(tiny, slices)._blank_directions(32, 32)
    features = encoder(scan(), [0])
    assert torch.einsum("nchw,cr->nrhw", features, directions_CR).abs().max() < 1e-4


def test_another_seed_is_another_start_and_the_same_the_same(tiny):
    one, same, other = (TrainableEncoder(tiny, slices=GRID, seed=seed).trained_state() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(not value.any() for name, value in one.items() if name.endswith("up_CR"))


# Neighbouring slices -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_adapter_starts_as_the_normalized_slice(tiny, channels):
    encoder = TrainableEncoder(tiny, LearnConfig(neighbours=3, channels=channels), GRID)
    images = encoder.network_input(with_neighbors(standardized(scan()), [1], 3))
    assert images.shape == (1, 3, 32, 32)
    seen = encoder.adapter(images)
    middle = images[:, 1:2]
    expected = (middle - middle.mean()) / middle.std(correction=0)
    torch.testing.assert_close(seen, expected, atol=1e-3, rtol=1e-3)


def test_neighbors_matter_once_the_adapter_is_trained(tiny):
    encoder = trained(TrainableEncoder(tiny, LearnConfig(rank=0, neighbours=3), GRID))
    first, other = scan(), scan()
    other.image_ZHW[0] = other.image_ZHW[0][::-1]
    assert len(encoder.trainable_parameters()) == 1
    assert not torch.allclose(encoder(first, [1]), encoder(other, [1]), atol=1e-4)
    torch.testing.assert_close(encoder(first, [3]), encoder(other, [3]), atol=1e-4, rtol=1e-4)


# Kept and read back ------------------------------------------------------------------------------


@pytest.mark.parametrize("learn", [LearnConfig(), LearnConfig(rank=2, neighbours=3, channels=3)])
def test_a_saved_encoder_gives_the_same_features(tiny, tmp_path, learn):
    encoder = trained(TrainableEncoder(tiny, learn, GRID, seed=5))
    encoder.save(tmp_path)
    again = load_encoder(tiny, tmp_path)
    assert torch.equal(again(scan(), [1, 2]), encoder(scan(), [1, 2]))
    assert again.learn == learn
    assert (tmp_path / WEIGHTS).stat().st_size < 40_000, "the backbone is not in it"


def test_coordinates_may_be_added_later_but_other_features_are_refused(tiny, tmp_path):
    encoder = trained(TrainableEncoder(tiny, slices=GRID))
    encoder.save(tmp_path)
    # No layers named: the last block, as when it is named.
    load_encoder(tiny, tmp_path, SliceConfig(grid=4, layers=(-1,)))
    placed = load_encoder(tiny, tmp_path, SliceConfig(grid=4, coordinates=0.5))
    assert placed(scan(), [0]).shape[1] == tiny.width + 4
    with pytest.raises(ConfigError, match=r"slices\.grid is 5.*trained with 4"):
        load_encoder(tiny, tmp_path, SliceConfig(grid=5))
    with pytest.raises(ConfigError, match=r"slices\.scales"):
        load_encoder(tiny, tmp_path, SliceConfig(grid=4, scales=(1.0, 2.0)))


def test_a_backbone_of_another_digest_is_refused(tiny, tmp_path):
    TrainableEncoder(tiny, slices=GRID).save(tmp_path)
    with pytest.raises(CheckpointError, match="seed 9"):
        load_encoder(random_like(tiny, 9), tmp_path)


def test_a_damaged_file_is_named(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=CARD):
        load_encoder(tiny, tmp_path)
    TrainableEncoder(tiny, slices=GRID).save(tmp_path)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: differs"):
        load_encoder(tiny, tmp_path)


def test_weights_of_another_rank_are_refused(tiny):
    with pytest.raises(CheckpointError, match="architecture"):
        TrainableEncoder(tiny, slices=GRID).load_trained_state(
            TrainableEncoder(tiny, LearnConfig(rank=2), GRID).trained_state()
        )
