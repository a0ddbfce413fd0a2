import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from vetdino.platform.models.letterbox import letterboxed
from vetdino.platform.models.similarity import PatchGrid, cosine_matrix, quantized, top_boxes

GRIDS = st.builds(
    lambda height, width, cells, patch: PatchGrid(
        height=height, width=width, side=cells * patch, patch=patch
    ),
    st.integers(150, 900),
    st.integers(150, 900),
    st.integers(2, 37),
    st.sampled_from([8, 14, 16]),
)


def area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@given(grid=GRIDS)
@settings(max_examples=60, deadline=None)
def test_the_boxes_of_all_patches_cover_the_view_once(grid):
    assert len(grid.boxes()) == grid.count
    assert area(grid.boxes()).sum() == grid.height * grid.width


@given(grid=GRIDS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_middle_of_a_box_belongs_to_its_patch(grid, data):
    whole = np.flatnonzero(area(grid.boxes()) >= 4)
    patch = int(data.draw(st.sampled_from(whole.tolist())))
    left, top, right, bottom = grid.box(patch)
    assert grid.patch_at((left + right) / 2, (top + bottom) / 2) == patch


@given(grid=GRIDS)
@settings(max_examples=30, deadline=None)
def test_a_patch_is_inside_when_more_of_it_is_view_than_border(grid):
    top, left, rows, columns = grid.letterbox
    picture = np.zeros((grid.side, grid.side))
    picture[top : top + rows, left : left + columns] = 1
    cells, patch = grid.columns, grid.patch
    for number, inside in enumerate(grid.inside()):
        row, column = divmod(number, cells)
        cell = picture[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        assert inside == (cell.mean() > 0.5)


@pytest.mark.parametrize("shape", [(512, 300), (300, 512), (400, 400), (97, 120)])
def test_a_bright_spot_lies_in_the_box_of_the_patch_that_sees_it(shape):
    y, x = shape[0] // 4, 2 * shape[1] // 3
    view = np.zeros(shape, np.uint8)
    view[y - 4 : y + 4, x - 4 : x + 4] = 255
    square = letterboxed(view, 96)
    cells = square.reshape(12, 8, 12, 8).sum(axis=(1, 3), dtype=np.int64)
    grid = PatchGrid(*shape, side=96, patch=8)
    left, top, right, bottom = grid.box(int(cells.argmax()))
    assert left - 4 <= x <= right + 4
    assert top - 4 <= y <= bottom + 4


def test_cosines_are_those_of_an_independent_library():
    random = np.random.default_rng(0)
    left, right = random.normal(size=(30, 8)), random.normal(size=(40, 8))
    np.testing.assert_allclose(cosine_matrix(left, right), cosine_similarity(left, right), atol=1e-6)


def test_a_token_of_length_zero_has_cosine_zero():
    assert cosine_matrix(np.zeros((1, 4)), np.ones((2, 4))).tolist() == [[0.0, 0.0]]


def test_the_five_best_come_in_order_and_ties_by_number():
    grid = PatchGrid(height=64, width=64, side=32, patch=8)
    scores = np.zeros(16, np.float32)
    scores[[3, 9, 12]] = [0.5, 0.9, 0.5]
    best = top_boxes(scores, grid)
    assert [one.patch for one in best] == [9, 3, 12, 0, 1]
    assert best[0].box == (16, 32, 32, 48)
    assert best[0].score == pytest.approx(0.9)


def test_a_patch_of_the_black_border_is_never_among_the_best():
    grid = PatchGrid(height=50, width=100, side=32, patch=8)
    scores = np.linspace(1, 0, 16)  # the best are in the border above the view
    assert [one.patch for one in top_boxes(scores, grid, k=16)] == [4, 5, 6, 7, 8, 9, 10, 11]


@given(seed=st.integers(0, 1000), narrow=st.floats(1e-3, 1.0))
@settings(max_examples=30, deadline=None)
def test_quantization_keeps_every_cosine_within_half_a_step(seed, narrow):
    cosines = (1 - narrow * np.random.default_rng(seed).random((20, 20))).astype(np.float32)
    matrix, low, high = quantized(cosines)
    assert matrix.dtype == np.uint8
    np.testing.assert_allclose(
        low + matrix / 255 * (high - low), cosines, atol=0.51 * (high - low) / 255 + 1e-6
    )


def test_a_matrix_of_one_value_is_still_a_matrix():
    matrix, low, high = quantized(np.ones((3, 3), np.float32))
    assert matrix.tolist() == [[0, 0, 0]] * 3
    assert low == high == 1.0
