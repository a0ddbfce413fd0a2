"""What a person names as a backbone, taken apart."""

from __future__ import annotations

import pytest

from vetdino.platform.core.errors import ConfigError
from vetdino.platform.models.source import SourceOptions, absolute_source, parse_source, split_source


def test_nothing_is_said_of_a_plain_path():
    for path in ("a.pth", "folder#1/a.pth", "a#b", "timm:vit_a"):
        assert split_source(path) == (path, SourceOptions())


def test_options_stand_behind_the_path_and_are_read_as_numbers():
    path, options = split_source(f"a#b.pth#heads=6,eps=1e-5,mean=0.5,std=0.2/0.3/0.4,sha256={32 * '5E'}")
    assert path == "a#b.pth"
    assert options == SourceOptions(sha256=32 * "5e", heads=6, eps=1e-5, mean=(0.5,), std=(0.2, 0.3, 0.4))
    assert split_source("a.pth#timm=vit_a.b")[1].timm == "vit_a.b"


@pytest.mark.parametrize(
    ("said", "fact"),
    [
        ("head=6", "unknown option 'head' of a backbone; the nearest is 'heads'"),
        ("heads=six", "heads 'six' is not a number of heads"),
        ("heads=0", "is not a number of heads"),
        ("eps=-1", "is not a number above 0"),
        ("eps=nan", "is not a number above 0"),
        ("mean=0.5/0.5,std=1", "is not one number, or three joined by /"),
        ("mean=0.5,std=0", "is not one number above 0"),
        ("mean=nan,std=1", "is not one number"),
        ("mean=0.5", "mean and std go together"),
        ("timm=", "is not the name of a timm model"),
        ("depth=0", "depth '0' is not a number of blocks"),
        ("side=1e2", "side '1e2' is not a number of pixels"),
    ],
)
def test_what_cannot_be_is_refused(said, fact):
    with pytest.raises(ConfigError, match=fact):
        split_source(f"a.pth#{said}")


def test_options_of_a_name_are_refused():
    with pytest.raises(ConfigError, match="heads is for weights files, here a timm name says it"):
        parse_source("timm:vit_tiny_patch16_224#heads=4")


def test_depth_and_side_are_said_of_any_source(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "card.json").touch()
    for place in ("timm:vit_a", "random:vit_a", tmp_path / "b"):
        options = parse_source(f"{place}#depth=10,side=224").options
        assert options == SourceOptions(depth=10, side=224)


def test_a_path_with_options_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").touch()
    assert absolute_source("a.pth#heads=6") == f"{tmp_path / 'a.pth'}#heads=6"
    assert absolute_source("timm:vit_a") == "timm:vit_a"
