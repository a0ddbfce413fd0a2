"""The training as a Ray job: progress, Ctrl-C, resume, killed workers, and what is refused before it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from vetdino.platform.core.config import flat, to_json
from vetdino.platform.core.errors import CheckpointError, ConfigError, LockError, ShardError
from vetdino.platform.core.run_folder import history
from vetdino.platform.models.loading import load
from vetdino.platform.training import checkpoint
from vetdino.platform.training.schedules import Cosine
from vetdino.pretrain.checkpoints import checkpoints_folder
from vetdino.pretrain.config import PretrainConfig
from vetdino.pretrain.job import pretrain

ROOT = Path(__file__).resolve().parents[2]

STEPS = 120
"""Enough to be stopped and killed on the way."""

PATIENCE = 300
"""Seconds that a Ray may take to start on a machine that is busy with other work."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def job(tiny, folder) -> Callable[..., PretrainConfig]:
    """The settings of a job whose crops are cut in a process of their own."""
    plan = {"steps": STEPS, "checkpoint_every": 10, "loaders": 1, "restarts": 5}
    return lambda name, **top: tiny(folder / name, {"probe.every": 0}, **(plan | top))


def words_of(config: PretrainConfig) -> list[str]:
    """The settings as a person types them after the recipe."""
    words = []
    for name, value in flat(config).items():
        flag = name.replace("_", "-")
        group, dot, last = flag.rpartition(".")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--{group}{dot}no-{last}")
        elif isinstance(value, str) and value.startswith("["):
            words += [f"--{flag}", *map(str, json.loads(value))]
        else:
            words += [f"--{flag}", str(value)]
    return words


def start(config: PretrainConfig) -> subprocess.Popen[str]:
    """`vetdino pretrain`, in a session of its own as a terminal gives it."""
    # What a shell runs in the background is deaf to Ctrl-C, and so are its children; a handler heals them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "vetdino", "pretrain", "demo", *words_of(config)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], patience: float = PATIENCE) -> tuple[int, str, str]:
    """Exit code and what it printed; whoever waits in vain leaves no process behind."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        for pid in of_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"not ended: {process.communicate()[1][-3000:]}") from None
    return process.returncode, out, err


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed, its exit code having been 0."""
    code, out, err = ended(process)
    assert code == 0, err[-3000:]
    return out, err


def step_reached(config: PretrainConfig, step: int, process: subprocess.Popen[str]) -> None:
    """Waits until the status tells a step."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            if json.loads((config.out / "status.json").read_text()).get("step", 0) >= step:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    code, _, err = ended(process, patience=10)
    raise AssertionError(f"step {step} was not reached, exit code {code}: {err[-3000:]}")


def messages(err: str, level: str) -> list[str]:
    """The sentences of a level among what was printed."""
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if line["level"] == level and "message" in line]


def of_session(session: int) -> dict[int, str]:
    """Processes of a session that still run: pid -> title."""
    rows = subprocess.run(["ps", "-eo", "pid,sid,stat,args"], capture_output=True, text=True).stdout
    processes = [row.split(None, 3) for row in rows.splitlines()[1:]]
    return {
        int(pid): title for pid, sid, state, title in processes if int(sid) == session and state[0] != "Z"
    }


def parent_of(pid: int) -> int:
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True).stdout)


def gone(session: int) -> bool:
    """Whether all of a session's processes have ended, soon."""
    for _ in range(300):
        if not of_session(session):
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def undisturbed(job) -> PretrainConfig:
    config = job("undisturbed")
    out, err = finished(start(config))
    (config.out / "printed.json").write_text(json.dumps([out, err]))
    return config


