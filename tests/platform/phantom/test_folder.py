"""A generator's folder: its card, its items in any number of processes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from vetdino.platform.core.errors import ConfigError, DataError
from vetdino.platform.phantom.folder import CARD, FolderContents, claim_folder, csv_text, fill_folder, run_all


@dataclass(frozen=True)
class Settings:
    items: int = 3
    color: str = "red"
    workers: int = 1


def write_item(out: Path, item: int) -> None:
    (out / f"{item}.txt").write_text(f"{item}")


def contents_of(out: Path, config: Settings, version: int = 1, write=write_item) -> FolderContents:
    return FolderContents(
        version=version,
        unit="items",
        growing=("items",),
        items=range(config.items),
        is_written=lambda item: (out / f"{item}.txt").exists(),
        write=partial(write, out),
        tables={"table.csv": csv_text(("item",), [(item,) for item in range(config.items)])},
        card={"kind": "test"},
    )


def fill(out: Path, config: Settings, **more) -> dict[str, str]:
    fill_folder(out, config, contents_of(out, config, **more))
    return {path.name: path.read_text() for path in out.iterdir()}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_folder_holds_its_items_its_tables_and_its_card(tmp_path, workers):
    files = fill(tmp_path / "out", Settings(workers=workers))
    card = json.loads(files.pop(CARD))
    assert card == {"version": 1, "kind": "test", "config": {"items": 3, "color": "red", "workers": 0}}
    assert files == {"0.txt": "0", "1.txt": "1", "2.txt": "2", "table.csv": "item\n0\n1\n2\n"}


def test_a_second_run_writes_missing_items_only_and_may_add_some(tmp_path):
    fill(tmp_path, Settings())
    (tmp_path / "1.txt").unlink()
    (tmp_path / "2.txt").write_text("kept")
    files = fill(tmp_path, Settings(items=4, workers=0))
    assert (files["1.txt"], files["2.txt"], files["3.txt"]) == ("1", "kept", "3")
    assert json.loads(files[CARD])["config"]["items"] == 4


def test_other_settings_fewer_items_another_version_or_kind_are_refused(tmp_path):
    fill(tmp_path, Settings())
    with pytest.raises(ConfigError, match="items of other settings"):
        fill(tmp_path, Settings(color="blue"))
    with pytest.raises(ConfigError, match="holds 3 items"):
        fill(tmp_path, Settings(items=2))
    with pytest.raises(ConfigError, match="other settings"):
        fill(tmp_path, Settings(), version=2)
    with pytest.raises(ConfigError, match="kind test"):
        claim_folder(tmp_path, Settings(), 1, growing=("items",))


@pytest.mark.parametrize("card", ["[]", "{}", "not JSON", '{"version": 1}'])
def test_a_damaged_card_is_refused(tmp_path, card):
    (tmp_path / CARD).write_text(card)
    with pytest.raises(ConfigError, match="damaged"):
        fill(tmp_path, Settings())


def test_a_place_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="run again; finished"):
        fill(tmp_path / "file" / "out", Settings())


def test_an_error_of_the_work_itself_is_raised_and_finished_items_stay(tmp_path):
    def fail_at_one(out: Path, item: int) -> None:
        if item == 1:
            raise ValueError("broken item")
        write_item(out, item)

    with pytest.raises(ValueError, match="broken item"):
        fill(tmp_path, Settings(), write=fail_at_one)
    assert (tmp_path / "0.txt").exists()
    assert not (tmp_path / "table.csv").exists()


def test_run_all_yields_once_for_each_item():
    done = []
    assert len(list(run_all(done.append, [3, 1, 2], workers=1))) == 3
    assert done == [3, 1, 2]
    assert list(run_all(done.append, [], workers=0)) == []


def test_csv_text_quotes_what_needs_it_and_ends_lines_the_unix_way():
    assert csv_text(("a", "b"), [(1, "x,y"), ("", None)]) == 'a,b\n1,"x,y"\n,\n'
