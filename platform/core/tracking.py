"""MLflow: the run that mirrors a folder's files, its logged models, and the pages that show them.

A pretraining is one MLflow run with the whole curve; each resume adds a child run. A backbone, or a checkpoint
that was kept, is a logged model, known by its digest: what other runs measure of it is logged there by the step
of the pretraining.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shlex
import sqlite3
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import unquote

from .errors import DataError, VetdinoError
from .extras import EXTRAS, has_extra
from .files import atomic_write
from .locks import file_lock
from .mirror import is_mirrored, place_of
from .run_folder import metric_name

S = TypeVar("S", bound="MlflowRun")
P = ParamSpec("P")
R = TypeVar("R")

EXPERIMENTS = (
    "vetdino/pretrain",
    "vetdino/distill",
    "vetdino/evaluate",
    "vetdino/zeroshot",
    "vetdino/fewshot",
)
"""MLflow experiments, one for each kind of run."""

MODEL_TAGS = {"mlflow.model.isExternal": "true"}
"""Tags of a logged model whose weights MLflow does not keep."""

PENDING = 1000
"""Most batches of metrics on their way to MLflow before one is waited for."""

SQLITE = "sqlite:///"
"""How the address of a database file begins."""

CREATION_S = 180.0
"""Seconds that a process waits while another creates the database; alone it takes about ten."""

log = logging.getLogger(__name__)


def best_effort(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | None]:
    """The method of a run, but None where MLflow is not connected or fails; the first failure is a warning."""

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> R | None:
        if self.client is None:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if not self._warned:
                where = place_of(self.shown_folder)
                log.warning("recording in %s failed (%s); the work goes on", where, _first_line(error))
            self._warned = True
            return None

    return call


class MlflowRun:
    """The MLflow run of a folder. Until `open` has succeeded, and after `close`, every method does nothing."""

    def __init__(self, folder: Path, uri: str, shown_folder: Path | None = None) -> None:
        """uri: address of MLflow, as `tracking_address` gives it. shown_folder: the folder's later name, for people."""
        self.folder = folder
        self.shown_folder = shown_folder or folder
        self.uri = uri
        self.client: Any = None
        self.run_id = ""
        """Id of the MLflow run; empty without MLflow."""
        self.experiment_id = ""
        self.child_id = ""
        """The child run of this start where the run was resumed, else empty."""
        self.pages = ""
        """Where MLflow shows the run, see `pages_hint`; empty without MLflow."""
        self._warned = False
        self._pending: deque[Any] = deque()
        self._tables: list[dict[str, str]] = []

    def open(
        self,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        resumed_after: int,
    ) -> None:
        """Starts the MLflow run, or continues that of the folder's run.json; one line where that fails.

        resumed_after: the step after which a run that was there continues.
        """
        if not has_extra("mlflow"):
            log.warning("no MLflow run: pip install 'vetdino[%s]'", EXTRAS["mlflow"])
            return
        if not self.uri:
            log.warning(
                "no MLflow run: a URL has no database beside it; set MLFLOW_TRACKING_URI to the address of your server"
            )
            return
        resumed = (self.folder / "run.json").is_file()
        try:
            client = connect(self.uri)
            self._begin(client, experiment, name, params, tags)
            if resumed:
                tags = {**tags, "mlflow.parentRunId": self.run_id, "resumed_after_step": resumed_after}
                self.child_id = _create_run(
                    client, self.experiment_id, f"{name}, resumed after {resumed_after}", params, tags
                )
        except Exception as error:
            log.warning(
                "no tracking at %s (%s); the files in %s are written all the same",
                self.uri,
                _first_line(error),
                place_of(self.shown_folder),
            )
            return
        self.client = client
        self.pages = pages_hint(self.uri, self.experiment_id, self.run_id)

    def _begin(
        self, client: Any, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]
    ) -> None:
        """Continues the run in run.json where MLflow has it, else creates a run and run.json."""
        path = self.folder / "run.json"
        if path.is_file():
            known = json.loads(path.read_text())
            if known["tracking_uri"] == self.uri and _reopened(client, known["run_id"]):
                self.run_id, self.experiment_id = known["run_id"], known["experiment_id"]
                return
        experiment_id = _experiment_id(client, self.uri, experiment)
        run_id = _create_run(client, experiment_id, name, params, tags)
        content = {
            "run_id": run_id,
            "experiment_id": experiment_id,
            "experiment": experiment,
            "name": name,
            "tracking_uri": self.uri,
        }
        atomic_write(path, json.dumps(content, indent=2))
        self.run_id, self.experiment_id = run_id, experiment_id

    @best_effort
    def log_metrics(self, step: int, values: Mapping[str, float], model_id: str | None = None) -> None:
        """Sends the values in the background. model_id: the logged model that was measured."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, step, model_id or None) for name, value in values.items()]
        self._pending.append(self.client.log_batch(self.run_id, metrics=batch, synchronous=False))
        self._wait_until_pending(PENDING)

    @best_effort
    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a table as MLflow's `log_table`, which would append to that of an earlier start of the run."""
        content = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        self._tables.append({"path": f"{name}.json", "type": "table"})
        self.client.log_dict(self.run_id, content, f"{name}.json")
        self.client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps(self._tables))

    @best_effort
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Gives MLflow a copy of a file or a folder, below `folder` of the run's artifacts."""
        send = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        send(self.run_id, str(path), folder)

    @best_effort
    def log_dataset(self, name: str, digest: str, context: str, facts: Mapping[str, Any]) -> None:
        """The data set of the run. digest: the manifest's; context: such as `pretraining`; facts: counts."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow takes 36 characters of a digest; the whole of it is in the run's tags.
        source = json.dumps({"manifest": digest})
        dataset = Dataset(name, digest[:36], "vetdino", source, profile=json.dumps(facts))
        tags = [InputTag("mlflow.data.context", context)]
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    @best_effort
    def log_trained_model(
        self, name: str, digest: str, step: int, facts: Mapping[str, Any] | None = None
    ) -> str:
        """Id of MLflow's logged model for a backbone or checkpoint that this run made.

        digest: identifies the weights; logged again, the model is the same. step: of the pretraining.
        facts: more tags.
        """
        from mlflow.entities import LoggedModelOutput

        if known := self._model_id(digest, f"source_run_id = '{self.run_id}'"):
            return known
        model_id = self._create_model(name, digest, step, facts or {})
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step)])
        return model_id

    @best_effort
    def log_evaluated_model(self, name: str, digest: str, step: int) -> str:
        """Id of the logged model that this run measures: the one its pretraining logged, else a new one.

        Arguments as in `log_trained_model`. Hand the id to `log_metrics` with the same step, and runs compare
        over the steps of the pretraining.
        """
        from mlflow.entities import LoggedModelInput

        model_id = self._model_id(digest) or self._create_model(name, digest, step, {})
        self.client.log_inputs(self.run_id, models=[LoggedModelInput(model_id)])
        return model_id

    def _model_id(self, digest: str, condition: str = "") -> str:
        """Id of the oldest logged model with this digest in our experiments, empty where there is none."""
        experiments = [self.client.get_experiment_by_name(name) for name in EXPERIMENTS]
        models = self.client.search_logged_models(
            [experiment.experiment_id for experiment in experiments if experiment is not None],
            filter_string=" AND ".join(filter(None, (f"tags.digest = '{digest}'", condition))),
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            max_results=1,
        )
        return models[0].model_id if models else ""

    def _create_model(self, name: str, digest: str, step: int, facts: Mapping[str, Any]) -> str:
        """As `mlflow.create_external_model`, which knows one tracking address a process only."""
        tags = MODEL_TAGS | _texts({"digest": digest, "step": step, **facts})
        name = re.sub(r"[/:.%\"']", "_", name)  # MLflow refuses these in a model's name
        model = self.client.create_logged_model(
            self.experiment_id, name, source_run_id=self.run_id, tags=tags, model_type="backbone"
        )
        self.client.finalize_logged_model(model.model_id, "READY")
        return model.model_id

    def close(self, status: str = "FINISHED") -> None:
        """Ends the run and its child, and waits for all metrics on their way."""
        # Ended first: that hands over what waits in MLflow's buffer. The batches themselves are awaited after it.
        self._terminate(status)
        self._wait_until_pending(0)
        self.client = None

    @best_effort
    def _terminate(self, status: str) -> None:
        for run_id in filter(None, (self.child_id, self.run_id)):
            self.client.set_terminated(run_id, status)

    @best_effort
    def _wait_until_pending(self, most: int) -> None:
        while len(self._pending) > most:
            self._pending.popleft().wait()


def create_database(uri: str) -> None:
    """Creates the tables of a tracking database, once, in the driver: workers doing so together collide.

    Raises OSError where its folder cannot be made; anything else is reported when the run is opened.
    """
    if (database := database_path(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    if not uri or not has_extra("mlflow"):
        return
    try:
        connect(uri)
    except Exception as error:
        log.warning("no tracking at %s (%s)", uri, _first_line(error))


def tracking_address(folder: Path | str, given: str | None = None) -> str:
    """Address of MLflow: `given`, else MLFLOW_TRACKING_URI, else the database mlflow.db beside the folder.

    "" for a folder that is uploaded to a URL, beside which there is no database.

    Absolute, since Ray's workers start in a directory of their own.
    """
    if not (given or os.environ.get("MLFLOW_TRACKING_URI")) and is_mirrored(folder):
        return ""
    database = str(Path(folder).resolve().parent / "mlflow.db").replace("%", "%25").replace("?", "%3F")
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{database}"


def database_path(uri: str) -> Path | None:
    """The database file of an address; None where it names something else.

    >>> database_path("sqlite:////data/100%25/mlflow.db").as_posix()
    '/data/100%/mlflow.db'
    """
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def connect(uri: str) -> Any:
    """An MlflowClient that has answered once, quiet, quick to give up. Raises what MLflow raises."""
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "2",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    }.items():
        os.environ.setdefault(key, value)
    # MLflow reports each migration of a new database, some thirty lines of them.
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.store.db"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Its first query raises warnings for what SQLAlchemy calls deprecated in MLflow's tables.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from mlflow import MlflowClient

        with _creation_lock(uri), _no_stray_folders(uri):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    return client


@contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """Within the block nobody else creates the database of this address; nothing where it is there already.

    Raises what tells at once that it cannot be opened, which MLflow would try for minutes.
    """
    path = database_path(uri)
    if path is None or _has_experiments(path):
        yield
        return
    from sqlalchemy.engine import make_url

    if make_url(uri).database != str(path):
        raise ValueError(f"{path} cannot be written as an address; set MLFLOW_TRACKING_URI")
    with file_lock(path, "the creation of the MLflow database", CREATION_S):
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version")
        yield


@contextmanager
def _no_stray_folders(uri: str) -> Iterator[None]:
    """Removes the folders that MLflow makes inside the block because it does not decode the address of a database."""
    encoded = Path(uri.removeprefix(SQLITE).partition("?")[0])
    strays = [] if database_path(uri) in (None, encoded) else [p for p in encoded.parents if not p.exists()]
    yield
    for folder in strays:
        with suppress(OSError):
            folder.rmdir()


def _has_experiments(path: Path) -> bool:
    """Whether MLflow has finished creating a database: its default experiment comes last."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute("SELECT count(*) FROM experiments").fetchone()[0] > 0
    except sqlite3.Error:
        return False


