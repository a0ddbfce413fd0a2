"""The trial on held-out studies, and how spread out vectors are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vetdino.platform.backbone import BackboneConfig, random_backbone
from vetdino.pretrain.probe import Probe, ProbeConfig, effective_rank, mean_cosine, vectors_of

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)

PLAIN = torch.autocast("cpu", enabled=False)


@pytest.fixture(scope="module")
def backbone():
    return random_backbone(CONFIG, 0)


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 6))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_a_studys_vector_is_the_mean_of_its_views_unit_cls_made_unit(batch, backbone, shards):
    probe = Probe(str(shards), ProbeConfig(), ())
    found = vectors_of(backbone, probe.queries, batch)
    assert found.shape == (6, 32)
    assert found.dtype == np.float32
    for row, study in zip(found, probe.queries, strict=True):
        views = [backbone.tokens(backbone.prepare(view.decode().pixels)[None]).cls[0] for view in study.views]
        mean = torch.stack([F.normalize(view, dim=0) for view in views]).mean(0)
        assert np.allclose(row, F.normalize(mean, dim=0).numpy(), atol=1e-5)


def test_a_trial_tells_how_well_neighbours_vote_and_leaves_out_a_finding_nobody_knows(backbone, shards):
    told = Probe(str(shards), ProbeConfig(k=3), ("bright", "rare")).measure(backbone, PLAIN)
    assert set(told) == {
        "probe/auroc_macro",
        "probe/ap_macro",
        "probe/effective_rank",
        "probe/mean_cosine",
    }
    # Brightness is plain to see, even for random weights.
    assert told["probe/auroc_macro"] > 0.8
    assert all(np.isfinite(value) for value in told.values())


def test_a_trial_takes_no_more_studies_than_it_is_allowed(shards):
    probe = Probe(str(shards), ProbeConfig(bank=5, queries=2), ("bright",))
    assert (len(probe.bank), len(probe.queries)) == (5, 2)
    assert {study.split for study in probe.bank} == {"train"}
    assert {study.split for study in probe.queries} == {"val"}
    assert probe.useful


def test_without_findings_there_is_nothing_to_try(shards):
    assert not Probe(str(shards), ProbeConfig(), ()).useful


def test_mean_cosine_is_that_of_all_pairs():
    vectors = unit(9)
    pairs = [vectors[i] @ vectors[j] for i in range(9) for j in range(9) if i != j]
    assert mean_cosine(vectors) == pytest.approx(np.mean(pairs))
    assert mean_cosine(np.tile(unit(1), (5, 1))) == pytest.approx(1.0)
    assert mean_cosine(unit(1)) == pytest.approx(0.0, abs=1e-12)


def test_effective_rank_counts_directions_of_equal_spread_and_is_one_for_a_line():
    corners = np.concatenate([np.eye(6), -np.eye(6)])
    assert effective_rank(corners) == pytest.approx(6.0)
    assert effective_rank(np.linspace(-1, 1, 9)[:, None] * unit(1)) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(np.ones((4, 6))) == pytest.approx(1.0)
