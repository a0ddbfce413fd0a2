"""Judgements of what is installed: Python, vetdino's dependencies, its extras, the lock file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .facts import MachineFacts
from .findings import Finding

ROOT = Path(__file__).resolve().parents[2]
"""Of the package; in a checkout `pyproject.toml` and `requirements.lock` are there."""

LISTED = 5
"""Packages that one line names."""

NEEDED_BY = {
    "train": "pretrain, distill, fine-tuning, work on Ray, records in MLflow",
    "serve": "serve and app",
    "s3": "URLs of object storage (s3://)",
    "ocr": "ingest's search for text in pixels",
}
"""Extra that users install -> what fails without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What vetdino asks of an installation, as texts of requirements (`torch>=2.11`)."""

    base: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]
    python: str
    """As `>=3.11`."""
    lock: dict[str, str] | None
    """Package -> exact version; None where no `requirements.lock` is at hand, as in a wheel."""


def wanted(root: Path = ROOT) -> Wanted:
    """From `pyproject.toml` and `requirements.lock` of a checkout, else from the wheel's metadata.

    Raises PackageNotFoundError where there is neither.
    """
    project = root / "pyproject.toml"
    if project.is_file():
        settings = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        optional = settings["optional-dependencies"]
        base, python = settings["dependencies"], settings["requires-python"]
        extras = {name: tuple(optional[name]) for name in NEEDED_BY}
        lock = root / "requirements.lock"
        pins = pinned(lock.read_text(encoding="utf-8")) if lock.is_file() else None
        return Wanted(base=tuple(base), extras=extras, python=python, lock=pins)
    from packaging.requirements import Requirement

    distribution = metadata.distribution("vetdino")
    requires = [(text, Requirement(text)) for text in distribution.requires or ()]
    return Wanted(
        base=tuple(
            text for text, one in requires if one.marker is None or one.marker.evaluate({"extra": ""})
        ),
        extras={
            name: tuple(
                text
                for text, one in requires
                if one.marker
                and one.marker.evaluate({"extra": name})
                and not one.marker.evaluate({"extra": ""})
            )
            for name in NEEDED_BY
        },
        python=distribution.metadata["Requires-Python"] or "",
        lock=None,
    )


def pinned(text: str) -> dict[str, str]:
    """Package -> version of a lock file.

    >>> pinned("torch==2.14.1 \\\\\\n    --hash=sha256:00\\nray[data]==2.60.0 ; python_version > '3'")
    {'torch': '2.14.1', 'ray': '2.60.0'}
    """
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def software_findings(facts: MachineFacts, wanted: Wanted) -> Iterator[Finding]:
    """All judgements of this module."""
    from packaging.specifiers import SpecifierSet

    if facts.python and not SpecifierSet(wanted.python).contains(facts.python, prereleases=True):
        yield Finding(
            "problem", f"Python {facts.python}: vetdino needs {wanted.python}", "install that Python"
        )
    elif facts.python:
        yield Finding(
            "ok", f"Python {facts.python}" + (f", vetdino {facts.vetdino}" if facts.vetdino else "")
        )
    if "packages" not in facts.failures:
        yield from dependencies(facts.packages, wanted)
        yield from extras(facts.packages, wanted)
        yield from against_lock(facts.packages, wanted.lock)


def dependencies(installed: dict[str, str], wanted: Wanted) -> Iterator[Finding]:
    """Are vetdino's own requirements met?"""
    missing, unfit = unmet(wanted.base, installed)
    if missing:
        yield Finding(
            "problem", f"packages: {_listed(missing)} missing", f"pip install {_quoted(wanted.base, missing)}"
        )
    if unfit:
        names = [text.partition(" ")[0] for text in unfit]
        yield Finding("problem", f"packages: {_listed(unfit)}", f"pip install {_quoted(wanted.base, names)}")
    if not missing and not unfit:
        yield Finding("ok", f"packages: all {len(wanted.base)} that vetdino needs, none older than it needs")


def extras(installed: dict[str, str], wanted: Wanted) -> Iterator[Finding]:
    """Which extras are there, and what cannot be done without the others?"""
    whole = []
    for name, requirements in wanted.extras.items():
        missing, unfit = unmet(requirements, installed)
        mend = f"pip install 'vetdino[{name}]'"
        if unfit:
            yield Finding("problem", f"extra {name}: {_listed(unfit)}", mend)
        if missing:
            yield Finding(
                "warning",
                f"extra {name}: {_listed(missing)} missing, without which {NEEDED_BY[name]} cannot be used",
                mend,
            )
        if not missing and not unfit:
            whole.append(name)
    if whole:
        yield Finding("ok", f"extras: {', '.join(whole)}")


def against_lock(installed: dict[str, str], lock: dict[str, str] | None) -> Iterator[Finding]:
    """Which installed packages have another version than the lock file's, with which vetdino was tested?"""
    if lock is None:
        yield Finding(
            "ok", "versions: compared with the wheel's lower bounds; only a checkout has a lock file"
        )
        return
    from packaging.version import Version

    both = sorted(set(installed) & set(lock))
    # torch 2.14.1+cu130 is 2.14.1 for another CUDA.
    other = [
        f"{name} {installed[name]} (lock: {lock[name]})"
        for name in both
        if Version(installed[name]).public != Version(lock[name]).public
    ]
    if other:
        yield Finding(
            "warning",
            f"versions: {len(other)} of {len(both)} packages are not those of requirements.lock: {_listed(other)}",
            "pip install --require-hashes -r requirements.lock",
        )
    else:
        yield Finding("ok", f"versions: all {len(both)} packages as in requirements.lock")


def unmet(requirements: Iterable[str], installed: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names of packages that are missing, and `NAME VERSION (needs SPECIFIER)` of those with an unfit version."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    missing, unfit = [], []
    for one in map(Requirement, requirements):
        version = installed.get(canonicalize_name(one.name))
        if version is None:
            missing.append(one.name)
        elif not one.specifier.contains(version, prereleases=True):
            unfit.append(f"{one.name} {version} (needs {one.specifier})")
    return list(dict.fromkeys(missing)), list(dict.fromkeys(unfit))


def _quoted(requirements: Iterable[str], names: Iterable[str]) -> str:
    """The requirements of these packages as arguments of pip."""
    from packaging.requirements import Requirement

    texts = {one.name: f"'{one.name}{one.specifier}'" for one in map(Requirement, requirements)}
    return " ".join(texts[name] for name in names)


def _listed(texts: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return f"{', '.join(texts[:LISTED])}{more}"