def pages_hint(uri: str, experiment_id: str, run_id: str) -> str:
    """The pages of a run and of its experiment's charts, and the command that serves them where no server does."""
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    command = "" if uri.startswith("http") else f"mlflow server --backend-store-uri {shlex.quote(uri)}, then "
    # Without the query the page opens in the mode for language models, which has no charts of metrics.
    mode = "workflowType=machine_learning"
    runs = f"{server}/#/experiments/{experiment_id}/runs"
    return f"{command}{runs}/{run_id}?{mode} (all runs: {runs}?{mode}&compareRunsMode=CHART)"


def _reopened(client: Any, run_id: str) -> bool:
    """Whether a run is running again; False where it, or its experiment, was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
        if run.info.lifecycle_stage != "active":
            return False
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _create_run(
    client: Any, experiment_id: str, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]
) -> str:
    """Id of a new MLflow run with these params and tags."""
    from mlflow.entities import Param

    run_id = client.create_run(experiment_id, tags=_texts(tags), run_name=name).info.run_id
    batch = [Param(metric_name(key), str(value)[:6000]) for key, value in params.items()]
    for start in range(0, len(batch), 100):  # MLflow's limit for one call
        client.log_batch(run_id, params=batch[start : start + 100])
    return run_id


def _experiment_id(client: Any, uri: str, name: str) -> str:
    """Id of the experiment, created where it is missing.

    Artifacts lie beside the database, not in the current directory (MLflow's choice). Raises DataError where the
    experiment was deleted: its name is taken, and only its owner should bring it back.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage != "active":
        number = experiment.experiment_id
        raise DataError(
            f"the experiment {name} was deleted there; `mlflow experiments restore --experiment-id {number}` with "
            f"MLFLOW_TRACKING_URI={shlex.quote(uri)} brings it back"
        )
    if experiment is not None:
        return experiment.experiment_id
    location = None
    if (database := database_path(uri)) is not None:
        location = (database.resolve().parent / "mlartifacts").as_uri()
    try:
        return client.create_experiment(name, artifact_location=location)
    except MlflowException:  # another process was faster
        return client.get_experiment_by_name(name).experiment_id


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _first_line(error: Exception) -> str:
    if isinstance(error, VetdinoError):
        return str(error)
    line = (str(error).splitlines() or [""])[0] or type(error).__name__
    return line if len(line) <= 120 else line[:119] + "…"
