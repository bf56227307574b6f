"""What goes to MLflow, and under which names (DESIGN §7). The only file that imports mlflow beside release/.

A stage starts its run before any work, so that a server that is away costs seconds and not hours. A stage that was killed and
started again goes on in the same run, found by the hash of its configuration.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stprivacy.action_task import task_of
from stprivacy.config import Environment, Params, config_hash
from stprivacy.config.job import JobEnvironment
from stprivacy.errors import RunError, UserError
from stprivacy.stages import recorded

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT_OF = {"preprocess": "data", "shard": "data", "evaluate-raw": "evaluate", "evaluate-baseline": "evaluate"}
"""Stages that do not have an experiment of their own name."""
SHARDS = Path("data/shards")
WATCHED = ("train", "sweep")
"""Stages during which the machine's load is logged, too (metrics `system/*`)."""
RETRIES, PATIENT, HASTY = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "6", "2"
"""MLflow doubles its pause from try to try: six more tries are two minutes, enough for a server that is started again."""


class Run:
    """An open MLflow run: metrics in batches, pictures, tags. Made by `start` or, in a worker, by `attach`."""

    def __init__(self, client: "MlflowClient", run_id: str):
        self.client, self.id = client, run_id
        self._waiting: list[tuple[str, float, int, int]] = []
        """Name, value, time in ms, step. A batch whose answer was lost is sent again as it was, so that the server keeps it once."""

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log now, in one request."""
        self.later(values, step)
        self.flush()

    def later(self, values: dict[str, float], step: int) -> None:
        """Log with the next `flush`: a request a step would cost more than the step."""
        now = int(time.time() * 1000)
        self._waiting.extend((name, float(value), now, step) for name, value in values.items())

    def flush(self) -> None:
        """Send what waits. A server that went away meanwhile gets it with the next flush; the run goes on."""
        from mlflow.exceptions import MlflowException

        try:
            with hasty():
                self._send()
        except (MlflowException, OSError) as error:
            print(f"warning: tracking server: {_one_line(error)}; {len(self._waiting)} metrics wait for the next try", file=sys.stderr)

    def deliver(self) -> None:
        """Send what waits, as the last chance to: with patience. Raises RunError when the server stays away."""
        with persevering():
            self._send()

    def _send(self) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*waiting) for waiting in self._waiting]
        for first in range(0, len(metrics), 1000):  # the server takes 1,000 a request
            self.client.log_batch(self.id, metrics=metrics[first : first + 1000])
        self._waiting.clear()

    def steps(self, name: str) -> set[int] | None:
        """At which steps a metric was logged, perhaps before a kill; None, with a warning, when the server cannot be asked."""
        from mlflow.exceptions import MlflowException

        try:
            return {metric.step for metric in self.client.get_metric_history(self.id, name)}
        except (MlflowException, OSError) as error:
            print(f"warning: tracking server: {_one_line(error)}; metrics that it misses are not sent again", file=sys.stderr)
            return None

    def tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in tags.items()])

    def picture(self, path: Path, folder: str = "pictures") -> None:
        """Upload a picture file."""
        self.client.log_artifact(self.id, str(path), folder)

    def judgement(self, metrics: dict[str, Any], pictures: dict[str, Path], show_raw: bool) -> None:
        """What a metrics.json says, headline figures without a prefix, and its pictures; raw frames only where `show_raw`."""
        privacy = metrics["privacy"]
        task = task_of(metrics["action"])
        headline = {task.figure: metrics["action"][task.name], "privacy_cmap": privacy["cmap"], "privacy_f1": privacy["f1"]}
        removed = {} if metrics["leak_removed"] is None else {"leak_removed": metrics["leak_removed"]}
        rate = metrics.get("rate") or {}
        bits = {"bits": rate["bits_per_clip"], "bits_largest": rate["bits_largest"]} if rate else {}
        bystander = {f"raw_trained_{task.figure}": value for value in (metrics.get("action_raw_trained") or {}).values()}
        self.metrics(headline | removed | bits | bystander)
        found_by = {f"attack/{name}": found for name, found in metrics["attackers"].items()}
        found_by |= {f"floor/{name}": found for name, found in metrics["floors"].items()}
        for name, found in found_by.items():
            precisions = {f"{name}/ap_{attribute}": value for attribute, value in found.get("ap", {}).items() if value is not None}
            self.later(precisions | {f"{name}/{figure}": value for figure, value in found.items() if figure != "ap"}, 0)
        self.flush()
        for name, path in pictures.items():
            if name != "clips" or show_raw:
                self.picture(path)

    def knows(self, name: str) -> bool:
        """Was a metric of this name logged already, perhaps before a kill?"""
        return name in self.client.get_run(self.id).data.metrics

    def params(self, params: dict[str, object]) -> None:
        """Log parameters in one request; MLflow refuses another value for one that is already there."""
        from mlflow.entities import Param

        self.client.log_batch(self.id, params=[Param(name, str(value)[:6000]) for name, value in params.items()])

    def note(self, markdown: str) -> None:
        """The description that the UI shows above the run."""
        self.client.set_tag(self.id, "mlflow.note.content", markdown)

    @property
    def experiment(self) -> str:
        """The id of the run's experiment."""
        return str(self.client.get_run(self.id).info.experiment_id)

    def reads(self, shards: Path, context: str) -> None:
        """Show the data set in `shards` as an input of the run; `context`: what for. A folder that is not there is left out."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        about, index = shards / "dataset.json", shards / "index.jsonl"
        if not (about.exists() and index.exists()):
            return
        plain = json.loads(about.read_text())
        digest = hashlib.md5(index.read_bytes()).hexdigest()[:8]  # the index holds a checksum of every clip
        schema = json.dumps({name: plain.get(name, []) for name in ("actions", "attributes")})
        source, profile = json.dumps({"uri": shards.as_posix()}), json.dumps(plain.get("num_videos", {}))
        data = Dataset(plain.get("name", shards.name), digest, "local", source, schema=schema, profile=profile)
        self.client.log_inputs(self.id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])


@contextmanager
def start(stage: str, params: Params, name: str, inputs: Iterable[Path] = (), again: bool = False) -> Iterator[Run]:
    """The run of a stage: `name` within the experiment `stprivacy/<dataset>/<stage>`; ended as finished or failed.

    `inputs`: what the stage reads (tag `dvc.deps_md5`; a data set among them is logged as the run's input). `again`: a finished run
    of the same configuration is brought up to date, not left alone. Raises UserError when the server cannot be reached or refuses, and
    RunError when it is away for good later.
    """
    run_hash, inputs = config_hash(params, stage, name), list(inputs)
    client = connect()
    with answering():
        experiment = _experiment(client, f"stprivacy/{params.dataset.name}/{EXPERIMENT_OF.get(stage, stage)}")
        run_id = _earlier(client, experiment, run_hash, again) or client.create_run(experiment, run_name=name).info.run_id
        run = Run(client, run_id)
        run.tags(_standard_tags(stage, params, inputs) | {"run_hash": run_hash})
        _log_params(client, run_id, params)
        for shards in (path for path in inputs if path.parent == SHARDS):
            run.reads(shards, stage)
    with _until_ended(run), _machine_watched(run_id) if stage in WATCHED else nullcontext():
        yield run


@contextmanager
def child(parent: str, name: str, run_hash: str, about: dict[str, object]) -> Iterator[Run]:
    """A run below the run `parent`, in its experiment and with its tags, such as a trial of a sweep; ended as `start` ends one.

    The same `run_hash` goes on in the same run. `about`: what sets it apart from its siblings, as parameters. Raises RunError when
    the server is away and stays away, or refuses.
    """
    client = connect()
    with persevering():
        above = client.get_run(parent)
        experiment, same = above.info.experiment_id, f"tags.run_hash = '{run_hash}' and tags.`mlflow.parentRunId` = '{parent}'"
        found = client.search_runs([experiment], same, max_results=1)
        run = Run(client, found[0].info.run_id if found else client.create_run(experiment, run_name=name).info.run_id)
        inherited = {tag: value for tag, value in above.data.tags.items() if not tag.startswith("mlflow.")}
        run.tags(inherited | {"run_hash": run_hash, "mlflow.parentRunId": parent})
        run.params({name: f"{value:g}" for name, value in about.items()})
    with _until_ended(run):
        yield run


@contextmanager
def _until_ended(run: Run) -> Iterator[None]:
    """The run is running, and at the end of the block it has finished, failed or been killed.

    Raises RunError when the server went away and stayed away: a run that is shown as finished has all its metrics.
    """
    status = "FAILED"
    try:
        with persevering():
            run.client.update_run(run.id, status="RUNNING")
            yield
        run.deliver()
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        _close(run, status)


def _close(run: Run, status: str) -> None:
    """Tell the server how the run ended. That it cannot be told is no reason to fail, and must not hide why the run did."""
    from mlflow.exceptions import MlflowException

    try:
        with nullcontext() if status == "FINISHED" else hasty():
            if status != "FINISHED":
                run.flush()
            run.client.set_terminated(run.id, status)
    except (MlflowException, OSError) as error:
        print(f"warning: tracking server: {_one_line(error)}; it shows the run {run.id} as running, and it is {status}", file=sys.stderr)


@contextmanager
def answering() -> Iterator[None]:
    """Within it, which is before any work, a server that is away or refuses is a UserError, told in seconds."""
    from mlflow.exceptions import MlflowException

    try:
        with hasty():
            yield
    except (MlflowException, OSError) as error:
        raise UserError(complaint(error)) from None


@contextmanager
def persevering() -> Iterator[None]:
    """Within it, which is after work was done, a server that is away or refuses is a RunError."""
    import requests  # MLflow's own
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise RunError(f"{complaint(error)}; finished work is kept: then run the same command again") from error


def complaint(error: Exception) -> str:
    """What a server answered, or that it didn't, and the mend: one line, without a password that stands in the address."""
    response = getattr(error, "response", None)
    status = error.get_http_status_code() if hasattr(error, "get_http_status_code") else getattr(response, "status_code", None)
    if status == 401:
        reason = "the server refuses user and password; mend MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif status == 403:
        reason = f"{_one_line(error)}; the server knows this user and forbids it: ask its administrator, or log in as another one"
    else:
        reason = f"{_one_line(error)}; start the server, mend or unset the variable"
    return f"MLFLOW_TRACKING_URI = {without_password(Environment.read().tracking_uri)}: {reason}"


def without_password(text: str) -> str:
    """An address, or words with addresses in them, less `user:password@`."""
    return re.sub(r"//[^@/\s]*@", "//", text)


@contextmanager
def hasty() -> Iterator[None]:
    """Within it a server that is away is told in seconds, unless the environment says how often to try: nothing is lost yet."""
    if os.environ.get(RETRIES) != PATIENT:
        yield
        return
    os.environ[RETRIES] = HASTY
    try:
        yield
    finally:
        os.environ[RETRIES] = PATIENT


@contextmanager
def _machine_watched(run_id: str) -> Iterator[None]:
    """Log processor, memory, disk, network and, where there are some, GPUs of this machine every ten seconds, from a thread.

    `mlflow.enable_system_metrics_logging` knows runs of the fluent interface alone; what it starts for them is started here.
    """
    import logging

    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=Environment.read().tracking_uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def attach(run_id: str) -> Run:
    """The run `run_id` in another process, such as a Ray worker."""
    return Run(connect(), run_id)


def connect() -> "MlflowClient":
    """A client of the store that the environment names."""
    os.environ.setdefault(RETRIES, PATIENT)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it reports its use to its makers otherwise
    import logging

    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)  # 40 lines of migrations at the first start
    return mlflow.MlflowClient(tracking_uri=Environment.read().tracking_uri)


