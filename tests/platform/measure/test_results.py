"""Values of every metric, finding and source."""

from __future__ import annotations

import numpy as np
import pytest

from tests.platform.measure.scored import scored
from vetdino.platform.core.errors import FeaturesError
from vetdino.platform.measure.predictions import Predictions
from vetdino.platform.measure.results import metric_values


def predictions(seed, patients=None):
    truth_NF, _ = scored(80, 2)
    score_NF = np.random.default_rng(seed).normal(size=(80, 2)) + truth_NF * seed
    return Predictions(("mass", "stones"), tuple(patients or map(str, range(80))), truth_NF, score_NF)


def test_values_name_every_metric_finding_and_source_with_the_labels_they_rest_on():
    values = metric_values({"backbone": predictions(2), "random": predictions(0)}, n=100)
    named = {(one.metric, one.finding, one.source): one for one in values}
    assert len(named) == len(values) == 2 * 3 * 3
    gap = named["AUROC", "mass", "backbone - random"]
    alone = [named["AUROC", "mass", source].value for source in ("backbone", "random")]
    assert gap.value == pytest.approx(alone[0] - alone[1])
    assert gap.low > 0
    assert gap.present == predictions(0).truth[:, 0].sum()
    assert named["AP", "macro", "random"].known == 160


def test_sources_of_other_patients_or_without_findings_are_refused():
    with pytest.raises(FeaturesError, match="other studies"):
        metric_values({"backbone": predictions(1), "random": predictions(0, ["x"] * 80)})
    nothing = Predictions(
        (), ("p",), np.empty((1, 0)), np.empty((1, 0)), {"mass": "0 present and 5 absent in test"}
    )
    with pytest.raises(FeaturesError, match="mass: 0 present"):
        metric_values({"backbone": nothing})
