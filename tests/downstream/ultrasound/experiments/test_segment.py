"""New frames get masks of their own size."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vetdino.downstream.ultrasound.config import ZeroshotSegmentConfig
from vetdino.downstream.ultrasound.experiments.segment import segment
from vetdino.platform.core.config import cli_config
from vetdino.platform.models.saving import save_backbone


def test_one_image_is_segmented_with_a_warning(tmp_path, drawn, tiny, caplog, quick):
    save_backbone(tmp_path / "net", tiny)
    folder = drawn(tmp_path / "leg", 1)
    shares = segment([folder], tmp_path / "net", tmp_path / "out", ZeroshotSegmentConfig(**quick))
    assert list(shares) == ["00"]
    assert any("1 image" in said for said in caplog.messages)


@pytest.mark.parametrize("method", ["cosegment", "tokencut"])
def test_new_frames_get_masks_of_their_own_size(tmp_path, drawn, tiny, method, quick):
    save_backbone(tmp_path / "net", tiny)
    folder = drawn(tmp_path / "leg", 3)
    shares = segment(
        [folder], tmp_path / "net", tmp_path / "out", ZeroshotSegmentConfig(method=method, **quick)
    )
    for name, share in shares.items():
        with Image.open(tmp_path / "out" / "masks" / f"{name}.png") as picture:
            mask = np.array(picture)
        assert mask.shape == (48, 64)
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).mean() == share
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png") as picture:
            assert picture.size == (64, 48)
    with (tmp_path / "out" / "frames.csv").open() as file:
        rows = {row["frame"]: row for row in csv.DictReader(file)}
    assert {name: row["empty"] for name, row in rows.items()} == {
        name: str(int(share == 0)) for name, share in shares.items()
    }
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["found_share"] == shares
    assert metrics["saliency"] in ({"cosegment": ("bone", "rank"), "tokencut": (None,)}[method])
    segment(
        [folder / "images" / "00.png"], tmp_path / "net", tmp_path / "out", ZeroshotSegmentConfig(**quick)
    )
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir()] == ["00.png"]


@pytest.mark.parametrize(
    ("method", "flag"), [("cosegment", "--cosegment.tau"), ("tokencut", "--tokencut.tau")]
)
def test_empty_masks_are_rows_of_the_table_and_the_warning_names_frames_and_cure(
    tmp_path, drawn, tiny, method, flag, quick, caplog
):
    save_backbone(tmp_path / "net", tiny)
    folder = drawn(tmp_path / "leg", 2)
    start = ZeroshotSegmentConfig(method=method, **quick)
    start = replace(start, cosegment=replace(start.cosegment, vote="mean"))
    config = cli_config(start, [flag, "1"], "test")
    assert segment([folder], tmp_path / "net", tmp_path / "out", config) == {"00": 0, "01": 0}
    table = (tmp_path / "out" / "frames.csv").read_text()
    assert table == "frame,found_share,empty\n00,0,1\n01,0,1\n"
    assert "2 of 2" in caplog.text
    assert "(00, 01)" in caplog.text
    cure = re.search(r"(cosegment\.tau (\S+) gives|median is (\S+), which)", caplog.text)
    tau = cure[2] or cure[3]
    shares = segment([folder], tmp_path / "net", tmp_path / "out", cli_config(start, [flag, tau], "test"))
    assert min(shares.values()) > 0
