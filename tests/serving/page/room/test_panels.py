"""The panels of the reading room in a real browser: attention, colors, similar studies, upload, runs, saving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from tests.serving.conftest import CANARY, dicom_file
from tests.serving.page.accessibility import faults
from tests.serving.runs import write_run
from vetdino.platform.models.similarity import PatchGrid
from vetdino.serving.engine.runs import ShownRuns

pytestmark = [
    pytest.mark.slow,
    # gradio and starlette warn about each other's versions while they are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]

VD, LATERAL = (
    PatchGrid(height=240, width=160, side=64, patch=8),
    PatchGrid(height=140, width=230, side=64, patch=8),
)
"""Of the two views of study 1 that the page shows."""

CELLS = """([pane, map]) => {
  const canvas = document.querySelectorAll('.pane')[pane].querySelector(`canvas[data-map="${map}"]`);
  return canvas ? [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data] : null;
}"""


@pytest.fixture(scope="module", autouse=True)
def runs(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The service shows one zero-shot and one few-shot run."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "legs", kind="zero-shot")
    write_run(folder / "organs", kind="few-shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "runs", ShownRuns(folder))
        yield


def drawn(page: Any, tab: str, words: str = "") -> None:
    """Waits until a tab has drawn what the words name."""
    page.wait_for_function(
        "([tab, words]) => document.querySelector(`.panel.${tab}`)?.dataset.drawn?.startsWith(words)",
        arg=[tab, words],
    )


def cells(page: Any, pane: int, name: str) -> np.ndarray | None:
    """A map as it lies over a pane: (64, 4) uint8."""
    found = page.evaluate(CELLS, [pane, name])
    return None if found is None else np.array(found, np.uint8).reshape(-1, 4)


def answer(address: str, path: str) -> tuple[dict[str, Any], bytes]:
    content = httpx.get(address + path).content
    length = int.from_bytes(content[:4], "little")
    return json.loads(content[4 : 4 + length]), content[4 + length :]


def attention(address: str, view: str, backbone: int = 0) -> np.ndarray:
    header, numbers = answer(address, f"/v1/attention?view={view}&backbone={backbone}")
    return np.frombuffer(numbers, "<f4").reshape(header["heads"], -1)


def strongest(head: np.ndarray, grid: PatchGrid, share: float) -> np.ndarray:
    """The view's patches of most attention that together hold this share of it."""
    inside = np.flatnonzero(grid.inside())
    order = inside[np.argsort(-head[inside], kind="stable")]
    held = np.cumsum(head[order].astype(np.float64)) / head[inside].sum(dtype=np.float64)
    return order[: int(np.searchsorted(held, share)) + 1]


# Attention ------------------------------------------------------------------------------------------------------------


def test_attention_is_drawn_head_by_head_over_both_views(open_page, address):
    room = open_page()
    room.get_by_role("tab", name="Attention").click()
    drawn(room, "attention", "mean 60")
    assert room.locator(".strip .tile").count() == 2 * (2 + 3)
    room.locator(".strip[data-side='1'] .tile[data-head='1']").click()
    drawn(room, "attention", "1 60")
    for pane, view, grid in ((0, "test-0/0", VD), (1, "test-0/2", LATERAL)):
        head = attention(address, view)[1]
        head = np.where(grid.inside(), head, -1)
        shown = cells(room, pane, "attention")
        assert shown[head.argmax(), 3] == shown[:, 3].max() > 150
        assert set(np.flatnonzero(grid.inside() & (shown[:, 3] > 0))) <= set(strongest(head, grid, 0.6))
    assert (
        len({tuple(cell[:3]) for cell in cells(room, 0, "attention") if cell[3] > 40}) < 25
    )  # one color, rounded
    assert room.locator(".tile[aria-pressed='true']").all_inner_texts() == ["head 2", "head 2"]


@pytest.mark.parametrize("percent", [20, 60, 100])
def test_what_glows_are_the_patches_that_together_hold_most(open_page, address, percent):
    room = open_page(f"#tab=attention&head=0&keep={percent}")
    drawn(room, "attention", f"0 {percent}")
    head = attention(address, "test-0/0")[0].astype(np.float64)
    inside = np.flatnonzero(VD.inside())
    order = strongest(head, VD, 1.0)
    kept = strongest(head, VD, percent / 100)
    assert len(kept) < len(inside) or percent == 100
    low = head[order[min(len(kept), len(order) - 1)]]
    strength = ((head - low) / (head[order[0]] - low)).clip(0, 1)
    shown = cells(room, 0, "attention")[:, 3].astype(float)
    np.testing.assert_allclose(shown[inside], 0.75 * 255 * strength[inside], atol=1)


