"""Generated ultrasound on disk, and its verb on the command line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vetdino.infra import cli
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.ingest.config import IngestConfig
from vetdino.platform.ingest.ingest import ingest
from vetdino.platform.phantom.config import PhantomConfig, SonogramConfig
from vetdino.platform.phantom.dog.archive import write_radiographs
from vetdino.platform.phantom.limb.archive import write_sonograms
from vetdino.platform.phantom.limb.frames import generate_frame
from vetdino.platform.phantom.limb.sweeps import nth_domain

SMALL = SonogramConfig(side=96, frames=2, seed=3, workers=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_sonograms(tmp_path_factory.mktemp("sonogram") / "out", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_folder_holds_images_masks_of_the_same_names_and_the_tables(written):
    table = rows(written / "domains.csv")
    assert list(table[0]) == ["domain", "folder", "subject", "device", "body_part"]
    assert len(table) == 4
    for number, row in enumerate(table):
        images, masks = (sorted((written / row["folder"] / kind).iterdir()) for kind in ("images", "masks"))
        assert [path.name for path in images] == [path.name for path in masks] == ["00000.png", "00001.png"]
        for frame, (image, mask) in enumerate(zip(images, masks, strict=True)):
            made = generate_frame(SMALL, nth_domain(number), frame)
            assert (cv2.imread(str(image), cv2.IMREAD_UNCHANGED) == made.pixels).all()
            stored = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            assert (stored == 255 * made.mask).all()
            assert set(np.unique(stored)) == {0, 255}
    assert json.loads((written / "phantom.json").read_text())["kind"] == "ultrasound"


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one_and_more_frames_change_no_earlier_one(written, tmp_path):
    both = write_sonograms(tmp_path / "out", replace(SMALL, workers=2, frames=3, domains=5))
    more, fewer = contents(both), contents(written)
    pictures = {name for name in fewer if name.endswith(".png")}
    assert len(pictures) == 16
    assert {name: more[name] for name in pictures} == {name: fewer[name] for name in pictures}


@pytest.mark.slow
def test_an_interrupted_run_continues_and_keeps_finished_frames(written, tmp_path):
    out = write_sonograms(tmp_path / "out", replace(SMALL, frames=1))
    kept = out / "s1-d1-arm" / "images" / "00000.png"
    before = kept.stat().st_mtime_ns
    (out / "s1-d2-arm" / "images" / "00000.png").unlink()  # its mask was written, itself not yet
    (out / "frames.csv").unlink()
    assert contents(write_sonograms(out, SMALL)) == contents(written)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_frames_are_ingested_a_sweep_a_study_or_a_frame_a_study(written, tmp_path):
    ingest(written / "frames.csv", tmp_path / "sweeps", IngestConfig(workers=1))
    manifest = load_manifest(tmp_path / "sweeps")
    assert sum(shard.studies for shard in manifest.shards) == 4
    assert rows(tmp_path / "sweeps" / "quarantine.csv") == []
    config = IngestConfig(workers=1)
    config = replace(config, table=replace(config.table, study="path"))
    ingest(written / "frames.csv", tmp_path / "frames", config)
    assert sum(shard.studies for shard in load_manifest(tmp_path / "frames").shards) == 8


def test_a_folder_of_other_settings_of_more_frames_or_of_another_kind_is_refused(written):
    with pytest.raises(ConfigError, match="frames of other settings"):
        write_sonograms(written, replace(SMALL, seed=4))
    with pytest.raises(ConfigError, match="holds 2 frames"):
        write_sonograms(written, replace(SMALL, frames=1))
    with pytest.raises(ConfigError, match="holds 4 domains"):
        write_sonograms(written, replace(SMALL, domains=2))
    with pytest.raises(ConfigError, match="of kind ultrasound"):
        write_radiographs(written, PhantomConfig(studies=1, side=64))


@pytest.mark.parametrize("words", [["--kind", "ultrasound"], ["--kind=ultrasound"]])
def test_the_verb_writes_the_requested_kind(words, tmp_path, capsys):
    out = tmp_path / "out"
    frames = ["--frames", "1", "--domains", "1", "--side", "64", "--workers", "1"]
    assert cli.main(["phantom", str(out), *words, *frames]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert len(list(out.rglob("*.png"))) == 2


def test_each_kind_has_its_own_help_and_radiograph_is_the_default(capsys):
    said = {}
    for words in ((), ("--kind", "radiograph"), ("--kind", "ultrasound")):
        assert cli.main(["phantom", *words, "--help"]) == 0
        said[words] = capsys.readouterr().out
    assert said[()] == said["--kind", "radiograph"]
    assert "--studies" in said[()]
    assert "--frames" not in said[()]
    assert "--frames" in said["--kind", "ultrasound"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "sonar"], "'radiograph', 'ultrasound'"),
        (["--kind"], "--kind"),
        (["--kind", "ultrasound", "--studies", "3"], "--side"),
        (["--frames", "3"], "unknown argument --frames"),
    ],
)
def test_an_unknown_kind_or_a_setting_of_another_kind_is_one_clear_line(words, said, capsys):
    assert cli.main(["phantom", "out", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("vetdino phantom: ")
    assert said in line
