"""Shards: studies are written whole or not at all, and read back in order."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.platform.data.written import a_study, written
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.checksums import verify
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.index import StudyIndex
from vetdino.platform.data.index_file import INDEX
from vetdino.platform.data.manifest import load_manifest
from vetdino.platform.data.shards import ShardWriter, read


def keys_of(folder) -> list[str]:
    return StudyIndex(folder, "train").rows["key"].to_pylist()


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
    assert [study.key for study in read(folder, "train")] == keys_of(folder)
    verify(folder)


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
    index = StudyIndex(tmp_path, "train")
    assert index.load(2).key == index.key(2)
    with pytest.raises(ShardError, match="its bytes are not those that were written"):
        index.load(1)
    for fault in ("its bytes are not those that were written", "it lacks labels"):
        with pytest.raises(ShardError, match=f"study 2 of 3: {fault}"):
            list(read(tmp_path, "train"))
        caplog.clear()
        assert [int(study.key, 16) for study in read(tmp_path, "train", on_error="skip")] == [0, 2]
        assert f"study 2 of 3: {fault}; " in caplog.text
        assert "left out" in caplog.text
        (tmp_path / INDEX).unlink(missing_ok=True)  # the second time nothing but the tar says what is wrong
    assert "going on without checksums of single studies" in caplog.text


def test_an_exception_while_writing_removes_the_open_shard(tmp_path):
    writer = ShardWriter(tmp_path, "train")

    def interrupted() -> None:
        with writer:
            writer.write(a_study(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
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
