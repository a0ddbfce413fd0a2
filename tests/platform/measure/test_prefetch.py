"""Views arrive in order, decoded ahead of whoever takes them."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from vetdino.platform.core.errors import ShardError
from vetdino.platform.data.study import StoredView, Study, View
from vetdino.platform.measure.prefetch import AHEAD, batched, prefetched, view_places
from vetdino.platform.models.letterbox import letterboxed


def studies(count, views=2):
    return [
        Study(
            f"k{number}",
            f"p{number}",
            tuple(
                View(np.full((6 + view, 9), 2 * number + view, np.uint8), "VD")
                for view in range(1, views + 1)
            ),
            {},
            "train",
        )
        for number in range(count)
    ]


def groups(studies, size, tag="t"):
    return ((tag, group) for group in batched(view_places(studies), size))


def test_nothing_gives_nothing():
    assert list(prefetched([], 8, 2)) == []


def test_views_come_in_order_in_squares():
    batches = list(prefetched(groups(studies(5), 3), 8, threads=2))
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    places = [(study.key, index) for batch in batches for study, index in batch.places]
    assert places == [(f"k{number}", index) for number in range(5) for index in (0, 1)]
    expected = [letterboxed(view.pixels, 8) for study in studies(5) for view in study.views]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), expected)
    assert [batch.finished for batch in batches] == [1, 2, 1, 1]
    assert {study.views for batch in batches for study, _ in batch.places} == {()}
    assert (batches[0].tag, batches[0].projections, repr(batches[0])) == (
        "t",
        ["VD"] * 3,
        "ViewBatch(3 views, 8 px)",
    )


def test_reading_is_ahead_by_a_few_batches_and_no_more():
    taken, enough = [], threading.Event()

    def counted():
        for number, group in enumerate(groups(studies(40), 2)):
            taken.append(number)
            if number == AHEAD:
                enough.set()
            yield group

    with closing(prefetched(counted(), 8, 1)) as ready:
        next(ready)
        assert enough.wait(10)
        assert len(taken) <= AHEAD + 1


def test_the_threads_end_with_the_loop():
    before = threading.active_count()
    with closing(prefetched(groups(studies(40), 2), 8, 3)) as ready:
        next(ready)
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_a_view_that_is_no_picture_names_its_study():
    broken = [*studies(2), Study("kx", "p", (StoredView(b"no picture"),), {}, "train")]
    with pytest.raises(ShardError, match="study kx: view 0 is no picture"):
        list(prefetched(groups(broken, 2), 8, 2))


def test_an_error_of_reading_comes_where_it_happened():
    def failing():
        yield from groups(studies(1), 2)
        raise ShardError("cut")

    ready = prefetched(failing(), 8, 1)
    assert len(next(ready)) == 2
    with pytest.raises(ShardError, match="cut"):
        next(ready)
