"""Bad steps are counted, in all and in a row, across records and a resume."""

from __future__ import annotations

import json

from vetdino.pretrain.bad_steps import BadSteps, too_many_bad_steps


def test_steps_that_are_not_bad_are_not_counted():
    bad = BadSteps(limit=1)
    assert bad.count(0, []) == []
    assert bad.count(0, [0.0, 0.0]) == []
    assert (bad.total, bad.in_a_row, bad.too_many) == (0, 0, False)


def test_bad_steps_are_counted_in_a_row_over_records():
    bad = BadSteps(limit=3)
    assert bad.count(10, [1.0, 0.0, 1.0, 1.0]) == [10, 12, 13]
    assert not bad.too_many
    assert bad.count(14, [1.0, 0.0, 0.0]) == [14]
    # It was so within the record, whatever came after it.
    assert bad.too_many
    assert (bad.total, bad.in_a_row) == (4, 0)


def test_a_resumed_count_goes_on_where_it_stood():
    bad, later = BadSteps(limit=3), BadSteps(limit=3)
    bad.count(0, [1.0, 0.0, 1.0, 1.0])
    later.load(json.loads(json.dumps(bad.state())))
    for count in (bad, later):
        count.count(4, [1.0])
    assert later.state() == bad.state()
    assert later.too_many


def test_the_error_names_the_command_that_computes_it_again(run_config):
    said = str(too_many_bad_steps(run_config, 12, 5))
    assert said.startswith("step 12: the loss or a gradient was not finite for 5 steps in a row")
    assert f"`vetdino replay {run_config.out} --step 12`" in said
