"""One range: decoded once, written once, and continued where it was killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.platform.ingest.archives import InProcess
from vetdino.platform.archive.discovery import discover
from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.config import ShardConfig
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View
from vetdino.platform.ingest.cut import cut_ranges
from vetdino.platform.ingest.headers import block_at, blocks_of, rows_of_archive, scan_block
from vetdino.platform.ingest.output.store import read_rows
from vetdino.platform.ingest.ranges import RANGES, Job, RangeTask, SampleReader, finished_range, write_range


@pytest.fixture
def job(archive, tmp_path, config) -> Job:
    work = tmp_path / "work"
    (work / RANGES).mkdir(parents=True)
    return Job(archive, work, tmp_path / "out", b"key", replace(config, workers=1), (), {})


def task_of(job: Job) -> RangeTask:
    entries = discover(job.root, job.out).entries()
    from collections import Counter

    blocks = []
    for block in blocks_of(rows_of_archive(entries, iter(()), job.secret, Counter()), job.work):
        scan_block(job, InProcess(job.root, job.secret, job.config), block, lambda read, reused: None)
        blocks.append(block_at(block.path, 0))
    [task] = cut_ranges(job, blocks, (), "").ranges
    return task


def write(job: Job, task: RangeTask) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    counts: list[tuple[int, int]] = []
    pool = InProcess(job.root, job.secret, job.config)
    return write_range(job, pool, task, lambda read, reused: counts.append((read, reused))), counts


def test_a_range_has_its_shards_and_a_row_for_each_file(job):
    task = task_of(job)
    assert finished_range(job, task) is None
    done, counts = write(job, task)
    assert finished_range(job, task) == json.loads(json.dumps(done))
    folder = job.work / "ranges" / task.name
    rows = list(read_rows(folder / "rows.arrow"))
    assert sum(read for read, _ in counts) == len(rows) == done["new"] == 18
    accepted = [row for row in rows if not row.code]
    assert len(accepted) == sum(shard["views"] for shard in done["shards"]) == 12
    assert {row.shard for row in accepted} == {f"{task.name}/{shard['path']}" for shard in done["shards"]}
    assert sorted(row.view for row in accepted) == [0] * 6 + [1] * 6
    assert not any(b"Rex" in path.read_bytes() for path in folder.iterdir())


def test_a_task_that_reaches_a_node_after_the_run_has_ended_leaves_nothing(job):
    """A node that was cut off got its task when it had the network again, and made the removed work folder anew."""
    task = task_of(job)
    shutil.rmtree(job.work)
    with pytest.raises(FileNotFoundError):
        write(job, task)
    assert not job.work.exists()


def dying_after(studies: int) -> Callable[[ShardWriter, Study], None]:
    count = 0
    real = ShardWriter.write

    def write(self: ShardWriter, study: Study) -> None:
        nonlocal count
        count += 1
        if count > studies:
            raise KeyboardInterrupt
        real(self, study)

    return write


@pytest.mark.parametrize("studies", [0, 1, 3, 5])
def test_a_stopped_range_goes_on_and_writes_the_same_bytes(job, monkeypatch, studies):
    task = task_of(job)
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", dying_after(studies))
        with pytest.raises(KeyboardInterrupt):
            write(job, task)
    done, counts = write(job, task)
    assert sum(reused for _, reused in counts) >= 2 * studies
    assert sum(read + reused for read, reused in counts) == 18
    other = replace(job, work=job.work.with_name("anew"))
    (other.work / RANGES).mkdir(parents=True)
    assert write(other, task_of(other))[0] == done


def test_what_a_killed_attempt_left_half_written_is_decoded_again(job):
    task = task_of(job)
    done, _ = write(job, task)
    folder = job.work / "ranges" / task.name
    os.rename(folder, folder.with_name(f"{task.name}.1"))
    attempt = folder.with_name(f"{task.name}.1")
    (attempt / "done.json").unlink()
    shard = attempt / done["shards"][0]["path"]
    views = done["shards"][0]["views"]
    os.rename(shard, f"{shard}.part")
    os.truncate(f"{shard}.part", 3000)  # in the middle of its first study
    log = (attempt / "log.jsonl").read_text()
    (attempt / "log.jsonl").write_text(log[:-40])
    again, counts = write(job, task)
    assert again == done
    assert 1 <= sum(read for read, _ in counts) <= views + 2


def test_a_changed_byte_in_an_attempt_is_noticed(job):
    task = task_of(job)
    done, _ = write(job, task)
    folder = job.work / "ranges" / task.name
    attempt = folder.rename(folder.with_name(f"{task.name}.1"))
    shard = attempt / done["shards"][0]["path"]
    content = bytearray(shard.read_bytes())
    content[-2000] ^= 1  # in the last view
    shard.write_bytes(content)
    again, counts = write(job, task)
    assert again == done
    assert sum(read for read, _ in counts) == 1


def test_other_settings_of_the_assembly_take_over_what_is_decoded(job):
    write(job, task_of(job))
    other = replace(job, config=replace(job.config, val=0.0, test=0.0))
    entries = task_of(other)
    task = replace(entries, name=f"{entries.name[:-1]}x")
    done, counts = write(other, task)
    assert [shard["split"] for shard in done["shards"]] == ["train"]
    assert sum(read for read, _ in counts) == 0


def test_a_file_that_may_be_read_another_time_is_not_done(job):
    (job.root / "Rex" / "00").unlink()
    (job.root / "Rex" / "00").mkdir()  # cannot be read
    os.symlink(job.root / "Rex" / "00", job.root / "Rex" / "link")
    task = task_of(job)
    write(job, task)
    assert finished_range(job, task) is not None  # refused by its header: no part of a range
    log = (job.work / "ranges" / task.name / "log.jsonl").read_text()
    assert "UNREADABLE_HEADER" not in log


def test_single_studies_of_a_cut_tar_are_read_in_their_order(tmp_path):
    random = np.random.default_rng(0)
    with ShardWriter(tmp_path, "train", ShardConfig()) as writer:
        for name in "bdfh":
            pixels = random.integers(0, 256, (40, 40)).astype(np.uint8)
            writer.write(Study(name, "p", (View(pixels, "VD"), View(pixels, "DV"))))
    path = tmp_path / "train-000000.tar"
    reader = SampleReader()
    found = [reader.study(path, name) for name in "abcdefghi"]
    assert [study.key if study else "" for study in found] == ["", "b", "", "d", "", "f", "", "h", ""]
    assert [view.projection for view in found[1].views] == ["VD", "DV"]
    os.truncate(path, path.stat().st_size - 2000)
    reader = SampleReader()
    assert [bool(reader.study(path, name)) for name in "bdfh"] == [True, True, True, False]
    assert SampleReader().study(tmp_path / "gone.tar", "b") is None


def test_a_known_study_whose_shard_is_gone_is_an_error(job):
    from vetdino.platform.ingest.output.store import KNOWN, RowWriter

    task = task_of(job)
    rows = list(read_rows(task.rows))
    name = rows[0].route
    known = [
        replace(row, state=KNOWN, shard="train-000000.tar", view=0) if row.route == name else row
        for row in rows
    ]
    first = next(index for index, row in enumerate(known) if row.route == name)
    known[first] = replace(known[first], state=0, shard="", view=-1)
    with RowWriter(task.rows) as writer:
        for row in known:
            writer.write(row)
    if sum(row.route == name for row in rows) > 1:
        with pytest.raises(ShardError, match="a study is missing"):
            write(job, task)