def _experiment(client: "MlflowClient", name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    local = Environment.read().tracking_uri.startswith("sqlite:")
    try:
        return client.create_experiment(name, artifact_location=Path("mlartifacts").absolute().as_uri() if local else None)
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another process was faster
        if found is None:
            raise
        return found.experiment_id


def _earlier(client: "MlflowClient", experiment: str, run_hash: str, finished: bool) -> str | None:
    """A run of the same configuration that was killed, or also one that `finished`: it goes on."""
    unfinished = "" if finished else " and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment], f"tags.run_hash = '{run_hash}'{unfinished}", max_results=1)
    return found[0].info.run_id if found else None


def _log_params(client: "MlflowClient", run_id: str, params: Params) -> None:
    """The resolved configuration, flat as MLflow's tables want it and whole as an artifact."""
    Run(client, run_id).params(dict(_flat(params.model_dump(mode="json"))))
    client.log_dict(run_id, params.model_dump(mode="json"), "params.json")


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value) if isinstance(value, list) else value


def _standard_tags(stage: str, params: Params, inputs: Iterable[Path]) -> dict[str, str]:
    job = JobEnvironment.read()
    commit = job.commit if job else current_commit()  # .git doesn't travel with a job
    return {
        "git.commit": commit or "none",
        "config.hash": config_hash(params),
        "dvc.deps_md5": _inputs_md5(params, inputs),
        "dataset": params.dataset.name,
        "stage": stage,
        "zero_stage": str(params.train.zero_stage),
    } | ({"ray.submission_id": job.submission_id} if job else {})


def current_commit() -> str | None:
    """Of the repository that this folder is; None where it is none."""
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip() or None
    except FileNotFoundError:  # an image without git
        return None


def _inputs_md5(params: Params, inputs: Iterable[Path]) -> str:
    """MD5 over the params and the recorded MD5 of every input: of DVC's lock file for an out, of its bytes for a file."""
    in_lock, digests = recorded(), {}
    for path in inputs:
        known = in_lock.get(path.as_posix())
        digests[path.as_posix()] = known or (hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "not tracked")
    return hashlib.md5(json.dumps([params.model_dump(mode="json"), digests], sort_keys=True).encode()).hexdigest()


def _one_line(error: BaseException) -> str:
    return without_password(" ".join(str(error).split()))[:200]
