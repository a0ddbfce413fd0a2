"""A finding is one line, and a check that fails is one, too."""

from __future__ import annotations

from vetdino.infra.doctor.findings import Finding, guarded


def test_a_finding_is_one_line_of_state_fact_and_mend():
    assert str(Finding("warning", "memory: 4\nGiB", "buy\n more")) == "warning  memory: 4 GiB; buy more"
    assert str(Finding("ok", "cores: 8")) == "ok       cores: 8"


def test_a_finding_can_name_its_machine():
    assert str(Finding("ok", "cores: 8").at("node a")) == "ok       node a: cores: 8"


def test_a_check_that_fails_keeps_what_it_found_and_says_so():
    def check():
        yield Finding("ok", "first")
        raise ZeroDivisionError("by zero")

    first, second = guarded("memory", check)
    assert first == Finding("ok", "first")
    assert (second.state, second.what) == (
        "warning",
        "memory: the check failed itself (ZeroDivisionError: by zero)",
    )
