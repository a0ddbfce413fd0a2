"""Descriptors name their vectors and import nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vetdino.platform.measure.descriptors import Descriptor


def test_the_plain_cls_token_has_the_digest_of_the_backbone():
    assert Descriptor().digest("4f2a") == Descriptor(level="view").digest("4f2a") == "4f2a"


def test_other_vectors_of_the_same_backbone_have_digests_of_their_own():
    others = [Descriptor(pool, blocks) for pool in ("cls", "cls+mean") for blocks in (1, 2, 4)]
    assert len({descriptor.digest("4f2a") for descriptor in others}) == len(others)


@pytest.mark.parametrize("pool", ["cls", "cls+mean"])
@pytest.mark.parametrize("blocks", [1, 2, 12])
@pytest.mark.parametrize("level", ["study", "view"])
def test_a_digest_says_what_it_was_made_from(pool, blocks, level):
    descriptor = Descriptor(pool, blocks, level)
    assert Descriptor.of_digest(descriptor.digest("4f2a"), level) == ("4f2a", descriptor)


def test_a_descriptor_introduces_itself():
    assert repr(Descriptor("cls+mean", 4, "view")) == "Descriptor(cls+mean, 4 blocks, by view)"


@pytest.mark.parametrize(
    "module", ["platform.measure.descriptors", "platform.models.config", "platform.training.schedules"]
)
def test_settings_of_the_command_line_import_nothing_heavy(module):
    code = f"import sys, vetdino.{module}; sys.exit(bool({{'torch', 'numpy', 'timm'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
