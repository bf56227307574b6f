"""The front in MLflow's UI: one run an operating point, a view that shows them as a front, and the server to look at it.

A point is found again by a hash of all that determines it, so that a repeated stage brings its run up to date. Points of earlier
sweeps stay, marked as no longer current: `dvc exp` compares them.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from stprivacy import tracking
from stprivacy.action_task import ONE_ACTION, ActionTask, task_of
from stprivacy.config import BaselineKind, Environment, Params, config_hash

POINT_PARAMS = ("method", "keep_ratio", "kept_share", "action_weight", "privacy_weight", "seed", "model")
# As they are called where a clip has one action; `ActionTask.named` gives the others.
POINT_METRICS = ("action_top1", "privacy_cmap", "privacy_f1", "leak_removed", "bits", "val_action_top1", "val_privacy_cmap")
WHERE = ("on_front", "knee", "choice")
COMMON_TAGS = ("git.commit", "dvc.deps_md5", "dataset", "stage")
VIEW = "front"
"""The key of the ready-made view among the experiment's shared ones."""
TRAINING = "workflowType=machine_learning"
"""MLflow's UI shows runs and models in this mode alone; the other is for language models."""
MOST_POINTS = 10_000


def log_points(run: tracking.Run, rows: list[dict[str, Any]], params: Params) -> list[str]:
    """Bring the run of every operating point up to date and give their ids, in order. `rows`: of `evaluation.pareto.rows`."""
    client, experiment = run.client, run.experiment
    earlier = client.search_runs([experiment], "tags.kind = 'point'", max_results=MOST_POINTS)
    known = {found.data.tags["point"]: found for found in earlier}
    several = {row["name"] for row in rows if row["seed"] != next(other["seed"] for other in rows if other["name"] == row["name"])}
    common = {name: value for name, value in client.get_run(run.id).data.tags.items() if name in COMMON_TAGS}
    ids: list[str] = []
    keys: list[str] = []
    for row in rows:
        keys.append(point_hash(row, params))
        key = f"{keys[-1]}-{keys.count(keys[-1])}"  # a search may try the same configuration twice
        name = row["name"] + (f", seed {row['seed']}" if row["name"] in several else "")
        ids.append(known[key].info.run_id if key in known else client.create_run(experiment, run_name=name).info.run_id)
        point = tracking.Run(client, ids[-1])
        if key in known:
            client.update_run(ids[-1], name=name)
        else:
            point.params({parameter: row[parameter] for parameter in POINT_PARAMS if row[parameter] not in (None, "")})
            client.set_terminated(ids[-1])
        figures = {metric: row[metric] for metric in task_of(row).named(POINT_METRICS) if not math.isnan(row[metric])}
        logged = known[key].data.metrics if key in known else {}
        point.metrics({metric: value for metric, value in figures.items() if logged.get(metric) != value})
        about = {"kind": "point", "point": key, "current": "true", "front_run": run.id} | {mark: str(row[mark]).lower() for mark in WHERE}
        found_at = {name: row[name] for name in ("model_path", "trial_run") if row[name]}
        point.tags(common | about | found_at)
    for found in earlier:
        if found.info.run_id not in ids and found.data.tags.get("current") == "true":
            tracking.Run(client, found.info.run_id).tags({"current": "false"} | dict.fromkeys(WHERE, "false"))
    return ids


def point_hash(row: dict[str, Any], params: Params) -> str:
    """Over the point's settings, its seed and every section of params that its figures depend on."""
    from stprivacy.models.baselines import BOXED  # torch

    plain = params.model_dump(mode="json")
    sections = {name: plain[name] for name in ("dataset", "clip", "preprocess", "model", "channel", "recognizers", "train")}
    epochs = plain["sweep"]["epochs"] if row["trial_run"] else None
    about = {name: row[name] for name in POINT_PARAMS} | {"epochs": epochs}
    if row["method"] in BOXED:  # of nobody else, so that other methods' points stay the same
        about["boxes"] = plain["evaluate"]["boxes"]
    if row["method"] in get_args(BaselineKind):
        about["base_width"] = plain["baselines"]["base_width"]
    return config_hash(sections, plain["evaluate"]["attack"], about)


