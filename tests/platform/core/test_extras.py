"""Which extra brings which library, and the line where it is missing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vetdino.platform.core import extras
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.core.extras import EXTRAS, require_extra

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("library", EXTRAS)
def test_the_named_extra_is_the_one_that_installs_the_library(library):
    installs = {
        extra: {Requirement(text).name for text in PROJECT["optional-dependencies"][extra]}
        for extra in PROJECT["optional-dependencies"]
    }
    assert library in installs[EXTRAS[library]]
    assert library not in {Requirement(text).name for text in PROJECT["dependencies"]}


def test_a_library_that_is_there_is_let_through():
    assert require_extra("ray", "pretraining") is None


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pretraining needs ray: pip install 'vetdino\[train\]'"):
        require_extra("ray", "pretraining")
