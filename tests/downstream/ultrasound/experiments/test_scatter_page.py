"""Names in the page are text and never markup."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.ultrasound.experiments.scatter_page import PointCloud, scatter_page
from vetdino.downstream.ultrasound.figures import OTHER_COLOR


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "a<b>&\"c'"])
def test_names_in_the_page_are_words_and_never_markup(name):
    cloud = PointCloud(np.zeros((1, 3)), [name], [name], {name: "#0b62a8"})
    page = scatter_page(name, name, cloud)
    assert name not in page
    assert page.count("<script>") == 1
    assert page.count("</script>") == 1


def test_the_same_cloud_gives_the_same_page():
    points = np.random.default_rng(0).normal(size=(20, 3))
    cloud = PointCloud(points, ["other"] * 20, ["w"] * 20, {"other": OTHER_COLOR})
    assert scatter_page("T", "N", cloud) == scatter_page("T", "N", cloud)
