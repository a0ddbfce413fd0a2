"""Scores spread over cells that look alike, against plain loops, and only within a plan's own slices."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from vetdino.downstream.fewshot.method.edges import SATURATION
from vetdino.downstream.fewshot.method.propagation import (
    NEIGHBORS,
    REACH,
    ROUNDS,
    SPREAD,
    TAU,
    neighbors,
    spread_margins,
)

GRID = 3


def features(volume, slices):
    """Four channels that differ from cell to cell; of slice z always the same."""
    return torch.stack(
        [torch.randn(4, GRID, GRID, generator=torch.Generator().manual_seed(int(z))) for z in slices]
    )


def scan(organ_scan):
    return replace(organ_scan(0), name="short")  # a scan of its own: neighbors are kept by scan


def by_loops(margins, query):
    """Slice -> (9,) scores after all rounds, of margins on the grid itself."""
    unit = {z: features(query, [z])[0].flatten(1).T for z in range(len(query.image_ZHW))}
    unit = {z: one / one.norm(dim=1, keepdim=True) for z, one in unit.items()}
    first = {z: np.tanh(margin.ravel() / SATURATION) for z, margin in margins.items()}
    now = first
    for _ in range(ROUNDS):
        after = {}
        for z in margins:
            after[z] = np.zeros(GRID**2)
            for cell in range(GRID**2):
                near = [
                    (float(unit[z][cell] @ unit[y][other]), y, other)
                    for y in range(max(z - REACH, 0), min(z + REACH + 1, len(unit)))
                    for other in range(GRID**2)
                ]
                near = [
                    (math.exp(TAU * (cosine - 1)), y, other)
                    for cosine, y, other in sorted(near)[::-1][:NEIGHBORS]
                ]
                near = [(weight, y, other) for weight, y, other in near if y in margins]
                mean = sum(weight * now[y][other] for weight, y, other in near) / sum(
                    weight for weight, _, _ in near
                )
                after[z][cell] = (1 - SPREAD) * first[z][cell] + SPREAD * mean
        now = after
    return now


def test_scores_are_spread_as_by_loops_and_slices_outside_the_plan_do_not_count(organ_scan):
    query, random = scan(organ_scan), np.random.default_rng(0)
    margins = {z: random.normal(0, 3, (GRID, GRID)).astype(np.float32) for z in (1, 2, 4)}
    spread = spread_margins(margins, neighbors(features, query, [1, 2, 3, 4]))
    assert list(spread) == [1, 2, 4]
    for z, score in by_loops(margins, query).items():
        np.testing.assert_allclose(np.tanh(spread[z].ravel() / SATURATION), score, atol=1e-4)


def test_a_cell_that_was_missed_is_won_back_by_those_that_look_like_it(organ_scan):
    def organ_features(volume, slices):
        shown = torch.zeros(len(slices), 3, 8, 8)
        shown[:, 0] = 1.0
        shown[:, 1, 2:6, 2:6] = 2.0
        return shown

    organ = np.zeros((8, 8), bool)
    organ[2:6, 2:6] = True
    margin = np.where(organ, 3.0, -3.0).astype(np.float32)
    margin[3, 3], margin[0, 0] = -1.0, 1.0
    image = np.repeat(np.repeat(margin, 4, 0), 4, 1)
    spread = spread_margins({3: image}, neighbors(organ_features, scan(organ_scan), [3]))[3]
    np.testing.assert_array_equal(spread[2::4, 2::4] > 0, organ)
    assert spread_margins({}, {}) == {}


def test_equal_features_give_equal_neighbors_on_the_edge_of_a_scan(organ_scan):
    graph = neighbors(features, scan(organ_scan), [0, 7])
    assert set(graph[0].slices.unique().tolist()) == {0, 1, 2}
    assert set(graph[7].slices.unique().tolist()) == {5, 6, 7}
    for its in graph.values():
        assert its.grid == (GRID, GRID)
        assert its.cells.max() < GRID**2
        assert (its.weights[:, 0] > 0.999).all()
