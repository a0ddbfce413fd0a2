"""Noise is one field per image, scaled by the level, in the space of the settings."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import (
    NoiseConfig,
    SameDomainConfig,
)
from vetdino.downstream.ultrasound.experiments.noise import noise, noisy_input
from vetdino.downstream.ultrasound.experiments.same_domain import same_domain
from vetdino.downstream.ultrasound.method.comparison import ROWS
from vetdino.platform.core.errors import ConfigError


def test_noise_is_one_field_for_an_image_scaled_by_the_level(domains, tiny, quick):
    frame, config = domains[0].frames[0], NoiseConfig(**quick)
    clean, one, two = (noisy_input(frame, tiny, level, config)[0] for level in (0.0, 1.0, 2.0))
    assert np.allclose((two - clean).numpy(), 2 * (one - clean).numpy(), atol=1e-5)
    drawn = (one - clean).numpy()
    assert abs(drawn.mean()) < 0.1
    assert drawn.std() == pytest.approx(1, abs=0.05)
    other = (
        noisy_input(domains[0].frames[1], tiny, 1.0, config)[0]
        - noisy_input(domains[0].frames[1], tiny, 0.0, config)[0]
    )
    assert abs(np.corrcoef(drawn.ravel(), other.numpy().ravel())[0, 1]) < 0.1


def test_a_level_means_what_its_space_says(domains, tiny, quick):
    frame, std = domains[0].frames[0], tiny.card.std
    size = {}
    for space in ("normalised", "unit", "8bit"):
        config = NoiseConfig(space=space, **quick)
        size[space] = float(
            (noisy_input(frame, tiny, 1.0, config)[0] - noisy_input(frame, tiny, 0.0, config)[0]).std()
        )
    assert size["unit"] == pytest.approx(size["normalised"] / std, rel=1e-3)
    assert size["8bit"] == pytest.approx(size["unit"] / 255, rel=1e-2)


@pytest.mark.slow
def test_no_noise_is_the_same_domain_figure(domains, tiny, quick):
    result = noise(domains, tiny, NoiseConfig(images=3, levels=(0.0, 3.0), **quick))
    same = same_domain(domains, tiny, SameDomainConfig(sizes=(3,), **quick)).metrics
    for row in ROWS:
        assert result.metrics[f"noise/dice.arm.eps0.{row}"] == same[f"same-domain/dice.arm.n3.{row}"]
    assert result.metrics["noise/dice.arm.eps3.everything"] == same["same-domain/dice.arm.n3.everything"]
    assert set(result.pictures) == {"grid", "dice", "iou"}
    with pytest.raises(ConfigError, match="none below 0"):
        noise(domains, tiny, NoiseConfig(levels=(-1.0,)))
