"""A run leaves its files and the same in MLflow; MLflow's trouble stays MLflow's."""

import json
import logging
import math
from pathlib import Path

import pytest

from vetdino.platform.core import runs
from vetdino.platform.core.runs import create_database, history, open_run, tracking_address


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    uri = tracking_address(tmp_path_factory.mktemp("tracking") / "any")
    create_database(uri)
    return uri


def opened(folder, uri, **changes):
    asked = {
        "experiment": "vetdino/pretrain",
        "name": "demo",
        "params": {"optim.lr": 0.1, "patch": None},
        "tags": {"manifest": "m1", "config": "c1", "seed": 0},
    }
    return open_run(folder, tracking_uri=uri, **{**asked, **changes})


def kept_by(uri, run):
    return runs._client(uri).get_run(run.run_id)


def test_a_run_without_news_still_says_what_it_was(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        pass
    told = json.loads((tmp_path / "r" / "params.json").read_text())
    assert told["params"] == {"optim.lr": 0.1, "patch": None}
    assert "git_revision" in told["tags"]
    kept = kept_by(database, run)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"optim.lr": "0.1", "patch": "None"}
    assert {key: kept.data.tags[key] for key in ("manifest", "config", "seed")} == {
        "manifest": "m1",
        "config": "c1",
        "seed": "0",
    }
    assert runs._client(database).get_experiment(kept.info.experiment_id).name == "vetdino/pretrain"


