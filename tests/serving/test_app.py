"""The page in a real browser, and its routes over a real socket. No request may leave this machine."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn

from vetdino.platform.core.errors import ConfigError, GalleryError
from vetdino.platform.data.shards import Manifest, ShardWriter, save_manifest
from vetdino.platform.data.study import Study, View
from vetdino.platform.measure.features import extract, save_features
from vetdino.platform.models.backbone import BackboneConfig, random_backbone, save_backbone
from vetdino.serving.app import Room, build, findings_of, place_of, serve
from vetdino.serving.config import AppConfig
from vetdino.serving.similarity import PatchGrid, top_boxes

pytestmark = [
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
PATIENTS = ["rex-canary-01", "rex-canary-01", "mia-canary-02", "bob-canary-03", "zoe-canary-04"]


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A body with a bright spot somewhere in it."""
    y, x = np.mgrid[:height, :width]
    body = ((x - width / 2) / (0.3 * width)) ** 2 + ((y - height / 2) / (0.42 * height)) ** 2 < 1
    random = np.random.default_rng(seed)
    row, column = height * random.uniform(0.3, 0.7), width * random.uniform(0.4, 0.6)
    spot = np.hypot(y - row, x - column) < 0.07 * height
    return (20 + 110 * body + 90 * spot + random.normal(0, 4, (height, width))).clip(0, 255).astype(np.uint8)


def studies() -> list[Study]:
    made = []
    for number, patient in enumerate(PATIENTS):
        views = [
            View(picture(240, 160, number), "VD", modality="DX"),
            View(picture(150, 220, number + 50), "DV", modality="DX"),
            View(picture(140, 230, number + 90), "LLAT", modality="DX"),
        ]
        views = views[:1] if number == 3 else views
        labels = {"enlarged_heart": float(number % 2), "lung_mass": np.nan if number == 2 else 1.0}
        key = f"{number}canarykey{number:012d}"
        made.append(Study(key=key, patient=patient, views=tuple(views), labels=labels, split="test"))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with ShardWriter(folder / "shards", "test") as writer:
        for study in studies():
            writer.write(study)
    findings = tuple(studies()[0].labels)
    save_manifest(
        folder / "shards",
        Manifest(1, "drawn", findings, tuple(writer.shards), counts={}, config_digest=""),
    )
    for seed, label in enumerate(["shipped: pretrained on drawings", "just trained by this test"]):
        config = BackboneConfig(name="vit_tiny_patch16_224", side=64, patch=8, width=48, heads=3, depth=2)
        backbone = random_backbone(config, seed)
        backbone.card = replace(backbone.card, label=label)
        save_backbone(folder / f"backbone{seed}", backbone)
    return folder


def config_of(folder: Path, **changes) -> AppConfig:
    given = {"shards": folder / "shards", "backbones": (folder / "backbone0", folder / "backbone1", "random")}
    return AppConfig(**(given | changes))


@pytest.fixture(scope="module")
def room(folder: Path) -> Room:
    return Room(config_of(folder))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(build(config_of(folder)), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        server.should_exit = server.force_exit = True
        thread.join()


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
    """The page, loaded; afterwards: no request left the machine, nothing went wrong in the browser."""
    page = browser.new_page()
    left, wrong = [], []
    inside = (address, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(inside) or left.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".room[aria-busy='false'] .card")
    yield page
    page.close()
    assert left == []
    assert wrong == []


def point(page, side: int, x: float, y: float, *, click: bool = False) -> None:
    """Move to a point of a film, given in parts of its width and height."""
    film = page.locator(".film").nth(side)
    area = film.bounding_box()
    at = (area["x"] + x * area["width"], area["y"] + y * area["height"])
    page.mouse.click(*at) if click else page.mouse.move(*at)


# ------------------------------------------------------------------ the room, without HTTP


def test_a_name_leads_to_a_place():
    assert place_of("test-12") == ("test", 12)


def test_findings_are_told_in_words():
    told = findings_of({"lung_mass": 1.0, "rib_fracture": 0.0, "ascites": float("nan")})
    assert told == {"present": ["lung mass"], "absent": ["rib fracture"], "unknown": ["ascites"]}


def test_the_room_offers_each_backbone_under_its_own_label(room):
    labels = [backbone["label"] for backbone in room.info()["backbones"]]
    assert labels[:2] == ["shipped: pretrained on drawings", "just trained by this test"]
    assert labels[2] == "random weights, seed 0"


def test_nearest_studies_leave_the_own_patient_out(room):
    named = [match["study"] for match in room.neighbours(0, ("test", 0))]
    assert sorted(named) == ["test-2", "test-3", "test-4"]


def test_given_features_are_used_and_those_of_another_backbone_refused(folder, room):
    table = extract(room.readers[0].backbone, folder / "shards", ["test"])
    save_features(table, folder / "features.parquet")
    given = Room(
        config_of(folder, features=(folder / "features.parquet",), backbones=(folder / "backbone0",))
    )
    assert given.neighbours(0, ("test", 1)) == room.neighbours(0, ("test", 1))
    with pytest.raises(GalleryError, match="vetdino embed") as refusal:
        Room(config_of(folder, features=(folder / "features.parquet",), backbones=(folder / "backbone1",)))
    for reader in room.readers[:2]:
        assert reader.backbone.card.digest[:12] in str(refusal.value)


def test_a_limit_offers_fewer_studies(folder):
    small = Room(config_of(folder, limit=2, backbones=(folder / "backbone0",)))
    assert small.info()["studies"] == ["test-0", "test-1"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "train"}, "split train holds no studies"),
        ({"backbones": ("random",)}, "needs a backbone folder first"),
        ({"backbones": ()}, "needs a backbone folder first"),
        ({"features": (Path("a"),) * 4}, "4 feature tables for 3 backbones"),
    ],
)
def test_settings_that_cannot_be_shown_are_refused(folder, changes, words):
    with pytest.raises(ConfigError, match=words):
        Room(config_of(folder, **changes))


