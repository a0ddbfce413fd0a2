"""One PCA for all images, and their components as colors on one scale."""

import numpy as np
import pytest

from vetdino.downstream.ultrasound.experiments.components import components_to_rgb, fit_components
from vetdino.platform.core.errors import ConfigError


def test_components_are_those_of_a_singular_value_decomposition_of_all_patches():
    random = np.random.default_rng(0)
    images = [random.normal(size=(3, 4, 7)), random.normal(size=(2, 5, 7))]
    pca, components = fit_components(images)
    patches = np.concatenate([one.reshape(-1, 7) for one in images])
    _, values, rows = np.linalg.svd(patches - patches.mean(axis=0), full_matrices=False)
    assert pca.explained_variance_ratio_ == pytest.approx((values**2 / (values**2).sum())[:3])
    expected = (patches - patches.mean(axis=0)) @ rows[:3].T
    for axis in range(3):  # the sign of a component is arbitrary
        one = np.concatenate([part.reshape(-1, 3) for part in components])[:, axis]
        assert min(np.abs(one - expected[:, axis]).max(), np.abs(one + expected[:, axis]).max()) < 1e-9
    assert [part.shape for part in components] == [(3, 4, 3), (2, 5, 3)]


def test_too_few_patches_for_three_components_are_refused():
    with pytest.raises(ConfigError, match="2 patches of width 7"):
        fit_components([np.ones((1, 2, 7))])


def test_colors_are_on_one_scale_for_all_images():
    low, high = np.zeros((10, 10, 3)), np.ones((10, 10, 3))
    dark, light = components_to_rgb([low, high])
    assert (dark.dtype, dark.max(), light.min()) == (np.uint8, 0, 255)
    [flat] = components_to_rgb([low])
    assert not flat.any()
