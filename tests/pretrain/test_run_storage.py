"""Trainings whose shards and folder lie on object storage: what is there when, and how they go on elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from vetdino.platform.core.config import to_json
from vetdino.platform.core.errors import CheckpointError, ConfigError, StorageError
from vetdino.platform.core.location import Location
from vetdino.platform.core.storage import listing, localized, read_bytes, remove, upload, write_bytes
from vetdino.platform.models.loading import load
from vetdino.platform.training import checkpoint
from vetdino.pretrain import job, run_storage
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.job import pretrain
from vetdino.pretrain.run_storage import RunStorage, run_folder
from vetdino.pretrain.start import starting_point

from .conftest import launcher
from .test_job import ended, of_session, start

PLAN = {"steps": 12, "checkpoint_every": 3, "log_every": 1}

RECORD = ("metrics.jsonl", "status.json", "config.json", "params.json")


@pytest.fixture(scope="module")
def bucket(s3, shards) -> str:
    """A folder of the bucket with the shards of the tiny trainings."""
    place = f"{s3.bucket}/pretrain"
    files = {path.relative_to(shards).as_posix(): path for path in shards.rglob("*") if path.is_file()}
    upload(f"{place}/shards", files)
    return place


@pytest.fixture(scope="module")
def at_urls(bucket, tiny) -> Callable[..., PretrainConfig]:
    """A tiny training with its shards and its folder in the bucket."""

    def config(name: str, **top: object) -> PretrainConfig:
        places = {"shards": (Location(f"{bucket}/shards"),), "out": Location(f"{bucket}/runs/{name}")}
        return replace(tiny(Path("nowhere"), {"probe.every": 0}, **PLAN), **(places | top))

    return config


@pytest.fixture(scope="module")
def launch(s3, tmp_path_factory) -> Iterator[Callable[..., None]]:
    """See `launcher`; the workers have the environment of the object storage."""
    with launcher(tmp_path_factory.mktemp("launch") / "log.txt", {}) as launch:
        yield launch


@pytest.fixture(scope="module")
def local(launch, tiny, tmp_path_factory) -> Path:
    """The same training on local folders."""
    config = tiny(tmp_path_factory.mktemp("local") / "run", {"probe.every": 0}, **PLAN)
    launch([(config, None)], 1)
    return Path(config.out)


def losses(text: str) -> list[dict[str, float]]:
    """The records of a metrics.jsonl by step, the last of each, without what the clock says."""
    steps: dict[int, dict[str, float]] = {}
    for line in map(json.loads, text.splitlines()):
        steps[line["step"]] = {k: v for k, v in line.items() if k not in ("time", "speed/studies_per_second")}
    return [steps[step] for step in sorted(steps)]


def there(config: PretrainConfig, name: str) -> str:
    """A file of the training's folder at its URL."""
    content = read_bytes(config.out / name)
    assert content is not None, f"{name} is not among {sorted(listing(config.out))}"
    return content.decode()


def sealed_steps(config: PretrainConfig) -> list[int]:
    names = listing(config.out / "checkpoints")
    return sorted(int(name[5:13]) for name in names if name.endswith("/seal.json"))


def forget(config: PretrainConfig) -> None:
    """This machine's disk is lost."""
    shutil.rmtree(os.environ["VETDINO_CACHE"])
    assert not run_folder(config).exists()


def test_a_local_training_has_its_own_folder_and_nothing_is_brought_in_line(tmp_path, tiny):
    config = tiny(tmp_path / "run")
    storage = RunStorage(config)
    assert run_folder(config) == tmp_path / "run"
    storage.pull()
    storage.push_record()
    storage.push_checkpoints()
    storage.discard()
    assert list(tmp_path.iterdir()) == []


def test_the_last_status_of_workers_elsewhere_is_here_when_a_training_has_ended(at_urls):
    """Without it, the bar of a short training on other machines ended at 0."""
    storage = RunStorage(at_urls("followed"))
    with storage.followed_status():
        write_bytes(storage.location / "status.json", b'{"step": 12}')
    assert json.loads((storage.folder / "status.json").read_text()) == {"step": 12}


