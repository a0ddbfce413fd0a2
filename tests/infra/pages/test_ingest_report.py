"""report.html: what it says agrees with the shards, it names nobody, and a browser fetches nothing for it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from vetdino.infra.pages.ingest_report import EXAMPLES, read_ingest_facts, write_ingest_report
from vetdino.platform.data.manifest import Manifest, save_manifest
from vetdino.platform.data.shards import ShardWriter
from vetdino.platform.data.study import Study, View

CANARY = "Rex/Mueller.dcm"
COUNTS = {
    "files": 40, "views": 24, "refused": 13, "duplicates": 3, "studies": 12, "patients": 12,
    "refused.PATIENT_CLASH": 4, "refused.BURNED_IN": 2, "refused.LOW_CONTRAST": 7,
}  # fmt: skip


def view(number: int, projection: str, **facts: str) -> View:
    pixels = np.full((60, 80), 10 + number, np.uint8)
    return View(
        pixels,
        projection,
        modality="DX",
        facts={"voi": "window", "projection_source": "ViewPosition", **facts},
    )


@pytest.fixture
def shards(tmp_path) -> Path:
    """Twelve studies of a VD and a LLAT view; the text of one was painted over, that of another is still there."""
    folder = tmp_path / "shards"
    texts = {3: "masked 0.1 0.1 0.2 0.5", 4: "kept 0.1 0.1 0.2 0.5", 6: "none; tagged"}
    with ShardWriter(folder, "train") as writer:
        for n in range(12):
            first = view(2 * n, "VD", text=texts.get(n, "none"), doubts="a doubt" if n < 5 else "")
            views = first, view(2 * n + 1, "LLAT", crop="pixels 0.1 0.0 0.0 0.0")
            writer.write(Study(f"{n:024x}", f"{n + 99:024x}", views))
    save_manifest(folder, Manifest(1, "dogs", (), tuple(writer.shards), COUNTS, ""))
    clashes = "".join(f"{CANARY},PATIENT_CLASH,its study names 2 patients\n" for _ in range(4))
    (folder / "quarantine.csv").write_text(f"path,code,detail\n{clashes}{CANARY},LOW_CONTRAST,\n")
    (folder / "near_duplicates.csv").write_text(
        "study,view,other_study,other_view,relation,distance\n"
        f"{1:024x},0,{2:024x},0,same study,3\n{5:024x},0,{7:024x},1,other patient,9\n"
    )
    (folder / "text.csv").write_text(
        "study,view,action,tagged,top,left,bottom,right\n"
        f"{3:024x},0,masked,0,0.1,0.1,0.2,0.5\n{4:024x},0,kept,0,0.1,0.1,0.2,0.5\n{6:024x},0,kept,1,,,,\n"
    )
    return folder


def test_facts_agree_with_the_shards(shards):
    facts = read_ingest_facts(shards)
    assert facts.views == {("DX", "VD", "train"): 12, ("DX", "LLAT", "train"): 12}
    assert facts.doubts == {"a doubt": 5}
    assert facts.crops == {"pixels": 12}
    assert facts.clashes == {"its study names 2 patients": 4}
    assert facts.searched == 12
    assert {name: len(ids) for name, ids in facts.examples.items() if ids} == {
        "VD": EXAMPLES,
        "LLAT": EXAMPLES,
    }
    assert facts.notes() == [
        "2 pairs of near-duplicates, 1 of two patients: near_duplicates.csv",
        "searched the pixels of 12 of 24 views for burned-in text, found in 2: text.csv",
    ]


def test_a_picture_with_text_in_it_is_never_shown(shards):
    facts = read_ingest_facts(shards)
    assert not {(f"{4:024x}", 0), (f"{6:024x}", 0)} & set(facts.pictures)
    assert (f"{3:024x}", 0) in facts.pictures


def test_examples_do_not_depend_on_the_order_of_studies(shards, tmp_path):
    first = read_ingest_facts(shards)
    other = tmp_path / "other"
    with ShardWriter(other, "train") as writer:
        for n in reversed(range(12)):
            views = view(2 * n, "VD", text="kept 0 0 1 1" if n == 4 else "none"), view(2 * n + 1, "LLAT")
            writer.write(Study(f"{n:024x}", f"{n + 99:024x}", views))
    save_manifest(other, Manifest(1, "dogs", (), tuple(writer.shards), COUNTS, ""))
    assert read_ingest_facts(other).examples == first.examples
    assert read_ingest_facts(other).notes()[-1].startswith("searched")


def test_the_page_is_the_same_each_time_and_names_nobody(shards):
    write_ingest_report(shards)
    page = (shards / "report.html").read_bytes()
    write_ingest_report(shards)
    assert (shards / "report.html").read_bytes() == page
    text = page.decode()
    assert "Mueller" not in text
    assert "PATIENT_CLASH" in text
    assert "one study under two patients" in text
    assert "its study names 2 patients" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)


def test_nothing_searched_is_said(shards):
    counts = {name: count for name, count in COUNTS.items() if name != "refused.BURNED_IN"}
    with ShardWriter(shards, "train") as writer:
        writer.write(Study("0a", "0b", (view(1, "VD"),)))
    save_manifest(shards, Manifest(1, "dogs", (), tuple(writer.shards), counts, ""))
    for name in ("near_duplicates.csv", "text.csv"):
        (shards / name).unlink()
    assert read_ingest_facts(shards).notes() == ["no pixels were searched for burned-in text"]


@pytest.mark.slow
def test_a_browser_shows_it_and_fetches_nothing(shards):
    write_ingest_report(shards)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        requests: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.goto((shards / "report.html").as_uri())
        assert [url for url in requests if not url.startswith("data:")] == [(shards / "report.html").as_uri()]
        assert problems == []
        shown = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        assert len(shown) == 2 * EXAMPLES + 4 + 1
        assert min(shown) > 0
        assert page.locator(".tiles b").all_inner_texts()[:3] == ["40", "24", "12"]
        browser.close()
