"""A stable hash depends on its parts alone, and keeps its value from version to version."""

import subprocess
import sys
from pathlib import Path

import pytest

from vetdino.platform.core.seeds import stable_hash

ROOT = Path(__file__).resolve().parents[3]


def test_the_hash_is_the_start_of_sha256_and_stays_so():
    # printf '0/k7' | sha256sum
    assert stable_hash(0, "k7") == stable_hash("0/k7") == 0x51DE6CF504B86656
    assert 0 <= stable_hash() < 2**64


def test_other_parts_or_another_order_give_another_hash():
    assert (
        len({stable_hash("a", "b"), stable_hash("b", "a"), stable_hash("a"), stable_hash("a", "b", 0)}) == 4
    )


@pytest.mark.slow
def test_every_process_has_the_same_hash():
    code = "from vetdino.platform.core.seeds import stable_hash; print(stable_hash(3, 'study'))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(said.stdout) == stable_hash(3, "study")
