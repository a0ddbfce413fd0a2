"""What a piece of work leaves behind: files in its folder, and the same in MLflow.

The files are the record (`run.json`, `params.json`, `metrics.jsonl`, a CSV per table, `figures/`); MLflow
shows them. When tracking fails, it says so once and the work goes on.

In MLflow a pretraining is one run with the whole curve; each time it was taken up again is a child of it. A
backbone, or a checkpoint that was kept, is a logged model, found by its digest: what other runs measure of it
stands there by the step of the pretraining.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import atomic_write

EXPERIMENTS = ("vetdino/pretrain", "vetdino/evaluate", "vetdino/zeroshot", "vetdino/fewshot")
"""MLflow experiments, one for each kind of work."""

MODEL_TAGS = {"mlflow.model.isExternal": "true"}
"""Of a logged model whose weights are not MLflow's to keep."""

PENDING = 1000
"""Most batches of metrics on their way to MLflow before one is waited for."""

log = logging.getLogger(__name__)


class Run:
    """One recorded piece of work, opened by `open_run`; use it as a context manager.

    Leaving the block ends the MLflow run: FINISHED, KILLED after Ctrl-C, FAILED after another exception.
    On any rank but the first every method does nothing.
    """

    def __init__(self, folder: Path, *, silent: bool, warned: bool = False) -> None:
        self.folder = folder
        self.run_id = ""
        self.experiment_id = ""
        self.child_id = ""
        """Of a run taken up again: its MLflow child, which holds what is of this time only."""
        self.link = str(folder / "metrics.jsonl")
        """Where to look at it: the page of MLflow, or the file where there is no MLflow."""
        self.view_command = ""
        """The command that serves the page; empty where a server is running already."""
        self.charts = self.link
        """Where all runs of the experiment are charted side by side."""
        self._silent = silent
        self._client: Any = None
        self._warned = warned
        self._pending: deque[Any] = deque()
        self._tables: list[dict[str, str]] = []

    @property
    def told(self) -> str:
        """What a person is told to look at: the command where a server is needed, and the pages."""
        if not self.run_id:
            return f"no run was recorded; see {self.link}"
        pages = f"{self.link} (all runs: {self.charts})"
        return f"{self.view_command}, then {pages}" if self.view_command else pages

    def metrics(self, step: int, values: Mapping[str, float], model: str = "") -> None:
        """Adds one line to metrics.jsonl and the same values to MLflow, in the background.

        Names are `group/name`; the group becomes a section of charts. A step may be told twice (after a
        resume): `history` keeps the last. model: id of the logged model that they were measured of.
        """
        if self._silent or not values:
            return
        numbers = {metric_name(name): float(value) for name, value in values.items()}
        kept = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3), **kept}) + "\n"
        try:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(line)
        except OSError as error:
            self._warn(error)

        def send(client: Any) -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            batch = [Metric(name, value, now, step, model or None) for name, value in numbers.items()]
            self._pending.append(client.log_batch(self.run_id, metrics=batch, synchronous=False))
            while len(self._pending) > PENDING:
                self._pending.popleft().wait()

        self._track(send)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `name`.csv into the folder, and a table of that name to MLflow. Rows share their keys."""
        if self._silent or not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(self.folder / f"{name}.csv", text.getvalue())
        table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        self._tables.append({"path": f"{name}.json", "type": "table"})

        def send(client: Any) -> None:
            # As `log_table` writes it, which would append to the table of an earlier run of the same folder.
            client.log_dict(self.run_id, table, f"{name}.json")
            client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps(self._tables))

        self._track(send)

    def figure(self, name: str, png: bytes) -> None:
        """Writes figures/`name`.png into the folder, and gives MLflow a copy."""
        if self._silent:
            return
        path = self.folder / "figures" / f"{name.removesuffix('.png')}.png"
        atomic_write(path, png)
        self._track(lambda client: client.log_artifact(self.run_id, str(path), "figures"))

    def dataset(self, name: str, digest: str, context: str, facts: Mapping[str, Any]) -> None:
        """The data that the run rests on. digest: of the manifest; context: such as `pretraining`; facts: counts."""

        def send(client: Any) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            # MLflow takes 36 characters of a digest; the whole of it is in the run's tags.
            data = Dataset(
                name, digest[:36], "vetdino", json.dumps({"manifest": digest}), profile=json.dumps(facts)
            )
            client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

        self._track(send)

    def model(self, name: str, digest: str, step: int, facts: Mapping[str, Any] | None = None) -> str:
        """Id of the logged model for a backbone or checkpoint that this run made; told again, it is the same.

        digest: identity of what it computes. step: of the pretraining. facts: tags. Empty without tracking.
        """

        def send(client: Any) -> str:
            from mlflow.entities import LoggedModelOutput

            if found := self._found(client, digest, f"source_run_id = '{self.run_id}'"):
                return found
            made = self._made(client, name, digest, step, facts or {})
            client.log_outputs(self.run_id, [LoggedModelOutput(made, step)])
            return made

        return self._track(send) or ""

    def evaluates(self, name: str, digest: str, step: int, facts: Mapping[str, Any] | None = None) -> str:
        """Id of the logged model that this run measures: the one that its pretraining left, else a new one.

        As `model`; hand the id to `metrics` with the same step, and runs compare over the pretraining's steps.
        """

        def send(client: Any) -> str:
            from mlflow.entities import LoggedModelInput

            found = self._found(client, digest) or self._made(client, name, digest, step, facts or {})
            client.log_inputs(self.run_id, models=[LoggedModelInput(found)])
            return found

        return self._track(send) or ""

    def _found(self, client: Any, digest: str, also: str = "") -> str:
        """Id of the oldest logged model with this digest in our experiments."""
        known = [client.get_experiment_by_name(name) for name in EXPERIMENTS]
        asked = " AND ".join(filter(None, (f"tags.digest = '{digest}'", also)))
        found = client.search_logged_models(
            [one.experiment_id for one in known if one is not None],
            filter_string=asked,
            order_by=[{"field_name": "creation_timestamp", "ascending": True}],
            max_results=1,
        )
        return found[0].model_id if found else ""

    def _made(self, client: Any, name: str, digest: str, step: int, facts: Mapping[str, Any]) -> str:
        """As `mlflow.create_external_model`, which knows one tracking address a process only."""
        told = {"digest": digest, "step": step, **facts}
        tags = MODEL_TAGS | {key: str(value) for key, value in told.items()}
        # MLflow refuses these in a model's name.
        plain = re.sub(r"[/:.%\"']", "_", name)
        made = client.create_logged_model(
            self.experiment_id, plain, source_run_id=self.run_id, tags=tags, model_type="backbone"
        )
        client.finalize_logged_model(made.model_id, "READY")
        return made.model_id

    def best(self, name: str, lowest: bool = False) -> None:
        """Marks the best value so far of a metric, from the folder's whole history: `best/NAME`, and its step."""
        if self._silent:
            return
        told = [(line[name], line["step"]) for line in _told(self.folder) if line.get(name) is not None]
        if not told:
            return
        value, step = min(told) if lowest else max(told, key=lambda pair: (pair[0], -pair[1]))

        def send(client: Any) -> None:
            short = name.rpartition("/")[2]
            client.log_metric(self.run_id, f"best/{short}", value, step=step)
            client.set_tag(self.run_id, f"best.{short}.step", str(step))

        self._track(send)

    def artifact(self, path: Path) -> None:
        """Gives MLflow a copy of a file or a folder."""
        if self._silent:
            return
        send = "log_artifacts" if Path(path).is_dir() else "log_artifact"
        self._track(lambda client: getattr(client, send)(self.run_id, str(path)))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Words to find the run by, such as the best value so far."""

        def send(client: Any) -> None:
            for key, value in values.items():
                client.set_tag(self.run_id, key, str(value))

        self._track(send)

    def close(self, status: str = "FINISHED") -> None:
        """Waits for what is still on its way, then ends the MLflow run."""

        def end(client: Any) -> None:
            for run_id in filter(None, (self.child_id, self.run_id)):
                client.set_terminated(run_id, status)

        # Told first: it hands over what waits in the buffer. The batches themselves are waited for after it.
        self._track(end)
        self._track(lambda _: self._drain())
        self._client = None

    def _drain(self) -> None:
        while self._pending:
            self._pending.popleft().wait()

    def _track(self, tell: Callable[[Any], Any]) -> Any:
        """Tells MLflow something and gives back its answer; the first failure is reported, none is raised."""
        if self._client is None:
            return None
        try:
            return tell(self._client)
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            log.warning("recording in %s failed (%s); the work goes on", self.folder, _first_line(error))
        self._warned = True

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        stopped = "KILLED" if kind is not None and issubclass(kind, KeyboardInterrupt) else "FAILED"
        self.close("FINISHED" if kind is None else stopped)

    def __repr__(self) -> str:
        return f"Run({self.folder.name})"


def open_run(
    folder: Path | str,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    tracking_uri: str | None = None,
) -> Run:
    """Opens the record of a piece of work in `folder` and in the MLflow experiment `experiment`.

    params: dotted path -> scalar, as `config.flat` gives them. tags: at least `manifest` and `config`
    (digests) and `seed`; the git revision is added. A folder that holds a run.json goes on with the same
    MLflow run and the params it began with; a child of that run holds what this time was asked with. Nothing
    is recorded on any rank but the first. Raises OSError where the folder cannot be written.
    """
    folder = Path(folder).resolve()
    run = Run(folder, silent=not _first_rank())
    if run._silent:
        return run
    folder.mkdir(parents=True, exist_ok=True)
    _mend(folder / "metrics.jsonl")
    tags = {"git_revision": git_revision(), **tags}
    atomic_write(
        folder / "params.json", json.dumps({"params": dict(params), "tags": tags}, indent=2, default=str)
    )
    uri = tracking_address(folder, tracking_uri)
    taken_up = (folder / "run.json").is_file()
    try:
        client = _client(uri)
        run.run_id, run.experiment_id = _begin(client, folder, uri, experiment, name, params, tags)
        if taken_up:
            run.child_id = _child(client, run, name, params, tags)
    except Exception as error:
        log.warning(
            "no tracking at %s (%s); the files in %s are written all the same",
            uri,
            _first_line(error),
            folder,
        )
        run._warned = True
        return run
    run._client = client
    run.link, run.charts, run.view_command = _ways_to_look(uri, run.experiment_id, run.run_id)
    return run


def create_database(uri: str) -> None:
    """Makes the tables of a tracking database, once, in the driver: workers doing so together collide.

    Raises OSError where its folder cannot be made; anything else is reported when the run is opened.
    """
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        _client(uri)
    except Exception as error:
        log.warning("no tracking at %s (%s)", uri, _first_line(error))


def tracking_address(folder: Path, given: str | None = None) -> str:
    """Address of MLflow: `given`, else MLFLOW_TRACKING_URI, else the database mlflow.db beside the folder.

    Absolute, since Ray's workers start in a directory of their own.
    """
    return (
        given
        or os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{Path(folder).resolve().parent}/mlflow.db"
    )


def history(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl by step; where a step was told twice the last word counts, name by name.

    A last line that was cut off by a kill is left out. Raises FileNotFoundError where there are none.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in (Path(folder) / "metrics.jsonl").read_text().splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        steps.setdefault(told["step"], {}).update(told)
    return [steps[step] for step in sorted(steps)]


def metric_name(name: str) -> str:
    """A name that MLflow takes: letters, digits and `_-. :/`.

    >>> metric_name("probe/recall@10"), metric_name("knn/AP (mass)")
    ('probe/recall_at_10', 'knn/AP _mass_')
    """
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def git_revision() -> str:
    """Commit of the code that runs, `+` after it where the working tree differs; empty outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""

    def ask(*words: str) -> str:
        here = Path(__file__).parent
        answer = subprocess.run([git, *words], cwd=here, capture_output=True, text=True, timeout=10)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    commit = ask("rev-parse", "HEAD")
    return commit + "+" * bool(commit and ask("status", "--porcelain", "--untracked-files=no"))


