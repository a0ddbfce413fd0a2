"""The command line: what it says, and how it ends when it cannot do what it was asked."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vetdino.infra import cli
from vetdino.infra.commands import verbs
from vetdino.platform.core.errors import ShardError

ROOT = Path(__file__).resolve().parents[2]


def refused(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = cli.main(arguments)
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    return code, line


def ends_with(monkeypatch, error: BaseException | None, left: Path | None = None) -> None:
    """Lets `vetdino phantom` end in a given way: these endings cannot be had from outside at will."""

    def phantom(arguments):
        if error is not None:
            raise error
        return left

    monkeypatch.setattr(verbs, "phantom", phantom)


def test_nothing_asked_is_answered_with_the_verbs(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name}" in said for name in cli.VERBS)


def test_every_verb_has_a_function():
    assert {verb.home for verb in cli.VERBS.values()} == {
        f"commands.verbs:{word}"
        for word in (name.replace("-", "_") for name in cli.VERBS)
        if callable(getattr(verbs, word))
    }


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"usage: vetdino {name}")
    assert said.err == ""


def test_an_unknown_verb_is_met_with_the_nearest(capsys):
    code, line = refused(capsys, "pretran", "vit")
    assert code == 2
    assert line.startswith("vetdino: unknown verb 'pretran'; the nearest is 'pretrain'")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed", "b", "s", "o", "--bacth", "3"], "--batch"),
        (["embed", "b", "s"], "OUT"),
        (["embed", "b", "s", "o", "--level", "stdy"], "'study', 'view'"),
        (["embed", "b", "s", "o", "--batch", "many"], "--batch"),
        (["evaluate", "b", "s", "--knn.levle", "view"], "--knn.level"),
        (["compare-backbones", "a", "b", "--shrads", "s"], "--shards"),
        (["phantom", "o", "--sedd", "3"], "--seed"),
        (["ingest", "s", "o", "--min-veiws", "2"], "--min-views"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(words, said, capsys):
    code, line = refused(capsys, *words)
    assert code == 2
    assert line.startswith(f"vetdino {words[0]}: ")
    assert said in line


def test_an_unknown_recipe_is_met_with_the_nearest(capsys):
    name = next(iter(recipes()))
    code, line = refused(capsys, "pretrain", name + "x", "--shards", "s", "--out", "o")
    assert code == 1
    assert line.startswith("vetdino: ")
    assert f"'{name}'" in line


def test_a_recipe_that_does_not_come_first_is_asked_for(capsys):
    code, line = refused(capsys, "pretrain", "--steps", "3", next(iter(recipes())))
    assert code == 1
    assert line.startswith("vetdino: the recipe comes first: ")


def test_an_unknown_setting_of_a_recipe_is_met_with_the_nearest(capsys):
    code, line = refused(capsys, "pretrain", next(iter(recipes())), "--crops.globl-side", "96")
    assert code == 2
    assert "--crops.global-side" in line


def test_a_recipe_can_be_printed_with_a_setting_changed(capsys):
    name = next(iter(recipes()))
    assert cli.main(["pretrain", name, "--print-config", "--shards", "s", "--out", "o", "--seed", "5"]) == 0
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


def test_a_folder_that_holds_no_shards_is_refused(tmp_path, capsys):
    code, line = refused(capsys, "embed", str(tmp_path / "none"), str(tmp_path), str(tmp_path / "out"))
    assert code == 1
    assert line.startswith("vetdino: ")
    assert not (tmp_path / "out").exists()


def test_the_last_line_is_the_folder_left(monkeypatch, capsys, tmp_path):
    ends_with(monkeypatch, None, left=tmp_path)
    assert cli.main(["phantom"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ShardError("a.tar: damaged;\n write it anew"), 1, "vetdino: a.tar: damaged; write it anew"),
        (KeyboardInterrupt(), 130, "vetdino: stopped; run the same command again to continue"),
        (OSError(errno.ENOSPC, "No space left"), 1, "vetdino: the disk is full; free some space, then"),
        (SystemExit(2), 2, ""),
    ],
)
def test_an_ending_has_one_line_and_its_code(error, code, said, monkeypatch, capsys):
    ends_with(monkeypatch, error)
    assert cli.main(["phantom"]) == code
    line = capsys.readouterr().err
    assert line.startswith(said)
    assert line.count("\n") == bool(said)


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    ends_with(monkeypatch, AssertionError("ours"))
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["phantom"])


def test_a_reader_that_leaves_is_no_error():
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
    assert done.stderr.splitlines() == ["vetdino embed: unknown argument --bacth; the nearest is '--batch'"]


def recipes() -> dict:
    from vetdino.pretrain.recipes import RECIPES

    return RECIPES
