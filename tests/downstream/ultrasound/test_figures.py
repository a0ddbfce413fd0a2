"""Pictures of the zero-shot experiments: what is painted where, whose colour it has, and that they can be read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.ultrasound.figures import (
    OTHER,
    Bar,
    Couple,
    Tile,
    bars,
    colours_of,
    curves,
    grid,
    heat,
    joined,
    overlay,
    projections,
)
from vetdino.downstream.ultrasound.scatter_page import Cloud, scatter_page
from vetdino.platform.measure.figures import COLOURS


def pixels_of(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def holds(png: bytes, colour: str, near: int = 3) -> bool:
    """Whether the picture has at least 20 pixels of a colour."""
    far = np.abs(pixels_of(png).astype(int) - rgb(colour)).max(axis=2)
    return int((far <= near).sum()) >= 20


def test_nothing_found_and_no_truth_leave_the_frame_as_it_is():
    frame = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(
        overlay(frame, np.zeros((6, 8), bool), "#ff0000"), np.repeat(frame[..., None], 3, 2)
    )


def test_what_was_found_is_half_its_colour_and_the_rest_is_untouched():
    frame = np.full((6, 8), 100, np.uint8)
    found = np.zeros((6, 8), bool)
    found[2, 3] = True
    painted = overlay(frame, found, "#ff0000")
    assert painted[2, 3].tolist() == [178, 50, 50]
    assert (painted[~found] == 100).all()
    assert (frame == 100).all()


def test_the_truth_is_an_outline_and_not_a_filling():
    truth = np.zeros((40, 40), bool)
    truth[10:30, 10:30] = True
    painted = overlay(np.zeros((40, 40), np.uint8), None, "#ff0000", truth)
    yellow = (painted == (255, 225, 77)).all(axis=2)
    assert yellow[10, 10:30].all()
    assert not yellow[15:25, 15:25].any()


def test_a_domain_has_the_same_colour_whatever_the_order():
    assert colours_of(["leg", "arm", "foot"]) == colours_of(["foot", "leg", "arm"])
    assert len(set(colours_of([f"domain {n}" for n in range(8)]).values())) == 8


def test_heat_rises_from_dark_to_light_and_is_even_where_there_is_nothing_to_tell():
    shown = heat(np.array([[0.0, 0.5, 1.0]])).astype(int).sum(axis=2)
    assert shown[0, 0] < shown[0, 1] < shown[0, 2]
    assert len(np.unique(heat(np.ones((2, 2))).reshape(-1, 3), axis=0)) == 1


def test_a_grid_holds_rows_of_unequal_length_and_stays_readable():
    tile = Tile(np.full((48, 64), 90, np.uint8), "block 12", "Dice 0.00")
    colour = colours_of(["leg", "arm"])
    png = grid("Title", [("leg", colour["leg"], [tile] * 3), ("arm", colour["arm"], [tile])], "note")
    height, width, _ = pixels_of(png).shape
    assert width >= 3 * 150
    assert height >= 2 * 100
    assert holds(png, "#5a5a5a")
    assert all(holds(png, one, near=40) for one in colour.values())


def test_bars_have_their_domains_colours_and_a_zero_is_written():
    marks = {"everything": 0.2, "oracle": 0.6}
    both = [Bar("2 images", "arm", 0.5, 0.1, marks), Bar("2 images", "leg", 0.4, 0.0, marks, pale=True)]
    png = bars("Title", "Dice", both)
    assert holds(png, "#2371b0", near=12)  # arm's blue, slightly transparent
    zero = bars("Title", "Dice", [Bar("2 images", "arm", 0.0, 0.0, {})])
    unknown = bars("Title", "Dice", [Bar("2 images", "arm", float("nan"), 0.0, {})])
    assert not np.array_equal(pixels_of(zero), pixels_of(unknown))


def test_many_groups_of_bars_take_more_lines_and_no_more_width():
    seven, many = (
        bars("Title", "Dice", [Bar(f"group {n}", "arm", 0.5, 0.1, {}) for n in range(count)])
        for count in (7, 28)
    )
    assert pixels_of(many).shape[1] <= 1.05 * pixels_of(seven).shape[1]
    assert pixels_of(many).shape[0] > 2.5 * pixels_of(seven).shape[0]


def test_curves_stand_in_one_panel_each_and_many_panels_take_more_lines():
    one = curves("Title", {"a": {"leg": [(0, 0.1), (1, 0.9)]}}, "x", "y")
    many = curves("Title", {str(n): {"leg": [(0, 0.1), (1, 0.9)]} for n in range(7)}, "x", "y")
    assert pixels_of(many).shape[0] > pixels_of(one).shape[0]
    assert holds(one, colours_of(["leg"])["leg"], near=6)


def test_places_that_belong_together_are_joined_in_the_colour_of_their_number():
    left, right = np.full((60, 80, 3), 90, np.uint8), np.full((40, 80, 3), 90, np.uint8)
    places = np.array([[10.0, 20.0, 30.0, 70.0], [50.0, 60.0, 5.0, 50.0]])
    named = (("arm/1", "#0b62a8"), ("leg/2", "#c05a00"))
    both = joined("Title", [Couple(left, right, named, places, "two")])
    none = joined("Title", [Couple(left, right, named, places[:0])])
    red, green = (np.abs(pixels_of(both).astype(int) - rgb(one)).max(axis=2) <= 6 for one in COLOURS[:2])
    grey = np.flatnonzero((pixels_of(none) == 90).all(axis=2).any(axis=0))  # columns of the two frames
    for own in (red, green):
        across = np.flatnonzero(own.any(axis=0))
        assert across.min() < grey.mean() < across.max()
    assert not holds(none, COLOURS[2])
    assert (
        pixels_of(joined("T", [Couple(left, right, named, places)] * 2)).shape[0] > pixels_of(both).shape[0]
    )


def test_projections_show_every_label():
    points = np.random.default_rng(0).normal(size=(300, 3))
    labels = ["other"] * 200 + ["bone of leg"] * 100
    colours = {"other": OTHER, "bone of leg": "#0b62a8"}
    assert holds(projections("Title", points, labels, colours), "#0b62a8", near=8)


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "a<b>&\"c'"])
def test_names_in_the_page_are_words_and_never_markup(name):
    cloud = Cloud(np.zeros((1, 3)), [name], [name], {name: "#0b62a8"})
    page = scatter_page(name, name, cloud)
    assert name not in page
    assert page.count("<script>") == 1
    assert page.count("</script>") == 1


def test_the_same_cloud_gives_the_same_page():
    points = np.random.default_rng(0).normal(size=(20, 3))
    cloud = Cloud(points, ["other"] * 20, ["w"] * 20, {"other": OTHER})
    assert scatter_page("T", "N", cloud) == scatter_page("T", "N", cloud)
