"""One writer for each output folder: refused, taken over or explained, also between real processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import vetdino
from vetdino.platform.core import locks
from vetdino.platform.core.errors import LockError
from vetdino.platform.core.locks import INSIDE, LockOwner, file_lock, folder_lock
from vetdino.platform.core.storage import listing, write_bytes

ROOT = Path(vetdino.__file__).parent


def lock_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.lock")


def owner_of(out: Path) -> LockOwner:
    return LockOwner(**json.loads(lock_of(out).read_text()))


def leave_lock(out: Path, **changes: object) -> LockOwner:
    """A lock of this process under another token, with some facts changed, as a killed run leaves it."""
    with folder_lock(out, "vetdino pretrain"):
        owner = replace(owner_of(out), token="theirs", **changes)
    lock_of(out).parent.mkdir(parents=True, exist_ok=True)
    lock_of(out).write_text(json.dumps(asdict(owner)))
    return owner


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process of its own."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        words, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


HOLD = """
import sys
from vetdino.platform.core.locks import folder_lock
with folder_lock(sys.argv[1], "vetdino pretrain"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_nothing_is_left_of_a_lock_and_of_the_parents_made_for_it(tmp_path):
    with folder_lock(tmp_path / "runs" / "mine", "vetdino embed"):
        assert lock_of(tmp_path / "runs" / "mine").is_file()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_meanwhile_stays(tmp_path):
    with folder_lock(tmp_path / "runs" / "mine", "vetdino embed"):
        (tmp_path / "runs" / "mine").mkdir()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_the_lock_goes_after_an_error_too(tmp_path):
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path / "out", "vetdino embed"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_lock_says_who_since_when_and_where_and_nothing_else(tmp_path):
    with folder_lock(tmp_path / "out", "vetdino embed"):
        content = json.loads(lock_of(tmp_path / "out").read_text())
    assert (content["action"], content["pid"]) == ("vetdino embed", os.getpid())
    assert content["since"].startswith(time.strftime("%Y-"))
    assert content["host"]
    assert set(content) == {
        *("action", "pid", "since", "host"),
        *("machine", "boot", "namespace", "started", "token"),
    }


def test_a_second_run_in_the_same_process_is_refused(tmp_path):
    with (
        folder_lock(tmp_path / "out", "vetdino pretrain"),
        pytest.raises(LockError, match=r"vetdino pretrain \(process"),
        folder_lock(tmp_path / "out", "vetdino embed"),
    ):
        pass


def test_another_name_of_the_same_folder_is_the_same_lock(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    monkeypatch.chdir(tmp_path)
    with folder_lock("out", "one"), pytest.raises(LockError), folder_lock(tmp_path / "link", "two"):
        pass


def test_a_folder_inside_a_locked_one_is_for_the_same_run_only(tmp_path):
    with folder_lock(tmp_path / "demo", "vetdino demo"), folder_lock(tmp_path / "demo" / "run", "its part"):
        pass
    leave_lock(tmp_path / "demo")
    with pytest.raises(LockError), folder_lock(tmp_path / "demo" / "run", "vetdino pretrain"):
        pass


def test_a_run_of_another_process_is_refused_and_free_after_its_end(tmp_path):
    out = tmp_path / "out"
    with started(HOLD, out) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(LockError, match=rf"vetdino pretrain \(process {holder.pid} "),
            folder_lock(out, "x"),
        ):
            pass
        holder.communicate("\n")
    assert holder.returncode == 0
    with folder_lock(out, "vetdino pretrain"):
        assert owner_of(out).pid == os.getpid()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    out = tmp_path / "out"
    with started(HOLD, out) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.kill()
        # Until it is waited for it is a zombie, which writes nothing either.
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        with folder_lock(out, "vetdino pretrain"):
            assert owner_of(out).pid == os.getpid()
    assert not lock_of(out).exists()


RACE = """
import sys, time
from pathlib import Path
from vetdino.platform.core.errors import LockError
from vetdino.platform.core.locks import folder_lock
out, witness = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(60):
    try:
        with folder_lock(out, "race"):
            witness.mkdir()  # fails where somebody else is inside
            time.sleep(0.001)
            witness.rmdir()
    except LockError:
        pass
print("done", flush=True)
"""


@pytest.mark.slow
def test_of_processes_that_race_only_one_is_inside_at_a_time(tmp_path):
    """Four processes, with a killed run's lock to take over at the start."""
    out = tmp_path / "runs" / "out"
    dead = started("pass")
    dead.communicate()
    leave_lock(out, pid=dead.pid)
    racers = [started(RACE, out, tmp_path / "inside") for _ in range(4)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    for racer in racers:
        printed, errors = racer.communicate(timeout=60)
        assert (printed, errors) == ("done\n", "")
    assert not list(tmp_path.rglob("*.lock*"))


ENTER = """
import sys, time
from vetdino.platform.core.errors import LockError
from vetdino.platform.core.locks import folder_lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with folder_lock(sys.argv[1], "enter"):
        print("inside", flush=True)
        sys.stdin.readline()
except LockError:
    print("refused", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True])
def test_of_processes_that_come_at_once_exactly_one_gets_the_folder(stale, tmp_path):
    out = tmp_path / "out"
    if stale:
        dead = started("pass")
        dead.communicate()
        leave_lock(out, pid=dead.pid)
    racers = [started(ENTER, out) for _ in range(5)]
    for racer in racers:
        racer.stdout.readline()
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = [racer.stdout.readline().strip() for racer in racers]
    for racer in racers:
        racer.communicate("\n", timeout=30)
    assert sorted(answers) == ["inside", *["refused"] * 4]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"started": "1"}, id="its number belongs to another process now"),
        pytest.param({"boot": "earlier"}, id="the machine was started anew"),
    ],
)
def test_a_process_that_must_have_ended_loses_its_lock(changes, tmp_path):
    leave_lock(tmp_path / "out", **changes)
    with folder_lock(tmp_path / "out", "vetdino pretrain"):
        assert owner_of(tmp_path / "out").token != "theirs"


@pytest.mark.parametrize("fact", ["machine", "namespace"])
def test_the_lock_of_another_machine_or_container_is_explained_and_kept(fact, tmp_path):
    out = tmp_path / "out"
    leave_lock(out, **{fact: "other"}, host="node17", pid=999_999_999)
    with pytest.raises(LockError, match="node17, another machine or container") as refused:
        folder_lock(out, "vetdino pretrain").__enter__()
    assert f"remove {lock_of(out)}" in str(refused.value)
    assert owner_of(out).token == "theirs"


@pytest.mark.parametrize("content", ["", "no lock of ours", '{"pid": 3}'])
def test_a_lock_without_an_owner_is_explained_and_kept(content, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "GRACE", 0.2)
    lock_of(tmp_path / "out").write_text(content)
    with pytest.raises(LockError, match=r"remove it if no run writes there"):
        folder_lock(tmp_path / "out", "vetdino pretrain").__enter__()
    assert lock_of(tmp_path / "out").read_text() == content


def test_a_lock_that_somebody_replaced_is_not_removed(tmp_path):
    with folder_lock(tmp_path / "out", "vetdino pretrain"):
        lock_of(tmp_path / "out").write_text("another run's")
    assert lock_of(tmp_path / "out").read_text() == "another run's"


def test_where_the_parent_cannot_be_written_the_lock_is_inside(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    real = os.open

    def refusing(path, *more):
        if Path(path) == lock_of(out):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more)

    monkeypatch.setattr(os, "open", refusing)
    with folder_lock(out, "vetdino pretrain"):
        assert (out / INSIDE).is_file()
        monkeypatch.undo()  # a run that may write the parent sees it, too
        with pytest.raises(LockError), folder_lock(out, "vetdino embed"):
            pass
    assert list(out.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), folder_lock(tmp_path / "file" / "out", "vetdino embed"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_takes_no_files_is_an_error_and_no_endless_loop(tmp_path, monkeypatch):
    def refusing(path, *more):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(locks, "GRACE", 0.1)
    monkeypatch.setattr(os, "open", refusing)  # as in /proc
    with pytest.raises(FileNotFoundError), folder_lock(tmp_path / "out", "vetdino embed"):
        pass


def test_a_lock_is_waited_for_and_given_up_in_the_end(tmp_path):
    path = tmp_path / "mlflow.db"
    with started(HOLD, path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockError), file_lock(path, "create", wait_s=0.3):
            pass
        holder.stdin.write("\n")
        holder.stdin.flush()
        with file_lock(path, "create", wait_s=20):
            pass
        holder.communicate()


# URLs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_lock_of_a_url_lies_beside_it_and_goes_with_the_block(s3):
    out = f"{s3.bucket}/locks/run"
    with folder_lock(out, "vetdino first"):
        assert list(listing(f"{s3.bucket}/locks")) == [".run.lock"]
        with pytest.raises(LockError, match=r"vetdino first \(process"), folder_lock(out, "vetdino second"):
            pass
    assert listing(f"{s3.bucket}/locks") == {}
    with folder_lock(s3.bucket, "vetdino third"):
        assert ".vetdino.lock" in listing(s3.bucket)
    assert ".vetdino.lock" not in listing(s3.bucket)


@pytest.mark.slow
def test_the_lock_of_a_url_is_created_whole_or_not_at_all(s3, monkeypatch):
    """Even where nobody saw the other's: the server refuses the second."""
    out = f"{s3.bucket}/locks/same"
    with folder_lock(out, "vetdino first"):
        monkeypatch.setattr(locks, "_url_owner", lambda lock: (None, False))
        with pytest.raises(LockError, match="does not say whose it is"), folder_lock(out, "vetdino second"):
            pass


@pytest.mark.slow
def test_the_lock_of_an_ended_process_is_taken_over_and_that_of_another_machine_is_not(s3):
    out = f"{s3.bucket}/locks/ended"
    with subprocess.Popen(["true"]) as process:
        process.wait()
    ended = replace(locks._this_process("vetdino old", "1"), pid=process.pid, started="1")
    write_bytes(f"{s3.bucket}/locks/.ended.lock", json.dumps(asdict(ended)).encode())
    with folder_lock(out, "vetdino new"):
        pass
    elsewhere = replace(ended, machine="another")
    write_bytes(f"{s3.bucket}/locks/.ended.lock", json.dumps(asdict(elsewhere)).encode())
    refused = pytest.raises(LockError, match=r"another machine or container.*remove s3://.*/\.ended\.lock")
    with refused, folder_lock(out, "vetdino new"):
        pass
    write_bytes(f"{s3.bucket}/locks/.ended.lock", b"{")
    with pytest.raises(LockError, match="does not say whose it is"), folder_lock(out, "vetdino new"):
        pass
