"""Example slices: those whose Dice changes most."""

from __future__ import annotations

import numpy as np

from vetdino.downstream.fewshot.audits.config import AuditConfig
from vetdino.downstream.fewshot.audits.examples import ExtremeExamples, SliceExample, slice_example
from vetdino.downstream.fewshot.audits.targets import audit_targets


def test_the_examples_kept_are_the_same_in_any_order():
    blank = np.zeros((2, 2))
    examples = [SliceExample(f"slice {n:02}", blank, blank, blank, blank, 0.5, n / 20) for n in range(21)]
    forward, backward = ExtremeExamples(), ExtremeExamples()
    for one, other in zip(examples, examples[::-1], strict=True):
        forward.add(one)
        backward.add(other)
    assert [one.title for one in forward.losses] == ["slice 00", "slice 01", "slice 02", "slice 03"]
    assert [one.title for one in forward.gains] == ["slice 20", "slice 19", "slice 18", "slice 17"]
    assert (forward.losses, forward.gains) == (backward.losses, backward.gains)


def test_a_lost_slice_is_a_loss_and_no_gain(scan, scans, small):
    volumes = scans(*map(scan, range(3)))
    [target] = next(audit_targets(volumes, AuditConfig(organs=(2,), **small), {}))
    example = slice_example(target, 2, target.truth[2], np.zeros((32, 32), bool))
    assert (example.before, example.after, example.title) == (1.0, 0.0, "right kidney, scan s0, slice 2")
    kept = ExtremeExamples()
    kept.add(example)
    assert (kept.losses, kept.gains) == ([example], [])


def test_a_slice_that_does_not_change_is_no_example():
    blank = np.zeros((2, 2))
    kept = ExtremeExamples()
    kept.add(SliceExample("same", blank, blank, blank, blank, 0.5, 0.5))
    assert (kept.losses, kept.gains) == ([], [])
