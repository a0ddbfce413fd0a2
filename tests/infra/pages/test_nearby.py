"""A model card of a backbone on object storage says what that of a local one does."""

from __future__ import annotations

import pytest

from vetdino.infra import cli
from vetdino.infra.pages.nearby import with_records
from vetdino.platform.core.config import from_json
from vetdino.platform.core.errors import StorageError
from vetdino.platform.core.location import Location
from vetdino.platform.core.storage import read_bytes, upload, write_bytes
from vetdino.platform.models.card import Card


def test_a_local_backbone_stays_where_it_is(tmp_path):
    with with_records(Location(tmp_path)) as (folder, urls):
        assert (folder, urls) == (tmp_path, {})


@pytest.fixture
def runs(folders, s3, request) -> str:
    """A training with a checkpoint, its evaluation in its folder and one beside it, and other things, in a bucket."""
    training = folders.training("t", 0, backbone=True)
    digest = from_json(Card, (training / "backbone" / "card.json").read_text()).digest
    folders.evaluation("t/inside", skill=0.5, digest=digest)
    folders.evaluation("beside", skill=4, digest=digest)
    folders.evaluation("other", skill=4, digest="another")
    for large in (
        "t/checkpoints/step_00000002/teacher.safetensors",
        "t/bad/step_00000001.json",
        "alone/params",
    ):
        (folders.root / large).parent.mkdir(parents=True)
        (folders.root / large).write_text("large")
    place = f"{s3.bucket}/{request.node.name}"
    paths = [path for path in folders.root.rglob("*") if path.is_file()]
    upload(place, {path.relative_to(folders.root).as_posix(): path for path in paths})
    return place


@pytest.mark.slow
def test_the_record_beside_a_backbone_at_a_url_is_in_its_card(runs, folders, tmp_path, capsys):
    cards = []
    for root, out in ((folders.root, str(tmp_path / "local")), (runs, f"{runs}/card")):
        assert cli.main(["report", f"{root}/t/backbone", "--out", out]) == 0
        cards.append(read_bytes(f"{out}/card.md").decode())
    assert cards[0] == cards[1]
    assert "| optim.lr | 0.1 |" in cards[1]
    assert "inside" in cards[1]
    with with_records(Location(f"{runs}/t/backbone")) as (folder, _):
        root = folder.parent.parent
        names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert not [name for name in names if name.startswith(("t/checkpoints", "t/bad", "alone", "shards"))]
        assert {"t/metrics.jsonl", "t/inside/knn.csv", "beside/knn.csv", "t/backbone/card.json"} <= names
    assert not root.exists()
    write_bytes(f"{runs}/beside/metrics.json", b"{")
    assert cli.main(["report", f"{runs}/t/backbone", "--out", str(tmp_path / "again")]) == 1
    assert f"vetdino: {runs}/beside/metrics.json: damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_backbone_at_the_top_of_a_bucket_has_nothing_above_it(runs, folders, s3):
    backbone = folders.root / "t" / "backbone"
    upload(f"{s3.bucket}/top", {path.name: path for path in backbone.iterdir()})
    with with_records(Location(f"{s3.bucket}/top")) as (folder, urls):
        assert {path.name for path in folder.iterdir()} == {path.name for path in backbone.iterdir()}
        assert set(urls.values()) == {s3.bucket}
    with pytest.raises(StorageError, match="nothing is there"), with_records(Location(f"{s3.bucket}/none")):
        pass
