"""The trial on held-out studies, and how spread out vectors are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vetdino.platform.data.index import StudyIndex
from vetdino.platform.models.backbone import random_backbone
from vetdino.platform.models.config import BackboneConfig
from vetdino.pretrain.watch.config import ProbeConfig
from vetdino.pretrain.watch.probe import Probe, ProbeStudies, cross_view_recall

CONFIG = BackboneConfig(name="vit_tiny_patch16_224", side=32, patch=8, width=32, depth=2, heads=2)

PLAIN = torch.autocast("cpu", enabled=False)

SPREAD = {"probe/effective_rank", "probe/mean_cosine", "probe/cross_view_recall"}


@pytest.fixture(scope="module")
def backbone():
    return random_backbone(CONFIG, 0)


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 6))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("batch", "views"), [(1, 2), (5, 2), (64, 3), (64, 1)])
def test_a_studys_vector_is_the_mean_of_its_first_views_unit_cls_made_unit(batch, views, backbone, shards):
    index = StudyIndex(shards, "val")
    studies = ProbeStudies(index, range(6), views, 32, ())
    found = studies.study_vectors(studies.view_vectors(backbone, batch))
    assert found.shape == (6, 32)
    assert found.dtype == np.float32
    for number, row in enumerate(found):
        shown = index.load(number).views[:views]
        cls = [backbone.tokens(backbone.prepare(view.decode().pixels)[None]).cls[0] for view in shown]
        mean = torch.stack([F.normalize(view, dim=0) for view in cls]).mean(0)
        assert np.allclose(row, F.normalize(mean, dim=0).numpy(), atol=1e-5)


def test_pairs_are_the_first_two_views_of_the_studies_that_have_two(backbone, shards):
    index = StudyIndex(shards, "train")
    studies = ProbeStudies(index, range(16), 3, 32, ())
    vectors = studies.view_vectors(backbone)
    first, second = studies.view_pairs(vectors)
    counts = [min(3, len(index.load(row).views)) for row in range(16)]
    assert counts == list(studies.counts_N)
    starts = [sum(counts[:row]) for row in range(16) if counts[row] > 1]
    assert 0 < len(first) == len(second) == len(starts) < 16
    assert np.array_equal(first, vectors[starts])
    assert np.array_equal(second, vectors[[start + 1 for start in starts]])


def test_a_trial_tells_how_well_neighbours_vote_and_leaves_out_a_finding_nobody_knows(backbone, shards):
    metrics = Probe([str(shards)], ProbeConfig(k=3), ("bright", "rare")).evaluate(backbone, PLAIN)
    assert set(metrics) == {"probe/auroc_macro", "probe/ap_macro", *SPREAD}
    # Brightness is plain to see, even for random weights.
    assert metrics["probe/auroc_macro"] > 0.8
    assert all(np.isfinite(value) for value in metrics.values())


def test_without_findings_a_trial_still_tells_how_views_and_studies_lie(backbone, shards):
    probe = Probe([str(shards)], ProbeConfig(), ())
    assert probe.has_studies
    assert set(probe.evaluate(backbone, PLAIN)) == SPREAD


def test_of_studies_of_one_view_a_trial_asks_for_no_other(backbone, shards):
    probe = Probe([str(shards)], ProbeConfig(views=1), ("bright",))
    assert "probe/cross_view_recall" not in probe.evaluate(backbone, PLAIN)


def test_a_trial_takes_no_more_studies_and_views_than_it_is_allowed(backbone, shards):
    probe = Probe([str(shards)], ProbeConfig(bank=5, queries=2, views=2), ("bright",))
    probe.evaluate(backbone, PLAIN)
    bank, queries = probe.studies
    assert (len(bank), len(queries)) == (5, 2)
    assert bank.counts_N.max() == 2
    assert bank.images_VSS.nbytes == bank.counts_N.sum() * 32 * 32


def test_no_patient_is_both_looked_among_and_asked_for(backbone, shards):
    probe = Probe([str(shards)], ProbeConfig(), ("bright",))
    probe.evaluate(backbone, PLAIN)
    train, val = (
        {index.load(row).patient for row in range(len(index))}
        for index in (StudyIndex(shards, "train"), StudyIndex(shards, "val"))
    )
    bank, queries = probe.studies
    assert bank.patients == train
    assert queries.patients == val
    assert not bank.patients & queries.patients


def test_images_are_decoded_once_and_a_second_trial_says_the_same(backbone, shards):
    probe = Probe([str(shards)], ProbeConfig(), ("bright",))
    first = probe.evaluate(backbone, PLAIN)
    probe.splits = ()  # nothing is left to read from
    assert probe.evaluate(backbone, PLAIN) == first


def test_of_several_archives_the_probe_takes_studies_by_weight_and_what_one_does_not_know_is_unknown(
    backbone, shards, other_shards
):
    folders, findings = [str(shards), str(other_shards)], ("bright", "rare", "dark")
    probe = Probe(folders, ProbeConfig(bank=12, queries=10, k=3), findings, (3, 1))
    metrics = probe.evaluate(backbone, PLAIN)
    bank, queries = probe.studies
    assert [sum(patient.startswith("other") for patient in part.patients) for part in (bank, queries)] == [
        3,
        4,
    ]
    assert (len(bank), len(queries)) == (12, 10)  # the first has only 6 queries
    assert np.isnan(bank.labels_NF[:9, 2]).all()
    assert np.isnan(bank.labels_NF[9:, 1]).all()
    assert (bank.labels_NF[9:, 0] == 1 - bank.labels_NF[9:, 2]).all()
    assert metrics["probe/auroc_macro"] > 0.5


@pytest.mark.parametrize("k", [1, 3, 10])
def test_cross_view_recall_is_that_of_a_loop_over_studies(k):
    first, second = unit(60, 0), unit(60, 0) + 1.2 * unit(60, 1)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    hits = []
    for study in range(60):
        for query, among in ((first, second), (second, first)):
            likeness = {other: float(query[study] @ among[other]) for other in range(60)}
            hits.append(study in sorted(likeness, key=likeness.get, reverse=True)[:k])
    assert 0.1 < np.mean(hits) < 0.9
    assert cross_view_recall(first, second, k) == pytest.approx(np.mean(hits))


def test_cross_view_recall_is_one_for_equal_views_chance_for_strangers_and_nothing_for_one_vector():
    assert cross_view_recall(unit(40), unit(40), 1) == 1.0
    assert cross_view_recall(unit(400, 0), unit(400, 1), 10) == pytest.approx(10 / 400, abs=0.03)
    assert cross_view_recall(np.ones((40, 1)), np.ones((40, 1)), 10) == 0.0
