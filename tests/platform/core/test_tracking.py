"""A run in MLflow: the same as its files, one run over all resumes, and failures that stop nothing."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vetdino
from vetdino.platform.core import tracking
from vetdino.platform.core.run_folder import history
from vetdino.platform.core.runs import open_run
from vetdino.platform.core.tracking import connect, create_database, pages_hint, tracking_address

pytestmark = pytest.mark.slow

ROOT = Path(vetdino.__file__).parent

# Importing MLflow and creating a database takes over ten seconds: those tests are slow.


def test_the_address_is_absolute_and_the_environment_names_another(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_address("runs/a") == f"sqlite:///{tmp_path.resolve()}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_address("runs/a") == "http://tracking:5000"
    assert tracking_address("runs/a", "sqlite:////x.db") == "sqlite:////x.db"


def test_a_page_on_a_running_server_needs_no_command():
    runs = "http://tracking:5000/#/experiments/7/runs"
    assert pages_hint("http://tracking:5000/", "7", "abc") == (
        f"{runs}/abc?workflowType=machine_learning "
        f"(all runs: {runs}?workflowType=machine_learning&compareRunsMode=CHART)"
    )


def test_a_page_of_a_database_comes_with_the_command_that_serves_it():
    hint = pages_hint("sqlite:////data/mlflow.db", "7", "abc")
    command, _, pages = hint.partition(", then ")
    assert command == "mlflow server --backend-store-uri sqlite:////data/mlflow.db"
    assert pages.startswith("http://127.0.0.1:5000/#/experiments/7/runs/abc?")


def test_a_database_is_made_with_its_folder(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    create_database(uri)
    assert connect(uri).search_experiments(max_results=1)


def test_an_address_that_mlflow_does_not_know_is_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        create_database("nothing://here")
    (record,) = (record for record in caplog.records if record.name == tracking.log.name)
    assert "no tracking at" in record.getMessage()


def test_without_mlflow_no_database_is_made(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "has_extra", lambda name: False)
    create_database(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    uri = tracking_address(tmp_path_factory.mktemp("tracking") / "any")
    create_database(uri)
    return uri


def opened(folder, uri, **changes):
    description = {
        "experiment": "vetdino/pretrain",
        "name": "demo",
        "params": {"optim.lr": 0.1, "patch": None},
        "tags": {"manifest": "m1", "config": "c1", "seed": 0},
    }
    return open_run(folder, tracking_uri=uri, **{**description, **changes})


def in_mlflow(uri, run):
    return connect(uri).get_run(run.run_id)


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.name == tracking.log.name]


def test_a_run_that_measures_nothing_still_has_its_params_and_tags(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        pass
    content = json.loads((tmp_path / "r" / "params.json").read_text())
    assert content["params"] == {"optim.lr": 0.1, "patch": None}
    assert "git_revision" in content["tags"]
    kept = in_mlflow(database, run)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"optim.lr": "0.1", "patch": "None"}
    assert {"manifest": "m1", "config": "c1", "seed": "0"}.items() <= kept.data.tags.items()
    assert connect(database).get_experiment(kept.info.experiment_id).name == "vetdino/pretrain"


def test_metrics_tables_and_files_are_in_the_folder_and_in_mlflow(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        for step in range(5):
            run.log_metrics(step, {"view/loss": 5.0 - step, "probe/recall@10": 0.5})
        run.log_table(
            "findings", [{"finding": "mass", "auroc": 0.8}, {"finding": "stones, many", "auroc": 0.7}]
        )
        run.log_artifact(tmp_path / "r" / "params.json")
    assert [line["view/loss"] for line in history(tmp_path / "r")] == [5, 4, 3, 2, 1]
    assert (tmp_path / "r" / "findings.csv").read_text() == 'finding,auroc\nmass,0.8\n"stones, many",0.7\n'
    client = connect(database)
    assert in_mlflow(database, run).data.metrics == {"view/loss": 1.0, "probe/recall_at_10": 0.5}
    assert len(client.get_metric_history(run.run_id, "view/loss")) == 5
    assert {each.path for each in client.list_artifacts(run.run_id)} == {"findings.json", "params.json"}
    table = json.loads(Path(client.download_artifacts(run.run_id, "findings.json")).read_text())
    assert table == {"columns": ["finding", "auroc"], "data": [["mass", 0.8], ["stones, many", 0.7]]}
    assert "findings.json" in in_mlflow(database, run).data.tags["mlflow.loggedArtifacts"]


def test_a_resumed_run_is_the_same_run_with_a_child(tmp_path, database):
    with opened(tmp_path / "r", database) as first:
        first.log_metrics(7, {"view/loss": 3.0})
    with opened(tmp_path / "r", database, params={"workers": 2}, tags={"seed": 1}) as second:
        second.log_metrics(8, {"view/loss": 2.0})
    assert first.run_id == second.run_id
    client = connect(database)
    experiment = in_mlflow(database, first).info.experiment_id
    [child] = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{first.run_id}'")
    assert child.data.tags["resumed_after_step"] == "7"
    assert child.data.params == {"workers": "2"}
    assert child.data.metrics == {}  # the curve is whole in the parent
    assert child.info.status == in_mlflow(database, second).info.status == "FINISHED"
    assert len(client.get_metric_history(first.run_id, "view/loss")) == 2


def test_a_resumed_run_tells_the_step_of_its_checkpoint_not_the_last_one_recorded(tmp_path, database):
    """A training that was killed at step 7 continues from its checkpoint of step 5."""
    with opened(tmp_path / "r", database) as first:
        first.log_metrics(7, {"view/loss": 3.0})
    with opened(tmp_path / "r", database, resumed_after=5) as second:
        pass
    experiment = in_mlflow(database, first).info.experiment_id
    [child] = connect(database).search_runs([experiment], f"tags.mlflow.parentRunId = '{second.run_id}'")
    assert child.data.tags["resumed_after_step"] == "5"
    assert child.info.run_name.endswith("resumed after 5")


def test_a_backbone_is_one_logged_model_that_holds_what_others_measure_by_step(tmp_path, database):
    with opened(tmp_path / "t", database) as training:
        trained = training.log_trained_model("small: 1/2", "digest-1", 760, {"views": "multi"})
    with opened(tmp_path / "t", database) as again:
        assert again.log_trained_model("small", "digest-1", 760) == trained
    with opened(tmp_path / "e", database, experiment="vetdino/evaluate") as evaluation:
        evaluated = evaluation.log_evaluated_model("backbone", "digest-1", 760)
        foreign = evaluation.log_evaluated_model("dinov2", "digest-2", 0)
        evaluation.log_metrics(760, {"knn/auroc.macro": 0.6}, evaluated)
    assert evaluated == trained != foreign
    model = connect(database).get_logged_model(trained)
    assert (model.name, model.status, model.source_run_id) == ("small_ 1_2", "READY", training.run_id)
    assert {"digest": "digest-1", "step": "760", "views": "multi"}.items() <= model.tags.items()
    assert [(one.key, one.value, one.step) for one in model.metrics] == [("knn/auroc.macro", 0.6, 760)]
    inputs = in_mlflow(database, evaluation).inputs.model_inputs
    assert {one.model_id for one in inputs} == {trained, foreign}
    assert [one.model_id for one in in_mlflow(database, training).outputs.model_outputs] == [trained]


def test_a_data_set_is_one_input_with_its_digest(tmp_path, database):
    for _ in range(2):
        with opened(tmp_path / "r", database) as run:
            run.log_dataset("archive", "f" * 64, "pretraining", {"train": 3})
    (one,) = in_mlflow(database, run).inputs.dataset_inputs
    assert (one.dataset.name, one.dataset.digest) == ("archive", "f" * 36)
    assert one.dataset.profile == '{"train": 3}'
    assert json.loads(one.dataset.source) == {"manifest": "f" * 64}
    assert [tag.value for tag in one.tags] == ["pretraining"]


def test_a_figure_is_in_the_folder_and_in_mlflow(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        run.log_figure("attention.png", b"\x89PNG")
    assert (tmp_path / "r" / "figures" / "attention.png").read_bytes() == b"\x89PNG"
    artifacts = connect(database).list_artifacts(run.run_id, "figures")
    assert [each.path for each in artifacts] == ["figures/attention.png"]


def test_the_best_value_is_the_first_highest_over_all_starts_of_a_run(tmp_path, database):
    with opened(tmp_path / "r", database) as run:
        run.log_best("probe/auroc")  # nothing yet
        for number, value in enumerate((2.0, 3.0, 1.0)):
            run.log_metrics(number, {"probe/auroc": value})
    with opened(tmp_path / "r", database) as run:
        run.log_metrics(3, {"probe/auroc": 3.0})
        run.log_best("probe/auroc")
    kept = in_mlflow(database, run).data
    assert (kept.metrics["best/auroc"], kept.tags["best.auroc.step"]) == (3.0, "1")


def test_a_resumed_run_goes_on_where_a_kill_cut_it_off(tmp_path, database):
    with opened(tmp_path / "r", database) as first:
        first.log_metrics(0, {"view/loss": 3.0})
        first.log_metrics(1, {"view/loss": 2.0})
    with (tmp_path / "r" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "view/lo')
    with opened(tmp_path / "r", database, params={"optim.lr": 9}) as second:
        second.log_metrics(1, {"view/loss": 2.5})
        second.log_metrics(2, {"view/loss": 1.5})
    values = [(line["step"], line["view/loss"]) for line in history(tmp_path / "r")]
    assert values == [(0, 3), (1, 2.5), (2, 1.5)]
    assert in_mlflow(database, second).data.params["optim.lr"] == "0.1"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED")])
def test_a_run_that_breaks_off_says_how(tmp_path, database, error, status):
    with pytest.raises(error), opened(tmp_path / "r", database) as run:
        raise error
    assert in_mlflow(database, run).info.status == status


def test_no_values_are_no_line(tmp_path, caplog):
    with opened(tmp_path / "r", f"sqlite:///{tmp_path}/m.db") as run:
        run.log_metrics(3, {})
        run.log_metrics(4, {"view/loss": 1.0})
    assert [line["step"] for line in history(tmp_path / "r")] == [4]
    assert warnings_in(caplog) == []


def test_an_address_that_does_not_answer_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING), opened(tmp_path / "r", f"sqlite:///{tmp_path}/file/no.db") as run:
        run.log_metrics(0, {"view/loss": 1.0})
    (line,) = warnings_in(caplog)
    assert "no tracking at" in line
    assert run.run_id == ""
    assert history(tmp_path / "r")[0]["view/loss"] == 1.0


def test_mlflow_lost_on_the_way_is_one_warning_and_stops_nothing(tmp_path, database, caplog):
    with caplog.at_level(logging.WARNING), opened(tmp_path / "r", database) as run:
        run.run_id = "0" * 32  # a run that the database does not know
        for step in range(3):
            run.log_metrics(step, {"view/loss": 1.0})
        run.log_best("view/loss")
    (line,) = warnings_in(caplog)
    assert "the work goes on" in line
    assert len(history(tmp_path / "r")) == 3


@pytest.mark.parametrize("name", ["what?", "50%25 of all", "a b;c&d=e#f", "Hündin"])
def test_a_folder_of_any_name_has_its_database_and_its_files(name, tmp_path):
    folder = tmp_path / name / "r"
    with opened(folder, tracking_address(folder, None)) as run:
        run.log_metrics(0, {"view/loss": 5.0})
        run.log_artifact(folder / "params.json")
    assert run.run_id
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in (tmp_path / name).iterdir()} == {"mlflow.db", "mlartifacts", "r"}
    assert in_mlflow(run.uri, run).data.metrics == {"view/loss": 5.0}
    assert list((tmp_path / name / "mlartifacts").glob("*/artifacts/params.json"))


def test_the_command_that_serves_a_database_can_be_pasted_into_a_shell():
    command = pages_hint("sqlite:////data/a b;c/mlflow.db", "7", "abc").partition(", then ")[0]
    assert shlex.split(command)[-1] == "sqlite:////data/a b;c/mlflow.db"


FIRST_RUN = """
import logging, sys
logging.basicConfig(level=logging.WARNING)
import mlflow
from vetdino.platform.core.runs import open_run
print("ready", flush=True)
sys.stdin.readline()
described = {"params": {}, "tags": {"manifest": "m", "config": "c", "seed": 0}}
with open_run(sys.argv[1], experiment="vetdino/evaluate", name="first", **described) as run:
    run.log_metrics(0, {"a/b": 1.0})