@pytest.mark.slow
def test_workers_begin_with_the_settings_of_the_job_and_without_what_an_earlier_one_left(
    at_urls, monkeypatch, capsys
):
    """Of a training that was stopped before its first checkpoint."""
    config = at_urls("left")
    left = {"metrics.jsonl": b"{}\n", "status.json": b'{"step": 2}', "run.json": b"{}", "config.json": b"{}"}
    for name, content in left.items():
        write_bytes(config.out / name, content)
    seen = {}

    def workers(function, argument, *rest):
        seen.update({name: there(config, name) for name in listing(config.out)})
        raise InterruptedError

    monkeypatch.setattr(job, "run_on_ray", workers)
    with pytest.raises(InterruptedError):
        pretrain(replace(config, resume=True))
    assert seen == {"config.json": to_json(replace(config, resume=True))}
    assert "holds no checkpoint yet, so the training starts from the beginning" in capsys.readouterr().err


@pytest.mark.slow
def test_an_error_that_ends_the_training_leaves_its_record_and_the_bad_batches_at_the_url(launch, at_urls):
    config = at_urls("bad", bad_in_a_row=2, checkpoint_every=12)
    launch([(config, None, list(range(1, 12)))], 1)
    assert (run_folder(config) / "failure.txt").read_text().startswith("TrainingError: step 2")
    names = set(listing(config.out))
    assert {"metrics.jsonl", "bad/step_00000001.json", "bad/step_00000001.safetensors"} <= names
    assert losses(there(config, "metrics.jsonl"))[-1]["step"] == 2


def checkpoint_at(config: PretrainConfig, name: str, *files: str) -> None:
    for file in files:
        write_bytes(config.out / f"checkpoints/{name}/{file}", b"x")


@pytest.mark.slow
def test_a_new_checkpoint_of_a_step_begins_without_leftovers_and_leaves_the_whole_one(at_urls):
    config = at_urls("begun")
    checkpoint_at(config, "step_00000004", "teacher.safetensors", "seal.json")
    checkpoint_at(config, "step_00000006", "teacher.safetensors", "engine/worker0001.safetensors")
    checkpoint_at(config, ".draft_00000002", "engine/worker0001.safetensors")
    checkpoint_at(config, ".draft_00000006", "engine/worker0001.safetensors")
    storage = RunStorage(config)
    for step in (4, 6):
        storage.begin_checkpoint(step)
    assert set(listing(config.out / "checkpoints")) == {
        "step_00000004/teacher.safetensors",
        "step_00000004/seal.json",
    }


@pytest.mark.slow
def test_a_worker_on_another_machine_sends_its_file_and_one_beside_the_first_never_does(
    at_urls, tmp_path, monkeypatch
):
    config, file = at_urls("sent"), Path("engine/worker0001.safetensors")
    checkpoint_at(config, "step_00000004", str(file), "seal.json")

    def machine(name: str) -> tuple[RunStorage, Path]:
        monkeypatch.setenv("VETDINO_CACHE", str(tmp_path / name))
        return RunStorage(config), run_folder(config) / "checkpoints" / ".draft_00000004"

    second, draft = machine("second")
    (draft / file).parent.mkdir(parents=True)
    (draft / "config.json").write_text("{}")  # of a killed training whose first worker was here
    second.pull()
    assert not draft.exists()
    send = second.sender(4)
    (draft / file).parent.mkdir(parents=True)
    (draft / file).write_text("its part")
    send(draft / file)
    assert there(config, f"checkpoints/step_00000004/{file}") == "x"

    first, draft = machine("first")
    draft.mkdir(parents=True)
    (draft / "config.json").write_text("{}")
    beside = first.sender(4)
    first.collect(4, [draft / file])
    assert (draft / file).read_text() == "its part"
    draft.rename(draft.with_name("step_00000004"))  # the first worker may do this once all files are there
    beside(draft / file)
    assert not [name for name in listing(config.out / "checkpoints") if ".draft_" in name]


