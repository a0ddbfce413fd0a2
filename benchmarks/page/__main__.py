"""`python -m benchmarks.page`: how fast the page answers in Chromium, as a table and as JSON.

Generated studies and a generated gallery of `--rows` rows, the shipped backbone at `--side` pixels, on 127.0.0.1. Times
are those of the browser's clock: of the page's script (hover, list), or from a key to the second frame after it (pin).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import vetdino
from vetdino.platform.core.location import Location
from vetdino.platform.measure.extraction import extract
from vetdino.platform.measure.features import Features
from vetdino.platform.models.loading import load
from vetdino.serving.config import HOST, ServiceConfig
from vetdino.serving.engine.opening import open_engine
from vetdino.serving.gallery.build import RowSource, build
from vetdino.serving.page.app import mount_page
from vetdino.serving.service.server import bound_socket

PART = 50_000
CHROMIUM = "/usr/bin/chromium"


@dataclass(frozen=True, slots=True)
class PageTimes:
    """Milliseconds of one action, over its repetitions."""

    action: str
    times: int
    p50: float
    p95: float
    first: float


class ManyRows(RowSource):
    """The features of some studies, followed by generated rows up to `rows`."""

    level = "study"

    def __init__(self, features: Features, rows: int) -> None:
        assert features.probes is not None
        self.features, self.rows, self.dimensions = features, rows, features.vectors.shape[1]
        self.findings, self.backbone = features.findings, features.backbone
        self.data, self.probes = (features.manifest,), features.probes

    def batches(self) -> Iterator[Features]:
        yield self.features
        random = np.random.default_rng(0)
        for start in range(len(self.features), self.rows, PART):
            rows = range(start, min(start + PART, self.rows))
            vectors = random.normal(size=(len(rows), self.dimensions)).astype(np.float32)
            chances = random.random((len(rows), len(self.findings)))
            yield replace(
                self.features,
                keys=tuple(f"{row:024x}" for row in rows),
                patients=tuple(f"{row // 3:024x}" for row in rows),
                splits=("train",) * len(rows),
                views=("",) * len(rows),
                vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                labels=np.where(chances < 0.05, 1.0, np.where(chances < 0.8, 0.0, np.nan)).astype(np.float32),
                projections=tuple("LLAT VD" if row % 2 else "DV RLAT" for row in rows),
            )


@contextmanager
def served(folder: Path, rows: int, side: int) -> Iterator[str]:
    """URL of the page over generated studies and a gallery of so many rows."""
    import uvicorn

    archive = vetdino.phantom(folder / "archive", studies=12, side=768)
    shards = folder / "shards"
    vetdino.ingest(archive / "dicom", shards, labels=archive / "labels.csv", test=0.9, val=0.05)
    backbone = load(str(vetdino.SHIPPED))
    build(ManyRows(extract(backbone, str(shards), ["test"], level="study"), rows), folder / "gallery")
    config = ServiceConfig(
        backbones=(vetdino.SHIPPED, "random"),
        galleries=(Location(folder / "gallery"),),
        shards=Location(shards),
        side=side,
    )
    engine = open_engine(config)
    with bound_socket(HOST, 0) as listener:
        server = uvicorn.Server(uvicorn.Config(mount_page(engine, 0), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            engine.close()


def result(action: str, milliseconds: list[float]) -> PageTimes:
    """The figures of one action."""
    p50, p95 = np.percentile(milliseconds, (50, 95))
    return PageTimes(
        action, len(milliseconds), round(float(p50), 2), round(float(p95), 2), round(milliseconds[0], 2)
    )


def opened(browser: Any, url: str, fragment: str = "") -> Any:
    """The page in a browser without a cache, once its matrices are there."""
    page = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
    page.goto(f"{url}/{fragment}")
    page.wait_for_function("() => document.querySelector('#vetdino .app')?.dataset.matrix")
    page.wait_for_selector("#vetdino .app[aria-busy='false'] .pane[data-loaded^='/v1']")
    return page


def first_paint(browser: Any, url: str, times: int) -> list[PageTimes]:
    """From navigation to the first content, and to the first picture of a view."""
    content, pictures = [], []
    for _ in range(times):
        page = opened(browser, url)
        content.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        pictures.append(
            page.evaluate(
                "performance.getEntriesByType('mark').find((mark) => mark.name === 'picture').startTime"
            )
        )
        page.context.close()
    return [result("first content", content), result("first picture", pictures)]


def hover(page: Any, action: str, times: int) -> PageTimes:
    """The page's script when the pointer comes to another patch."""
    area = page.locator(".film").nth(0).bounding_box()
    found = []
    for step in range(times):
        x, y = 0.2 + 0.6 * ((step * 7) % 31) / 31, 0.15 + 0.7 * ((step * 11) % 29) / 29
        page.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"])
        found.append(page.evaluate("performance.getEntriesByName('hover')[0].duration"))
    return result(action, found)