def log_front(run: tracking.Run, note: str, files: list[Path], task: ActionTask = ONE_ACTION) -> None:
    """Put picture and page on the stage's run, the summary on run and experiment, and the ready-made view beside it."""
    for file in files:
        run.client.log_artifact(run.id, str(file))
    run.tags({"kind": "front"})
    run.note(note)
    run.client.set_experiment_tag(run.experiment, "mlflow.note.content", note)
    run.client.set_experiment_tag(run.experiment, f"mlflow.sharedViewState.{VIEW}", json.dumps(view(task)))


def view(task: ActionTask = ONE_ACTION) -> dict[str, Any]:
    """The state of the experiment's page as MLflow's UI keeps it: current points, their figures as columns, two charts.

    Without it metric columns are hidden and every metric gets a chart of bars.
    """
    columns = [f"metrics.`{name}`" for name in task.named(POINT_METRICS)]
    columns += [f"params.`{name}`" for name in ("kept_share", "privacy_weight")]
    columns += [f"tags.`{name}`" for name in ("on_front", "choice")]
    section = {"uuid": VIEW, "name": "Front", "display": True, "deleted": False, "columns": 2, "cardHeight": 420}
    chart = {"deleted": False, "isGenerated": False, "metricSectionId": VIEW}
    axes = {"xaxis": {"key": task.figure, "type": "METRIC"}, "yaxis": {"key": "privacy_cmap", "type": "METRIC"}}
    scatter = {"type": "SCATTER", "uuid": "scatter", "runsCountToCompare": 100} | axes
    parallel = {
        "type": "PARALLEL", "uuid": "parallel", "showAllRuns": False, "selectedParams": ["kept_share", "privacy_weight", "action_weight"],
        "selectedMetrics": [task.figure, "privacy_cmap"],
    }  # fmt: skip
    return {
        "searchFilter": "tags.current = 'true'", "orderByKey": f"metrics.`{task.figure}`", "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [],
        "selectedColumns": columns, "runsHiddenMode": "SHOW_ALL", "isAccordionReordered": False, "hideEmptyCharts": True,
        "compareRunCharts": [scatter | chart, parallel | chart],
        "compareRunSections": [section],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ the UI


def links(server: str, dataset: str) -> dict[str, str]:
    """Addresses in MLflow's UI at `server`: the ready-made `view`, the page that compares the front's points, the `summary` run.

    Empty when there is no front of `dataset` in the store yet. Raises UserError when the server is away.
    """
    client, name = tracking.connect(), f"stprivacy/{dataset}/pareto"
    with tracking.answering():
        experiment = client.get_experiment_by_name(name)
        points = client.search_runs([experiment.experiment_id], "tags.current = 'true'", max_results=MOST_POINTS) if experiment else []
    if experiment is None or not points:
        return {}
    number = experiment.experiment_id
    runs = quote(json.dumps([point.info.run_id for point in points], separators=(",", ":")))
    return {
        "view": f"{server}/#/experiments/{number}/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART&{TRAINING}",
        "compare": f"{server}/#/compare-runs?runs={runs}&experiments={quote(json.dumps([number]))}&{TRAINING}",
        "summary": f"{server}/#/experiments/{number}/runs/{points[0].data.tags['front_run']}?{TRAINING}",
    }


def serve(dataset: str, port: int) -> None:
    """Print where the front is, if there is one yet, and become MLflow's server on the local store; on a remote store only print.

    Raises UserError when the remote server is away.
    """
    store = Environment.read().tracking_uri
    remote = store.startswith(("http://", "https://"))
    server = tracking.without_password(store).rstrip("/") if remote else f"http://127.0.0.1:{port}"
    found = links(server, dataset)
    for title, address in found.items():
        print(f"{title:8} {address}")
    if not found:
        print(f"no front of {dataset} there yet: `make repro` makes one; until then there are the runs of other stages")
    if remote:
        return
    print(f"serving {tracking.without_password(store)} at {server}; Ctrl-C ends it", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # By environment: a store's address may hold a password, and every user of the machine can read command lines.
    os.execve(sys.executable, command, os.environ | {"MLFLOW_BACKEND_STORE_URI": store})
