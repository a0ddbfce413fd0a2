"""The reading room in a real browser. No request may leave this machine, no error may reach the console."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.serving.page.accessibility import faults
from vetdino.platform.models.similarity import PatchGrid, top_boxes
from vetdino.serving.config import ServiceConfig
from vetdino.serving.engine.opening import open_engine
from vetdino.serving.page.app import mount_page

pytestmark = [
    pytest.mark.slow,
    # gradio and starlette warn about each other's versions while they are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]

TITLE = "words => document.querySelector('.heading h1').textContent.startsWith(words)"


def point(page: Any, pane: int, x: float, y: float, *, click: bool = False) -> None:
    """Moves the pointer to a point of a view, in fractions of its width and height."""
    area = page.locator(".film").nth(pane).bounding_box()
    at = (area["x"] + x * area["width"], area["y"] + y * area["height"])
    page.mouse.click(*at) if click else page.mouse.move(*at)


def pane(page: Any, number: int) -> Any:
    return page.locator(".pane").nth(number)


def chosen_views(page: Any) -> list[str]:
    return page.locator(".views [aria-pressed='true']").all_inner_texts()


def best_by_python(
    address: str, a: str, b: str, patch: int, backbone: int = 0
) -> tuple[list[int], dict[str, Any]]:
    """The five best patches of view b for a patch of view a, from the matrix that the page gets; its header."""
    content = httpx.get(f"{address}/v1/similarity?a={a}&b={b}&backbone={backbone}").content
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    rows = np.frombuffer(content[4 + length :], np.uint8).reshape(128, 128)
    other = PatchGrid(**{name: header["views"][1][name] for name in ("height", "width", "side", "patch")})
    return [one.patch for one in top_boxes(rows[patch, 64:].astype(int), other)], header


def gray_values(page: Any, number: int) -> np.ndarray:
    """What the picture's canvas holds, (H, W) uint8."""
    url = page.locator(".picture").nth(number).evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L"))


# What one sees first ------------------------------------------------------------------------------------------


def test_the_room_opens_with_two_views_of_different_planes(page, studies):
    assert page.title() == "Study 1 - vetdino"
    assert page.locator(".heading h1").inner_text().startswith("Study 1")
    assert page.locator(".heading .chips").inner_text() == "lung mass"
    assert chosen_views(page) == ["VD", "LLAT"]
    assert gray_values(page, 0).shape == (240, 160)
    assert gray_values(page, 0).std() > 20
    assert not any(study.patient in page.content() for study in studies)


def test_a_study_of_one_view_stands_beside_itself(open_page):
    page = open_page("#study=test-3")
    assert chosen_views(page) == ["VD", "VD"]


# Patches that look alike --------------------------------------------------------------------------------------


def test_hovering_shows_what_python_computes(page, address):
    grid, other = PatchGrid(240, 160, 64, 8), PatchGrid(140, 230, 64, 8)
    for step in range(12):
        x, y = 0.2 + 0.05 * step, 0.15 + 0.058 * step
        point(page, 0, x, y)
        patch = grid.patch_at(x * 160, y * 240)
        assert pane(page, 0).get_attribute("data-anchor") == str(patch)
        best, header = best_by_python(address, "test-0/0", "test-0/2", patch)
        assert pane(page, 1).get_attribute("data-top") == " ".join(map(str, best))
    assert header["views"][1]["boxes"][best[0]] == list(other.box(best[0]))
    assert pane(page, 0).locator("rect.anchor").count() == 1
    stroke = page.locator("rect.anchor").evaluate("node => getComputedStyle(node).stroke")
    assert stroke == "rgb(255, 77, 77)"
    assert pane(page, 1).locator("rect").count() == 5
    assert sorted(pane(page, 1).locator("svg text").all_text_contents()) == ["1", "2", "3", "4", "5"]
    lit = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)"
    assert all(page.locator("canvas[data-map='similar']").nth(side).evaluate(lit) for side in (0, 1))


def test_a_box_is_where_its_patch_is_at_any_zoom(page):
    point(page, 1, 0.5, 0.5)
    page.mouse.wheel(0, -900)
    point(page, 1, 0.5, 0.5)
    box, film = page.locator("rect.anchor").bounding_box(), page.locator(".film").nth(1).bounding_box()
    x, y = film["x"] + film["width"] / 2, film["y"] + film["height"] / 2
    assert box["x"] - 2 <= x <= box["x"] + box["width"] + 2
    assert box["y"] - 2 <= y <= box["y"] + box["height"] + 2


