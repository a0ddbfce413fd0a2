"""What is judged of folders, ports and the way to a Ray, on made-up facts."""

from __future__ import annotations

import pytest

from tests.infra.doctor.made_up import GIB, machine
from vetdino.infra.doctor.facts import RAY_FOLDER, FolderFacts, RayFacts
from vetdino.infra.doctor.places import place_findings

USES = {7860: "vetdino app and demo", 6379: "Ray's head"}


def folder(name: str = "--out", path: str = "/data/run", **changed) -> FolderFacts:
    facts = {"written": True, "existing": "/data", "total": 1000 * GIB, "free": 500 * GIB}
    return FolderFacts(name=name, path=path, **(facts | changed))


def found(**changed):
    return [finding for finding in place_findings(machine(**changed), USES) if finding.state != "ok"]


def test_nothing_is_wrong_with_good_places():
    shards = folder("--shards", "/data/shards", written=False, content="ab")
    facts = machine(folders=(folder(clock=(-0.01, 0.01)), shards))
    lines = [str(finding) for finding in place_findings(facts, USES)]
    assert lines == [
        "ok       --out /data/run: writable (/data; the rest will be made), 500 GiB free",
        "ok       --shards /data/shards: readable",
        "ok       ports: 7860, 6379 are free",
        "ok       Ray: none found; a training starts one on this machine",
    ]


@pytest.mark.parametrize(
    ("changed", "state", "what", "mend"),
    [
        ({"error": "Permission denied (/data)"}, "problem", "Permission denied", "choose another folder"),
        ({"error": "No such file", "written": False}, "problem", "No such file", "`vetdino ingest` wrote"),
        ({"error": "denied", "name": RAY_FOLDER}, "problem", "denied", "RAY_TMPDIR"),
        ({"free": 2**29}, "problem", "512 MiB free", "free some space"),
        ({"free": 9 * GIB}, "warning", "9 GiB free", "20 GiB or more"),
        ({"free": 30 * GIB, "name": RAY_FOLDER}, "problem", "97 % full", "RAY_TMPDIR"),
        ({"clock": (59.9, 60.1)}, "warning", "60.0 s (± 0.1 s) ahead of", "NTP"),
        ({"clock": (-9.0, -8.0)}, "warning", "8.5 s (± 0.5 s) behind", "NTP"),
    ],
)
def test_a_fault_of_a_folder_has_its_mend(changed, state, what, mend):
    [finding] = found(folders=(folder(**changed),))
    assert (finding.state, what in finding.what, mend in finding.mend) == (state, True, True)


def test_a_clock_that_may_be_right_is_not_complained_of():
    assert found(folders=(folder(clock=(-20.0, 1.0)),)) == []


def test_what_object_storage_refused_is_said_once():
    [finding] = found(folders=(folder(path="s3://b/run", error="access is denied; check the credentials"),))
    assert finding.mend == ""


def test_a_port_that_is_taken_is_named_with_who_wants_it():
    [finding] = found(ports={7860: True, 6379: False})
    assert (
        str(finding) == "warning  port 7860 (vetdino app and demo): taken; give that command another --port"
    )
    [finding] = found(ports={6379: True})
    assert "ss -ltnp" in finding.mend


def test_rays_port_is_rays_where_one_runs():
    assert found(ports={6379: True}, ray=RayFacts(local="10.0.0.1:6379", folder="/tmp/ray")) == []


@pytest.mark.parametrize(
    ("facts", "state", "what", "mend"),
    [
        ({"address": "head:6379", "answers": False}, "problem", "nothing answers there", "ray start --head"),
        (
            {"address": "http://head:8265", "answers": False},
            "problem",
            "does not answer",
            "correct RAY_ADDRESS",
        ),
        ({"folder": "/tmp/" + "x" * 60}, "problem", "too long for its sockets", "RAY_TMPDIR"),
        ({"address": "head:6379", "answers": True, "mode": "token"}, "problem", "no token", "RAY_AUTH_TOKEN"),
        ({"mode": "tokens"}, "problem", "RAY_AUTH_MODE is tokens", "token or disabled"),
        (
            {"address": "head:6379", "answers": True, "token": "~/.ray/auth_token"},
            "warning",
            "RAY_AUTH_MODE is not set",
            "export RAY_AUTH_MODE=token",
        ),
    ],
)
def test_a_fault_on_the_way_to_ray_has_its_mend(facts, state, what, mend):
    [finding] = found(ray=RayFacts(**({"folder": "/tmp/ray"} | facts)))
    assert (finding.state, what in finding.what, mend in finding.mend) == (state, True, True)


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"address": "head:6379", "answers": True}, "RAY_ADDRESS head:6379; --cluster asks its nodes"),
        ({"address": "http://head:8265", "answers": True}, "commands run here cannot use it"),
        ({"local": "10.0.0.1:6379"}, "one runs at 10.0.0.1:6379"),
        ({"mode": "token", "token": "RAY_AUTH_TOKEN"}, "a token is sent (RAY_AUTH_TOKEN)"),
    ],
)
def test_a_way_to_ray_is_described(facts, what):
    findings = list(place_findings(machine(ray=RayFacts(folder="/tmp/ray", **facts)), USES))
    assert {finding.state for finding in findings} == {"ok"}
    assert any(what in finding.what for finding in findings)


def test_a_missing_ray_is_left_to_its_extra():
    assert not [
        finding for finding in place_findings(machine(packages={}), USES) if finding.what.startswith("Ray")
    ]
