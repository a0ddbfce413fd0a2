"""The fine-tuned network averages the views of a study; unknown labels have no loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vetdino.downstream.findings.network import FinetuneNetwork, known_label_loss, positive_weights


def test_the_loss_is_a_loop_over_known_labels():
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 3)) * 4
    labels = (random.random((5, 3)) < 0.5).astype(float)
    labels[1, 0] = labels[3, 2] = math.nan
    weight = np.array([2.0, 1.0, 0.5])
    expected = 0.0
    for b in range(5):
        for f in range(3):
            chance = 1 / (1 + math.exp(-logits[b, f]))
            if labels[b, f] == 1:
                expected -= weight[f] * math.log(chance)
            elif labels[b, f] == 0:
                expected -= math.log(1 - chance)
    given = torch.tensor(logits, requires_grad=True)
    loss = known_label_loss(given, torch.tensor(labels), torch.tensor(weight))
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert ((given.grad == 0).numpy() == np.isnan(labels)).all()


def test_a_rare_finding_weighs_more_up_to_the_limit():
    labels = np.array([[1.0, 1], [0, 0], [0, 0], [0, math.nan]])
    assert positive_weights(labels, 10).tolist() == [3, 2]
    assert positive_weights(labels, 2.5).tolist() == [2.5, 2]
    assert positive_weights(labels, 1).tolist() == [1, 1]


@pytest.mark.parametrize("pool", ["cls", "cls+mean"])
def test_a_study_is_the_mean_of_its_views(source, folder, pool, quick):
    network = FinetuneNetwork(source.backbone, 2, replace(quick, pool=pool)).eval()
    torch.nn.init.normal_(network.head.weight)
    random = np.random.default_rng(0)
    images = torch.tensor(random.integers(0, 255, (5, 32, 32), dtype=np.uint8))
    with torch.no_grad():
        found = network(images, torch.tensor([2, 3]))
    tokens = source.backbone.tokens(source.backbone.prepare_many(list(images.numpy())))
    vectors = [tokens.cls[v] for v in range(5)]
    if pool == "cls+mean":
        vectors = [torch.cat([tokens.cls[v], tokens.patches[v].mean(0)]) for v in range(5)]
    for study, views in enumerate([(0, 1), (2, 3, 4)]):
        mean = sum(vectors[view] for view in views) / len(views)
        assert torch.allclose(found[study], network.head.weight @ mean, atol=1e-5)


def test_stochastic_depth_follows_the_view_and_not_its_batch(source, quick):
    network = FinetuneNetwork(source.backbone, 2, replace(quick, drop_path=0.5))
    torch.nn.init.normal_(network.head.weight)
    random = np.random.default_rng(0)
    images = torch.tensor(random.integers(0, 255, (6, 32, 32), dtype=np.uint8))
    chances = torch.tensor(random.random((6, 2, 2), np.float32))
    counts = torch.tensor([2, 1, 3])
    with torch.no_grad():
        whole = network(images, counts, chances)
        apart = [network(images[:2], counts[:1], chances[:2]), network(images[2:], counts[1:], chances[2:])]
        kept = network(images, counts, torch.ones_like(chances))
        undropped = network(images, counts)
    assert torch.allclose(whole, torch.cat(apart), atol=1e-5)
    assert not torch.allclose(whole, undropped, atol=1e-2)
    assert not torch.allclose(kept, undropped, atol=1e-2)  # what is kept stands for what is dropped
    assert torch.allclose(network(images, counts), undropped)


def test_stochastic_depth_keeps_the_mean(source, quick):
    network = FinetuneNetwork(source.backbone, 2, replace(quick, drop_path=0.3))
    block = network.backbone.vit.blocks[1]
    chances = torch.rand((20_000, 2, 2), generator=torch.Generator().manual_seed(0))
    network.set_drop_path(chances)
    factor = block.drop_path1(torch.ones(20_000, 1, 1))
    assert sorted(set(factor.flatten().tolist())) == pytest.approx([0, 1 / 0.7])
    assert factor.mean().item() == pytest.approx(1, abs=0.02)
    assert network.backbone.vit.blocks[0].drop_path1(torch.ones(20_000, 1, 1)).eq(1).all()


def test_a_new_network_says_nothing_yet_and_leaves_the_source_alone(source, quick):
    before = {name: value.clone() for name, value in source.backbone.state_dict().items()}
    network = FinetuneNetwork(source.backbone, 3, quick)
    images = torch.zeros(2, 32, 32, dtype=torch.uint8)
    network(images, torch.tensor([1, 1])).sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(value.equal(before[name]) for name, value in source.backbone.state_dict().items())
    assert network.head.bias.tolist() == [1, 1, 1]  # zero before
