"""The command line: what it prints, and how it ends when the work cannot be done."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

import vetdino
from vetdino.infra import cli
from vetdino.infra.commands.phantom import PhantomRadiographs
from vetdino.platform.core.errors import ShardError
from vetdino.platform.core.locks import folder_lock
from vetdino.pretrain.recipes import RECIPES

ROOT = Path(vetdino.__file__).parent
RECIPE = next(iter(RECIPES))
HEAVY = ("torch", "timm", "ray", "mlflow", "gradio", "numpy", "pandas", "sklearn", "scipy", "cv2", "pydicom")


def refused(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = cli.main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return code, line


def ends_with(monkeypatch, error: BaseException | None, written: Path | None = None) -> None:
    """Lets `vetdino phantom` end in a given way: these endings cannot be had from outside at will."""

    def run(self):
        if error is not None:
            raise error
        return written

    monkeypatch.setattr(PhantomRadiographs, "run", run)


def test_without_arguments_the_commands_are_listed(capsys):
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    first_words = {name.split()[0] for name in cli.COMMANDS}
    assert all(f"\n  {word} " in printed for word in first_words)
    assert all(len(line) <= 110 for line in printed.splitlines())


@pytest.mark.parametrize("group", cli.GROUPS)
def test_a_group_lists_its_commands(group, capsys):
    assert cli.main([group]) == 0
    printed = capsys.readouterr().out
    members = [name.split()[1] for name in cli.COMMANDS if name.startswith(group)]
    assert len(members) > 2
    assert all(f"\n  {member} " in printed for member in members)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_short_and_help_all_is_complete(name, capsys):
    words = [*name.split(), *([RECIPE] if name in ("pretrain", "plan") else [])]
    assert cli.main([*words, "--help"]) == 0
    short = capsys.readouterr()
    assert cli.main([*words, "--help-all"]) == 0
    whole = capsys.readouterr()
    assert short.out.startswith(f"usage: vetdino {name}")
    assert short.err == whole.err == ""
    flags = [line for line in short.out.splitlines() if line.startswith("  --")]
    assert len(flags) <= 15
    assert set(flags) <= set(whole.out.splitlines())


@pytest.mark.parametrize("kind", ["radiograph", "ultrasound", "volume"])
def test_each_kind_of_phantom_has_its_own_help(kind, capsys):
    assert cli.main(["phantom", "--kind", kind, "--help"]) == 0
    assert f"(default: {kind})" in " ".join(capsys.readouterr().out.split())


def test_the_recipes_are_listed(capsys):
    assert cli.main(["pretrain", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in RECIPES)


@pytest.mark.slow
def test_no_help_waits_for_a_heavy_library():
    program = (
        "import contextlib, io, json, sys\n"
        "from vetdino.infra import cli\n"
        "loaded = {}\n"
        "for name in cli.COMMANDS:\n"
        f"    words = name.split() + ['{RECIPE}'] * (name in ('pretrain', 'plan'))\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        assert cli.main([*words, '--help']) == 0, name\n"
        f"    loaded[name] = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "print(json.dumps(loaded))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {name: found for name, found in json.loads(done.stdout).items() if found} == {}


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["pretran", "vit"], "'pretrain'"),
        (["fewshot", "evalute"], "'fewshot evaluate'"),
        (["zeroshot", "asess", "x"], "'zeroshot assess'"),
        (["fewsht", "evaluate"], "'fewshot'"),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest(words, fact, capsys):
    code, line = refused(capsys, *words)
    assert code == 2
    assert line.startswith("vetdino: unknown command '")
    assert fact in line


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["embed", "b", "s", "o", "--bacth", "3"], "--batch"),
        (["embed", "b", "s"], "OUT"),
        (["embed", "b", "s", "o", "--level", "stdy"], "'study', 'view'"),
        (["embed", "b", "s", "o", "--batch", "many"], "--batch"),
        (["evaluate", "b", "s", "--knn.levle", "view"], "--knn.level"),
        (["compare-backbones", "a", "b", "--shrads", "s"], "--shards"),
        (["phantom", "o", "--sedd", "3"], "--seed"),
        (["embed", "--bacth", "3"], "--bacth"),  # what is missing comes second
        (["phantom", "o", "--kind", "x-ray"], "radiograph"),
        (["ingest", "s", "o", "--min-veiws", "2"], "--min-views"),
        (["pretrain", RECIPE, "--crops.globl-side", "96"], "--crops.global-side"),
        (["fewshot", "evaluate", "v", "--backbone", "pixels", "--sots", "2"], "--shots"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(words, fact, capsys):
    code, line = refused(capsys, *words)
    assert code == 2
    assert line.startswith(f"vetdino {words[0]}")
    assert fact in line


def test_an_unknown_recipe_is_refused_with_the_nearest(capsys):
    code, line = refused(capsys, "pretrain", RECIPE + "x", "--shards", "s", "--out", "o")
    assert code == 1
    assert f"'{RECIPE}'" in line


def test_a_recipe_comes_first(capsys):
    code, line = refused(capsys, "pretrain", "--steps", "3", RECIPE)
    assert code == 1
    assert "recipe comes first" in line


def test_a_recipe_can_be_printed_with_a_setting_changed(capsys):
    assert cli.main(["pretrain", RECIPE, "--print-config", "--shards", "s", "--out", "o", "--seed", "5"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 5


def test_a_plan_is_printed_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "small",
        "--gpus",
        "2",
        "--gpu",
        "h100",
        "--studies",
        "640",
        "--batch",
        "8",
        "--backbone.depth",
        "1",
    ]
    assert cli.main(["plan", *words]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("small: 2 x h100, vit_tiny_patch16_224, bfloat16; batch 8 = 2 x 4")
    assert "80 steps" in printed
    assert list(tmp_path.iterdir()) == []
    code, line = refused(capsys, "plan", "small", "--gpu", "v100")
    assert (code, "--optim.precision float32" in line) == (1, True)


def test_an_empty_folder_is_no_archive(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, line = refused(capsys, "ingest", str(tmp_path / "empty"), str(tmp_path / "out"))
    assert code == 1
    assert line.startswith("vetdino: ")
    assert not list(tmp_path.glob("out/*"))


def test_a_table_without_a_needed_column_is_refused(tmp_path, capsys):
    (tmp_path / "table.csv").write_text("path,study\na.png,1\n")
    code, line = refused(capsys, "ingest", str(tmp_path / "table.csv"), str(tmp_path / "out"))
    assert code == 1
    assert "patient" in line
    assert not list(tmp_path.glob("out/*"))


def test_a_backbone_that_is_not_there_is_refused(tmp_path, capsys):
    code, line = refused(capsys, "embed", str(tmp_path / "none"), str(tmp_path), str(tmp_path / "out"))
    assert code == 1
    assert line.startswith("vetdino: ")
    assert not (tmp_path / "out").exists()


def test_the_last_line_is_the_folder_that_was_written(monkeypatch, capsys, tmp_path):
    ends_with(monkeypatch, None, written=tmp_path)
    assert cli.main(["phantom", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (ShardError("a.tar: damaged;\n write it anew"), 1, "vetdino: a.tar: damaged; write it anew"),
        (KeyboardInterrupt(), 130, "vetdino: stopped; run the same command again to continue"),
        (OSError(errno.ENOSPC, "No space left"), 1, "vetdino: the disk is full; free some space, then"),
        (
            OSError(errno.EROFS, "Read-only file system", "/ro/x"),
            1,
            "vetdino: /ro/x: Read-only file system; choose",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/p"),
            1,
            "vetdino: /p: Permission denied; choose",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/n"), 1, "vetdino: /n: No such file"),
        (
            OSError("a library's words"),
            1,
            "vetdino: a library's words; look for the cause, then run the same",
        ),
        (TimeoutError(), 1, "vetdino: TimeoutError; look for the cause, then"),
        (SystemExit(2), 2, ""),
        (SystemExit(signal.SIGTERM), 143, "vetdino: stopped; run the same command again to continue"),
    ],
)
def test_an_ending_has_one_line_and_its_code(error, code, start, monkeypatch, capsys, tmp_path):
    ends_with(monkeypatch, error)
    assert cli.main(["phantom", str(tmp_path / "out")]) == code
    line = capsys.readouterr().err
    assert line.startswith(start)
    assert line.count("\n") == bool(start)


ARGUMENTS = {
    "phantom": ["OUT"],
    "ingest": ["source", "OUT"],
    "embed": ["backbone", "shards", "OUT"],
    "index build": ["features", "OUT"],
    "evaluate": ["backbone", "shards"],
    "compare-backbones": ["backbone", "--shards", "s"],
    **{f"zeroshot {name}": ["domains", "--backbone", "b"] for name in ("assess", "scatter", "same-domain")},
    **{f"zeroshot {name}": ["domains", "--backbone", "b"] for name in ("cross-domain", "noise")},
    "zeroshot segment": ["image", "--backbone", "b"],
    "fewshot prepare": ["source", "OUT"],
    "fewshot compare": ["volumes", "--backbones", "a", "b"],
    "fewshot xdomain": ["volumes", "more", "--backbone", "b"],
    "fewshot segment": ["scan", "--support", "s", "--mask", "m", "--backbone", "b"],
    **{f"fewshot {name}": ["volumes", "--backbone", "b"] for name in ("train", "evaluate", "kshot")},
    **{f"fewshot {name}": ["volumes", "--backbone", "b"] for name in ("cca-audit", "ttt-audit")},
    "compare": ["run"],
    "report": ["backbone"],
    "demo": [],
}
"""Command -> arguments without which it is not read; none of the files exists."""

WRITING = [
    name
    for name, entry in cli.COMMANDS.items()
    # A training locks its folder itself, see tests/pretrain/test_job.py; a plan and the doctor write nothing.
    if name not in ("pretrain", "distill", "plan", "doctor")
    and "out" in {field.name for field in fields(entry.load())}
]


def words_for(name: str, out: Path) -> list[str]:
    words = [*name.split(), *(str(out) if word == "OUT" else word for word in ARGUMENTS[name])]
    return words if "OUT" in ARGUMENTS[name] else [*words, "--out", str(out)]


@pytest.mark.parametrize("name", WRITING)
def test_every_command_that_writes_is_refused_where_another_run_writes(name, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with folder_lock(out, "vetdino demo"):
        code, line = refused(capsys, *words_for(name, out))
        assert code == 1
        assert "vetdino demo (process" in line
        assert "is writing there" in line
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("name", WRITING)
def test_every_command_says_in_one_line_where_it_cannot_write(name, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    code, line = refused(capsys, *words_for(name, tmp_path / "file" / "out"))
    assert code == 1
    assert "file: File exists; choose another path, then run the same command again" in line
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    code, line = refused(capsys, *words_for(name, tmp_path / "out"))
    assert code == 1
    assert line.startswith(f"vetdino: {tmp_path / 'out'}: Permission denied; choose another path")


def test_a_file_of_a_clinic_is_not_named_in_an_error_of_the_disk(tmp_path, capsys, monkeypatch):
    def run(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "archive" / "Doe^Jane.dcm"))

    monkeypatch.setattr(cli.COMMANDS["ingest"].load(), "run", run)
    code, line = refused(capsys, "ingest", str(tmp_path / "archive"), str(tmp_path / "out"))
    assert code == 1
    assert line.startswith(f"vetdino: a file in {tmp_path / 'archive'}: Permission denied")


@pytest.mark.slow
def test_sigterm_ends_a_command_as_ctrl_c_does_and_leaves_no_lock(tmp_path):
    words = ["phantom", str(tmp_path / "out"), "--studies", "3000", "--workers", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "vetdino", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(600):
            if list(tmp_path.glob("out/dicom/*")):
                break
            time.sleep(0.1)
        assert (tmp_path / ".out.lock").is_file()
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == "vetdino: stopped; run the same command again to continue"
    assert not (tmp_path / ".out.lock").exists()


@pytest.mark.slow
def test_of_two_commands_into_one_folder_the_second_is_refused(tmp_path):
    words = [sys.executable, "-m", "vetdino", "phantom", str(tmp_path / "out"), "--workers", "1"]
    plain = {"cwd": ROOT, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen([*words, "--studies", "40", "--side", "64"], **plain) for _ in range(2))
    ends = [(process.communicate(timeout=300)[1], process.returncode) for process in (first, second)]
    (err,) = [err for err, code in ends if code == 1]
    assert [code for _, code in sorted(ends, key=lambda end: end[1])] == [0, 1]
    assert "is writing there" in err.splitlines()[-1]


def test_an_error_in_the_clearing_up_after_ctrl_c_is_still_a_stop(monkeypatch, capsys, tmp_path):
    def run(self):
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("cannot close the ZIP file")

    monkeypatch.setattr(PhantomRadiographs, "run", run)
    assert cli.main(["phantom", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "vetdino: stopped; run the same command again to continue\n"


def test_our_own_mistake_keeps_its_traceback(monkeypatch, tmp_path):
    ends_with(monkeypatch, AssertionError("ours"))
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["phantom", str(tmp_path / "out")])


def test_a_reader_that_closes_the_pipe_is_no_error():
    """A closed pipe on stdout, as `vetdino … | head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "vetdino", "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_refusal_from_outside_is_one_line_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "vetdino", "embed", "nowhere", "nowhere", "out", "--bacth", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("vetdino embed: unknown argument --bacth; the nearest is '--batch'")