def test_backbones_attend_side_by_side(open_page):
    room = open_page("#tab=attention&head=all&backbones=0,1")
    drawn(room, "attention", "all")
    assert room.locator(".pane").count() == 3
    assert room.locator(".strip").count() == 3
    assert not np.array_equal(cells(room, 1, "attention"), cells(room, 2, "attention"))
    assert "just trained" in room.locator(".strip h2").last.inner_text()


def test_leaving_a_map_gives_the_views_back_to_similar_patches(open_page):
    room = open_page("#tab=attention")
    drawn(room, "attention")
    room.get_by_role("tab", name="Patches").click()
    assert cells(room, 0, "attention") is None
    area = room.locator(".film").first.bounding_box()
    room.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    room.wait_for_selector("rect.anchor")


def test_heads_are_chosen_with_the_keyboard_alone(open_page):
    room = open_page()
    room.get_by_role("tab", name="Patches").focus()
    room.keyboard.press("ArrowRight")
    drawn(room, "attention", "mean")
    assert room.evaluate("document.activeElement.id") == "tab-attention"
    room.keyboard.press("Tab")
    room.keyboard.press("ArrowLeft")  # the slider
    drawn(room, "attention", "mean 55")
    for head in ("mean", "all"):
        room.keyboard.press("Tab")
        assert room.evaluate("document.activeElement.dataset.head") == head
    room.keyboard.press("Enter")
    drawn(room, "attention", "all 55")
    assert room.evaluate("document.activeElement.dataset.head") == "all"


# Colors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", ["true", "false"])
def test_colors_are_those_of_the_service_in_all_views(open_page, address, background):
    room = open_page(f"#tab=pca&blend=100&background={background}")
    drawn(room, "pca", f"100 {background}")
    _, content = answer(address, f"/v1/pca?study=test-0&background={background}")
    rgba = np.frombuffer(content, np.uint8).reshape(3, 64, 4)
    for pane, view, grid in ((0, 0, VD), (1, 2, LATERAL)):
        shown, inside = cells(room, pane, "pca"), grid.inside()
        np.testing.assert_array_equal(shown[inside, 3], rgba[view, inside, 3])
        seen = inside & (rgba[view, :, 3] > 0)
        np.testing.assert_array_equal(shown[seen, :3], rgba[view, seen, :3])
    assert room.locator(".panel.pca .tile").count() == 3


def test_a_small_picture_brings_its_view_to_the_left(open_page):
    room = open_page("#tab=pca")
    drawn(room, "pca")
    room.locator(".panel.pca .tile").nth(1).click()
    room.wait_for_function("location.hash.includes('views=1')")
    drawn(room, "pca", "70 false 0 test-0/1")
    assert "DV" in room.locator(".pane .stage").first.get_attribute("aria-label")


def test_two_studies_are_colored_together(open_page):
    room = open_page("#tab=pca&with=test-2")
    drawn(room, "pca", "70 false 0 test-0/0 test-2/")
    assert room.locator(".panel.pca .tile").count() == 6
    assert cells(room, 1, "pca") is not None


# Similar studies ------------------------------------------------------------------------------------------------------


def test_similar_studies_are_of_other_patients_and_are_compared_patch_by_patch(open_page, address, studies):
    room = open_page("#tab=similar")
    drawn(room, "similar", "test-0 0")
    shown = room.locator(".card").evaluate_all("all => all.map(card => card.dataset.study)")
    matches = httpx.get(f"{address}/v1/studies/test-0/neighbours?only_shown=true").json()["matches"]
    assert shown == [match["study"] for match in matches]
    assert f"cosine {matches[0]['score']:.3f}" in room.locator(".card").first.inner_text()
    assert room.locator(".card .shared").count() > 0
    with room.expect_response(lambda response: f"b={shown[0]}/" in response.url):
        room.locator(".card .compare").first.click()
    room.wait_for_selector(".card.compared")
    assert room.evaluate("document.activeElement.className") == "compare"
    room.wait_for_selector(f".pane[data-side='1'][data-loaded*='{shown[0]}']")
    area = room.locator(".film").first.bounding_box()
    room.wait_for_function("document.querySelector('#vetdino .app').dataset.matrix?.includes('b=test')")
    room.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    room.wait_for_selector(".pane[data-side='1'] rect.match")
    room.locator(".card .compare").first.click()
    room.wait_for_selector(".pane[data-side='1'][data-loaded*='test-0']")
    assert not any(study.patient in room.content() for study in studies)


