"""Wrong labels on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.fewshot.audits.label_noise import with_label_noise


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_noisy_mask_keeps_its_area_and_loses_the_wanted_share(share):
    mask = np.zeros((40, 40), bool)
    mask[10:30, 12:28] = True
    noisy = with_label_noise(mask, share, np.random.default_rng(3))
    assert noisy.sum() == mask.sum()
    assert (mask & ~noisy).sum() == round(share * mask.sum())


def test_an_empty_mask_stays_empty_and_two_pixels_lose_one():
    assert not with_label_noise(np.zeros((4, 4), bool), 0.5, np.random.default_rng(3)).any()
    small = np.zeros((9, 9), bool)
    small[4, 4:6] = True
    assert (small & ~with_label_noise(small, 0.5, np.random.default_rng(0))).sum() == 1


def test_the_noise_depends_on_the_generator_only():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 12:28] = True
    one, same, other = (with_label_noise(mask, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