def _client(uri: str) -> Any:
    """A client of MLflow that has answered once, quiet, quick to give up. Raises what MLflow raises."""
    for key, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "2",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    }.items():
        os.environ.setdefault(key, value)
    # MLflow tells each migration of a new database, some thirty lines of them.
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.store.db"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # And its first query brings up what SQLAlchemy calls deprecated in MLflow's tables.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _begin(
    client: Any,
    folder: Path,
    uri: str,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
) -> tuple[str, str]:
    """(run id, experiment id): of the run in run.json where MLflow still has it, else of a new one."""
    known = folder / "run.json"
    if known.is_file():
        told = json.loads(known.read_text())
        if told["tracking_uri"] == uri:
            client.update_run(told["run_id"], status="RUNNING")
            return told["run_id"], told["experiment_id"]
    experiment_id = _experiment(client, uri, experiment)
    words = {key: str(value) for key, value in tags.items()}
    run_id = client.create_run(experiment_id, tags=words, run_name=name).info.run_id
    _tell_params(client, run_id, params)
    told = {
        "run_id": run_id,
        "experiment_id": experiment_id,
        "experiment": experiment,
        "name": name,
        "tracking_uri": uri,
    }
    atomic_write(known, json.dumps(told, indent=2))
    return run_id, experiment_id


