"""Every config class of the house: light to import, documented, and the same after a journey through JSON."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vetdino
from vetdino.infra.settings import settings
from vetdino.platform.core.config import from_json, to_json
from vetdino.platform.core.errors import ConfigError

ROOT = Path(vetdino.__file__).resolve().parent
ROOMS = ("platform", "pretrain", "downstream", "serving", "infra")
MODULES = sorted(
    ".".join(("vetdino", *path.relative_to(ROOT).with_suffix("").parts))
    for room in ROOMS
    for path in (ROOT / room).rglob("config.py")
    if path.parent.name != "core"
)
HEAVY = ("torch", "timm", "ray", "mlflow", "numpy", "pandas", "scipy", "sklearn", "cv2", "pydicom", "nibabel")


def classes() -> dict[str, type]:
    """Name -> each dataclass that a `config.py` defines."""
    found = {}
    for name in MODULES:
        for value in vars(import_module(name)).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == name:
                found[value.__name__] = value
    return found


CLASSES = classes()
WITH_DEFAULTS = [name for name, cls in CLASSES.items() if all(s.default is not None for s in settings(cls))]


def test_there_are_configs_in_every_room():
    assert {name.split(".")[1] for name in MODULES} == set(ROOMS)
    assert len(WITH_DEFAULTS) > 25


def test_no_config_waits_for_a_heavy_library():
    program = (
        "import json, sys; from importlib import import_module\n"
        f"[import_module(name) for name in {MODULES!r}]\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", CLASSES)
def test_every_setting_is_documented(name):
    assert CLASSES[name].__doc__
    assert [setting.path for setting in settings(CLASSES[name]) if not setting.meaning] == []


@pytest.mark.parametrize("name", WITH_DEFAULTS)
def test_a_config_is_the_same_after_json(name):
    config = CLASSES[name]()
    assert from_json(CLASSES[name], to_json(config)) == config


@pytest.mark.parametrize("name", WITH_DEFAULTS)
def test_an_unknown_setting_is_refused(name):
    text = json.loads(to_json(CLASSES[name]())) | {"no_such_setting": 1}
    with pytest.raises(ConfigError, match="no_such_setting"):
        from_json(CLASSES[name], json.dumps(text))