def test_a_similar_study_opens_and_back_returns(open_page):
    room = open_page("#tab=similar")
    drawn(room, "similar", "test-0")
    name = room.locator(".card").first.get_attribute("data-study")
    room.locator(".card .open").first.click()
    drawn(room, "similar", name)
    assert f"study={name}" in room.url
    room.go_back()
    drawn(room, "similar", "test-0")
    assert room.locator(".card").first.get_attribute("data-study") == name


def test_similar_studies_may_be_limited_to_a_finding_and_found_by_another_backbone(open_page):
    room = open_page("#tab=similar")
    drawn(room, "similar", "test-0 0")
    room.locator(".choices select").last.select_option("enlarged_heart")
    drawn(room, "similar", "test-0 0 enlarged_heart")
    assert room.locator(".card").evaluate_all("all => all.map(card => card.dataset.study)") == ["test-3"]
    room.locator(".choices select").first.select_option("1")
    drawn(room, "similar", "test-0 1 enlarged_heart")
    assert "gallery=1" in room.evaluate("location.hash") or room.wait_for_function(
        "location.hash.includes('gallery=1')"
    )


# Upload ---------------------------------------------------------------------------------------------------------------


def upload(page: Any, files: list[bytes], kind: str = "application/dicom") -> None:
    page.keyboard.press("u")
    name = f"{CANARY}^Rex.dcm"
    page.locator("dialog.upload input").set_input_files(
        [{"name": name, "mimeType": kind, "buffer": data} for data in files]
    )


def test_an_uploaded_study_behaves_like_any_other(open_page, files):
    sent = []
    room = open_page()
    room.on(
        "request", lambda request: request.method == "POST" and sent.append(request.post_data_buffer or b"")
    )
    upload(room, files)
    room.wait_for_function("document.querySelector('h1').textContent.startsWith('Uploaded study')")
    room.wait_for_selector(".pane[data-loaded*='upload-']")
    assert room.locator(".views").first.locator("button").all_inner_texts() == ["VD", "DV", "LLAT"]
    assert f'filename="{CANARY}'.encode() not in b"".join(
        sent
    )  # the pixels' tags go to the server, the name does not
    room.wait_for_function("document.querySelector('#vetdino .app').dataset.matrix?.includes('a=upload-')")
    area = room.locator(".film").first.bounding_box()
    room.mouse.click(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    room.wait_for_selector("rect.match")
    for tab in ("attention", "pca", "similar"):
        room.locator(f"#tab-{tab}").click()
        drawn(room, tab)
    assert "same patient" in room.locator(".panel.similar").inner_text()
    assert room.locator(".card").count() > 0
    assert CANARY not in room.content()
    room.keyboard.press("u")
    room.get_by_role("button", name="Delete").click()
    room.wait_for_function("document.querySelector('h1').textContent.startsWith('Study 1')")


def test_a_file_that_cannot_be_used_is_named_in_words(open_page):
    room = open_page()
    upload(room, [b"no picture"])
    room.wait_for_selector("dialog.upload[open] .problem:not([hidden])")
    assert "neither DICOM nor PNG nor JPEG" in room.locator(".problem").inner_text()
    flat = dicom_file(np.full((60, 50), 7, np.uint8))
    room.locator("dialog.upload input").set_input_files(
        [{"name": "x", "mimeType": "application/dicom", "buffer": flat}]
    )
    room.get_by_text("LOW_CONTRAST").wait_for()
    assert CANARY not in room.content()
    room.keyboard.press("Escape")
    assert room.locator("h1").inner_text().startswith("Study 1")
    assert all("status of 4" in error for error in open_page.errors)
    open_page.errors.clear()


def test_a_file_may_be_dropped_on_the_page(open_page, studies):
    room = open_page()
    _, png = cv2.imencode(".png", studies[0].views[0].pixels)
    room.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "x.png", { type: "image/png" }));
          window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        list(png.tobytes()),
    )
    room.wait_for_function("document.querySelector('h1').textContent.startsWith('Uploaded study')")
    assert "study=upload-" in room.url
    assert "x.png" not in room.content()


# Runs -----------------------------------------------------------------------------------------------------------------


def test_runs_are_listed_opened_and_linked(open_page):
    room = open_page()
    room.get_by_role("tab", name="Runs").click()
    assert room.locator(".run-list h2").all_inner_texts() == ["Zero-shot", "Few-shot"]
    room.get_by_role("button", name="legs").click()
    room.wait_for_selector("dialog.run[open] table")
    assert room.locator("dialog.run td").all_inner_texts() == [
        "phantom",
        "cosegment",
        "0.500",
        "phantom",
        "otsu",
        "–",
    ]
    room.wait_for_function("document.querySelector('dialog.run img').naturalWidth === 160")
    assert "canary-image" not in room.content()
    room.wait_for_function("location.hash.includes('run=')")
    link = room.evaluate("location.hash")
    room.keyboard.press("Escape")
    room.wait_for_selector("dialog.run", state="hidden")
    room = open_page(link)
    room.wait_for_selector("dialog.run[open] table")
    assert room.locator("dialog.run h2").inner_text() == "legs"


