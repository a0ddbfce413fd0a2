"""Files packed into zip, tar or tar.gz give the shards that they give as plain files, byte for byte."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.platform.ingest.packing import pack, tree_of
from tests.platform.ingest.radiographs import write_dicom
from vetdino.platform.ingest.assembly import QUARANTINE
from vetdino.platform.ingest.decoding import DecodePool, Task
from vetdino.platform.ingest.ingest import PROVENANCE, ingest

SUFFIXES = {"zip": ".zip", "tar": ".tar", "tgz": ".tar.gz"}


def shards_of(out: Path) -> dict[str, bytes]:
    """Every file of an output but those that depend on where the files lay."""
    by_path = (QUARANTINE, PROVENANCE, "files-")
    return {name: data for name, data in tree_of(out).items() if not name.startswith(by_path)}


def refused(out: Path) -> list[tuple[str, str]]:
    """(last part of the path, code) of each row of the quarantine table."""
    with open(out / QUARANTINE, newline="") as file:
        return sorted((Path(row["path"]).name, row["code"]) for row in csv.DictReader(file))


def map_inline(pool: DecodePool, tasks: Iterable[Task | None]) -> Iterator[Any]:
    """`DecodePool.map` in this process: starting workers takes longer than all of the rest."""
    root, secret, config = pool._arguments
    for task in tasks:
        yield task and task[0](root, task[1], secret, config)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_packed_archive_gives_the_same_shards(archive, tmp_path, config, kind):
    config = replace(config, min_views=1)
    plain = ingest(archive, tmp_path / "plain", config)
    pack(tmp_path / "in" / "some name", tree_of(archive), kind)
    packed = ingest(tmp_path / "in", tmp_path / "packed", config)
    assert packed == plain
    assert shards_of(tmp_path / "packed") == shards_of(tmp_path / "plain")
    assert refused(tmp_path / "packed") == refused(tmp_path / "plain")
    assert "some name!/notes.txt,NOT_DICOM" in (tmp_path / "packed" / QUARANTINE).read_text()


@pytest.mark.slow
def test_labels_and_a_second_run_know_packed_files(archive, tmp_path, config, capsys):
    (tmp_path / "labels.csv").write_text("study,mass\n1.2.3.0,1\n")
    config = replace(config, labels=tmp_path / "labels.csv")
    for kind in SUFFIXES:
        pack(tmp_path / "in" / kind / f"x{SUFFIXES[kind]}", tree_of(archive), kind)
        out = tmp_path / f"out-{kind}"
        manifest = ingest(tmp_path / "in" / kind, out, config)
        assert manifest.counts["labelled_studies"] == 1
        assert ingest(tmp_path / "in" / kind, out, config) == manifest


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """Eleven files: views of four studies, a view with the pixels of another, and no DICOM."""
    folder = tmp_path_factory.mktemp("pool")
    for number in range(8):
        write_dicom(folder / f"{number}", f"P{number // 4}", f"1.2.{number // 2}", number)
    write_dicom(folder / "8", "P0", "1.2.0", 0, SeriesDescription="again")
    (folder / "9").write_bytes(b"notes")
    (folder / "10").write_bytes(b"")
    return folder


NAMES = st.lists(st.sampled_from(["a", "b", "a-1", "a.b", "A", "ä", "a!", "~"]), min_size=1, max_size=3)

TREES = st.dictionaries(NAMES.map("/".join), st.integers(0, 10), min_size=1, max_size=12)


def is_tree(names: Mapping[str, int]) -> bool:
    """Whether no name is that of a folder of another one."""
    return not any(other.startswith(f"{name}/") for name in names for other in names)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    tree=TREES.filter(is_tree).filter(lambda tree: min(tree.values()) < 8),
    kind=st.sampled_from(sorted(SUFFIXES)),
    whole=st.booleans(),
    seed=st.integers(0, 9),
)
def test_random_trees_give_the_same_shards_however_they_are_packed(
    tmp_path_factory, pool, config, tree, kind, whole, seed
):
    """Packed whole, or each folder at the top packed under its name; the order in a container is any."""
    folder = tmp_path_factory.mktemp("trees")
    config = replace(config, min_views=1)
    items = list(tree.items())
    Random(seed).shuffle(items)
    containers: dict[str, dict[str, bytes]] = {}
    for name, number in items:
        path = folder / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = (pool / f"{number}").read_bytes()
        path.write_bytes(content)
        top, _, rest = ("all", "", name) if whole else name.partition("/")
        containers.setdefault(top, {})[rest] = content
    for top, files in containers.items():
        if "" in files:
            (folder / "packed").mkdir(exist_ok=True)
            (folder / "packed" / top).write_bytes(files[""])
        else:
            pack(folder / "packed" / f"{top}{SUFFIXES[kind]}", files, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodePool, "map", map_inline)
        manifests = [ingest(folder / name, folder / f"{name}-out", config) for name in ("plain", "packed")]
    assert manifests[0] == manifests[1]
    assert shards_of(folder / "plain-out") == shards_of(folder / "packed-out")
    assert refused(folder / "plain-out") == refused(folder / "packed-out")
    shutil.rmtree(folder)
