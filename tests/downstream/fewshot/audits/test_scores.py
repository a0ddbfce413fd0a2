"""Scores of single slices against masks made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.fewshot.audits.config import AuditConfig
from vetdino.downstream.fewshot.audits.scores import component_count, measured_organs, slice_score
from vetdino.downstream.fewshot.audits.targets import AuditTarget, audit_targets
from vetdino.platform.core.errors import DataError


@pytest.fixture
def target(scan, scans, small) -> AuditTarget:
    volumes = scans(*map(scan, range(3)))
    return next(audit_targets(volumes, AuditConfig(organs=(2,), **small), {}))[0]


def test_a_perfect_mask_an_empty_one_and_half_of_one(target):
    truth = target.truth[2]
    half = truth & (np.cumsum(truth).reshape(truth.shape) <= truth.sum() // 2)
    perfect, empty, partial = (slice_score("row", target, 2, mask) for mask in (truth, truth & False, half))
    assert (perfect.dice, empty.dice) == (1.0, 0.0)
    assert (empty.parts, perfect.parts, perfect.true_parts) == (0, 1, 1)
    assert partial.dice == pytest.approx(2 * half.sum() / (half.sum() + truth.sum()))
    assert (partial.found, partial.true, partial.overlap) == (half.sum(), truth.sum(), half.sum())


def test_two_empty_masks_agree(target):
    assert slice_score("row", target, 0, np.zeros((32, 32), bool)).dice == 1.0


def test_components_connect_over_corners():
    assert component_count(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])) == 1
    assert component_count(np.array([[1, 0, 1]])) == 2
    assert component_count(np.zeros((2, 2))) == 0


def test_organs_come_in_the_order_of_the_classes_and_none_is_an_error(target, scans):
    score = slice_score("row", target, 2, target.truth[2])
    assert measured_organs([score], scans(), {}) == ("right kidney",)
    with pytest.raises(DataError, match="why"):
        measured_organs([], scans(), {"s0": "why"})