def test_what_is_not_there_has_no_tab(open_page, engine, monkeypatch):
    monkeypatch.setattr(engine, "runs", None)
    monkeypatch.setattr(engine, "indexes", [None] * len(engine.indexes))
    room = open_page("#tab=similar")
    room.wait_for_function("document.querySelector('#tab-runs').hidden")
    assert room.locator("[role=tab]:visible").all_inner_texts() == ["Patches", "Attention", "Colors"]
    assert room.locator("#panel-patches").is_visible()


# The picture that is saved --------------------------------------------------------------------------------------------


def saved(page: Any) -> tuple[str, np.ndarray]:
    """The name and the pixels (H, W, 3), RGB, of the picture that is saved."""
    with page.expect_download() as download:
        page.keyboard.press("s")
    picture = cv2.imread(str(download.value.path()), cv2.IMREAD_COLOR)
    return download.value.suggested_filename, picture[..., ::-1].astype(int)


def test_the_picture_holds_the_views_the_boxes_and_a_caption(open_page):
    room = open_page("#pin=0:0:0.5:0.5")
    room.wait_for_selector("rect.match")
    name, picture = saved(room)
    assert name == "test-0-VD-LLAT-patches.png"
    stages = room.locator(".stage").evaluate_all("all => all.map(s => [s.clientWidth, s.clientHeight])")
    assert picture.shape[1] >= sum(width for width, _ in stages)
    assert picture.shape[0] > stages[0][1] + 60
    red = (picture[..., 0] > 200) & (picture[..., 1] < 110) & (picture[..., 2] < 110)
    assert 50 < red.sum() < 5000
    assert np.flatnonzero(red.any(0)).max() < picture.shape[1] / 2
    caption = picture[stages[0][1] + 60 :]
    assert (caption.min(axis=2) > 120).mean() > 0.005
    room.keyboard.press("Escape")
    _, bare = saved(room)
    assert not ((bare[..., 0] > 200) & (bare[..., 1] < 110) & (bare[..., 2] < 110)).any()


def test_a_map_is_in_the_picture(open_page):
    room = open_page("#tab=pca&blend=100&background=true")
    drawn(room, "pca", "100 true")
    name, picture = saved(room)
    assert name.endswith("-pca.png")
    spread = picture.max(axis=2) - picture.min(axis=2)
    assert (spread > 60).mean() > 0.1


# The link -------------------------------------------------------------------------------------------------------------


def test_the_link_brings_back_what_is_on_the_screen(open_page):
    room = open_page("#study=test-1")
    room.get_by_role("tab", name="Attention").click()
    drawn(room, "attention", "mean 60 test-1")
    room.locator(".tile[data-head='2']").first.click()
    room.locator(".panel.attention input[type=range]").fill("40")
    drawn(room, "attention", "2 40 test-1")
    before = cells(room, 1, "attention")
    room.wait_for_function("location.hash.includes('keep=40')")
    link = room.evaluate("location.hash")
    room.reload()
    drawn(room, "attention", "2 40 test-1")
    assert room.evaluate("location.hash") == link
    np.testing.assert_array_equal(cells(room, 1, "attention"), before)


@pytest.mark.parametrize(
    "link", ["#tab=attention&head=77", "#tab=attention&head=<b>&keep=-3&run=../x&only=%00&gallery=9"]
)
def test_a_link_that_makes_no_sense_does_no_harm(open_page, link):
    room = open_page(link)
    drawn(room, "attention")
    room.get_by_role("tab", name="Similar").click()
    drawn(room, "similar")
    assert room.locator(".card").count() > 0
    assert room.locator("dialog[open]").count() == 0


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_no_fault_in_all_tabs(open_page, address, theme):
    run = httpx.get(f"{address}/v1/runs").json()["runs"][0]["number"]
    for link in ("tab=attention&backbones=0,1", "tab=pca", "tab=similar", "tab=runs", f"tab=runs&run={run}"):
        room = open_page(f"#{link}", color_scheme=theme)
        room.wait_for_selector("dialog.run[open] td" if "run=" in link else ".panel:not([hidden]) .explain")
        room.wait_for_timeout(300)
        assert faults(room) == [], link
    room = open_page(color_scheme=theme)
    room.keyboard.press("u")
    assert faults(room) == []