@pytest.mark.slow
def test_storage_that_does_not_answer_is_tried_again_with_one_warning_and_not_without_end(
    at_urls, failing_s3, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the library's pauses are not what is tested: a minute
    config = at_urls("away")
    warnings: list[str] = []
    is_back = True

    def warned(text: str) -> None:
        warnings.append(text)
        if is_back:
            failing_s3(500, "none", 0)

    storage = RunStorage(config, warned)
    folder = run_folder(config) / "checkpoints" / "step_00000002"
    folder.mkdir(parents=True)
    (folder / "seal.json").write_text("{}")
    monkeypatch.setattr(run_storage, "PAUSES", (0.01, 0.02))
    failing_s3(503, "SlowDown", -1)
    storage.push_checkpoints()
    assert sealed_steps(config) == [2]
    assert len(warnings) == 1
    assert warnings[0].endswith("(503 SlowDown); the training tries for 5 minutes more")
    failing_s3(403, "AccessDenied", -1)  # no matter of patience
    with pytest.raises(StorageError, match="access is denied"):
        storage.begin_checkpoint(4)
    monkeypatch.setattr(run_storage, "AWAY", 0.1)
    is_back = False
    failing_s3(503, "SlowDown", -1)
    for action in (partial(storage.begin_checkpoint, 4), storage.pull, storage.push_record):
        began = len(warnings)
        with pytest.raises(StorageError, match="does not answer, after all retries"):
            action()
        assert len(warnings) == began + 1


@pytest.mark.slow
def test_the_advice_after_workers_were_lost_knows_the_checkpoints_at_the_url(at_urls, failing_s3):
    config = at_urls("advised")
    storage = RunStorage(config)
    checkpoint_at(config, "step_00000004", "teacher.safetensors")
    assert job._advice(storage) == "run the same command again"
    checkpoint_at(config, "step_00000004", "seal.json")
    assert job._advice(storage) == f"{config.out} holds a checkpoint: run again with --resume"
    failing_s3(403, "AccessDenied", -1)
    assert job._advice(storage) == "run the same command again"


@pytest.mark.slow
def test_stopped_and_resumed_on_an_empty_disk_a_training_has_the_records_and_weights_of_a_local_one(
    launch, at_urls, local
):
    config = at_urls("resumed")
    launch([(config, 7)], 1)
    assert sealed_steps(config) == [3, 6]
    forget(config)
    launch([(replace(config, resume=True), None)], 1)
    assert sealed_steps(config) == [9, 12]
    assert losses(there(config, "metrics.jsonl")) == losses((local / "metrics.jsonl").read_text())
    ours, theirs = (
        load_file(folder / "backbone" / "backbone.safetensors") for folder in (localized(config.out), local)
    )
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert set(RECORD) <= set(listing(config.out))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2])
def test_two_machines_put_a_checkpoint_together_and_each_can_be_lost(launch, at_urls, zero):
    base = at_urls(f"machines-{zero}")
    config = replace(base, optim=replace(base.optim, zero=zero), workers=2)
    launch([(config, 7)], 2, machines=True)
    names = listing(config.out / "checkpoints")
    parts = [name for name in names if name.startswith("step_00000006/") and "worker" in name]
    assert len(parts) == (2 if zero else 1)
    assert not [name for name in names if ".draft_" in name]  # what the machines exchanged
    second = Path(os.environ["VETDINO_CACHE"]) / "machine1"
    assert len(list(second.rglob(".draft_*"))) == (1 if zero else 0)
    shutil.rmtree(second)
    launch([(replace(config, resume=True), None)], 2, machines=True)
    assert sealed_steps(config) == [9, 12]
    together = at_urls(f"together-{zero}", optim=config.optim, workers=2)
    launch([(together, None)], 2)
    assert losses(there(config, "metrics.jsonl")) == losses(there(together, "metrics.jsonl"))


