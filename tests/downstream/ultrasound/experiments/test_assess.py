"""Every facet of every block is assessed, and attention has an AUC where there is truth."""

from __future__ import annotations

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import AssessConfig
from vetdino.downstream.ultrasound.experiments.assess import assess, attention_auc
from vetdino.downstream.ultrasound.method.masks import Coverage, patch_shares
from vetdino.platform.core.errors import ConfigError


def test_shares_that_round_to_1_have_an_auc():
    # OpenCV's weights sum to 1.0000002 here, so what lies outside would weigh less than nothing.
    mask = np.zeros((515, 518), bool)
    mask[:300] = True
    share = patch_shares(mask, (55, 55), Coverage(515, 518))
    attention = np.random.default_rng(0).random((55, 55))
    assert 0 < attention_auc(attention, share) < 1


def test_attention_on_the_truth_has_an_auc_of_1_and_halves_count_by_half():
    attention = np.array([[0.1, 0.2], [0.8, 0.9]])
    assert attention_auc(attention, np.array([[0, 0], [1, 1]])) == 1
    assert attention_auc(attention, np.array([[1, 1], [0, 0]])) == 0
    share = np.array([[0.5, 0], [1, 0.25]])
    pixels = np.repeat(attention.ravel(), 4)
    truth = np.concatenate([np.arange(4) < 4 * part for part in share.ravel()])
    above = (pixels[truth][:, None] > pixels[~truth]) + 0.5 * (pixels[truth][:, None] == pixels[~truth])
    assert attention_auc(attention, share) == pytest.approx(above.mean())
    assert attention_auc(attention, None) is None
    assert attention_auc(attention, np.zeros((2, 2))) is None


@pytest.mark.slow
def test_assess_covers_every_facet_of_every_block(domains, tiny, quick):
    result = assess(domains, tiny, AssessConfig(**quick))
    rows = result.tables["variance"]
    assert {(row["facet"], row["block"]) for row in rows if row["row"] == "random"} == {
        (kind, block) for kind in ("query", "key", "value", "token") for block in (1, 2)
    }
    assert all(0 < result.metrics[name] <= 1 for name in result.metrics if name.startswith("assess/variance"))
    assert {
        f"assess/auc.{name}.block2.{row}" for name in ("arm", "leg") for row in ("backbone", "random")
    } <= set(result.metrics)
    assert {"components_key", "components_token", "attention", "attention_auc", "variance"} <= set(
        result.pictures
    )


@pytest.mark.slow
def test_buddies_are_part_of_the_result_only_where_the_settings_draw_some(domains, tiny, quick):
    parts = {}
    for count in (0, 2):
        result = assess(domains, tiny, AssessConfig(buddies=count, **quick))
        parts[count] = {name for part in (result.metrics, result.tables, result.pictures) for name in part}
    assert not any("buddies" in name for name in parts[0])
    assert {"buddies", "assess/buddies.arm.with_leg.random"} <= parts[2]


def test_a_negative_number_of_buddies_is_refused(domains, tiny, quick):
    with pytest.raises(ConfigError, match="buddies -1"):
        assess(domains, tiny, AssessConfig(buddies=-1, **quick))
