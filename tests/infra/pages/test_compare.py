"""The comparison page: what it shows of runs, also in a real browser."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from vetdino.infra.pages.compare import compare, mean_curve
from vetdino.infra.pages.config import CompareConfig
from vetdino.infra.pages.groups import run_groups
from vetdino.infra.pages.runs import read_runs
from vetdino.platform.core.errors import ConfigError

CHROMIUM = "/usr/bin/chromium"
QUICK = CompareConfig(resamples=200)


def digest_of(training: Path) -> str:
    from vetdino.platform.core.config import from_json
    from vetdino.platform.models.card import Card

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


def test_the_mean_curve_seeds_is_their_mean_with_the_deviation_between_them(folders):
    runs = read_runs([folders.training(f"multi-{seed}", seed) for seed in (0, 1, 5)])
    [group] = run_groups(runs, [])
    curve = mean_curve(group, "loss/total")
    assert [step for step, _, _ in curve.points] == [10, 20, 30, 40, 50]
    values = [5 - 0.1 * 20 + seed for seed in (0, 1, 5)]
    assert curve.points[1][1] == pytest.approx(np.mean(values))
    assert curve.points[1][2] == pytest.approx(np.std(values, ddof=1))
    assert len(curve.seeds) == 3


def test_runs_that_differ_in_their_seed_are_one_group_in_curves_and_figures(folders, tmp_path):
    trainings = [folders.training(f"multi-{seed}", seed, backbone=True) for seed in (0, 1)]
    evaluations = [
        folders.evaluation(f"e{seed}", skill=1 + seed, digest=digest_of(training), seed=seed)
        for seed, training in enumerate(trainings)
    ]
    page = compare([*trainings, *evaluations], tmp_path / "c.html", QUICK)
    said = words(page)
    assert page.read_text().count('data-name="multi (2 seeds)"') == 2  # legends of curves and of figures
    values = [
        next(
            f.value
            for f in record.values["knn"]
            if (f.metric, f.finding, f.source) == ("AUROC", "macro", "backbone")
        )
        for record in read_runs(evaluations)
    ]
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}, 2 seeds" in said
    assert said.count("pixels") < said.count("e0") * 4  # the baseline with equal values is listed once
    assert "e1: pixels" not in said


def test_without_predictions_there_is_no_paired_interval_and_the_page_says_so(folders, tmp_path):
    runs = [folders.evaluation("a", 1, digest="a"), folders.evaluation("b", 2, digest="b", keep=False)]
    said = words(compare(runs, tmp_path / "c.html", QUICK))
    assert "knn: no paired interval for b: no predictions per study kept." in said
    assert "b - a" not in said
    assert "paired differences within b" in said
    assert "Left out by a: never (0 present and 60 absent in train)." in said


def test_evaluations_on_other_shards_are_not_paired_and_named(folders, tmp_path):
    runs = [folders.evaluation("a", 1, digest="a"), folders.evaluation("b", 2, digest="b", manifest="f" * 64)]
    said = words(compare(runs, tmp_path / "c.html", QUICK))
    assert f"b was evaluated on other shards (ffffffffffff) than a ({folders.manifest[:12]})" in said
    assert "b - a" not in said


def test_runs_without_a_common_metric_are_refused(folders, tmp_path):
    one, other = folders.training("a", 0), folders.training("b", 0)
    (other / "metrics.jsonl").write_text('{"step": 1, "time": 1, "else/where": 2}\n')
    with pytest.raises(ConfigError, match="share no metric"):
        compare([one, other], tmp_path / "c.html", QUICK)
    with pytest.raises(ConfigError, match="'loss/total'"):
        compare([one], tmp_path / "c.html", CompareConfig(metrics=("los/total",)))
    with pytest.raises(ConfigError, match="--backbones"):
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


@pytest.mark.slow
def test_the_page_opens_in_a_browser_and_fetches_nothing(whole):
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    outside, errors = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("request", lambda r: r.url.startswith((whole.as_uri(), "data:")) or outside.append(r.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(whole.as_uri())
        page.hover("svg[data-chart] >> nth=0")
        readout = page.locator(".readout").first.inner_text()
        assert re.match(r"step 30 0\.5303 ± 0 +0\.5152", readout)
        curve = page.locator("polyline.curve[data-series='multi (2 seeds)']").first
        assert curve.is_visible()
        page.click("button[data-name='multi (2 seeds)'] >> nth=0")
        assert not curve.is_visible()
        pictures = page.locator("img")
        assert pictures.count() == 2 * 3  # two studies with two views, three backbones
        assert all(pictures.nth(n).evaluate("image => image.naturalWidth > 200") for n in range(6))
        assert page.get_by_text("single <b>").first.is_visible()
        browser.close()
    assert outside == []
    assert errors == []


def test_no_patient_is_on_the_page(whole):
    assert "canary" not in whole.read_text()
