"""Places: what is a path, what is a URL, and that a URL never becomes a path."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vetdino.platform.core.config import cli_config, flat, from_json, to_json, with_settings
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.core.location import Location

SCHEMES = st.sampled_from(["s3", "gs", "memory", "az", "https", "S3"])
KEYS = st.text(
    st.sampled_from("ab/. #?%&=:\\é~[]'\"") | st.characters(exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=30,
)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Settings with places."""

    out: Location = Location("runs/x")
    secret: Location | None = None
    runs: tuple[Location, ...] = ()


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/shards/", "s3://bucket/shards"),
        ("s3://b//x/../y", "s3://b//x/../y"),
        ("S3://Bucket/X", "s3://Bucket/X"),
        ("s3://b/a b/ü#x?y=1", "s3://b/a b/ü#x?y=1"),
        ("memory://x/y", "memory://x/y"),
        ("sftp://user@host/data", "sftp://user@host/data"),
    ],
)
def test_a_url_stays_as_it_is_but_for_slashes_at_its_end(text, canonical):
    location = Location(text)
    assert not location.is_local
    assert str(location) == canonical
    assert str(location / "manifest.json") == f"{canonical}/manifest.json"
    assert location.absolute() == location


@pytest.mark.parametrize(
    "text", ["shards", "/data/x y", "C:\\data\\x", "C:/data", "a:b", "./s3/x", "~", "weird#name"]
)
def test_a_path_is_a_path(text):
    location = Location(text)
    assert location.is_local
    assert location.path == Path(text)
    assert Path(location) == Path(text)
    assert os.fspath(location) == str(Path(text))
    assert location == Location(Path(text))


def test_the_parent_of_a_url_ends_with_its_bucket():
    assert Location("s3://bucket/a/b.parquet").parent == Location("s3://bucket/a")
    assert Location("s3://bucket/a").parent == Location("s3://bucket")
    assert Location("a/b").parent == Location("a")
    with pytest.raises(ConfigError, match="has two slashes"):
        _ = Location("s3://bucket").parent


def test_file_urls_are_paths():
    assert Location("file:///data/x").path == Path("/data/x")
    assert Location("file://localhost/data").path == Path("/data")
    with pytest.raises(ConfigError, match="is not absolute"):
        Location("file://data/x")


@pytest.mark.parametrize("text", ["s3://", "s3:///", "gs://"])
def test_a_url_of_nothing_is_refused(text):
    with pytest.raises(ConfigError, match="names no bucket"):
        Location(text)


@pytest.mark.parametrize("text", ["s3:/bucket/x", "gs:/b", "file:/data", "S3:/b"])
def test_a_url_that_lost_a_slash_is_refused(text):
    with pytest.raises(ConfigError, match="has two slashes; write"):
        Location(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAKEY:hunter2@bucket/x",
        "https://me:hunter2@host/x",
        "https://host/x?X-Amz-Signature=hunter2",
        "https://host/x?a=1&sig=hunter2",
    ],
)
def test_a_password_is_refused_and_never_repeated(text, capsys):
    with pytest.raises(ConfigError, match="holds a password or a signature") as refusal:
        Location(text)
    messages = [str(refusal.value)]
    for call in (
        lambda: with_settings(Places, {"out": text}),
        lambda: from_json(Places, '{"out": "%s"}' % text),  # noqa: UP031  braces
        lambda: cli_config(Places, ["--out", text], "vetdino"),
    ):
        with pytest.raises(ConfigError, match="password") as refusal:
            call()
        messages.append(str(refusal.value))
    assert not any("hunter2" in message for message in messages)
    assert "hunter2" not in "".join(capsys.readouterr())


def test_a_url_never_becomes_a_path():
    location = Location("s3://bucket/x")
    for use in (Path, os.fspath, open, lambda place: Path("/data") / place):
        with pytest.raises(ConfigError, match="only a local path can be used here"):
            use(location)
    with pytest.raises(ConfigError, match="only a local path"):
        _ = location.path


@given(SCHEMES, KEYS)
def test_every_key_comes_through_settings_json_and_pickle_unchanged(scheme, key):
    url = f"{scheme}://bucket/{key}"
    location = Location(url)
    assert str(location) == f"{scheme.lower()}://{f'bucket/{key}'.rstrip('/')}"
    assert Location(str(location)) == location == pickle.loads(pickle.dumps(location))
    assert hash(Location(str(location))) == hash(location)
    config = Places(out=location, secret=location, runs=(location, Location("a")))
    assert from_json(Places, to_json(config)) == config
    assert flat(config)["out"] == str(location)
    assert with_settings(Places, {"out": url, "runs": (url, Path("a")), "secret": location}) == config
    assert cli_config(Places, ["--out", url, f"--secret={url}", "--runs", url, "a"], "prog") == config
    with pytest.raises(ConfigError):
        Path(location)


@given(KEYS.filter(lambda text: "\0" not in text and "://" not in text))
def test_every_relative_path_is_the_path_that_pathlib_has(text):
    location = Location(f"x{text}")
    assert location.path == Path(f"x{text}")
    assert location.name == location.path.name
    assert (location / "y").path == location.path / "y"
    assert location.absolute().path == location.path.resolve()


def test_other_values_are_refused_with_the_setting():
    with pytest.raises(ConfigError, match="setting 'out' is 3: Input should be a path or a URL"):
        with_settings(Places, {"out": 3})
