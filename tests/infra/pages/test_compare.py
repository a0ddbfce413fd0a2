"""Runs side by side on one page, in a real browser; differences against the formulas that they stand for."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from vetdino.infra.pages.compare import compare, curve_of
from vetdino.infra.pages.config import CompareConfig
from vetdino.infra.pages.runs import records_of
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.measure.metrics import auroc, difference
from vetdino.platform.measure.predictions import load_answers

CHROMIUM = "/usr/bin/chromium"
QUICK = CompareConfig(resamples=200)


def digest_of(training: Path) -> str:
    from vetdino.platform.core.config import from_json
    from vetdino.platform.models.backbone import Card

    return from_json(Card, (training / "backbone" / "card.json").read_text()).digest


def words(page: Path) -> str:
    """The page as one line of words."""
    return " ".join(
        unescape(
            re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]*>", " ", page.read_text(), flags=re.S)
        ).split()
    )


def test_nothing_to_compare_is_said(tmp_path):
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare([], tmp_path / "c.html")


def test_one_run_is_shown_alone(folders, tmp_path):
    page = compare([folders.training("t", 0)], tmp_path / "c.html", QUICK)
    assert "Curves over the pretraining step" in words(page)
    assert "that differ" not in words(page)


def test_only_settings_that_differ_are_listed(folders, tmp_path):
    runs = [folders.training("a", 0), folders.training("b", 0, lr=0.3)]
    said = words(compare(runs, tmp_path / "c.html", QUICK))
    assert "optim.lr 0.1 0.3" in said
    assert "seed 0 0" not in said
    assert str(tmp_path) not in said


def test_the_curve_of_seeds_is_their_mean_with_the_deviation_between_them(folders):
    records = records_of([folders.training(f"multi-{seed}", seed) for seed in (0, 1, 5)])
    curve = curve_of("multi", 0, "loss/total", records)
    assert [step for step, _, _ in curve.points] == [10, 20, 30, 40, 50]
    values = [5 - 0.1 * 20 + seed for seed in (0, 1, 5)]
    assert curve.points[1][1] == pytest.approx(np.mean(values))
    assert curve.points[1][2] == pytest.approx(np.std(values, ddof=1))
    assert len(curve.thin) == 3


def test_runs_that_differ_in_their_seed_are_one_group_in_curves_and_figures(folders, tmp_path):
    trainings = [folders.training(f"multi-{seed}", seed, backbone=True) for seed in (0, 1)]
    evaluations = [
        folders.evaluation(f"e{seed}", skill=1 + seed, digest=digest_of(training), seed=seed)
        for seed, training in enumerate(trainings)
    ]
    page = compare([*trainings, *evaluations], tmp_path / "c.html", QUICK)
    said = words(page)
    assert page.read_text().count('data-name="multi (2 seeds)"') == 2  # legends of curves and of figures
    told = [
        next(
            f.value
            for f in record.figures["knn"]
            if (f.metric, f.finding, f.source) == ("AUROC", "macro", "backbone")
        )
        for record in records_of(evaluations)
    ]
    assert f"{np.mean(told):.3f} ± {np.std(told, ddof=1):.3f}, 2 seeds" in said
    assert said.count("pixels") < said.count("e0") * 4  # the floor that both measured alike stands there once
    assert "e1: pixels" not in said


def test_the_difference_between_runs_is_the_paired_one_over_patients(folders, tmp_path):
    runs = [
        folders.evaluation("weak", 0.3, digest="a", seed=1),
        folders.evaluation("strong", 3, digest="b", seed=2),
    ]
    said = words(compare(runs, tmp_path / "c.html", QUICK))
    weak, strong = (load_answers(run / "answers" / "knn-backbone.parquet").answers for run in runs)
    expected = difference(auroc, weak.truth, strong.scores, weak.scores, weak.patients, n=200, seed=0)
    low, high = expected.interval()
    assert f"mass {expected.values[0]:+.3f} {low[0]:+.3f} to {high[0]:+.3f}" in said
    assert "AUROC strong - weak pixels - weak macro" in said
    assert low[0] > 0  # else nothing was shown


def test_without_answers_there_is_no_paired_interval_and_the_page_says_so(folders, tmp_path):
    runs = [folders.evaluation("a", 1, digest="a"), folders.evaluation("b", 2, digest="b", keep=False)]
    said = words(compare(runs, tmp_path / "c.html", QUICK))
    assert "knn: no paired interval for b: no answers per study kept." in said
    assert "b - a" not in said
    assert "paired differences inside b" in said
    assert "Left out by a: never (0 present and 60 absent in train)." in said


def test_evaluations_on_other_shards_are_not_paired_and_named(folders, tmp_path):
    runs = [folders.evaluation("a", 1, digest="a"), folders.evaluation("b", 2, digest="b", manifest="f" * 64)]
    said = words(compare(runs, tmp_path / "c.html", QUICK))
    assert f"b was measured on other shards (ffffffffffff) than a ({folders.manifest[:12]})" in said
    assert "b - a" not in said


def test_runs_without_a_common_metric_are_refused(folders, tmp_path):
    one, other = folders.training("a", 0), folders.training("b", 0)
    (other / "metrics.jsonl").write_text('{"step": 1, "time": 1, "else/where": 2}\n')
    with pytest.raises(ConfigError, match=r"a and b share no metric \(loss/total, .* / else/where …\)"):
        compare([one, other], tmp_path / "c.html", QUICK)
    with pytest.raises(ConfigError, match=r"no metric 'los/total' .* the nearest is 'loss/total'"):
        compare([one], tmp_path / "c.html", CompareConfig(metrics=("los/total",)))
    with pytest.raises(ConfigError, match="none of the runs left a backbone"):
        compare([one], tmp_path / "c.html", CompareConfig(shards=str(tmp_path / "shards")))


@pytest.fixture(scope="module")
def whole(folders_below, tmp_path_factory) -> Path:
    """A page with everything on it."""
    root = tmp_path_factory.mktemp("whole")
    folders = folders_below(root)
    trainings = [folders.training(f"multi-{seed}", seed, backbone=True) for seed in (0, 1)]
    trainings.append(folders.training("single <b>", 0, lr=0.05, backbone=True))
    runs = [folders.evaluation(f"e{n}", 1 + n, digest=digest_of(t), seed=n) for n, t in enumerate(trainings)]
    config = CompareConfig(shards=str(root / "shards"), studies=2, resamples=50)
    return compare([*trainings, *runs], root / "compare.html", config)


def test_the_page_opens_in_a_browser_and_fetches_nothing(whole):
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    left, wrong = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("request", lambda r: r.url.startswith((whole.as_uri(), "data:")) or left.append(r.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text))
        page.goto(whole.as_uri())
        page.hover("svg[data-chart] >> nth=0")
        told = page.locator(".told").first.inner_text()
        assert re.match(r"step 30 0\.5303 ± 0 +0\.5152", told)
        curve = page.locator("polyline.curve[data-of='multi (2 seeds)']").first
        assert curve.is_visible()
        page.click("button[data-name='multi (2 seeds)'] >> nth=0")
        assert not curve.is_visible()
        pictures = page.locator("img")
        assert pictures.count() == 2 * 3  # two studies with two views, three backbones
        assert all(pictures.nth(n).evaluate("image => image.naturalWidth > 200") for n in range(6))
        assert page.get_by_text("single <b>").first.is_visible()
        browser.close()
    assert left == []
    assert wrong == []


def test_no_patient_is_on_the_page(whole):
    assert "canary" not in whole.read_text()
