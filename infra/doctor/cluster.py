"""The facts of every node of a Ray cluster, and how the nodes differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import facts as facts_module
from . import gather as gather_module
from .facts import Inquiry, MachineFacts
from .findings import Finding, guarded, size
from .gather import gathered, now
from .machine import machine_findings
from .places import CLOCK_S, folder_findings, offset_text
from .software import Wanted, dependencies
from .urls import all_url_facts

NODE_S = 90.0
"""Seconds in which a node answers, the start of its process and the import of torch included."""

ROUND_TRIPS = 5

SIGNED_S = 900.0
"""Seconds by which S3 lets the clock of a signature differ."""

SAME = ("python", "vetdino", "ray", "torch")
"""What has to be the same everywhere: workers exchange pickled objects, and a training one gradient."""


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node found. clock: bounds of what its clock is ahead of this machine's, in seconds."""

    name: str
    facts: MachineFacts | None
    clock: tuple[float, float] | None = None
    failure: str = ""


def ask_nodes(
    inquiry: Inquiry, urls: Sequence[tuple[str, str, bool]], seconds: float = NODE_S
) -> list[NodeAnswer]:
    """The answer of each living node of the Ray that this process is connected to, in the order of their addresses.

    urls: setting, URL, whether it is written; tried on each node that has vetdino.
    """
    import ray
    from ray import cloudpickle

    # By value: a node that lacks vetdino shall be able to say so.
    shared = (facts_module, gather_module)
    for module in shared:
        cloudpickle.register_pickle_by_value(module)
    try:
        alive = [node for node in ray.nodes() if node["Alive"]]
        alive.sort(key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
        nodes = {name: node["NodeID"] for name, node in zip(node_names(alive), alive, strict=True)}
        first = {name: _on_node(gathered, node, inquiry) for name, node in nodes.items()}
        ray.wait(list(first.values()), num_returns=len(first), timeout=seconds)
        answers = [_node_answer(name, first[name], node, seconds) for name, node in nodes.items()]
        return [_with_urls(answer, nodes[answer.name], urls, seconds) for answer in answers]
    finally:
        for module in shared:
            cloudpickle.unregister_pickle_by_value(module)


def node_names(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each node of `ray.nodes()`: host and address, with the start of its id where they are not enough."""
    names = [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes]
    return [
        name if names.count(name) == 1 else f"{name[:-1]}, {node['NodeID'][:8]})"
        for name, node in zip(names, nodes, strict=True)
    ]


def _on_node(function: Callable[..., Any], node: str, *arguments: Any) -> Any:
    """The reference of a call on a node, which takes no core, so that a busy node answers, too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        ray.remote(function)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            # Without it Ray hides the GPUs from what asks for none.
            runtime_env={"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}},
        )
        .remote(*arguments)
    )


def _node_answer(name: str, reference: Any, node: str, seconds: float) -> NodeAnswer:
    import ray
    from pydantic import TypeAdapter

    try:
        values = ray.get(reference, timeout=0.1)
        facts = TypeAdapter(MachineFacts).validate_python(values)
        return NodeAnswer(name, facts, _clock_bounds(node, seconds))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(reference, force=True)
        return NodeAnswer(name, None, failure=f"no answer within {seconds:g} s")
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return NodeAnswer(name, None, failure=lines[-1])


def _clock_bounds(node: str, seconds: float) -> tuple[float, float]:
    """What all round trips agree on: the node reads its clock between the call and the answer."""
    import ray

    low, high = float("-inf"), float("inf")
    for _ in range(ROUND_TRIPS):
        sent = time.time()
        there = ray.get(_on_node(now, node), timeout=seconds)
        answered = time.time()
        low, high = max(low, there - answered), min(high, there - sent)
    return low, high


def _with_urls(
    answer: NodeAnswer, node: str, urls: Sequence[tuple[str, str, bool]], seconds: float
) -> NodeAnswer:
    import ray

    if answer.facts is None or not answer.facts.vetdino or not urls:
        return answer
    try:
        found = ray.get(_on_node(all_url_facts, node, urls), timeout=seconds)
    except Exception as error:
        failures = answer.facts.failures | {"URLs": f"{type(error).__name__}: {str(error).strip()[-200:]}"}
        return replace(answer, facts=replace(answer.facts, failures=failures))
    return replace(answer, facts=replace(answer.facts, folders=(*answer.facts.folders, *found)))


def node_findings(here: MachineFacts, answers: Sequence[NodeAnswer], wanted: Wanted) -> Iterator[Finding]:
    """What is wrong on single nodes, and what differs between them. here: the machine that runs the command."""
    known = {str(finding) for finding in machine_findings(here)}
    for answer in answers:
        place = f"node {answer.name}"
        if answer.facts is None:
            mend = "look at it with `ray status` and in its log (raylet.out); end it where it stays away"
            yield Finding("problem", f"{place}: {answer.failure}", mend)
            continue
        yield Finding("ok", f"{place}: {_summary(answer.facts)}")
        theirs = [
            *guarded("machine", lambda facts=answer.facts: machine_findings(facts)),  # type: ignore[misc]
            *guarded("packages", lambda facts=answer.facts: dependencies(facts.packages, wanted)),  # type: ignore[misc]
            *_folders_there(here, answer.facts),
            *_clock_there(answer),
            *(Finding("warning", f"{name}: {why}") for name, why in answer.facts.failures.items()),
        ]
        is_here = answer.facts.host == here.host
        for finding in theirs:
            if finding.state != "ok" and not (is_here and str(finding) in known):
                yield finding.at(place)
    whole = {"here": here} | {answer.name: answer.facts for answer in answers if answer.facts}
    yield from differences(whole, wanted)
    clocks = [answer.clock for answer in answers if answer.clock]
    if clocks:
        furthest = max(max(abs(low), abs(high)) for low, high in clocks)
        if furthest <= CLOCK_S:
            yield Finding(
                "ok", f"clocks: within {furthest:.3f} s of this machine's on all nodes that answered"
            )


def _summary(facts: MachineFacts) -> str:
    gpus = facts.cuda.gpus if facts.cuda else ()
    parts = [f"{gpus.count(gpu)} x {gpu.name}" for gpu in dict.fromkeys(gpus)]
    parts += (
        [f"{facts.usable_cores:g} core{'s' * (facts.usable_cores != 1)}"]
        if facts.usable_cores is not None
        else []
    )
    parts += [size(min(facts.memory, facts.memory_limit or facts.memory))] if facts.memory else []
    return ", ".join(parts) or "answers"


def _folders_there(here: MachineFacts, facts: MachineFacts) -> Iterator[Finding]:
    """Are the folders those of this machine, and can they be used there?"""
    ours = {(folder.name, folder.path): folder for folder in here.folders}
    shared = "must be on a disk that all nodes share, under the same path, or at a URL"
    for folder in facts.folders:
        name, mine = f"{folder.name} {folder.path}", ours.get((folder.name, folder.path))
        if folder.marked is False and folder.written and folder.name.startswith("--"):
            yield Finding("problem", f"{name}: is another folder than here", f"it {shared}")
        elif mine and mine.content and folder.content and mine.content != folder.content:
            yield Finding("problem", f"{name}: other shards than here", f"it {shared}")
        elif folder.error and mine and not mine.error and not folder.written:
            yield Finding("problem", f"{name}: {folder.error}", f"it {shared}")
        else:
            yield from folder_findings(folder)


def _clock_there(answer: NodeAnswer) -> Iterator[Finding]:
    if answer.clock is None:
        return
    low, high = answer.clock
    least = max(low, -high, 0.0)
    if least > CLOCK_S:
        yield Finding(
            "problem" if least > SIGNED_S else "warning",
            f"clock: {offset_text(low, high)} this machine's",
            "set both (NTP: `timedatectl set-ntp true`)",
        )


def differences(machines: dict[str, MachineFacts], wanted: Wanted) -> Iterator[Finding]:
    """Versions and GPUs that are not the same on all machines. machines: name -> facts."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    rows = {"python": {name: facts.python for name, facts in machines.items()}}
    rows["vetdino"] = {name: facts.vetdino for name, facts in machines.items()}
    listed = (*wanted.base, *(text for extra in wanted.extras.values() for text in extra))
    for package in dict.fromkeys(canonicalize_name(Requirement(text).name) for text in listed):
        rows[package] = {name: facts.packages.get(package, "") for name, facts in machines.items()}
    count = 0
    for what, versions in rows.items():
        if len(set(versions.values())) == 1:
            continue
        count += 1
        if what == "vetdino" and len({version for version in versions.values() if version}) == 1:
            yield Finding(
                "warning",
                f"vetdino is not on {_names(name for name, version in versions.items() if not version)}",
                "start commands as jobs, which bring it: `vetdino submit COMMAND …`",
            )
            continue
        yield Finding(
            "problem" if what in SAME else "warning",
            f"{what} differs: {_grouped(versions)}",
            "install one version on all nodes, as from requirements.lock or one image",
        )
    if not count:
        yield Finding("ok", f"versions: the same Python, vetdino and {len(rows) - 2} packages on all nodes")
    kinds = {
        name: ", ".join(dict.fromkeys(gpu.name for gpu in facts.cuda.gpus))
        for name, facts in machines.items()
        if facts.cuda and facts.cuda.gpus
    }
    if len(set(kinds.values())) > 1:
        yield Finding(
            "warning",
            f"GPUs differ: {_grouped(kinds)}",
            "train on nodes of one kind; steps wait for the slowest",
        )


def _grouped(values: dict[str, str]) -> str:
    """Each value with the machines that have it."""
    return "; ".join(
        f"{value or 'missing'} on {_names(name for name, other in values.items() if other == value)}"
        for value in dict.fromkeys(values.values())
    )


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{', '.join(listed[:3])}{more}"
