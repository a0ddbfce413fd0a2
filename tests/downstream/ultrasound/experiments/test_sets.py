"""Sets are scored by domain, and collected into tables and metrics under the experiment's name."""

import numpy as np
import pytest

from vetdino.downstream.ultrasound.config import ZeroshotConfig
from vetdino.downstream.ultrasound.experiments.sets import SetResults, by_place, examples_figure, summary_bar
from vetdino.downstream.ultrasound.frames import Frame
from vetdino.downstream.ultrasound.method.comparison import SetMasks


def frames_and_masks(names=("arm", "leg")):
    """A frame of each domain, and masks of two rows: the truth in `cosegment`, its opposite in `random`."""
    truth = np.zeros((4, 6), bool)
    truth[:, :3] = True
    frames = [Frame("0", name, np.zeros((4, 6), np.uint8), truth) for name in names]
    return frames, SetMasks(
        {"cosegment": (truth,) * len(names), "random": (~truth,) * len(names)}, 3, 1, "bone", ("odd",)
    )


def test_nothing_added_is_an_empty_result():
    outcome = SetResults(ZeroshotConfig()).outcome("noise", {}, {})
    assert outcome.metrics == {}
    assert outcome.tables == {"images": [], "summary": []}


def test_a_set_of_two_domains_is_scored_by_domain_under_its_part():
    results = SetResults(ZeroshotConfig())
    frames, set_masks = frames_and_masks()
    results.add("arm + leg", "", frames, set_masks, {"arm": "with leg", "leg": "with arm"})
    outcome = results.outcome("cross-domain", {}, {"foot": "no masks"}, metrics={"more": 1.0})
    assert outcome.metrics["cross-domain/dice.arm.with_leg.cosegment"] == 1
    assert outcome.metrics["cross-domain/iou.leg.with_arm.random"] == 0
    assert outcome.metrics["cross-domain/more"] == 1
    assert np.isnan(outcome.metrics["cross-domain/dice.arm.with_leg.cosegment.low"])
    assert outcome.facts["sets"]["arm + leg"] == {
        "images": ["arm/0", "leg/0"],
        "clusters": 3,
        "foreground": 1,
        "saliency": "bone",
    }
    assert outcome.warnings == ("arm + leg: odd",)
    assert outcome.left_out == {"foot": "no masks"}


@pytest.mark.parametrize(("part", "pale"), [("alone", True), ("with leg", False)])
def test_the_bar_of_a_row_carries_the_other_rows_as_markers(part, pale):
    results = SetResults(ZeroshotConfig())
    results.add("arm", part, *frames_and_masks(["arm"]))
    summaries = by_place(results.summaries)
    bar = summary_bar(summaries["arm", part, "cosegment"], summaries, "dice", "group")
    assert (bar.value, bar.std, bar.marks, bar.pale) == (1, 0, {"random": 0}, pale)


def test_examples_are_a_readable_picture(png_pixels):
    assert png_pixels(examples_figure("Title", {"both": frames_and_masks()})).shape[1] > 300
