"""What is judged of installed packages."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

import vetdino
from tests.infra.doctor.made_up import machine
from vetdino.infra.doctor import software
from vetdino.infra.doctor.software import NEEDED_BY, Wanted, pinned, software_findings, wanted

ROOT = Path(vetdino.__file__).resolve().parent

SMALL = Wanted(
    base=("torch>=2.11", "numpy"),
    extras={"train": ("ray[train,data]>=2.60", "deepspeed>=0.19.8,<0.20"), "ocr": ("rapidocr>=3.9",)},
    python=">=3.11",
    lock={"torch": "2.14.1", "ray": "2.60.0", "numpy": "2.4"},
)
WHOLE = {"torch": "2.14.1+cu130", "numpy": "2.4", "ray": "2.60.0", "deepspeed": "0.19.9", "rapidocr": "3.9"}


def lines(packages, requirement=SMALL, **changed):
    facts = machine(packages=packages, **changed)
    return [str(finding) for finding in software_findings(facts, requirement)]


def test_a_whole_installation_is_compared_with_the_lock():
    assert lines(WHOLE) == [
        "ok       Python 3.11.7, vetdino 0.1.0",
        "ok       packages: all 2 that vetdino needs, none older than it needs",
        "ok       extras: train, ocr",
        "ok       versions: all 3 packages as in requirements.lock",
    ]


def test_without_a_lock_that_is_said():
    wheel = Wanted(base=SMALL.base, extras=SMALL.extras, python=SMALL.python, lock=None)
    assert lines(WHOLE, wheel)[-1].endswith("the wheel's lower bounds; only a checkout has a lock file")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"torch": None}, "problem  packages: torch missing; pip install 'torch>=2.11'"),
        ({"torch": "2.9"}, "problem  packages: torch 2.9 (needs >=2.11); pip install 'torch>=2.11'"),
        (
            {"rapidocr": None},
            "warning  extra ocr: rapidocr missing, without which ingest's search for text in pixels cannot be "
            "used; pip install 'vetdino[ocr]'",
        ),
        (
            {"deepspeed": "0.20.1"},
            "problem  extra train: deepspeed 0.20.1 (needs <0.20,>=0.19.8); pip install 'vetdino[train]'",
        ),
        (
            {"numpy": "2.3"},
            "warning  versions: 1 of 3 packages are not those of requirements.lock: numpy 2.3 (lock: 2.4); "
            "pip install --require-hashes -r requirements.lock",
        ),
    ],
)
def test_each_fault_has_its_mend(changed, line):
    packages = {name: version for name, version in (WHOLE | changed).items() if version}
    assert line in lines(packages)


def test_an_old_python_is_a_problem():
    assert "problem  Python 3.10.4: vetdino needs >=3.11; install that Python" in lines(
        WHOLE, python="3.10.4"
    )


def test_packages_that_could_not_be_listed_are_not_called_missing():
    assert len(lines({}, failures={"packages": "OSError"})) == 1


def test_the_checkout_and_the_installed_metadata_ask_for_the_same_extras(tmp_path, monkeypatch):
    checkout = wanted(ROOT)
    assert checkout.lock is not None
    assert checkout.lock["torch"] == "2.14.1"
    assert set(checkout.extras) == set(NEEDED_BY)
    file = tmp_path / "vetdino-9.dist-info" / "METADATA"
    file.parent.mkdir()
    texts = [f"Requires-Dist: {text}" for text in checkout.base]
    texts += [
        f'Requires-Dist: {text}; extra == "{name}"' for name, all_ in checkout.extras.items() for text in all_
    ]
    file.write_text("\n".join(["Name: vetdino", "Version: 9", "Requires-Python: >=3.11", *texts]))
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(file.parent))
    wheel = wanted(tmp_path)
    assert wheel.lock is None
    assert (len(wheel.base), wheel.python) == (len(checkout.base), checkout.python)
    assert {name: len(texts) for name, texts in wheel.extras.items()} == {
        name: len(texts) for name, texts in checkout.extras.items()
    }
    assert software.unmet(wheel.base, {}) == software.unmet(checkout.base, {})


def test_a_lock_is_read_whole():
    pins = pinned((ROOT / "requirements.lock").read_text())
    assert len(pins) > 200
    assert all(name == name.lower() for name in pins)