print(run.run_id, flush=True)
"""


def test_three_first_runs_on_one_fresh_database_are_all_recorded(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = [sys.executable, "-c", FIRST_RUN]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    runs = [subprocess.Popen([*words, str(tmp_path / name)], cwd=ROOT, text=True, **pipes) for name in "abc"]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    printed = [run.communicate(timeout=240) for run in runs]
    assert not [line for _, err in printed for line in err.splitlines() if "no tracking" in line]
    client = connect(tracking_address(tmp_path / "a"))
    assert all(client.get_run(out.strip()).info.status == "FINISHED" for out, _ in printed)
    assert len(client.search_experiments()) == 2
    assert not list(tmp_path.glob(".*"))


def test_a_database_that_cannot_be_opened_is_one_warning_without_minutes_of_retries(tmp_path, caplog):
    (tmp_path / "mlflow.db").mkdir()
    began = time.monotonic()
    with opened(tmp_path / "r", f"sqlite:///{tmp_path}/mlflow.db") as run:
        run.log_metrics(0, {"view/loss": 5.0})
    assert time.monotonic() - began < 30
    assert len(warnings_in(caplog)) == 1
    assert run.view_hint == f"no run was recorded; see {tmp_path / 'r' / 'metrics.jsonl'}"
    assert [line["view/loss"] for line in history(tmp_path / "r")] == [5]


def test_a_server_that_cannot_be_reached_is_one_warning_that_names_the_later_folder(tmp_path, caplog):
    with opened(tmp_path / ".r.new", "http://127.0.0.1:9", shown_folder=tmp_path / "r") as run:
        run.log_metrics(0, {"view/loss": 5.0})
    (warning,) = warnings_in(caplog)
    assert f"the files in {tmp_path / 'r'} are written all the same" in warning
    assert run.view_hint == f"no run was recorded; see {tmp_path / 'r' / 'metrics.jsonl'}"
    assert [line["view/loss"] for line in history(tmp_path / ".r.new")] == [5]


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(tmp_path, caplog):
    uri = tracking_address(tmp_path / "any", None)
    with opened(tmp_path / "first", uri) as run:
        pass
    connect(uri).delete_experiment(run.experiment_id)
    with opened(tmp_path / "second", uri) as run:
        run.log_metrics(0, {"view/loss": 5.0})
    (warning,) = warnings_in(caplog)
    assert "the experiment vetdino/pretrain was deleted there" in warning
    assert "mlflow experiments restore --experiment-id" in warning
    assert [line["view/loss"] for line in history(tmp_path / "second")] == [5]


def test_a_folder_whose_mlflow_run_was_deleted_gets_a_new_one(tmp_path, database, caplog):
    with opened(tmp_path / "r", database) as first:
        first.log_metrics(0, {"view/loss": 5.0})
    connect(database).delete_run(first.run_id)
    with opened(tmp_path / "r", database) as second:
        second.log_metrics(1, {"view/loss": 4.0})
    assert second.run_id not in ("", first.run_id)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["run_id"] == second.run_id
    assert warnings_in(caplog) == []
    (tmp_path / "r" / "run.json").write_text(
        json.dumps({"run_id": "f" * 32, "experiment_id": "1", "tracking_uri": database})
    )
    with opened(tmp_path / "r", database) as third:
        pass
    assert third.run_id not in ("", "f" * 32)
