"""Adaptive local prototypes once more as plain loops in float64, and episodes of random features to compare on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vetdino.downstream.fewshot.method.grid import grid_mask
from vetdino.downstream.volumes.volume import Volume

PIXELS = 8
"""Pixels of the image per cell of the grid, where the grid divides it."""


def unit(vector):
    return vector / max(np.sqrt((vector**2).sum()), 1e-4)


def windows(rows, columns, window, compat):
    """(row slice, column slice) of every window, side by side; those cut by the edge are ours only."""
    cut = compat == "ours"
    for row in range(0, rows if cut else rows - window + 1, window):
        for column in range(0, columns if cut else columns - window + 1, window):
            yield slice(row, min(row + window, rows)), slice(column, min(column + window, columns))


def local_prototypes(feature, mask, window, share, compat):
    return [
        unit(feature[:, rows, columns].mean(axis=(1, 2)))
        for rows, columns in windows(*mask.shape, window, compat)
        if mask[rows, columns].mean() > share
    ]


def mean_of(features, masks):
    total, weight = np.zeros(features.shape[1]), 0.0
    for feature, mask in zip(features, masks, strict=True):
        for row in range(mask.shape[0]):
            for column in range(mask.shape[1]):
                total += mask[row, column] * feature[:, row, column]
                weight += mask[row, column]
    return total / (weight + 1e-5)


def attended(query, prototypes, tau):
    """The score map of one set of prototypes."""
    out = np.zeros(query.shape[1:])
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            d = np.array([tau * unit(query[:, row, column]) @ prototype for prototype in prototypes])
            weight = np.exp(d - d.max())
            out[row, column] = (weight * d).sum() / weight.sum()
    return out


def by_loops(query, supports, masks, config, training=False):
    """[background, foreground] scores of one organ; masks are on the grid."""
    compat = config.compat
    tau = config.tau if compat == "ours" and not training else config.training_tau
    window = config.training_window if training else config.window
    gate = window if compat == "ours" else config.training_window

    def opened(mask):
        return (
            max(mask[where].mean() for where in windows(*mask.shape, gate, compat)) >= config.foreground_share
        )

    def local(feature, mask):
        return local_prototypes(feature, mask, window, config.foreground_share, compat)

    ground = [
        prototype
        for feature, mask in zip(supports, masks, strict=True)
        for prototype in local_prototypes(feature, 1 - mask, window, config.background_share, compat)
    ]
    background = attended(query, ground or [unit(mean_of(supports, 1 - masks))], tau)
    pairs = list(zip(supports, masks, strict=True))
    means = [mean_of(feature[None], mask[None]) for feature, mask in pairs]
    if compat == "levayz":
        maps = [
            attended(query, (local(*pair) if opened(pair[1]) else []) + [unit(mean)], tau)
            for pair, mean in zip(pairs, means, strict=True)
        ]
        return np.stack([background, np.max(maps, axis=0)])
    is_open = any(opened(mask) for mask in masks)
    prototypes = [prototype for pair in pairs for prototype in local(*pair)] if is_open else []
    if compat == "ours":
        prototypes.append(unit(mean_of(supports, masks)))
    elif is_open:
        prototypes += [unit(mean) for mean in means]
    else:
        prototypes.append(unit(np.mean(means, axis=0)))
    return np.stack([background, attended(query, prototypes, tau)])


def drawn(seed=0, shots=1, rows=8, columns=8, width=6, pixels=PIXELS, blob=0.5):
    """Query and support features whose organ differs from the rest, and its masks on the image, float64."""
    random = np.random.default_rng(seed)
    masks = np.zeros((shots, rows * pixels, columns * pixels), bool)
    for mask in masks:
        high, wide = (max(1, int(blob * side * pixels)) for side in (rows, columns))
        top = random.integers(0, mask.shape[0] - high + 1)
        left = random.integers(0, mask.shape[1] - wide + 1)
        mask[top : top + high, left : left + wide] = True
    masks = torch.from_numpy(masks)
    inside = grid_mask(masks.double(), rows, columns)[:, None].numpy()
    kinds = random.normal(size=(2, width, 1, 1))
    supports = (
        inside * kinds[0] + (1 - inside) * kinds[1] + 0.7 * random.normal(size=(shots, width, rows, columns))
    )
    query = supports.mean(axis=0) + 0.3 * random.normal(size=(width, rows, columns))
    return torch.from_numpy(query), torch.from_numpy(supports), masks


def drawn_on_cells(seed=0, shots=1, rows=8, columns=8, **settings):
    """The same, with masks of whole 2 x 2 cells, on which all rules and both windows agree."""
    query, supports, _ = drawn(seed, shots, rows, columns, **settings)
    masks = torch.zeros(shots, rows, columns)
    for shot, mask in enumerate(masks):
        mask[0 : 4 + 4 * (shot % 2 == seed % 2), 4 * (shot % 2) : 4 + 4 * (shot % 2)] = 1
    return query, supports, masks.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)


@pytest.fixture(scope="session")
def alp_loops():
    """(query, supports, masks on the grid, config, training) -> [background, foreground] scores, by loops."""
    return by_loops


@pytest.fixture(scope="session")
def mean_loops():
    """(features, masks on the grid) -> masked mean, by loops."""
    return mean_of


@pytest.fixture(scope="session")
def draw_episode():
    return drawn


@pytest.fixture(scope="session")
def draw_on_cells():
    return drawn_on_cells


def draw_ellipse(seed: int = 0, slices: int = 3, height: int = 40, width: int = 40) -> Volume:
    """A bright ellipse with speckle on black."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = ((y - height / 2) / (0.4 * height)) ** 2 + ((x - width / 2) / (0.3 * width)) ** 2 < 1
    image = inside * random.uniform(80, 200, (slices, height, width))
    return Volume(f"s{seed}", image.astype(np.float32), None, (5.0, 1.0, 1.0), "mri", None)


@pytest.fixture(scope="session")
def ellipse_scan():
    return draw_ellipse
