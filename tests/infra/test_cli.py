"""The command line: what it prints, and how it ends when the work cannot be done."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vetdino
from vetdino.infra import cli
from vetdino.infra.commands.phantom import PhantomRadiographs
from vetdino.platform.core.errors import ShardError
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
    assert len(members) > 4
    assert all(f"\n  {member} " in printed for member in members)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_short_and_help_all_is_complete(name, capsys):
    words = [*name.split(), *([RECIPE] if name == "pretrain" else [])]
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
        f"    words = name.split() + ['{RECIPE}'] * (name == 'pretrain')\n"
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
    assert cli.main(["phantom", "out"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (ShardError("a.tar: damaged;\n write it anew"), 1, "vetdino: a.tar: damaged; write it anew"),
        (KeyboardInterrupt(), 130, "vetdino: stopped; run the same command again to continue"),
        (OSError(errno.ENOSPC, "No space left"), 1, "vetdino: the disk is full; free some space, then"),
        (SystemExit(2), 2, ""),
    ],
)
def test_an_ending_has_one_line_and_its_code(error, code, start, monkeypatch, capsys):
    ends_with(monkeypatch, error)
    assert cli.main(["phantom", "out"]) == code
    line = capsys.readouterr().err
    assert line.startswith(start)
    assert line.count("\n") == bool(start)


def test_our_own_mistake_keeps_its_traceback(monkeypatch):
    ends_with(monkeypatch, AssertionError("ours"))
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["phantom", "out"])


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