def test_metrics_tables_and_files_are_in_the_folder_and_in_mlflow(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        for step in range(5):
            run.metrics(step, {"view/loss": 5.0 - step, "probe/recall@10": 0.5})
        run.table("findings", [{"finding": "mass", "auroc": 0.8}, {"finding": "stones, many", "auroc": 0.7}])
        run.artifact(tmp_path / "r" / "params.json")
        run.tags({"best": 0.8})
    assert [line["view/loss"] for line in history(tmp_path / "r")] == [5, 4, 3, 2, 1]
    assert (tmp_path / "r" / "findings.csv").read_text() == 'finding,auroc\nmass,0.8\n"stones, many",0.7\n'
    client = runs._client(database)
    assert kept_by(database, run).data.metrics == {"view/loss": 1.0, "probe/recall_at_10": 0.5}
    assert len(client.get_metric_history(run.run_id, "view/loss")) == 5
    assert {each.path for each in client.list_artifacts(run.run_id)} == {"findings.json", "params.json"}
    shown = json.loads(Path(client.download_artifacts(run.run_id, "findings.json")).read_text())
    assert shown == {"columns": ["finding", "auroc"], "data": [["mass", 0.8], ["stones, many", 0.7]]}
    assert "findings.json" in kept_by(database, run).data.tags["mlflow.loggedArtifacts"]


def test_a_run_taken_up_again_is_the_same_run_with_a_child(tmp_path, database):
    with opened(tmp_path / "r", database) as first:
        first.metrics(7, {"view/loss": 3.0})
    assert first.child_id == ""
    with opened(tmp_path / "r", database, params={"workers": 2}, tags={"seed": 1}) as second:
        second.metrics(8, {"view/loss": 2.0})
    client = runs._client(database)
    child = client.get_run(second.child_id)
    assert child.data.tags["mlflow.parentRunId"] == second.run_id == first.run_id
    assert child.data.tags["resumed_after_step"] == "7"
    assert child.data.params == {"workers": "2"}
    assert child.data.metrics == {}  # the curve is whole in the parent
    assert child.info.status == kept_by(database, second).info.status == "FINISHED"
    assert len(client.get_metric_history(first.run_id, "view/loss")) == 2


def test_a_backbone_is_one_logged_model_and_what_is_measured_of_it_stands_there_by_step(tmp_path, database):
    with opened(tmp_path / "t", database) as training:
        made = training.model("small: 1/2", "digest-1", 760, {"views": "multi"})
    with opened(tmp_path / "t", database) as again:
        assert again.model("small", "digest-1", 760) == made
    with opened(tmp_path / "e", database, experiment="vetdino/evaluate") as evaluation:
        asked = evaluation.evaluates("backbone", "digest-1", 760)
        foreign = evaluation.evaluates("dinov2", "digest-2", 0)
        evaluation.metrics(760, {"knn/auroc.macro": 0.6}, asked)
    assert asked == made != foreign
    client = runs._client(database)
    model = client.get_logged_model(made)
    assert (model.name, model.status, model.source_run_id) == ("small_ 1_2", "READY", training.run_id)
    assert {"digest": "digest-1", "step": "760", "views": "multi"}.items() <= model.tags.items()
    assert [(one.key, one.value, one.step) for one in model.metrics] == [("knn/auroc.macro", 0.6, 760)]
    inputs = kept_by(database, evaluation).inputs.model_inputs
    assert {one.model_id for one in inputs} == {made, foreign}
    assert [one.model_id for one in kept_by(database, training).outputs.model_outputs] == [made]


def test_the_data_are_an_input_with_their_digest(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        run.dataset("archive", "f" * 64, "pretraining", {"train": 3})
    with opened(tmp_path / "r", database) as run:
        run.dataset("archive", "f" * 64, "pretraining", {"train": 3})
    (one,) = kept_by(database, run).inputs.dataset_inputs
    assert (one.dataset.name, one.dataset.digest, one.dataset.profile) == (
        "archive",
        "f" * 36,
        '{"train": 3}',
    )
    assert json.loads(one.dataset.source) == {"manifest": "f" * 64}
    assert [tag.value for tag in one.tags] == ["pretraining"]


def test_a_figure_is_in_the_folder_and_in_mlflow(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        run.figure("attention.png", b"\x89PNG")
    assert (tmp_path / "r" / "figures" / "attention.png").read_bytes() == b"\x89PNG"
    artifacts = runs._client(database).list_artifacts(run.run_id, "figures")
    assert [each.path for each in artifacts] == ["figures/attention.png"]


@pytest.mark.parametrize(("lowest", "value", "step"), [(False, 3.0, 1), (True, 1.0, 2)])
def test_the_best_value_is_marked_over_all_times_that_a_run_was_taken_up(
    tmp_path, database, lowest, value, step
):
    with opened(tmp_path / "r", database) as run:
        run.best("probe/auroc")  # nothing yet
        for number, each in enumerate((2.0, 3.0, 1.0)):
            run.metrics(number, {"probe/auroc": each})
    with opened(tmp_path / "r", database) as run:
        run.metrics(3, {"probe/auroc": 3.0 if not lowest else 1.0})
        run.best("probe/auroc", lowest)
    kept = kept_by(database, run).data
    assert (kept.metrics["best/auroc"], kept.tags["best.auroc.step"]) == (value, str(step))


def test_a_number_that_is_none_is_null_in_the_file(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        run.metrics(0, {"view/loss": math.nan})
    (line,) = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["view/loss"] is None


def test_a_resumed_run_goes_on_where_a_kill_cut_it_off(tmp_path, database):
    with opened(tmp_path / "r", database) as first:
        first.metrics(0, {"view/loss": 3.0})
        first.metrics(1, {"view/loss": 2.0})
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "view/lo')
    with opened(tmp_path / "r", database, params={"optim.lr": 9}) as second:
        second.metrics(1, {"view/loss": 2.5})
        second.metrics(2, {"view/loss": 1.5})
    assert second.run_id == first.run_id
    assert [(line["step"], line["view/loss"]) for line in history(tmp_path / "r")] == [
        (0, 3),
        (1, 2.5),
        (2, 1.5),
    ]
    assert kept_by(database, second).data.params["optim.lr"] == "0.1"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_a_run_that_breaks_off_says_how(tmp_path, database, error, status):
    with pytest.raises(error), opened(tmp_path / "r", database) as run:
        raise error
    assert kept_by(database, run).info.status == status


def test_the_link_opens_the_page_that_has_charts(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        assert run.link.startswith("http://127.0.0.1:5000/#/experiments/")
        assert run.link.endswith(f"/runs/{run.run_id}?workflowType=machine_learning")
        assert run.view_command == f"mlflow server --backend-store-uri {database}"
        assert run.charts.endswith("/runs?workflowType=machine_learning&compareRunsMode=CHART")
        assert run.told == f"{run.view_command}, then {run.link} (all runs: {run.charts})"


def test_nothing_measured_is_nothing_recorded(tmp_path, caplog):
    with opened(tmp_path / "r", f"sqlite:///{tmp_path}/m.db") as run:
        run.metrics(3, {})
        run.metrics(4, {"view/loss": 1.0})
    assert [line["step"] for line in history(tmp_path / "r")] == [4]
    assert not [record for record in caplog.records if record.name == runs.log.name]


def test_without_mlflow_the_files_are_written_and_one_warning_is_given(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING), opened(tmp_path / "r", f"sqlite:///{tmp_path}/file/no.db") as run:
        run.metrics(0, {"view/loss": 1.0})
        run.table("findings", [{"finding": "mass"}])
        run.figure("seen", b"png")
        run.dataset("archive", "f" * 64, "pretraining", {})
        assert run.model("small", "d", 1) == run.evaluates("small", "d", 1) == ""
        run.best("view/loss", lowest=True)
    assert len([record for record in caplog.records if record.name == runs.log.name]) == 1
    assert run.link == str(tmp_path / "r" / "metrics.jsonl")
    assert run.told == f"no run was recorded; see {run.link}"
    assert history(tmp_path / "r")[0]["view/loss"] == 1.0
    assert (tmp_path / "r" / "findings.csv").exists()
    assert (tmp_path / "r" / "figures" / "seen.png").exists()


def test_mlflow_lost_on_the_way_is_told_once_and_stops_nothing(tmp_path, database, caplog):
    with caplog.at_level(logging.WARNING), opened(tmp_path / "r", database) as run:
        run.run_id = "0" * 32  # a run that the database does not know
        for step in range(3):
            run.metrics(step, {"view/loss": 1.0})
        run.tags({"best": 1})
        run.tags({"best": 2})
    ours = [record.getMessage() for record in caplog.records if record.name == runs.log.name]
    assert len(ours) == 1
    assert "the work goes on" in ours[0]
    assert len(history(tmp_path / "r")) == 3


def test_only_the_first_rank_records(tmp_path, database, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with opened(tmp_path / "r", database) as run:
        run.metrics(0, {"view/loss": 1.0})
        run.table("findings", [{"finding": "mass"}])
        run.artifact(tmp_path)
        run.figure("seen", b"png")
        run.best("view/loss")
    assert not (tmp_path / "r").exists()


def test_the_address_is_absolute_and_the_environment_is_heard(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_address("runs/a") == f"sqlite:///{tmp_path.resolve()}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_address("runs/a") == "http://tracking:5000"
    assert tracking_address("runs/a", "sqlite:////x.db") == "sqlite:////x.db"
