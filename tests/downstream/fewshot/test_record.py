"""The record of a few-shot experiment: metrics by source, its summary as a table, and what few scans show."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import pytest
from rich.console import Console

from vetdino.downstream.fewshot import record as module
from vetdino.downstream.fewshot.record import (
    FewshotExperiment,
    _choice_lines,
    chosen_features,
    percent,
    record_summary,
)
from vetdino.downstream.fewshot.results import FewshotResults, ScanScore


@dataclass(frozen=True)
class Settings:
    seed: int = 0


def line(row, source, organ, dice, reference="encoder", note=""):
    """One line of a summary, with an interval of 0.1 to either side."""
    values = {"dice": dice, "volume_dice": dice / 2, "volume_hd95": math.nan, "delta": dice - 0.5}
    bounds = {
        f"{name}_{end}": values[name] + by for name in values for end, by in (("low", -0.1), ("high", 0.1))
    }
    named = {"row": row, "source": source, "organ": organ, "against": reference, "note": note}
    return named | values | bounds | {"p": 0.03, "missed": 2}


SUMMARY = [
    line("encoder", "encoder", "liver", 0.6),
    line("encoder", "encoder", "mean", 0.5, note="1 scan shows the kidney"),
    line("pixels", "pixels", "liver", 0.3),
    line("pixels", "pixels", "mean", 0.25),
]


@pytest.fixture
def written(tiny, organ_volumes, organ_scan, monkeypatch, tmp_path):
    """The record of an encoder and pixels on four scans."""
    records = []
    monkeypatch.setattr(module, "publish", lambda record, out: records.append(record))
    volumes = organ_volumes(*map(organ_scan, range(4)), folder="abdomen")
    backbones = {"encoder": tiny, "pixels": None}
    experiment = FewshotExperiment("compare", Settings(), (volumes,), backbones, {"trained": "runs"})
    seconds = {"encoder": 0.2, "pixels": 0.1}
    results = FewshotResults({1: "liver"}, (), (), seconds, {"spleen": "in no scan"}, {})
    record_summary(SUMMARY, results, experiment, tmp_path, figures={"dice": b"png"}, title="a title")
    [one] = records
    return one


def test_metrics_are_charted_for_their_source_and_its_model(written, tiny):
    assert written.metrics["dice/encoder.liver"] == 0.6
    assert written.metrics["volume_dice/pixels.mean"] == 0.125
    assert written.metrics["seconds/pixels a scan"] == 0.1
    encoder, pixels, seconds = written.series
    assert (encoder.card, pixels.card, seconds.card) == (tiny.card, None, None)
    assert set(encoder.values) | set(pixels.values) | set(seconds.values) == set(written.metrics)


def test_the_record_names_encoders_data_and_trained_folders(written, tiny):
    assert written.name == "compare, encoder, pixels, abdomen"
    assert list(written.identity) == ["experiment", "backbone", "backbones", "data", "asked"]
    assert written.identity["backbones"] == {
        "encoder": {"digest": tiny.card.digest, "label": tiny.card.label}
    }
    assert (written.tags["trained"], written.tags["manifest"]) == ("runs", "digest of abdomen")
    assert written.datasets[0].counts == {"scans": 4}
    assert list(written.details) == ["organs", "notes", "left_out", "chosen"]


def test_the_table_has_a_line_for_each_row_and_a_difference_from_the_reference(written):
    [table] = written.terminal
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    text = console.file.getvalue()
    assert "a title" in text
    assert "less encoder" in text
    pixels = next(row for row in text.splitlines() if "pixels" in row)
    assert "30.0" in pixels
    assert "-25.0 [-35.0, -15.0]" in pixels
    assert "0.03" in pixels
    assert list(written.warnings) == ["mean: 1 scan shows the kidney", "left out: spleen: in no scan"]


def test_one_encoder_is_named_by_its_label_and_pixels_by_their_name(tiny):
    one = lambda backbone: FewshotExperiment("evaluate", Settings(), (), {"x": backbone}).label
    assert one(tiny) == tiny.card.label
    assert one(None) == "pixels"


def test_a_share_is_shown_in_percent_with_its_interval():
    values = {"dice": 0.5, "dice_low": 0.4, "dice_high": 0.6, "none": math.nan}
    assert percent(values, "dice") == "50.0 [40.0, 60.0]"
    assert percent(values, "dice", interval=False, sign="+") == "+50.0"
    assert percent(values | {"dice_low": math.nan}, "dice") == "50.0"
    assert percent(values, "none") == "-"


def score(row: str, organ: str, fold: int, chosen: str) -> ScanScore:
    return ScanScore(row, row, "ours", "n", 1, fold, f"s{fold}", "s9", organ, 3, 0.5, 0.4, 9.0, False, chosen)


def test_what_the_supports_chose_is_kept_by_row_organ_and_fold_and_said():
    scores = (
        score("encoder", "liver", 0, "layers 7, coordinates 1, tau 40"),
        score("encoder", "liver", 1, "layers 9, coordinates 1, tau 20"),
        score("copy", "liver", 0, ""),
    )
    results = FewshotResults({1: "liver"}, scores, (), {}, {}, {})
    assert chosen_features(results) == {
        "encoder": {"liver": {"0": "layers 7, coordinates 1, tau 40", "1": "layers 9, coordinates 1, tau 20"}}
    }
    [said] = _choice_lines(results)
    assert said.startswith(
        "encoder, liver: chosen by the support, fold 0: layers 7, coordinates 1, tau 40; fold 1"
    )