def test_the_five_best_are_cut_out_with_their_cosines(page):
    point(page, 0, 0.5, 0.5, click=True)
    page.wait_for_selector(".matches .match:not([hidden])")
    words = page.locator(".matches figcaption").all_inner_texts()
    assert words[0] == "anchor"
    cosines = [float(text.split()[1]) for text in words[1:]]
    assert len(cosines) == 5
    assert cosines == sorted(cosines, reverse=True)
    drawn = """all => all.map((canvas) => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, 72, 72);
        return data.some((value, i) => i % 4 < 3 && value > 40);
    })"""
    assert page.locator(".matches canvas").evaluate_all(drawn) == [True] * 6


def test_a_click_pins_and_escape_removes_the_pin(page):
    point(page, 0, 0.5, 0.5, click=True)
    pinned = pane(page, 0).get_attribute("data-anchor")
    point(page, 0, 0.3, 0.3)
    assert pane(page, 0).get_attribute("data-anchor") == pinned
    assert "Pinned" in page.locator(".hint").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("rect").count() == 0


def test_a_second_click_on_the_patch_removes_the_pin_and_another_moves_it(page):
    point(page, 0, 0.5, 0.5, click=True)
    page.wait_for_timeout(600)  # two clicks in less are a double click
    point(page, 0, 0.3, 0.3, click=True)
    moved = pane(page, 0).get_attribute("data-anchor")
    link = page.evaluate("new Promise(r => setTimeout(() => r(location.hash), 300))")
    assert [float(part) for part in link.partition("pin=")[2].split(":")] == pytest.approx(
        [0, 0, 0.3, 0.3], abs=0.002
    )
    page.wait_for_timeout(600)
    point(page, 0, 0.3, 0.3, click=True)
    point(page, 0, 0.6, 0.6)
    assert pane(page, 0).get_attribute("data-anchor") not in ("", moved)


def test_leaving_the_view_clears_what_is_not_pinned(page):
    point(page, 0, 0.5, 0.5)
    assert page.locator("rect").count() == 6
    page.mouse.move(5, 5)
    assert page.locator("rect").count() == 0


def test_three_backbones_stand_side_by_side_on_one_anchor(page, address):
    labels = ["shipped: pretrained on drawings", "just trained by this test", "random weights, seed 0"]
    assert page.locator(".backbones button").all_inner_texts() == labels
    for number in (1, 2):
        with page.expect_response(lambda answer, n=number: f"backbone={n}" in answer.url):
            page.locator(".backbones button").nth(number).click()
    page.wait_for_function("() => document.querySelector('#vetdino .app').dataset.matrix.endsWith('0,1,2')")
    assert page.locator(".pane .backbone").all_inner_texts() == labels
    point(page, 0, 0.5, 0.4)
    tops = [pane(page, number).get_attribute("data-top") for number in (1, 2, 3)]
    assert tops[0] != tops[1]  # the third has the first one's weights
    assert page.locator(".matches section:not([hidden]) h2").all_inner_texts() == labels
    patch = PatchGrid(240, 160, 64, 8).patch_at(80, 96)
    for number, top in enumerate(tops):
        best, _ = best_by_python(address, "test-0/0", "test-0/2", patch, number)
        assert top == " ".join(map(str, best))


def test_an_anchor_in_a_right_view_is_the_same_place_for_all_backbones(open_page):
    page = open_page("#backbones=0,2")
    point(page, 2, 0.5, 0.5)
    anchors = [pane(page, number).get_attribute("data-anchor") for number in (0, 1, 2)]
    assert anchors[0] == ""
    assert anchors[1] == anchors[2] != ""
    assert pane(page, 0).locator("rect").count() == 5


def test_the_last_backbone_stays(page):
    page.locator(".backbones button").first.click()
    assert page.locator(".backbones [aria-pressed='true']").count() == 1
    assert page.locator(".pane").count() == 2


