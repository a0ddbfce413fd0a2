"""Made-up sets of images as arrays: a disc that attention looks at, in front of the rest."""

import numpy as np
import pytest


def make_disc(rows, columns, at, radius):
    row_R1, column_1C = np.ogrid[:rows, :columns]
    return (row_R1 - at[0]) ** 2 + (column_1C - at[1]) ** 2 <= radius**2


@pytest.fixture(scope="session")
def disc():
    """`make_disc`: (rows, columns) bool, True within a radius of a point."""
    return make_disc


@pytest.fixture(scope="session")
def scene():
    """A function: (descriptors, attention, truths) of images of two kinds of patches; grids differ."""

    def make_scene(count=4, seed=0, noise=0.3, heads=3):
        random = np.random.default_rng(seed)
        thing_D, rest_D = random.normal(size=(2, 12))
        descriptors, attention, truths = [], [], []
        for image in range(count):
            rows, columns = 9 + image % 2, 12
            truth = make_disc(rows, columns, random.uniform(3, 6, 2), 2.5)
            clean_RCD = np.where(truth[:, :, None], thing_D, rest_D)
            descriptors.append((clean_RCD + noise * random.normal(size=clean_RCD.shape)).astype(np.float32))
            attention.append((0.01 + 0.05 * truth + 0.005 * random.random((heads, rows, columns))) / 4)
            truths.append(truth)
        return descriptors, attention, truths

    return make_scene
