"""The record of a zero-shot experiment: metrics.json, the summary by domain and set, what was left out."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from vetdino.downstream.ultrasound import record as module
from vetdino.downstream.ultrasound.config import SameDomainConfig
from vetdino.downstream.ultrasound.domains import read_domains
from vetdino.downstream.ultrasound.record import ZeroshotResult, record


def printed(record) -> str:
    console = Console(file=io.StringIO(), width=200)
    for item in record.terminal:
        console.print(item, markup=False)
    return console.file.getvalue()


@pytest.fixture
def written(drawn, tiny, tmp_path, monkeypatch):
    """The record of a result on one domain whose second mask is missing."""
    folder = drawn(tmp_path / "arms", frames=3)
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    records = []
    monkeypatch.setattr(
        module, "publish", lambda record, out: records.append(SimpleNamespace(record=record, out=out))
    )
    rows = [
        {
            "domain": "arms",
            "part": "all",
            "row": method,
            "images": 3,
            "empty": empty,
            "dice": dice,
            "dice_std": 0.1,
        }
        for method, dice, empty in (("cosegment", 0.7, 0), ("kmeans", 0.4, 2))
    ]
    result = ZeroshotResult(
        metrics={"dice/arms": 0.7, "hd95/arms": float("nan")},
        tables={"summary": rows, "images": [{"image": "00"}]},
        pictures={"dice": b"png"},
        pages={"page.html": "<p>"},
        facts={"clusters": 3},
        left_out={"noise": "one image"},
        warnings=("arms: few frames",),
    )
    domains = read_domains(folder)
    record("same-domain", result, domains, tiny, SameDomainConfig(), tmp_path / "out")
    [one] = records
    assert one.out == tmp_path / "out"
    return one.record, domains


def test_the_record_names_backbone_data_and_domains(written, tiny):
    one, domains = written
    assert (one.experiment, one.name) == ("vetdino/zeroshot", f"same-domain, {tiny.card.label}")
    assert list(one.identity) == ["experiment", "backbone", "data", "domains"]
    assert list(one.details) == ["intervals", "facts", "left_out", "warnings"]
    assert one.identity["backbone"]["digest"] == one.tags["backbone"] == tiny.card.digest
    assert one.identity["data"] == one.tags["manifest"] == one.datasets[0].digest
    assert one.identity["domains"]["arms"]["frames"] == len(domains[0].frames) == 3
    [series] = one.series
    assert (series.card, series.step, series.values) == (tiny.card, 0, one.metrics)
    assert set(one.pages) == {"page.html"}


def test_the_summary_has_a_column_for_each_method(written):
    text = printed(written[0])
    assert "0.700 ± 0.10 " in text
    assert "0.400 ± 0.10, 2 empty" in text
    assert text.index("cosegment") < text.index("kmeans")
    assert "left out: noise (one image)" in text
    assert "1 warnings about sets" in text


def test_files_that_are_no_frames_are_warned_of(written):
    assert any("broken" in warning for warning in written[0].warnings)


def test_the_summary_over_seeds_has_the_worst_in_the_place_of_the_sets(written):
    row = {
        "domain": "arms",
        "part": "n3",
        "row": "cosegment",
        "images": 3,
        "empty": 1,
        "dice": 0.7,
        "dice_std": 0.1,
    }
    tables = {"summary": [row | {"part": "n3 seed0"}], "seeds": [row | {"dice_worst": 0.523}]}
    result = ZeroshotResult(metrics={}, tables=tables, pictures={})
    text = printed(SimpleNamespace(terminal=list(module._terminal(result))))
    assert "0.700 ± 0.10, 0.523, 1 empty" in text
    assert "seed0" not in text
