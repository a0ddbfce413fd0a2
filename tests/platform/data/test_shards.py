"""Shards: what goes in comes out, in order, by position, through webdataset, and never by halves."""

from __future__ import annotations

import json
import math
import pickle
import resource
import subprocess
import sys
import tarfile
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.shards import (
    VERSION,
    Manifest,
    ShardConfig,
    ShardWriter,
    StudyIndex,
    load_manifest,
    members_of,
    read,
    save_manifest,
    stored,
    study_of,
    verify,
)
from vetdino.platform.data.study import PROJECTIONS, StoredView, Study, View


def a_study(number: int, views: int = 2, split: str = "train") -> Study:
    random = np.random.default_rng(number)
    return Study(
        key=f"{number:024x}",
        patient=f"{number // 2:024x}",
        views=tuple(
            View(
                random.integers(0, 256, (24, 32), np.uint8),
                projection=("VD", "LLAT")[place % 2],
                spacing=(0.2, 0.3),
                facts={"voi": "window"},
            )
            for place in range(views)
        ),
        labels={"effusion": 1.0, "mass": math.nan},
        split=split,
    )


def written(folder: Path, count: int, config: ShardConfig | None = None) -> Manifest:
    with ShardWriter(folder, "train", config) as writer:
        for number in range(count):
            writer.write(a_study(number, views=1 + number % 3))
    manifest = Manifest(VERSION, "test", ("effusion", "mass"), tuple(writer.shards), {"files": count}, "c0")
    save_manifest(folder, manifest)
    return manifest


def test_a_writer_that_gets_no_study_leaves_no_shard(tmp_path):
    assert written(tmp_path, 0).shards == ()
    assert list(read(tmp_path, "train")) == []
    assert len(StudyIndex(tmp_path, "train")) == 0


def test_what_is_written_is_read_back(tmp_path):
    manifest = written(tmp_path, 5, ShardConfig(encoding="png"))
    studies = list(read(tmp_path, "train"))
    assert load_manifest(tmp_path) == manifest
    assert manifest.studies("train") == 5
    assert manifest.studies("val") == 0
    for number, study in enumerate(studies):
        original = a_study(number, views=1 + number % 3)
        assert (study.key, study.patient, study.split) == (original.key, original.patient, original.split)
        assert study.labels["effusion"] == 1.0
        assert math.isnan(study.labels["mass"])
        for before, after in zip(original.views, study.views, strict=True):
            assert np.array_equal(before.pixels, after.decode().pixels)
            assert after.projection == before.projection
            assert after.spacing == before.spacing
            assert after.facts == before.facts


def test_a_shard_is_closed_before_it_grows_beyond_its_size(tmp_path):
    config = ShardConfig(max_bytes=20_000)
    manifest = written(tmp_path, 30, config)
    assert len(manifest.shards) > 2
    for shard in manifest.shards:
        assert shard.bytes == (tmp_path / shard.path).stat().st_size <= config.max_bytes + 1024
    assert [shard.path for shard in manifest.shards[:2]] == ["train-000000.tar", "train-000001.tar"]


def test_the_same_studies_give_the_same_bytes(tmp_path):
    first, second = written(tmp_path / "a", 7), written(tmp_path / "b", 7)
    assert first == second
    assert first.digest == second.digest
    assert (tmp_path / "a/train-000000.tar").read_bytes() == (tmp_path / "b/train-000000.tar").read_bytes()


def test_the_index_gives_what_the_stream_gives(tmp_path):
    written(tmp_path, 12, ShardConfig(max_bytes=10_000))
    index = pickle.loads(pickle.dumps(StudyIndex(tmp_path, "train")))
    stream = list(read(tmp_path, "train"))
    assert index.keys() == [study.key for study in stream]
    for place in (11, 0, 5, 5):
        assert members_of(index.load(place), ShardConfig()) == members_of(stream[place], ShardConfig())


def _keys_in_a_child(index: StudyIndex, places: list[int], pipe) -> None:
    pipe.send([index.load(place).key for place in places])


def test_workers_share_an_index_without_sharing_its_files(tmp_path):
    written(tmp_path, 12, ShardConfig(max_bytes=10_000))
    index = StudyIndex(tmp_path, "train")
    index.load(0)  # opens a file in this process
    context = get_context("fork")
    for places in ([3, 1], [11]):
        here, there = context.Pipe()
        child = context.Process(target=_keys_in_a_child, args=(index, places, there))
        child.start()
        assert here.recv() == [index.keys()[place] for place in places]
        child.join()
        here.close()
        there.close()


# webdataset leaves the tar it read open until it is collected
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_our_shards(tmp_path):
    import webdataset

    written(tmp_path, 4)
    dataset = webdataset.WebDataset(str(tmp_path / "train-000000.tar"), shardshuffle=False, empty_check=False)
    samples = list(dataset)
    assert [sample["__key__"] for sample in samples] == StudyIndex(tmp_path, "train").keys()
    assert json.loads(samples[1]["json"])["views"][1]["file"] == "view1.jpg"
    assert samples[1]["view1.jpg"].startswith(b"\xff\xd8")