UNTIL_FRAME = """async ([selector, key]) => {
  const node = document.querySelector(selector), began = performance.now();
  node.focus();
  node.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  return performance.now() - began;
}"""
"""A key pressed on a pane, to the end of the next frame."""


def pin(page: Any, times: int) -> PageTimes:
    """From the key that pins a patch to the frame in which boxes and cuttings are drawn."""
    found = []
    for number in range(times):
        page.evaluate(UNTIL_FRAME, [".stage", "ArrowUp" if number % 2 else "ArrowDown"])
        found.append(page.evaluate(UNTIL_FRAME, [".stage", "Enter"]))
        assert "Pinned" in page.locator(".hint").inner_text()
    return result("pin a patch", found)


def listing(page: Any, times: int) -> list[PageTimes]:
    """From a click to the rows on the page: pages without filter, and filters that nobody has used before."""

    def listed(act: Callable[[], Any]) -> float:
        page.evaluate("performance.clearMeasures('list')")
        act()
        page.wait_for_function("() => performance.getEntriesByName('list').length")
        return float(page.evaluate("performance.getEntriesByName('list')[0].duration"))

    pages = [listed(page.get_by_label("Next page").click) for _ in range(times)]
    results = [result("a page of the list", pages)]
    findings = page.get_by_label("Filter by a finding")
    options = [option.get_attribute("value") for option in findings.locator("optgroup option").all()]
    present = [value for value in options if value.startswith("present")]
    filtered = []
    for value in present:
        filtered.append(listed(lambda value=value: findings.select_option(value)))
        if len(filtered) % 3 == 0:  # rows that pass get rare
            for _ in range(3):
                listed(page.locator(".chosen button").first.click)
    results.append(result("a page with one to three findings, new each", filtered))
    projections = page.get_by_label("Filter by a projection")
    values = ["LLAT", "DV", "RLAT", "VD"]
    chosen = [listed(lambda value=value: projections.select_option(value)) for value in values]
    return [*results, result("a page with a projection, new each", chosen)]


def table(results: list[PageTimes]) -> str:
    """The figures as Markdown."""
    names = list(asdict(results[0]))
    lines = [
        names,
        ["---"] * len(names),
        *([str(value) for value in asdict(one).values()] for one in results),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> list[PageTimes]:
    """All figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of the gallery")
    parser.add_argument("--side", type=int, default=448, help="of the square image, in pixels")
    parser.add_argument("--times", type=int, default=20, help="repetitions of each action")
    parser.add_argument("--json", type=Path, help="file for the figures")
    chosen = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), chosen.rows, chosen.side) as url,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        results = first_paint(browser, url, max(1, chosen.times // 4))
        page = opened(browser, url, "#list=true")
        results.append(hover(page, "hover, one backbone", chosen.times))
        results.append(pin(page, chosen.times))
        results += listing(page, chosen.times)
        page = opened(browser, url, "#backbones=0,1")
        results.append(hover(page, "hover, two backbones", chosen.times))
        browser.close()
    print(table(results))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(one) for one in results], indent=2))
    return results


if __name__ == "__main__":
    main()
