"""Pseudonyms follow from the secret, and a split from the pseudonym."""

from __future__ import annotations

import stat

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.pseudonyms import load_secret, pseudonym, split_of


def test_a_pseudonym_depends_on_the_secret_and_the_text():
    assert pseudonym(b"key", "Rex") == "42355f1ec3ef1ee99c5ce4a9"
    assert len({pseudonym(b"key", "Rex"), pseudonym(b"yek", "Rex"), pseudonym(b"key", "Bello")}) == 3
    assert len(pseudonym(b"key", "\udcff")) == 24  # a path that is not UTF-8


def test_splits_have_the_fractions_of_the_settings():
    config = IngestConfig(val=0.3, test=0.2)
    splits = [split_of(b"key", f"{number:x}", config) for number in range(4000)]
    for split, fraction in {"train": 0.5, "val": 0.3, "test": 0.2}.items():
        assert abs(splits.count(split) / 4000 - fraction) < 0.03


def test_no_val_and_no_test_is_all_train():
    config = IngestConfig(val=0.0, test=0.0)
    assert {split_of(b"key", f"{number:x}", config) for number in range(100)} == {"train"}


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "key"
    secret = load_secret(path)
    assert len(secret) == 32
    assert load_secret(path) == secret == path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_short_secret_is_refused(tmp_path):
    (tmp_path / "key").write_bytes(b"abc")
    with pytest.raises(ConfigError, match="3 bytes"):
        load_secret(tmp_path / "key")


def test_a_secret_that_cannot_be_read_or_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="--secret"):
        load_secret(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--secret"):
        load_secret(tmp_path / "file" / "key")