# ------------------------------------------------------------------ the routes


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/studies/test-99", 404, "There is no study test-99 here"),
        ("/v1/studies/etc-passwd", 404, "names no study"),
        ("/v1/studies/test-0/9.jpg", 404, "there is no view 9"),
        ("/v1/studies/test-0/x.jpg", 422, "view: "),
        ("/v1/studies/test-0/0/attention/7.jpg", 404, "There is no head 7"),
        ("/v1/similarity?a=test-0/0&b=test-0/1&backbone=8", 404, "There is no backbone 8"),
        ("/v1/similarity?a=test-0/0&b=test-0", 404, "names no view"),
        ("/v1/similarity?a=test-0/0", 422, "b: "),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence(address, path, status, words):
    answer = httpx.get(address + path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}
    assert words in answer.json()["error"]


def test_no_answer_holds_a_patient_or_a_whole_key(address):
    paths = ["/", "/config", "/v1/info"]
    for number in range(len(PATIENTS)):
        paths += [f"/v1/studies/test-{number}", f"/v1/studies/test-{number}/neighbours"]
    told = "".join(httpx.get(address + path, follow_redirects=True).text for path in paths)
    assert "0canaryk" in told  # the first eight digits are shown
    assert not any(patient in told for patient in PATIENTS)
    assert not any(study.key in told for study in studies())


