"""`infra/cluster.yaml` is one that `ray up` of the installed Ray accepts, and its job one of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import vetdino
from tests.infra.commands_in_files import commands_in_comments, settings_of

FILE = Path(vetdino.__file__).parent / "infra" / "cluster.yaml"


def test_rays_own_schema_accepts_it():
    util = pytest.importorskip("ray.autoscaler._private.util")
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    util.validate_config(util.fillout_defaults(content))
    with pytest.raises(Exception, match="'type' is a required property"):
        util.validate_config(util.fillout_defaults(content) | {"provider": {}})


def test_its_node_types_are_there_and_bounded():
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    types = content["available_node_types"]
    assert content["head_node_type"] in types
    workers = [kind for name, kind in types.items() if name != content["head_node_type"]]
    assert sum(kind["max_workers"] for kind in workers) <= content["max_workers"]


def test_its_training_fits_its_machines():
    [command] = commands_in_comments(FILE.read_text(encoding="utf-8"))
    config = settings_of(command)
    kind = yaml.safe_load(FILE.read_text(encoding="utf-8"))["available_node_types"]["gpu"]
    gpus, cores = kind["resources"]["GPU"], kind["resources"]["CPU"]
    assert config.workers <= gpus * kind["max_workers"]
    assert config.threads * min(config.workers, gpus) <= cores
    assert config.device == "cuda"  # no worker is there yet from which `auto` could tell