def _child(client: Any, run: Run, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
    """Id of a new child of a run that is taken up again: the params and tags of this time, and how it ends."""
    step = max((line["step"] for line in _told(run.folder)), default=0)
    words = {key: str(value) for key, value in tags.items()}
    words |= {"mlflow.parentRunId": run.run_id, "resumed_after_step": str(step)}
    child = client.create_run(run.experiment_id, tags=words, run_name=f"{name}, resumed after {step}")
    _tell_params(client, child.info.run_id, params)
    return child.info.run_id


def _told(folder: Path) -> list[dict[str, Any]]:
    """The history of a folder, empty where there is none yet."""
    return history(folder) if (folder / "metrics.jsonl").is_file() else []


def _tell_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    batch = [Param(metric_name(key), str(value)[:6000]) for key, value in params.items()]
    for start in range(0, len(batch), 100):  # MLflow's own limit for one call
        client.log_batch(run_id, params=batch[start : start + 100])


def _experiment(client: Any, uri: str, name: str) -> str:
    """Id of the experiment, made where it is missing; artifacts beside the database, not in the directory
    that the command was typed in (MLflow's choice)."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    beside = None
    if uri.startswith("sqlite:///"):
        beside = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
    try:
        return client.create_experiment(name, artifact_location=beside)
    except MlflowException:  # another process was faster
        return client.get_experiment_by_name(name).experiment_id


def _ways_to_look(uri: str, experiment_id: str, run_id: str) -> tuple[str, str, str]:
    """The page of a run, that of its experiment's charts, and the command that serves them where no server does."""
    server, command = uri.rstrip("/"), ""
    if not uri.startswith("http"):
        server, command = "http://127.0.0.1:5000", f"mlflow server --backend-store-uri {uri}"
    # Without the query the page opens in the mode for language models, which has no charts of metrics.
    mode = "workflowType=machine_learning"
    experiment = f"{server}/#/experiments/{experiment_id}/runs"
    return f"{experiment}/{run_id}?{mode}", f"{experiment}?{mode}&compareRunsMode=CHART", command


def _first_rank() -> bool:
    """Whether this process speaks for all: rank 0, or no distributed work at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


def _mend(path: Path) -> None:
    """Ends a last line that a kill cut off, so that the next one starts afresh."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [""])[0] or type(error).__name__
    return line if len(line) <= 120 else line[:119] + "…"