def test_no_way_leads_to_a_file_of_this_machine(address, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG canary-secret")
    for route in ("file=", "file/", "stream/"):
        answer = httpx.get(f"{address}/gradio_api/{route}{secret}")
        assert answer.status_code >= 400
        assert "canary-secret" not in answer.text
    call = {"data": [{"path": str(secret)}], "fn_index": 0, "session_hash": "x"}
    for path in ("/gradio_api/run/predict", "/gradio_api/call/predict", "/gradio_api/queue/join"):
        assert httpx.post(address + path, json=call).status_code == 405
    assert httpx.post(f"{address}/gradio_api/upload", files={"files": b"x"}).status_code == 405


def test_a_foreign_name_for_this_machine_is_refused(address):
    assert httpx.get(f"{address}/v1/info", headers={"Host": "evil.example"}).status_code == 400


def test_pictures_are_no_larger_than_asked(address):
    from vetdino.platform.data.study import grey_of

    assert grey_of(httpx.get(f"{address}/v1/studies/test-0/0.jpg?side=60").content).shape == (60, 40)
    assert grey_of(httpx.get(f"{address}/v1/studies/test-0/0.jpg").content).shape == (240, 160)


# ------------------------------------------------ the verb, before the browser takes this thread


def test_a_port_in_use_is_one_clear_line_before_anything_is_loaded(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .* --port") as refusal:
            serve(config_of(folder / "nowhere", port=port))
    assert "\n" not in str(refusal.value)


def test_serving_lasts_until_ctrl_c(folder, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen = []

    def stop_once_it_answers() -> None:
        for _ in range(600):
            try:
                seen.append(httpx.get(f"http://127.0.0.1:{port}/v1/info").json())
                break
            except httpx.TransportError:
                time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=stop_once_it_answers)
    watcher.start()
    serve(config_of(folder, port=port, backbones=(folder / "backbone0",)))
    watcher.join()
    assert seen[0]["archive"] == "drawn"
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().out


# ------------------------------------------------------------------ the page


def test_the_page_opens_with_two_crossing_views_of_a_study(page):
    assert page.title() == "vetdino"
    assert page.locator(".patient h1").inner_text().startswith("Study 1")
    assert page.locator(".patient .chips").inner_text() == "lung mass"
    assert page.locator("button[aria-pressed='true']").all_inner_texts() == ["VD", "LLAT"]
    assert page.locator(".film img").evaluate_all("all => all.every(i => i.naturalWidth > 0)")
    assert page.locator(".strip .tile").count() == 2 * (2 + 3)
    assert not any(patient in page.content() for patient in PATIENTS)


def test_a_hover_is_answered_as_python_would_and_in_less_than_5_ms(page, room):
    matrix, told = room.similarity(0, [(("test", 0), 0), (("test", 0), 2)])
    rows = np.frombuffer(matrix, np.uint8).reshape(128, 128)
    grid = PatchGrid(height=240, width=160, side=64, patch=8)
    other = PatchGrid(height=140, width=230, side=64, patch=8)
    took = []
    for step in range(20):
        x, y = 0.2 + 0.03 * step, 0.15 + 0.035 * step
        point(page, 0, x, y)
        pane, across = page.locator(".pane").nth(0), page.locator(".pane").nth(1)
        patch = grid.patch_at(x * 160, y * 240)
        assert pane.get_attribute("data-anchor") == str(patch)
        best = [one.patch for one in top_boxes(rows[patch, 64:].astype(int), other)]
        assert across.get_attribute("data-top") == " ".join(map(str, best))
        took.append(page.evaluate("performance.getEntriesByName('hover')[0].duration"))
    assert np.median(took) < 5.0
    assert told["views"][1]["boxes"][best[0]] == list(other.box(best[0]))


def test_the_anchor_is_red_and_five_boxes_answer_across(page):
    point(page, 1, 0.5, 0.5)
    assert page.locator(".pane").nth(1).locator("rect.anchor").count() == 1
    stroke = "node => getComputedStyle(node).stroke"
    assert page.locator("rect.anchor").evaluate(stroke) == "rgb(255, 77, 77)"
    assert page.locator(".pane").nth(0).locator("rect").count() == 5
    lit = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)"
    assert page.locator("canvas").nth(0).evaluate(lit)
    assert page.locator("canvas").nth(1).evaluate(lit)


def test_a_click_pins_and_escape_lifts_the_pin(page):
    point(page, 0, 0.5, 0.5, click=True)
    pinned = page.locator(".pane").nth(0).get_attribute("data-anchor")
    point(page, 0, 0.3, 0.3)
    assert page.locator(".pane").nth(0).get_attribute("data-anchor") == pinned
    assert "Pinned" in page.locator(".hint").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("rect").count() == 0


def test_leaving_the_film_clears_what_was_not_pinned(page):
    point(page, 0, 0.5, 0.5)
    page.mouse.move(5, 5)
    assert page.locator("rect").count() == 0


def test_another_view_may_be_chosen_on_either_side(page):
    with page.expect_response(lambda answer: "b=test-0/1" in answer.url):
        page.locator(".pane").nth(1).get_by_role("button", name="DV").click()
    assert page.locator("button[aria-pressed='true']").all_inner_texts() == ["VD", "DV"]


def test_another_backbone_answers_with_its_own_matrix(page):
    for number, label in enumerate(["shipped: pretrained", "just trained", "random weights"]):
        button = page.locator(".seen-by button").nth(number)
        assert label in button.inner_text()
    with page.expect_response(lambda answer: "similarity" in answer.url and "backbone=2" in answer.url):
        button.click()
    page.wait_for_selector(".strip img[src*='backbone=2']")
    assert page.locator(".seen-by [aria-checked='true']").inner_text() == "random weights, seed 0"


def test_a_near_study_opens_and_back_returns(page):
    card = page.locator(".card").first
    name = card.get_attribute("data-study")
    card.locator(".open").click()
    page.wait_for_function(SHOWN, arg=f"Study {int(name.split('-')[1]) + 1}")
    assert name in page.url
    page.go_back()
    page.wait_for_function(SHOWN, arg="Study 1")
    assert name not in page.url


def test_a_near_study_is_compared_patch_by_patch(page):
    card = page.locator(".card[data-study='test-2']")
    with page.expect_response(lambda answer: "b=test-2/0" in answer.url):
        card.locator(".compare").click()
    assert page.locator(".pane").nth(1).locator(".whose").inner_text().startswith("Study 3")
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


def test_what_goes_wrong_is_told_in_words(page):
    page.evaluate("location.hash = 'test-99'")
    page.wait_for_selector(".trouble:not([hidden])")
    assert "There is no study test-99 here" in page.locator(".trouble").inner_text()
    page.route("**/v1/studies/*", lambda route: route.abort())
    page.evaluate("location.hash = 'test-1'")
    page.get_by_text("The server does not answer").wait_for()


def test_a_narrow_window_stacks_the_views(page):
    page.set_viewport_size({"width": 420, "height": 860})
    tops = page.locator(".pane").evaluate_all("all => all.map(p => p.getBoundingClientRect().top)")
    assert tops[1] > tops[0] + 100
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