@pytest.fixture(scope="module")
def stopped(job) -> tuple[PretrainConfig, int, str, float, bool]:
    """A job stopped with Ctrl-C: its settings, exit code, words, seconds to its end, whether all are gone."""
    config = job("stopped")
    process = start(config)
    step_reached(config, 15, process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = ended(process, patience=120)
    return config, code, err, time.monotonic() - began, gone(process.pid)


@pytest.fixture(scope="module")
def resumed(stopped) -> PretrainConfig:
    """The same job continued, its worker killed twice on the way."""
    config = replace(stopped[0], resume=True)
    process = start(config)
    killed: set[int] = set()
    for step in (30, 70):
        step_reached(config, step, process)
        titles = of_session(process.pid)
        workers = {pid for pid, title in titles.items() if "RayTrainWorker" in title} - killed
        # The process that cuts its crops bears its title too.
        (worker,) = (pid for pid in workers if parent_of(pid) not in workers)
        killed |= workers
        os.kill(worker, signal.SIGKILL)
    finished(process)
    assert gone(process.pid)
    return config


# MLflow's first query brings up what SQLAlchemy calls deprecated in MLflow's tables.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_job_leaves_a_backbone_a_record_and_a_run_in_mlflow(undisturbed):
    from mlflow import MlflowClient

    out, err = json.loads((undisturbed.out / "printed.json").read_text())
    assert out.splitlines()[-1] == str(undisturbed.out / "backbone")
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert lines[-1]["done"] == lines[-1]["total"] == STEPS * 8
    assert lines[-1]["finished"]
    assert {"per_second", "seconds_left", "loss"} <= set(lines[-1])
    assert load(undisturbed.out / "backbone").width == 32
    assert [line["step"] for line in history(undisturbed.out)] == list(range(1, STEPS + 1))
    described = json.loads((undisturbed.out / "run.json").read_text())
    client = MlflowClient(described["tracking_uri"])
    assert client.get_run(described["run_id"]).info.status == "FINISHED"
    losses = client.get_metric_history(described["run_id"], "loss/total")
    assert [metric.step for metric in losses] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_ctrl_c_ends_within_seconds_with_one_line_that_names_resume_and_no_process_left(stopped):
    config, code, err, seconds, all_gone = stopped
    assert code == 130
    *_, last = err.splitlines()
    assert last == "vetdino: stopped; run the same command with --resume to continue"
    assert all(json.loads(line)["run"] for line in err.splitlines()[:-1])
    assert seconds < 40
    assert all_gone
    assert checkpoint.newest(checkpoints_folder(config)) is not None


@pytest.mark.slow
def test_stopped_resumed_and_killed_twice_the_weights_are_those_of_the_undisturbed_job_bit_for_bit(
    undisturbed, resumed
):
    for name in (f"checkpoints/step_{STEPS:08d}/teacher.safetensors", "backbone/backbone.safetensors"):
        one, two = load_file(undisturbed.out / name), load_file(resumed.out / name)
        assert one.keys() == two.keys()
        assert all(one[key].equal(two[key]) for key in one)


@pytest.mark.slow
def test_stopped_resumed_and_killed_twice_the_record_is_that_of_the_undisturbed_job(undisturbed, resumed):
    def comparable(config: PretrainConfig) -> list[dict[str, float]]:
        unlike = ("time", "speed/studies_per_second")
        return [{k: v for k, v in line.items() if k not in unlike} for line in history(config.out)]

    assert comparable(undisturbed) == comparable(resumed)


@pytest.mark.slow
def test_two_ray_workers_have_the_losses_of_one(job, undisturbed):
    together = job("two", workers=2)
    finished(start(together))
    alone, both = ([line["loss/total"] for line in history(c.out)] for c in (undisturbed, together))
    assert len(alone) == len(both) == STEPS
    # Rounding grows from step to step.
    assert both[:5] == pytest.approx(alone[:5], abs=1e-5)
    assert both[:30] == pytest.approx(alone[:30], abs=1e-2)


@pytest.mark.slow
def test_an_error_meant_for_people_is_told_in_one_line_and_not_tried_again(job):
    config = job("diverging")
    optim = replace(config.optim, lr=Cosine(start=1e30, end=1e30), clip=1e30)
    process = start(replace(config, optim=optim))
    code, out, err = ended(process)
    assert code == 1
    assert out == ""
    *_, last = err.splitlines()
    assert last.startswith("vetdino: step 5: the loss or a gradient was not finite for 5 steps in a row; ")
    assert "--step 5` shows where it begins" in last
    assert "step 1: the loss or a gradient was not finite; the step was skipped" in messages(err, "warning")
    assert [line["step"] for line in history(config.out)] == [1, 2, 3, 4, 5]
    assert not (config.out / "backbone").exists()


@pytest.mark.slow
def test_another_training_in_the_folder_is_refused_without_resume(undisturbed):
    with pytest.raises(ConfigError, match="holds a training already; add --resume to continue"):
        pretrain(undisturbed)


@pytest.mark.slow
def test_what_is_waited_for_is_named_before_the_first_step(undisturbed):
    _, err = json.loads((undisturbed.out / "printed.json").read_text())
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    stages = [line["stage"] for line in lines if line.get("done") == 0 and "stage" in line]
    assert list(dict.fromkeys(stages))[:3] == [
        "starting Ray",
        "starting 1 worker",
        "loading the network and the studies",
    ]
    assert "stage" not in json.loads((undisturbed.out / "status.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("steps", [STEPS - 1, 2])
def test_a_resume_to_fewer_steps_than_are_done_is_refused(steps, undisturbed):
    with pytest.raises(CheckpointError, match=f"beyond --steps {steps} already; give {STEPS} or more"):
        pretrain(replace(undisturbed, resume=True, steps=steps))
    assert (undisturbed.out / "config.json").read_text() == to_json(undisturbed)


def test_a_folder_that_another_run_writes_to_is_refused_before_anything_is_touched(job):
    config = job("taken")
    config.out.mkdir()
    (config.out / "metrics.jsonl").write_text("theirs")
    code = (
        "import sys; from vetdino.platform.core.locks import folder_lock\n"
        "with folder_lock(sys.argv[1], 'vetdino pretrain'):\n"
        "    print('held', flush=True); sys.stdin.readline()"
    )
    words = [sys.executable, "-c", code, str(config.out)]
    with subprocess.Popen(
        words, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockError, match=rf"process {holder.pid} "):
            pretrain(config)
        holder.communicate("\n")
    assert [path.name for path in config.out.iterdir()] == ["metrics.jsonl"]


def test_a_resume_without_checkpoint_starts_and_with_damaged_ones_alone_is_refused(job, monkeypatch, capsys):
    def workers(*arguments: object) -> None:
        raise InterruptedError

    monkeypatch.setattr("vetdino.pretrain.job.run_on_ray", workers)
    config = job("nothing", resume=True)
    with pytest.raises(InterruptedError):
        pretrain(config)
    line, *_ = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if "message" in line]
    assert line["message"].endswith("holds no checkpoint yet, so the training starts from the beginning")
    assert (line["level"], line["run"]) == ("info", "nothing")
    (config.out / "checkpoints" / "step_00000002").mkdir(parents=True)
    with (
        pytest.warns(RuntimeWarning, match="has no readable seal"),
        pytest.raises(ConfigError, match="each of its checkpoints is damaged"),
    ):
        pretrain(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 4}, "batch differs"),
        ({"seed": 1}, "seed differs"),
        ({"backbone": {"width": 64}}, "backbone differs"),
        ({"head_warmup": 0.5}, "head_warmup differs"),
    ],
)
def test_a_checkpoint_of_another_architecture_or_data_order_is_refused_on_resume(undisturbed, changes, said):
    nested = {
        name: replace(getattr(undisturbed, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    before = (undisturbed.out / "config.json").read_text()
    with pytest.raises(CheckpointError, match=said):
        pretrain(replace(undisturbed, resume=True, **nested))
    assert (undisturbed.out / "config.json").read_text() == before == to_json(undisturbed)


def test_fewer_training_studies_than_a_batch_are_refused(job):
    with pytest.raises(ConfigError, match="batch 32 is more than the 16 training studies; lower it"):
        pretrain(job("few", batch=32))


def test_a_folder_that_holds_no_shards_is_refused(job, tmp_path):
    with pytest.raises(ShardError, match=r"no manifest.json here"):
        pretrain(job("none", shards=tmp_path))


@pytest.mark.slow
def test_a_start_of_another_architecture_is_refused(job, undisturbed):
    config = job("start", start=str(undisturbed.out / "backbone"))
    with pytest.raises(
        CheckpointError, match=r"holds another architecture than backbone .* width 64, 2 blocks"
    ):
        pretrain(replace(config, backbone=replace(config.backbone, width=64)))