def test_the_json_comes_first_and_tells_nothing_of_the_machine(tmp_path):
    written(tmp_path, 2)
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        headers = tar.getmembers()
    names = [header.name.partition(".")[2] for header in headers]
    assert names == ["json", "view0.jpg", "json", "view0.jpg", "view1.jpg"]
    assert {(header.mtime, header.uid, header.gid, header.uname) for header in headers} == {(0, 0, 0, "")}


def test_shards_live_behind_any_url():
    folder = "memory://shards-test"
    written(folder, 3, ShardConfig(max_bytes=5_000))
    assert [study.key for study in read(folder, "train")] == StudyIndex(folder, "train").keys()
    verify(folder)


@settings(max_examples=30, deadline=None)
@given(
    labels=st.dictionaries(st.text(min_size=1), st.sampled_from([0.0, 1.0, 0.5, math.nan]), max_size=4),
    projections=st.lists(st.sampled_from(PROJECTIONS), min_size=1, max_size=9),
    spacing=st.none() | st.tuples(st.floats(1e-3, 10), st.floats(1e-3, 10)),
    facts=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_sample_holds_any_study(labels, projections, spacing, facts):
    jpeg = stored(View(np.zeros((8, 8), np.uint8)), ShardConfig()).encoded
    views = tuple(StoredView(jpeg, name, "L", "DX", spacing, facts) for name in projections)
    study = Study("0a1b", "9f", views, labels, "val")
    back = study_of(study.key, dict(members_of(study, ShardConfig())))
    assert members_of(back, ShardConfig()) == members_of(study, ShardConfig())
    assert back.views[0].spacing == spacing
    assert {name: repr(value) for name, value in back.labels.items()} == {
        name: repr(value) for name, value in labels.items()
    }


def test_jpeg_at_95_keeps_40_decibels():
    ramp = np.add.outer(np.arange(256), np.zeros(256)).astype(np.uint8)
    view = stored(View(ramp), ShardConfig(quality=95)).decode()
    noise = np.mean((view.pixels.astype(float) - ramp) ** 2)
    assert 10 * math.log10(255**2 / max(noise, 1e-9)) > 40


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"no manifest\.json here"):
        load_manifest(tmp_path)


def test_a_damaged_manifest_names_the_place(tmp_path):
    written(tmp_path, 1)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"studies": 1', '"studies": "many"'))
    with pytest.raises(ShardError, match=r"damaged at shards\.0\.studies"):
        load_manifest(tmp_path)


def test_a_manifest_of_another_version_is_refused(tmp_path):
    save_manifest(tmp_path, replace(written(tmp_path, 1), version=99))
    with pytest.raises(ShardError, match="version 99"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("keep", [700, 2000, 4096])
def test_a_cut_shard_is_refused(tmp_path, keep):
    written(tmp_path, 6)
    path = tmp_path / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ShardError, match=r"train-000000\.tar"):
        StudyIndex(tmp_path, "train")
    with pytest.raises(ShardError, match=r"train-000000\.tar"):
        list(read(tmp_path, "train"))
    with pytest.raises(ShardError, match="not what was written"):
        verify(tmp_path)


def test_a_missing_shard_is_refused(tmp_path):
    written(tmp_path, 1)
    (tmp_path / "train-000000.tar").unlink()
    with pytest.raises(ShardError, match="missing"):
        StudyIndex(tmp_path, "train")


def test_a_broken_sample_stops_reading_or_is_left_out(tmp_path, caplog):
    written(tmp_path, 3)
    path = tmp_path / "train-000000.tar"
    content = bytearray(path.read_bytes())
    place = content.index(b'"labels"', content.index(b'"labels"') + 1)
    content[place : place + 8] = b'"lables"'
    path.write_bytes(content)
    with pytest.raises(ShardError, match="study 2 of 3: it lacks labels"):
        list(read(tmp_path, "train"))
    assert [int(study.key, 16) for study in read(tmp_path, "train", on_error="skip")] == [0, 2]
    assert "left out" in caplog.text
    index = StudyIndex(tmp_path, "train")
    assert index.load(2).key == index.keys()[2]
    with pytest.raises(ShardError, match="lacks labels"):
        index.load(1)


def test_an_exception_while_writing_removes_the_open_shard(tmp_path):
    writer = ShardWriter(tmp_path, "train")

    def interrupted() -> None:
        with writer:
            writer.write(a_study(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    # A limit on the size of a file is a real refusal by the kernel, as a full disk is.
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    code = (
        "import sys, numpy as np\n"
        "from vetdino.platform.core.errors import ShardError\n"
        "from vetdino.platform.data.shards import ShardWriter\n"
        "from vetdino.platform.data.study import Study, View\n"
        "noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)\n"
        "try:\n"
        "    with ShardWriter(sys.argv[1], 'train') as writer:\n"
        "        for number in range(40):\n"
        "            writer.write(Study(f'{number:04x}', 'p', (View(noise),)))\n"
        "except ShardError as error:\n"
        "    print(error)\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, cwd=root, preexec_fn=limit, capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in run.stdout
    assert run.stdout.count("\n") == 1
    assert run.stderr == ""
    assert list(tmp_path.iterdir()) == []
