"""Uploaded studies: for their session only, for a set time, and never too many."""

from __future__ import annotations

import pytest

from vetdino.platform.data.study import StoredView
from vetdino.serving.engine.errors import RefusedError
from vetdino.serving.engine.uploads import SESSION, UploadStore, new_session
from vetdino.serving.studies import NotHereError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return UploadStore(60, most=3, most_bytes=1000, clock=clock)


VIEW = StoredView(b"x" * 100, "VD")


def test_a_session_sees_its_upload_and_no_other_does(store):
    mine, other = new_session(), new_session()
    assert SESSION.fullmatch(mine)
    name = store.add(mine, [VIEW])
    assert store.get(name, mine).study.views == (VIEW,)
    for session in (other, ""):
        with pytest.raises(NotHereError) as foreign:
            store.get(name, session)
    with pytest.raises(NotHereError) as unknown:
        store.get("upload-" + "0" * 32, mine)
    assert str(foreign.value) == str(unknown.value)


def test_it_is_deleted_after_its_time_though_nobody_looks(store, clock):
    name = store.add("a", [VIEW])
    clock.now += 59
    assert store.get(name, "a")
    clock.now += 1
    store.sweep()
    assert len(store) == 0
    with pytest.raises(NotHereError):
        store.get(name, "a")


def test_its_session_may_delete_it_before(store):
    name = store.add("a", [VIEW])
    with pytest.raises(NotHereError):
        store.remove(name, "b")
    store.remove(name, "a")
    assert len(store) == 0


def test_the_oldest_goes_when_there_are_too_many_or_too_large_ones(store):
    names = [store.add("a", [VIEW]) for _ in range(4)]
    assert len(store) == 3
    with pytest.raises(NotHereError):
        store.get(names[0], "a")
    store.add("a", [VIEW] * 9)
    assert len(store) == 2
    with pytest.raises(RefusedError) as refusal:
        store.add("a", [VIEW] * 11)
    assert (refusal.value.status, refusal.value.limit) == (413, "uploads_mib")


def test_names_are_not_to_be_guessed(store):
    names = {store.add("a", [VIEW]) for _ in range(200)}
    assert len(names) == 200
    assert all(len(name) == len("upload-") + 32 for name in names)


def test_each_that_is_deleted_is_told(clock):
    deleted = []
    store = UploadStore(60, most=2, most_bytes=1000, clock=clock, on_delete=deleted.append)
    names = [store.add("a", [VIEW]) for _ in range(4)]
    assert deleted == names[:2]
    store.remove(names[2], "a")
    clock.now += 60
    store.sweep()
    assert deleted == names
    names.append(store.add("a", [VIEW]))
    store.clear()
    assert deleted == names
