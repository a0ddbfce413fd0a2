"""Facts go over to another machine and come back the same."""

from __future__ import annotations

import json
from dataclasses import asdict

from pydantic import TypeAdapter

from tests.infra.doctor.made_up import machine
from vetdino.infra.doctor.facts import FolderFacts, MachineFacts


def test_of_a_machine_nothing_is_known():
    assert MachineFacts().cuda is None
    assert MachineFacts().packages == {}


def test_facts_are_plain_values():
    folder = FolderFacts(name="--out", path="/data", written=True, clock=(-0.1, 0.1), marked=True)
    facts = machine(folders=(folder,), failures={"Ray": "OSError: gone"})
    assert TypeAdapter(MachineFacts).validate_python(asdict(facts)) == facts
    assert TypeAdapter(MachineFacts).validate_json(json.dumps(asdict(facts))) == facts