# Zoom, window, level ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_the_wheel_zooms_about_the_pointer_in_both_panes(page, number):
    film = page.locator(".film").nth(number)
    before = film.bounding_box()
    x, y = before["x"] + 0.3 * before["width"], before["y"] + 0.4 * before["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -500)
    after = film.bounding_box()
    assert after["width"] / before["width"] == pytest.approx(np.exp(0.8), rel=0.01)
    assert (x - after["x"]) / after["width"] == pytest.approx(0.3, abs=0.01)
    assert (y - after["y"]) / after["height"] == pytest.approx(0.4, abs=0.01)
    page.mouse.down()
    page.mouse.move(x + 40, y + 25, steps=4)
    page.mouse.up()
    dragged = film.bounding_box()
    assert (dragged["x"] - after["x"], dragged["y"] - after["y"]) == pytest.approx((40, 25), abs=1.5)
    assert "pin" not in page.evaluate("new Promise(r => setTimeout(() => r(location.hash), 300))")
    page.mouse.dblclick(x, y)
    assert film.bounding_box() == before


@pytest.mark.parametrize("how", ["right button", "W"])
def test_window_and_level_follow_the_drag_exactly(page, how):
    stored = gray_values(page, 1).astype(float)
    area = page.locator(".stage").nth(1).bounding_box()
    x, y = area["x"] + 60, area["y"] + 60
    page.mouse.move(x, y)
    page.keyboard.down("w") if how == "W" else None
    page.mouse.down(button="right" if how == "right button" else "left")
    page.mouse.move(x - 100, y + 40, steps=5)
    page.mouse.up(button="right" if how == "right button" else "left")
    page.keyboard.up("w") if how == "W" else None
    assert "window 155, level 88" in pane(page, 1).locator(".facts").inner_text()
    expected = (255 * ((stored - 87.5) / 155 + 0.5)).clip(0, 255)
    np.testing.assert_allclose(gray_values(page, 1), expected, atol=0.51)
    assert "window" not in pane(page, 0).locator(".facts").inner_text()
    assert page.locator("rect.anchor").count() <= 1


def test_a_double_click_keeps_the_pin_that_was(page):
    point(page, 0, 0.5, 0.5, click=True)
    pinned = pane(page, 0).get_attribute("data-anchor")
    page.wait_for_timeout(600)
    area = page.locator(".film").nth(0).bounding_box()
    page.mouse.dblclick(area["x"] + 0.2 * area["width"], area["y"] + 0.2 * area["height"])
    assert pane(page, 0).get_attribute("data-anchor") == pinned


# The link -----------------------------------------------------------------------------------------------------


def test_a_link_reproduces_what_is_on_the_screen_to_the_pixel(page, open_page):
    page.keyboard.press("l")
    page.locator(".backbones button").nth(1).click()
    page.locator(".studies [data-study='test-4']").click()
    page.wait_for_function(TITLE, arg="Study 5")
    pane(page, 0).get_by_role("button", name="DV").click()
    point(page, 1, 0.4, 0.4)
    page.mouse.wheel(0, -400)
    point(page, 0, 0.5, 0.5, click=True)
    page.locator(".stage").nth(1).focus()
    for key in ("[", "[", ".", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    page.get_by_label("Filter by a finding").select_option("present:lung_mass")
    page.get_by_label("Previous study").focus()  # a ring of focus is no part of the link
    page.mouse.move(5, 300)
    page.wait_for_timeout(400)
    link = page.evaluate("location.hash")
    for part in (
        "study=test-4",
        "views=1,2",
        "backbones=0,1",
        "pin=0:",
        "zooms=",
        "windows=",
        "present=lung_mass",
    ):
        assert part in link
    again = open_page(link)
    again.get_by_label("Previous study").focus()
    again.mouse.move(5, 300)
    again.wait_for_timeout(400)
    assert again.evaluate("location.hash") == link
    seen, reproduced = (
        np.asarray(Image.open(BytesIO(one.screenshot()))).astype(int) for one in (page, again)
    )
    assert (np.abs(seen - reproduced) > 2).any(axis=-1).sum() < 60  # pixels of round corners


@pytest.mark.parametrize(
    "part",
    ["backbones=7", "pin=0:0:a:b", "pin=9", "zooms=1", "windows=x,y", "views=9,9", "tab=none", "after=x"],
)
def test_a_damaged_link_opens_the_study_it_names(open_page, part):
    page = open_page(f"#study=test-1&{part}")
    assert page.locator(".heading h1").inner_text().startswith("Study 2")
    assert chosen_views(page) == ["VD", "LLAT"]
    assert page.locator(".pane").count() == 2


def test_back_returns_to_the_study_before(page):
    page.keyboard.press("n")
    page.wait_for_function(TITLE, arg="Study 2")
    assert "study=test-1" in page.url
    page.go_back()
    page.wait_for_function(TITLE, arg="Study 1")


# The list -----------------------------------------------------------------------------------------------------


def rows(page: Any) -> list[str]:
    return page.locator(".studies b").all_inner_texts()


def test_the_list_is_filtered_by_findings_and_projection(open_page):
    page = open_page("#list=true")
    page.wait_for_selector(".studies b")
    assert rows(page) == [f"Study {number}" for number in (1, 2, 3, 4, 5)]
    assert page.locator(".count").inner_text() == "1–5 of 5"
    page.get_by_label("Filter by a finding").select_option("present:enlarged_heart")
    page.get_by_text("1–2 of 2").wait_for()
    assert rows(page) == ["Study 2", "Study 4"]
    page.get_by_label("Filter by a projection").select_option("LLAT")
    page.get_by_text("1–1 of 1").wait_for()
    assert rows(page) == ["Study 2"]
    page.locator(".chosen button").click()
    page.get_by_label("Filter by a finding").select_option("absent:enlarged_heart")
    page.get_by_text("1–3 of 3").wait_for()
    assert rows(page) == ["Study 1", "Study 3", "Study 5"]
    assert page.locator(".chosen button").inner_text() == "no enlarged heart ×"


def test_next_and_previous_walk_through_the_filtered_list(open_page):
    page = open_page("#list=true&absent=enlarged_heart")
    page.wait_for_selector(".studies [aria-current]")
    for key, title in [("n", "Study 3"), ("n", "Study 5"), ("p", "Study 3")]:
        page.keyboard.press(key)
        page.wait_for_function(TITLE, arg=title)
    assert page.locator(".studies [aria-current] b").inner_text() == "Study 3"


def test_a_number_opens_its_study(open_page):
    page = open_page("#list=true")
    page.get_by_label("Open the study of this number").fill("4")
    page.keyboard.press("Enter")
    page.wait_for_function(TITLE, arg="Study 4")
    assert "study=test-3" in page.url


def test_pages_of_the_list_are_turned_and_walked_over(open_page, address):
    """The service is asked for pages of two instead of fifty: more studies than a page holds."""
    page = open_page()
    page.route(
        "**/v1/studies?*", lambda route: route.continue_(url=route.request.url.replace("count=50", "count=2"))
    )
    page.keyboard.press("l")
    page.get_by_label("Filter by a projection").select_option("VD")
    page.wait_for_function("() => document.querySelectorAll('.studies b').length === 2")
    page.get_by_label("Next page").click()
    page.wait_for_function("() => document.querySelector('.studies b').textContent === 'Study 3'")
    page.keyboard.press("p")  # the open study is not on this page: its first is opened
    page.wait_for_function(TITLE, arg="Study 3")
    page.keyboard.press("p")
    page.wait_for_function(TITLE, arg="Study 2")
    page.keyboard.press("n")
    page.wait_for_function(TITLE, arg="Study 3")
    assert page.locator(".studies b").first.inner_text() == "Study 3"
    assert page.get_by_label("Previous page").is_enabled()


# Without a gallery --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare_address(folder, server):
    """The page of an engine with shards and one backbone, and no gallery."""
    config = ServiceConfig(backbones=(folder / "backbone0",), shards=folder / "shards")
    with ThreadPoolExecutor(1) as thread:  # in this one the browser's loop runs
        engine = thread.submit(open_engine, config).result()
        try:
            with server(thread.submit(mount_page, engine, 0).result()) as url:
                yield url
        finally:
            engine.close()


def test_without_a_gallery_studies_are_listed_by_position(open_page, bare_address):
    page = open_page("#list=true", at=bare_address)
    page.wait_for_selector(".studies b")
    assert rows(page) == [f"Study {number}" for number in (1, 2, 3, 4, 5)]
    assert not page.get_by_label("Filter by a finding").is_visible()
    page.keyboard.press("n")
    page.wait_for_function(TITLE, arg="Study 2")
    page.keyboard.press("r")
    page.wait_for_function("() => !document.querySelector('.heading h1').textContent.startsWith('Study 2')")


# Keys, errors, sizes, access ----------------------------------------------------------------------------------


def test_everything_can_be_done_by_keys_alone(page):
    page.keyboard.press("Tab")
    for _ in range(40):
        if page.evaluate("document.activeElement.classList.contains('stage')"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    first = pane(page, 0).get_attribute("data-anchor")
    page.keyboard.press("ArrowRight")
    assert int(pane(page, 0).get_attribute("data-anchor")) == int(first) + 1
    page.keyboard.press("ArrowDown")
    assert int(pane(page, 0).get_attribute("data-anchor")) == int(first) + 9
    page.keyboard.press("Enter")
    assert "Pinned" in page.locator(".hint").inner_text()
    for key in ("+", "["):
        page.keyboard.press(key)
    assert "1.3×" in pane(page, 0).locator(".facts").inner_text()
    assert "window 243" in pane(page, 0).locator(".facts").inner_text()
    page.keyboard.press("0")
    assert pane(page, 0).locator(".facts").inner_text() == ""
    page.keyboard.press("2")
    page.wait_for_selector(".pane:nth-child(3)")
    page.keyboard.press("?")
    assert page.locator("dialog.help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog.help").is_visible()
    page.keyboard.press("l")
    page.locator(".studies button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function(TITLE, arg="Study 2")


def test_every_map_has_its_sentence_in_the_help(page):
    page.get_by_role("button", name="Help").click()
    maps = page.locator("dialog dt").all_inner_texts()
    assert "Patches" in maps
    assert all("not" in text for text in page.locator("dialog dd").all_inner_texts())


def test_an_error_is_shown_in_words(page, open_page):
    page.evaluate("location.hash = 'study=test-99'")
    page.wait_for_selector(".error:not([hidden])")
    assert "There is no study test-99 here" in page.locator(".error").inner_text()
    page.route("**/v1/studies/*", lambda route: route.abort())
    page.evaluate("location.hash = 'study=test-1'")
    page.get_by_text("The server does not answer").wait_for()
    expected = [text for text in open_page.errors if "Failed to load resource" in text]
    assert open_page.errors == expected
    open_page.errors.clear()


def test_text_of_the_data_is_never_html(page):
    page.route(
        "**/v1/studies/test-1",
        lambda route: route.fulfill(
            json={
                "study": "test-1",
                "key": "<img src=x onerror=alert(1)>",
                "findings": {"present": ["<b>bold</b>"], "absent": [], "unknown": []},
                "views": [{"projection": "<i>VD</i>", "laterality": "", "modality": "DX"}],
            }
        ),
    )
    page.keyboard.press("n")
    page.wait_for_function(TITLE, arg="Study 2")
    assert page.locator(".heading .chips").inner_text() == "<b>bold</b>"
    assert page.locator(".heading img, .heading b, .views i").count() == 0


@pytest.mark.parametrize("size", [(420, 860), (1366, 768), (3840, 2160)])
def test_nothing_runs_out_of_the_window(open_page, size):
    page = open_page("#backbones=0,1,2", viewport={"width": size[0], "height": size[1]})
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    overflow = """() => [...document.querySelectorAll('#vetdino .app button, .stage, .hint')].filter((node) => {
        const box = node.getBoundingClientRect();
        return box.width && (box.left < -1 || box.right > innerWidth + 1);
    }).map((node) => node.outerHTML.slice(0, 80))"""
    assert page.evaluate(overflow) == []
    whole = """() => [...document.querySelectorAll('.stage')].every((stage) => {
        const [outer, inner] = [stage, stage.firstChild].map((node) => node.getBoundingClientRect());
        const touches = Math.abs(inner.width - outer.width) < 2 || Math.abs(inner.height - outer.height) < 2;
        const centered = Math.abs(inner.left + inner.right - outer.left - outer.right) < 3;
        return touches && centered && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
    })"""
    assert page.evaluate(whole)
    text = "parseFloat(getComputedStyle(document.querySelector('#vetdino .app')).fontSize)"
    assert page.evaluate(text) >= (14 if size[0] < 3840 else 22)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_no_fault_in_both_themes(open_page, theme):
    page = open_page("#list=true&backbones=0,1&present=lung_mass&pin=0:0:0.5:0.5", color_scheme=theme)
    page.wait_for_selector(".studies b")
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.wait_for_timeout(300)
    assert faults(page) == []
    page.evaluate(
        "document.querySelector('.brand').insertAdjacentHTML('afterend', '<button id=bare></button>')"
    )
    assert faults(page) == ['button-name: <button id="bare"></button>']
    page.evaluate("document.querySelector('#bare').remove()")
    page.keyboard.press("?")
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") != theme
    page.reload()
    page.wait_for_selector(".studies b")
    assert page.evaluate("document.documentElement.dataset.theme") != theme
