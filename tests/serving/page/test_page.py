"""The page in a real browser. No request may leave this machine."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from vetdino.platform.models.similarity import PatchGrid, top_boxes

pytestmark = [
    pytest.mark.slow,
    # gradio and starlette warn about each other's versions while they are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOWN = "words => document.querySelector('.patient h1').textContent.startsWith(words)"


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_context(viewport={"width": 1440, "height": 900})
        browser.close()


@pytest.fixture
def page(address, browser):
    """The loaded page; afterwards: no request has left the machine, and the browser has logged no error."""
    page = browser.new_page()
    outside, errors = [], []
    inside = (address, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(inside) or outside.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".app[aria-busy='false'] .card")
    yield page
    page.close()
    assert outside == []
    assert errors == []


def point(page, side: int, x: float, y: float, *, click: bool = False) -> None:
    """Moves the pointer to a point of a view, in fractions of its width and height."""
    area = page.locator(".film").nth(side).bounding_box()
    at = (area["x"] + x * area["width"], area["y"] + y * area["height"])
    page.mouse.click(*at) if click else page.mouse.move(*at)


def test_the_page_opens_with_two_views_of_different_planes(page, studies):
    assert page.title() == "vetdino"
    assert page.locator(".patient h1").inner_text().startswith("Study 1")
    assert page.locator(".patient .chips").inner_text() == "lung mass"
    assert page.locator("button[aria-pressed='true']").all_inner_texts() == ["VD", "LLAT"]
    assert page.locator(".film img").evaluate_all("all => all.every(i => i.naturalWidth > 0)")
    assert page.locator(".strip .tile").count() == 2 * (2 + 3)
    assert not any(study.patient in page.content() for study in studies)


def test_hovering_shows_what_python_computes_in_less_than_5_ms(page, address):
    content = httpx.get(f"{address}/v1/similarity?a=test-0/0&b=test-0/2").content
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    rows = np.frombuffer(content[4 + length :], np.uint8).reshape(128, 128)
    grid = PatchGrid(height=240, width=160, side=64, patch=8)
    other = PatchGrid(height=140, width=230, side=64, patch=8)
    milliseconds = []
    for step in range(20):
        x, y = 0.2 + 0.03 * step, 0.15 + 0.035 * step
        point(page, 0, x, y)
        pane, across = page.locator(".pane").nth(0), page.locator(".pane").nth(1)
        patch = grid.patch_at(x * 160, y * 240)
        assert pane.get_attribute("data-anchor") == str(patch)
        best = [one.patch for one in top_boxes(rows[patch, 64:].astype(int), other)]
        assert across.get_attribute("data-top") == " ".join(map(str, best))
        milliseconds.append(page.evaluate("performance.getEntriesByName('hover')[0].duration"))
    assert np.median(milliseconds) < 5.0
    assert header["views"][1]["boxes"][best[0]] == list(other.box(best[0]))


def test_the_anchor_is_red_and_five_boxes_are_in_the_other_view(page):
    point(page, 1, 0.5, 0.5)
    assert page.locator(".pane").nth(1).locator("rect.anchor").count() == 1
    stroke = "node => getComputedStyle(node).stroke"
    assert page.locator("rect.anchor").evaluate(stroke) == "rgb(255, 77, 77)"
    assert page.locator(".pane").nth(0).locator("rect").count() == 5
    lit = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)"
    assert page.locator("canvas").nth(0).evaluate(lit)
    assert page.locator("canvas").nth(1).evaluate(lit)


def test_a_click_pins_and_escape_removes_the_pin(page):
    point(page, 0, 0.5, 0.5, click=True)
    pinned = page.locator(".pane").nth(0).get_attribute("data-anchor")
    point(page, 0, 0.3, 0.3)
    assert page.locator(".pane").nth(0).get_attribute("data-anchor") == pinned
    assert "Pinned" in page.locator(".hint").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("rect").count() == 0


def test_leaving_the_view_clears_what_is_not_pinned(page):
    point(page, 0, 0.5, 0.5)
    page.mouse.move(5, 5)
    assert page.locator("rect").count() == 0


def test_another_view_may_be_chosen_on_either_side(page):
    with page.expect_response(lambda answer: "b=test-0/1" in answer.url):
        page.locator(".pane").nth(1).get_by_role("button", name="DV").click()
    assert page.locator("button[aria-pressed='true']").all_inner_texts() == ["VD", "DV"]


def test_another_backbone_has_its_own_matrix(page):
    for number, label in enumerate(["shipped: pretrained", "just trained", "random weights"]):
        button = page.locator(".backbones button").nth(number)
        assert label in button.inner_text()
    with page.expect_response(lambda answer: "similarity" in answer.url and "backbone=2" in answer.url):
        button.click()
    page.wait_for_selector(".strip img[src*='backbone=2']")
    assert page.locator(".backbones [aria-checked='true']").inner_text() == "random weights, seed 0"


def test_a_similar_study_opens_and_back_returns(page):
    card = page.locator(".card").first
    name = card.get_attribute("data-study")
    card.locator(".open").click()
    page.wait_for_function(SHOWN, arg=f"Study {int(name.split('-')[1]) + 1}")
    assert name in page.url
    page.go_back()
    page.wait_for_function(SHOWN, arg="Study 1")
    assert name not in page.url


def test_a_similar_study_is_compared_patch_by_patch(page):
    card = page.locator(".card[data-study='test-2']")
    with page.expect_response(lambda answer: "b=test-2/0" in answer.url):
        card.locator(".compare").click()
    assert page.locator(".pane").nth(1).locator(".other-study").inner_text().startswith("Study 3")
    page.wait_for_timeout(300)
    point(page, 0, 0.5, 0.5)
    assert page.locator(".pane").nth(1).locator("rect").count() == 5
    with page.expect_response(lambda answer: "b=test-0/2" in answer.url):
        page.get_by_role("button", name="Back").click()


def test_a_study_of_one_view_stands_beside_itself(page):
    page.locator(".studies").select_option("test-3")
    page.wait_for_function(SHOWN, arg="Study 4")
    assert page.locator("button[aria-pressed='true']").all_inner_texts() == ["VD", "VD"]


def test_arrows_walk_through_the_studies(page):
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(SHOWN, arg="Study 5")
    assert page.locator(".studies").input_value() == "test-4"
    page.keyboard.press("ArrowRight")
    page.wait_for_function(SHOWN, arg="Study 1")
    assert page.locator(".studies").input_value() == "test-0"


def test_an_error_is_shown_in_words(page):
    page.evaluate("location.hash = 'test-99'")
    page.wait_for_selector(".error:not([hidden])")
    assert "There is no study test-99 here" in page.locator(".error").inner_text()
    page.route("**/v1/studies/*", lambda route: route.abort())
    page.evaluate("location.hash = 'test-1'")
    page.get_by_text("The server does not answer").wait_for()


def test_a_narrow_window_stacks_the_views(page):
    page.set_viewport_size({"width": 420, "height": 860})
    tops = page.locator(".pane").evaluate_all("all => all.map(p => p.getBoundingClientRect().top)")
    assert tops[1] > tops[0] + 100
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