@pytest.mark.slow
def test_a_killed_job_goes_on_from_what_it_uploaded_and_its_lock_is_taken_over(
    at_urls, launch, local, bucket
):
    """`vetdino pretrain` on Ray, killed with SIGKILL; the training itself goes on without Ray on an empty disk."""
    config = at_urls("killed", loaders=1)
    process = start(config)
    end = time.monotonic() + 400
    while len(sealed_steps(config)) < 2 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.1)
    for pid in of_session(process.pid):
        os.kill(pid, signal.SIGKILL)
    _, out, err = ended(process)
    assert len(sealed_steps(config)) >= 2, err[-3000:]
    assert "no MLflow run: a URL has no database beside it" not in out
    lock = Location(f"{bucket}/runs/.killed.lock")
    assert json.loads(read_bytes(lock) or b"{}")["action"] == "vetdino pretrain"
    forget(config)
    with pytest.raises(ConfigError, match="holds a training already; add --resume"):
        pretrain(config)
    assert read_bytes(lock) is None
    launch([(replace(config, resume=True, loaders=0), None)], 1)
    assert losses(there(config, "metrics.jsonl")) == losses((local / "metrics.jsonl").read_text())


@pytest.mark.slow
def test_a_checkpoint_whose_upload_failed_is_uploaded_by_the_next_start_and_a_stale_one_is_forgotten(
    launch, at_urls
):
    config = at_urls("unsent")
    launch([(config, 7)], 1)
    # As if the upload of step 6 had never been made, and this machine did not know of any.
    remove(config.out / "checkpoints/step_00000006", ["seal.json"])
    record = run_folder(config).parent / "equal.json"
    known = json.loads(record.read_text())
    record.write_text(
        json.dumps({name: state for name, state in known.items() if "step_00000006" not in name})
    )
    storage = RunStorage(config)
    storage.recover()
    assert sealed_steps(config) == [3, 6]
    # Removed at the URL by somebody, it goes here, too.
    remove(config.out / "checkpoints/step_00000006", ["seal.json"])
    storage.recover()
    assert [path.name for path in (run_folder(config) / "checkpoints").glob("step_*")] == ["step_00000003"]
    assert sealed_steps(config) == [3]


@pytest.mark.slow
def test_a_backbone_and_a_start_are_loaded_from_the_url_of_a_training(launch, at_urls):
    config = at_urls("first", steps=3)
    launch([(config, None)], 1)
    backbone = load(f"{config.out}/backbone")
    assert backbone.width == 32
    assert load(f"{config.out}/backbone/backbone.safetensors").card == backbone.card
    for source in (f"{config.out}", f"{config.out}/checkpoints/step_00000003"):
        point = starting_point(replace(config, start=source))
        assert point.has_heads
    assert not starting_point(replace(config, start=f"{config.out}/backbone")).has_heads
    with pytest.raises(StorageError, match="nothing is there"):
        load(f"{config.out}/elsewhere")


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_at_the_url_is_passed_over(launch, at_urls):
    config = at_urls("damaged")
    launch([(config, 7)], 1)
    place = config.out / "checkpoints/step_00000006/teacher.safetensors"
    content = bytearray(read_bytes(place) or b"")
    content[-1] ^= 1
    target = Path(os.environ["VETDINO_CACHE"]) / "damaged"
    target.write_bytes(content)
    upload(place, {"": target})
    forget(config)
    RunStorage(config).recover()
    with pytest.raises(CheckpointError, match="differs from its seal"):
        checkpoint.verify(run_folder(config) / "checkpoints" / "step_00000006")
    with pytest.warns(RuntimeWarning, match="using the one before it"):
        newest = checkpoint.newest(run_folder(config) / "checkpoints")
    assert newest is not None
    assert checkpoint.step_of(newest) == 3
