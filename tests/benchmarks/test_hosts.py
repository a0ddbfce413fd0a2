"""What the show of three hosts is made of, without hosts: addresses, commands, comparisons, its table."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from benchmarks.hosts import network as hosts_network
from benchmarks.hosts.__main__ import main, run_step
from benchmarks.hosts.network import HOSTS, OPERATOR, HostsError, names_file, network, setup_commands
from benchmarks.hosts.stack import (
    HEAD,
    Cluster,
    StepError,
    job_command,
    psycopg2_requirement,
    ray_command,
    wait_for,
)
from benchmarks.hosts.steps import INGEST, TRAIN, compared, last_json
from benchmarks.hosts.table import Claim, Table
from tests.infra.commands_in_files import settings_of


def test_hosts_have_addresses_and_names_of_their_own_in_one_network():
    addresses = [host.address for host in HOSTS]
    assert len({*addresses, OPERATOR}) == 4
    assert all(ip_address(address) in ip_network(f"{OPERATOR}/24", strict=False) for address in addresses)
    assert all(len(host.cable) <= 15 for host in HOSTS)  # the kernel's limit for a name
    assert names_file().splitlines()[1:] == [f"{host.address} {host.name}" for host in HOSTS]


def test_each_host_has_one_link_of_the_same_name_inside():
    commands = [" ".join(command) for command in setup_commands()]
    for host in HOSTS:
        assert f"link add {host.cable} type veth peer name eth0 netns {host.name}" in commands
        assert f"-n {host.name} address add {host.address}/24 dev eth0" in commands
        assert commands.index(f"netns add {host.name}") < commands.index(f"-n {host.name} link set eth0 up")


def test_a_command_runs_in_its_hosts_namespaces():
    words = HOSTS[1].command(["ray", "status"])
    assert words[:5] == ["ip", "netns", "exec", HOSTS[1].name, "unshare"]
    assert words[-3:] == [HOSTS[1].name, "ray", "status"]


def test_without_root_it_says_in_one_line_what_is_needed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hosts_network.os, "geteuid", lambda: 1000)
    with pytest.raises(HostsError, match="need root and the command `ip`"), network():
        pass
    assert main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_head_computes_nothing_and_the_others_join_it(tmp_path):
    head, worker = ray_command(HEAD, tmp_path), ray_command(HOSTS[1], tmp_path)
    assert "--head" in head
    assert head[head.index("--num-cpus") + 1] == "0"
    assert "--head" not in worker
    assert worker[worker.index("--address") + 1] == f"{HEAD.address}:6379"


def test_the_hosts_share_a_token_and_a_store_but_no_cache(tmp_path):
    cluster = Cluster(tmp_path, tmp_path)
    one, two = (cluster.environment(host) for host in HOSTS[1:])
    assert one.pop("VETDINO_CACHE") != two.pop("VETDINO_CACHE")
    assert one == two
    assert one["RAY_AUTH_MODE"] == "token"
    assert "PYTHONPATH" not in one  # vetdino comes with each job


def test_a_job_is_submitted_as_the_documentation_says():
    documented = "ray job submit --working-dir . -- python -m vetdino pretrain multi_view_s14 --workers 8"
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert documented in page
    command = job_command("http://head:8265", "name", documented.split(" -- python ")[1].split())
    extra = ["--address", "http://head:8265", "--submission-id", "name"]
    assert " ".join(word for word in command[1:] if word not in extra) == documented.removeprefix("ray ")


def test_the_training_can_lose_a_host_and_its_settings_are_ours():
    config = settings_of(" ".join(["vetdino", "pretrain", "demo", *TRAIN]))
    config.check()
    assert config.workers == 2
    assert config.restarts > 1
    assert "6000" in INGEST


def test_the_server_of_mlflow_has_the_locked_psycopg2():
    assert psycopg2_requirement().startswith("psycopg2-binary==2.")


@pytest.mark.parametrize(
    ("expected", "found", "text", "equal"),
    [
        ({}, {}, "0 files equal", False),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "2"}, "2 files equal", True),
        ({"a": "1", "b": "2"}, {"a": "1"}, "1 of 2 files differ (b)", False),
        ({"a": "1"}, {"a": "1", "c": "3"}, "1 of 2 files differ (c)", False),
    ],
)
def test_outputs_are_equal_when_no_file_is_missing_added_or_another(expected, found, text, equal):
    assert compared(expected, found, "host lost", 7) == (f"{text}; host lost; job 7 s", equal)


def test_the_answer_of_a_job_is_its_last_object():
    assert last_json('{"progress": 1}\n{"a": 2}\nJob succeeded {') == {"a": 2}


def test_the_table_is_written_with_each_claim_and_one_that_fails_is_not_overlooked(tmp_path, capsys):
    table = Table(tmp_path)
    assert not table.held
    table.add(Claim("embed", "equal", "61 files | all", True, 2.4))
    assert table.held

    def broken(cluster):
        yield "begun", "well", True
        raise StepError("nobody answers\nand more")

    with pytest.raises(StepError):
        run_step(broken, None, table)
    assert not table.held
    lines = (tmp_path / "hosts.md").read_text().splitlines()
    assert lines[2] == "| embed | equal | 61 files / all | yes | 2 |"
    assert lines[-1] == "| broken | the step comes to its end | nobody answers | NO | 0 |"
    content = json.loads((tmp_path / "hosts.json").read_text())
    assert (content["held"], [claim["held"] for claim in content["claims"]]) == (False, [True, True, False])
    assert capsys.readouterr().out.splitlines() == lines[2:]


def test_what_does_not_come_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr("benchmarks.hosts.stack.PATIENCE", 0.0)
    with pytest.raises(StepError, match="in vain for: the moon"):
        wait_for(lambda: False, "the moon")

    def refused():
        raise ConnectionRefusedError

    with pytest.raises(StepError, match="in vain for: an answer"):
        wait_for(refused, "an answer")
