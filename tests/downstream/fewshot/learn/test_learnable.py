"""What of a backbone learns, what stays, and whose what was learnt is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.learn.config import LearnConfig
from vetdino.downstream.fewshot.learn.learnable import CARD, WEIGHTS, Learnable, learnable_from, stacked
from vetdino.downstream.fewshot.learn.lora import Lora
from vetdino.downstream.fewshot.method.config import SliceConfig
from vetdino.downstream.fewshot.method.slices import TokenFeatures, standardised, with_places
from vetdino.downstream.volumes.volume import Volume
from vetdino.platform.core.errors import CheckpointError, ConfigError
from vetdino.platform.models.backbone import BackboneConfig, random_backbone, random_like

GRID = SliceConfig(grid=4, coordinates=0)


def scan(seed: int = 0) -> Volume:
    random = np.random.default_rng(seed)
    image = random.uniform(0, 255, (4, 32, 32)).astype(np.float32)
    return Volume(f"s{seed}", image, None, (5.0, 1.0, 1.0), "mri", None)


def taught(learnable: Learnable, steps: int = 2) -> Learnable:
    """A few steps of some loss."""
    sgd = torch.optim.SGD(learnable.trainable(), 0.05)
    images = learnable.sees(stacked(standardised(scan()), [0, 1], learnable.learn.neighbours))
    for _ in range(steps):
        sgd.zero_grad()
        features = learnable.tokens(images)
        (features * torch.linspace(-1, 1, features.shape[1])[:, None, None]).mean().mul(10).backward()
        sgd.step()
    return learnable


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
    learnable = Learnable(tiny, slices=slices)
    assert torch.equal(learnable(scan(), [2, 0]), TokenFeatures(tiny, slices)(scan(), [2, 0]))


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_giant_patch14_dinov2"])
def test_any_vit_of_timm_gets_four_additions_a_block(name):
    config = BackboneConfig(name=name, side=28, patch=7, width=32, heads=2, depth=2)
    backbone = random_backbone(config, seed=0).eval()
    learnable = Learnable(backbone, slices=GRID)
    assert sum(isinstance(module, Lora) for module in learnable.modules()) == 4 * 2
    assert torch.equal(learnable(scan(), [1]), TokenFeatures(backbone, GRID)(scan(), [1]))


def test_only_additions_and_adapter_learn_and_all_of_them_do(tiny):
    learnable = taught(Learnable(tiny, LearnConfig(neighbours=3), GRID))
    for name, parameter in learnable.named_parameters():
        learns = name.endswith(("down_RC", "up_CR")) or name.startswith("adapter.")
        assert parameter.requires_grad is learns, name
        if learns:
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    assert len(learnable.trainable()) == 2 * 4 * 2 + 1


def test_the_backbones_weights_are_untouched_and_the_features_are_not(tiny):
    before, asks = state(tiny), [parameter.requires_grad for parameter in tiny.parameters()]
    learnable = Learnable(tiny, slices=GRID)
    frozen = {
        name: value for name, value in state(learnable).items() if "_RC" not in name and "_CR" not in name
    }
    start = learnable(scan(), [1])
    taught(learnable)
    assert (learnable(scan(), [1]) - start).abs().max() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in state(tiny).items())
    after = state(learnable)
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert [parameter.requires_grad for parameter in tiny.parameters()] == asks
    assert not any(isinstance(module, Lora) for module in tiny.modules())


def test_an_addition_is_a_change_of_the_weight_by_a_product_of_its_rank(tiny):
    learnable = taught(Learnable(tiny, LearnConfig(rank=2), GRID))
    merged = random_like(tiny)
    merged.load_state_dict(tiny.state_dict())
    for name, module in learnable.backbone.named_modules():
        if isinstance(module, Lora):
            assert torch.linalg.matrix_rank(module.up_CR @ module.down_RC) == 2
            with torch.no_grad():
                merged.get_submodule(name).weight.add_(module.up_CR @ module.down_RC)
    expected = TokenFeatures(merged, GRID)(scan(), [1])
    torch.testing.assert_close(learnable(scan(), [1]), expected, atol=1e-5, rtol=1e-4)


def test_what_is_trained_is_what_is_asked_later(tiny):
    slices = SliceConfig(grid=4, debias=2, coordinates=0.5)
    learnable = taught(Learnable(tiny, slices=slices))
    tokens = learnable.tokens(learnable.sees(standardised(scan())[[2]]))
    assert tokens.requires_grad
    found = learnable(scan(), [2])
    assert not found.requires_grad
    torch.testing.assert_close(found, with_places(tokens.detach(), scan(), [2], 0.5), atol=1e-5, rtol=1e-5)


def test_what_is_removed_as_place_does_not_change_while_it_learns(tiny):
    slices = SliceConfig(grid=4, debias=2, coordinates=0)
    learnable = taught(Learnable(tiny, slices=slices))
    directions_CR = TokenFeatures(tiny, slices)._directions(32, 32)
    features = learnable(scan(), [0])
    assert torch.einsum("nchw,cr->nrhw", features, directions_CR).abs().max() < 1e-4


def test_another_seed_is_another_start_and_the_same_the_same(tiny):
    one, same, other = (Learnable(tiny, slices=GRID, seed=seed).learnt() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(not value.any() for name, value in one.items() if name.endswith("up_CR"))


# Neighbouring slices -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_adapter_begins_as_the_slice_itself_normalised(tiny, channels):
    learnable = Learnable(tiny, LearnConfig(neighbours=3, channels=channels), GRID)
    images = learnable.sees(stacked(standardised(scan()), [1], 3))
    assert images.shape == (1, 3, 32, 32)
    seen = learnable.adapter(images)
    middle = images[:, 1:2]
    expected = (middle - middle.mean()) / middle.std(correction=0)
    torch.testing.assert_close(seen, expected, atol=1e-3, rtol=1e-3)


def test_neighbours_matter_once_the_adapter_has_learnt(tiny):
    learnable = taught(Learnable(tiny, LearnConfig(rank=0, neighbours=3), GRID))
    first, other = scan(), scan()
    other.image_ZHW[0] = other.image_ZHW[0][::-1]
    assert len(learnable.trainable()) == 1
    assert not torch.allclose(learnable(first, [1]), learnable(other, [1]), atol=1e-4)
    torch.testing.assert_close(learnable(first, [3]), learnable(other, [3]), atol=1e-4, rtol=1e-4)


# Kept and read back ------------------------------------------------------------------------------


@pytest.mark.parametrize("learn", [LearnConfig(), LearnConfig(rank=2, neighbours=3, channels=3)])
def test_a_saved_encoder_answers_the_same(tiny, tmp_path, learn):
    learnable = taught(Learnable(tiny, learn, GRID, seed=5))
    learnable.save(tmp_path)
    again = learnable_from(tiny, tmp_path)
    assert torch.equal(again(scan(), [1, 2]), learnable(scan(), [1, 2]))
    assert again.learn == learn
    assert (tmp_path / WEIGHTS).stat().st_size < 40_000, "the backbone is not in it"


def test_places_may_be_added_later_but_other_features_are_refused(tiny, tmp_path):
    learnable = taught(Learnable(tiny, slices=GRID))
    learnable.save(tmp_path)
    placed = learnable_from(tiny, tmp_path, SliceConfig(grid=4, coordinates=0.5))
    assert placed(scan(), [0]).shape[1] == tiny.width + 4
    with pytest.raises(ConfigError, match=r"slices\.grid is 5.*trained with 4"):
        learnable_from(tiny, tmp_path, SliceConfig(grid=5))


def test_a_backbone_of_another_digest_is_refused(tiny, tmp_path):
    Learnable(tiny, slices=GRID).save(tmp_path)
    with pytest.raises(CheckpointError, match="not with random weights, seed 9"):
        learnable_from(random_like(tiny, 9), tmp_path)


def test_damage_is_told_with_the_file(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=CARD):
        learnable_from(tiny, tmp_path)
    Learnable(tiny, slices=GRID).save(tmp_path)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: differs"):
        learnable_from(tiny, tmp_path)


def test_nothing_to_learn_and_foreign_weights_are_refused(tiny):
    with pytest.raises(ConfigError, match="leave nothing to learn"):
        LearnConfig(rank=0)
    with pytest.raises(ConfigError, match=r"rank is -1"):
        LearnConfig(rank=-1)
    with pytest.raises(CheckpointError, match="another architecture"):
        Learnable(tiny, slices=GRID).relearn(Learnable(tiny, LearnConfig(rank=2), GRID).learnt())
