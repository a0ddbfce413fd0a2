"""`vetdino demo`: its summary, its claim on a folder, and how its training starts and resumes. Nothing is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from vetdino.infra.commands.demo import SHIPPED, Demo, summary
from vetdino.platform.core.errors import ConfigError
from vetdino.platform.measure.results import MetricValue


class Report:
    """Stands for an evaluation's report: AUROC by source."""

    link = "MLFLOW"

    def find(self, task: str, metric: str, finding: str, source: str) -> MetricValue:
        value = {"backbone": 0.9, "backbone - random": 0.2, "backbone - pixels": -0.1}[source]
        return MetricValue(metric, finding, source, value, value - 0.05, value + 0.05, 1, 2)


def test_the_summary_has_values_gains_with_a_sign_and_the_folder():
    lines = summary(Path("/out"), {"shipped": Report(), "trained": Report()})
    assert [line.split() for line in lines if line.startswith("  shipped")] == [
        ["shipped", "0.900", "(0.850", "to", "0.950)"]
    ]
    text = "\n".join(lines)
    assert text.count("+0.200 (+0.150 to +0.250)") == 2
    assert text.count("-0.100 (-0.150 to -0.050)") == 2
    assert "/out/evaluate-trained" in text
    assert lines[-1].endswith("MLFLOW")


def test_a_folder_of_other_settings_is_refused_but_place_and_port_do_not_count(tmp_path):
    Demo(out=tmp_path, studies=20)._claim(tmp_path)
    Demo(out=tmp_path / ".", studies=20, serve=False, port=9)._claim(tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        Demo(out=tmp_path, studies=30)._claim(tmp_path)


@pytest.fixture
def trainings(monkeypatch) -> list[SimpleNamespace]:
    """The configs that a training was started with."""
    configs = []
    monkeypatch.setattr(
        "vetdino.pretrain.job.pretrain", lambda config: configs.append(config) or config.out / "backbone"
    )
    return configs


def test_the_training_starts_from_the_shipped_backbone_with_at_most_all_studies_a_step(trainings, tmp_path):
    assert (
        Demo(steps=3)._trained(tmp_path, tmp_path / "shards", studies=5) == tmp_path / "pretrain" / "backbone"
    )
    [config] = trainings
    assert (config.start, config.steps, config.batch, config.resume) == (str(SHIPPED), 3, 5, False)


def test_a_finished_training_is_kept(trainings, tmp_path):
    (tmp_path / "pretrain" / "backbone").mkdir(parents=True)
    Demo()._trained(tmp_path, tmp_path / "shards", studies=5)
    assert trainings == []


def test_the_shipped_backbone_is_there():
    assert (SHIPPED / "card.json").is_file()
    assert (SHIPPED / "backbone.safetensors").is_file()
