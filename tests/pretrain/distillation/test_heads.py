"""The projection head: cosines with prototypes, and the fit to an untrained backbone's tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vetdino.pretrain.distillation.config import HeadConfig
from vetdino.pretrain.distillation.heads import Head, _PrototypeCosines

SMALL = HeadConfig(prototypes=12, hidden=32, bottleneck=8)


def head_of(seed: int = 0) -> Head:
    torch.manual_seed(seed)
    return Head(16, SMALL)


def tokens_of(count: int, seed: int = 1) -> torch.Tensor:
    """Nearly parallel vectors, as an untrained ViT gives: a common part and a little of their own."""
    generator = torch.Generator().manual_seed(seed)
    common, own = torch.randn(16, generator=generator), torch.randn(count, 16, generator=generator)
    return common + 0.05 * own


@torch.no_grad()
def test_scores_are_the_cosines_between_bottleneck_and_prototypes():
    head, tokens = head_of(), tokens_of(5)
    scores = head(tokens)
    assert scores.shape == (5, 12)
    for n in range(5):
        for k in range(12):
            expected = F.cosine_similarity(head.mlp(tokens[n]), head.prototypes_KW[k], dim=0)
            assert scores[n, k].item() == pytest.approx(expected.item(), abs=1e-6)


@torch.no_grad()
def test_the_length_of_a_prototype_changes_nothing():
    head, tokens = head_of(), tokens_of(5)
    before = head(tokens)
    head.prototypes_KW *= torch.rand(12, 1) + 0.5
    assert torch.allclose(head(tokens), before, atol=1e-6)


@torch.no_grad()
def test_after_spreading_the_bottleneck_is_centred_and_tells_tokens_apart():
    head, tokens = head_of(), tokens_of(64)
    likeness = lambda: F.normalize(head.mlp(tokens), dim=-1) @ F.normalize(head.mlp(tokens), dim=-1).T
    assert likeness().mean() > 0.9
    head.whiten(tokens)
    assert head.mlp(tokens).mean(0).abs().max() < 1e-3
    assert likeness().mean().abs() < 0.1


@torch.no_grad()
def test_spreading_makes_the_leading_directions_of_equal_size():
    head, tokens = head_of(), tokens_of(64)
    head.whiten(tokens)
    bottleneck = head.mlp(tokens)
    spread = torch.linalg.svdvals(bottleneck - bottleneck.mean(0)) / 64**0.5
    kept = spread[spread > 0.5]
    assert len(kept) > 1
    assert torch.allclose(kept, torch.ones_like(kept), atol=0.02)


def test_spreading_twice_from_one_seed_gives_the_same_head():
    heads = [head_of(), head_of()]
    for head in heads:
        torch.manual_seed(3)
        head.whiten(tokens_of(64))
    assert torch.equal(heads[0].mlp[-1].weight, heads[1].mlp[-1].weight)


def test_the_head_and_its_gradient_are_those_of_a_weight_normed_last_layer_of_gain_one():
    head, tokens = head_of(), tokens_of(5)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(8, 12, bias=False))
    last.parametrizations.weight.original0.data.fill_(1.0)
    last.parametrizations.weight.original1.data.copy_(head.prototypes_KW)
    expected = last(F.normalize(head.mlp(tokens), p=2, dim=-1))
    assert torch.allclose(head(tokens), expected, atol=1e-6)
    slope = lambda scores, rows: torch.autograd.grad(scores.square().sum(), [rows, head.mlp[0].weight])
    found = slope(head(tokens), head.prototypes_KW)
    for ours, theirs in zip(found, slope(expected, last.parametrizations.weight.original1), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert ours.abs().max() > 1e-3


def test_the_mlp_has_three_layers_and_as_many_prototypes_as_were_asked_for():
    shapes = {name: tuple(value.shape) for name, value in head_of().state_dict().items()}
    assert shapes["prototypes_KW"] == (12, 8)
    assert [shape for shape in shapes.values() if len(shape) == 2] == [(12, 8), (32, 16), (32, 32), (8, 32)]


def test_the_gradient_of_cosines_is_what_finite_differences_find():
    unit = F.normalize(torch.randn(3, 5, dtype=torch.float64), dim=-1).requires_grad_()
    prototypes = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_PrototypeCosines.apply, (unit, prototypes))


def test_cosines_are_those_with_normalised_prototypes():
    head = Head(8, HeadConfig(prototypes=12, hidden=16, bottleneck=6))
    tokens = torch.randn(2, 5, 8)
    expected = F.linear(F.normalize(head.mlp(tokens), dim=-1), F.normalize(head.prototypes_KW, dim=-1))
    torch.testing.assert_close(head(tokens), expected)
