"""Every patch is a labeled point of the cloud."""

from __future__ import annotations

import json

import numpy as np

from vetdino.downstream.ultrasound.config import ScatterConfig
from vetdino.downstream.ultrasound.experiments.scatter import scatter


def test_scatter_labels_every_patch_and_its_page_fetches_nothing(domains, tiny, quick):
    result = scatter(domains, tiny, ScatterConfig(images=1, **quick))
    rows = result.tables["scatter"]
    assert len(rows) == sum(row["patches"] for row in result.tables["images"])
    assert all((row["label"] == f"bone of {row['domain']}") == (row["share"] >= 0.5) for row in rows)
    assert {row["label"] for row in rows} == {"other", "bone of arm", "bone of leg"}
    page = result.pages["scatter.html"]
    assert all(word not in page for word in ("http:", "https:", "src=", "import "))
    content = json.loads(page.split("const data = ")[1].split(";\n")[0])
    assert len(content["points"]) == len(rows)
    assert np.abs(content["points"]).max() <= 1
