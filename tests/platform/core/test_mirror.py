"""Outputs at a URL: what is there after a run that ended well, badly, or was cut off."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from vetdino.platform.core import mirror
from vetdino.platform.core.errors import LockError, StorageError
from vetdino.platform.core.mirror import Mirror, is_mirrored, place_of, published
from vetdino.platform.core.storage import listing, read_bytes, upload, write_bytes

pytestmark = pytest.mark.slow


@pytest.fixture
def place(s3, request) -> str:
    return f"{s3.bucket}/mirror/{request.node.name}/out"


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """Names in the order in which they are uploaded or (with a minus) removed."""
    names: list[str] = []

    def noted_upload(place, sources):
        names.extend(sources)
        upload(place, sources)

    def noted_remove(place, gone):
        names.extend(f"-{name}" for name in gone)
        for name in gone:
            mirror_remove(place, [name])

    mirror_remove = mirror.remove
    monkeypatch.setattr(mirror, "upload", noted_upload)
    monkeypatch.setattr(mirror, "remove", noted_remove)
    return names


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_local_output_is_written_where_it_is(tmp_path):
    with published(tmp_path / "out", "test") as folder:
        assert folder == tmp_path / "out"
        assert not is_mirrored(folder)
        assert place_of(folder) == folder
    assert list(tmp_path.iterdir()) == []


def test_marks_are_uploaded_last_the_outermost_at_the_end_and_hidden_files_never(place, order):
    with published(place, "test") as folder:
        assert is_mirrored(folder)
        assert str(place_of(folder)) == place
        assert str(place_of(folder / "v1" / "z")) == f"{place}/v1/z"
        write(folder, a="1", CURRENT="v1", v1__manifest_json="{}", v1__z="2")
        (folder / ".tmp").write_text("x")
        (folder / ".draft").mkdir()
        write(folder / ".draft", b="3")
        assert listing(place) == {}
    assert order == ["a", "v1/z", "v1/manifest.json", "CURRENT"]
    assert set(listing(place)) == set(order)
    assert not folder.exists()


def test_the_next_run_finds_what_is_there_and_sends_what_it_changed(place, order):
    with published(place, "test") as folder:
        write(folder, a="1", b="2", metrics_json="{}")
    order.clear()
    with published(place, "test") as folder:
        assert (folder / "a").read_text() == "1"
        write(folder, b="3", c="4")
        (folder / "a").unlink()
    # b is replaced, so what makes the folder valid goes first and comes back last.
    assert order == ["-metrics.json", "b", "c", "metrics.json", "-a"]
    assert set(listing(place)) == {"b", "c", "metrics.json"}
    assert read_bytes(f"{place}/b") == b"3"


def test_a_version_beside_another_leaves_the_mark_in_place(place, order):
    with published(place, "test") as folder:
        write(folder, CURRENT="v1", v1__a="1", v1__manifest_json="{}")
    order.clear()
    with published(place, "test") as folder:
        write(folder, CURRENT="v2", v2__a="2", v2__manifest_json="{}")
        for path in (folder / "v1").iterdir():
            path.unlink()
    assert order == ["v2/a", "v2/manifest.json", "CURRENT", "-v1/manifest.json", "-v1/a"]


def test_a_feature_table_is_none_while_its_parts_are_replaced(place, order):
    with published(place, "test") as folder:
        write(folder, **{"a.parquet": "1", "z.parquet": "1", "_features_json": "{}"})
    assert order == ["a.parquet", "z.parquet", "_features.json"]
    order.clear()
    with published(place, "test") as folder:
        write(folder, **{"a.parquet": "2", "_features_json": "{ }"})
    assert order == ["-_features.json", "a.parquet", "_features.json"]


def test_an_output_can_be_one_file(place):
    with published(f"{place}.html", "test") as path:
        path.write_text("page")
    assert read_bytes(f"{place}.html") == b"page"
    with published(f"{place}.html", "test") as path:
        assert path.read_text() == "page"
        path.write_text("page 2")
    assert read_bytes(f"{place}.html") == b"page 2"


def test_a_run_that_fails_leaves_the_url_as_it_was_and_keeps_what_it_made_for_the_next(place):
    with published(place, "test") as folder:
        write(folder, a="1")
    with suppress(KeyError), published(place, "test") as folder:
        write(folder, a="2", b="3")
        raise KeyError
    assert set(listing(place)) == {"a"}
    assert read_bytes(f"{place}/a") == b"1"
    with published(place, "test") as folder:
        assert (folder / "a").read_text() == "2"
        assert (folder / "b").read_text() == "3"
    assert read_bytes(f"{place}/b") == b"3"


def test_a_run_that_fails_without_having_written_leaves_nothing_here(place):
    with pytest.raises(KeyError), published(place, "test") as folder:
        raise KeyError
    assert not folder.parent.exists()


def test_a_run_that_fails_keeps_the_work_beside_its_output(place):
    with suppress(KeyError), published(place, "test") as folder:
        work = folder.with_name(f"{folder.name}.tmp-12345678")
        write(work, decoded="1")
        raise KeyError
    assert (work / "decoded").read_text() == "1"
    with published(place, "test") as again:
        assert again == folder


def test_what_somebody_else_changed_or_removed_meanwhile_counts(place):
    local = Mirror(place)
    write_bytes(f"{place}/a", b"1")
    write_bytes(f"{place}/b", b"1")
    local.pull()
    write(local.path, new="mine")
    write_bytes(f"{place}/a", b"2")
    mirror.remove(place, ["b"])
    local.pull()
    assert {path.name: path.read_text() for path in local.path.iterdir()} == {"a": "2", "new": "mine"}


def test_an_upload_that_breaks_off_keeps_all_and_names_it_and_the_next_run_ends_it(
    place, failing_s3, monkeypatch, order
):
    monkeypatch.setattr(mirror, "BATCH", 1)

    def broken(place, sources):
        if "c" in sources:
            failing_s3(403, "AccessDenied", -1)
        order.extend(sources)
        upload(place, sources)

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "upload", broken)
        with (
            pytest.raises(StorageError, match=r"access is denied.*is kept in ") as refusal,
            published(place, "test") as folder,
        ):
            write(folder, a="1", b="2", c="3", manifest_json="{}")
    assert str(folder) in str(refusal.value)
    failing_s3(500, "none", 0)
    assert set(listing(place)) == {"a", "b"}  # without its mark
    order.clear()
    mirror.remove(f"{place.rpartition('/')[0]}/.out.lock", [""])  # nobody could remove it then
    with published(place, "test") as folder:
        assert (folder / "c").read_text() == "3"
    assert order[-2:] == ["c", "manifest.json"]
    assert "a" not in order
    assert set(listing(place)) == {"a", "b", "c", "manifest.json"}


def test_two_runs_at_once_are_refused(place):
    with (
        published(place, "vetdino first"),
        pytest.raises(LockError, match=r"vetdino first \(process .* is writing there"),
        published(place, "vetdino second"),
    ):
        pass
    with published(place, "vetdino third"):
        pass
