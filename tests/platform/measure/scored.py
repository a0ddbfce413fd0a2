"""Truth and scores that the tests of metrics share."""

from __future__ import annotations

import numpy as np


def scored(items=120, findings=3, seed=0, decimals=1):
    """Truth, and scores that know a little of it, with many ties."""
    random = np.random.default_rng(seed)
    truth_NF = (random.random((items, findings)) < 0.3).astype(float)
    return truth_NF, np.round(random.normal(size=truth_NF.shape) + truth_NF, decimals)
