"""Is what stands in results/ of the experiment in place, and of which code? What isn't is left out of every table, with a reason.

The experiment in place is the params.yaml beside results/. Where there is none, only what doesn't go with raw video's figures is left out.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stprivacy.action_task import task_of
from stprivacy.config import Params, config_hash, load_params
from stprivacy.errors import RunError, UserError

POINT = ("method", "kept_share", "privacy_weight", "seed", "val_privacy_cmap", "privacy_cmap")
"""Columns of points.csv by which a point is known again."""
CODE = ("stprivacy/", "pipelines/")
AFTERWARDS = ("sweep", "pareto", "register")
"""Stages that no figure of results/evaluate depends on."""


def judged(results: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(metrics.json of every judged method of the experiment by its name, raw's first; a line for each that is left out).

    Raises UserError when raw video was not judged, or for another experiment.
    """
    folder, params = results / "evaluate", params_beside(results)
    path = folder / "raw/metrics.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; nothing has been judged yet: run `make repro` or `dvc repro`")
    raw = json.loads(path.read_text())
    found, left_out = {"raw": raw}, []
    if wrong := _of_another(raw, raw, params):
        raise UserError(f"{path}: {wrong}; run `dvc repro`, or put the params.yaml of that run back in place")
    for path in sorted(folder.glob("*/metrics.json")):
        metrics, method = json.loads(path.read_text()), path.parent.name
        if wrong := _of_another(metrics, raw, params):
            left_out.append(f"{path.parent}: left out, {wrong}")
        else:
            found[method] = metrics
    asked = (*params.evaluate.methods, *params.baselines.methods) if params else ()
    return found, left_out + [f"{folder / method}: not judged yet" for method in asked if not (folder / method / "metrics.json").exists()]


def params_beside(results: Path) -> Params | None:
    """The experiment in place. Raises UserError for a file that is not valid."""
    path = results.parent / "params.yaml"
    return load_params(path) if path.exists() else None


def _of_another(metrics: dict[str, Any], raw: dict[str, Any], params: Params | None) -> str | None:
    """Why these figures are not of the experiment in place; None where they are."""
    method, seeds = metrics["method"], metrics["num_attacker_seeds"]
    dataset = params.dataset.name if params else raw["dataset"]
    if metrics["dataset"] != dataset:
        return f"judged on {metrics['dataset']}, {'params.yaml has' if params else 'raw video on'} {dataset}"
    if params and method not in ("raw", *params.evaluate.methods, *params.baselines.methods):
        return "neither evaluate.methods nor baselines.methods of params.yaml names it"
    if params and seeds != len(params.evaluate.seeds):
        return f"judged with {seeds} of attackers' seeds, evaluate.seeds of params.yaml has {len(params.evaluate.seeds)}"
    if list(metrics["privacy"]["ap"]) != list(raw["privacy"]["ap"]):
        return "judged by other attributes than raw video"
    if task_of(metrics["action"]) is not task_of(raw["action"]):
        return f"judged by action {task_of(metrics['action']).title}, raw video by {task_of(raw['action']).title}"
    return None


# ------------------------------------------------------------------------------------------------ the front and the ablations


def policy(results: Path, methods: Iterable[str]) -> tuple[str | None, str | None]:
    """(what the policy chose, why it is left out): of the front of these methods' points and the sweep's; both None without a front."""
    folder, params = results / "pareto", params_beside(results)
    if not (folder / "metrics.json").exists():
        return None, None
    metrics = json.loads((folder / "metrics.json").read_text())
    sweep = results / "sweep/points.csv"
    files = [results / "evaluate" / method / "points.csv" for method in methods] + ([sweep] if sweep.exists() else [])
    same = {point for file in files for point in _points(file)} == _points(folder / "points.csv")
    if not same or (params and metrics["policy"]["least_action_of_raw"] != params.pareto.policy.least_action_of_raw):
        return None, f"{folder}: left out, made of other points or by another policy; run `dvc repro pareto`"
    return metrics["choice_explained"], None


def _points(path: Path) -> set[tuple[str, ...]]:
    with open(path, newline="") as file:
        return {tuple(row[column] for column in POINT) for row in csv.DictReader(file)}


def ablations(results: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(tables of results/ablations that are of the params.yaml in place, each with its origin; a line for each that is left out)."""
    params = results.parent / "params.yaml"
    here = config_hash(params.read_text(encoding="utf-8")) if params.exists() else None
    found, left_out = {}, []
    for path in sorted(results.glob("ablations/*.md")):
        origin = path.with_suffix(".json")
        about = json.loads(origin.read_text(encoding="utf-8")) if origin.exists() else None
        if about and about["params"] == here:
            found[path.stem] = {"table": path.read_text(encoding="utf-8").splitlines()} | about
        else:
            wrong = "of another params.yaml" if about else f"no {origin.name} beside it says of which params.yaml it is"
            mend = "`stprivacy ablate --table`, with its --grid and --method, makes it of the one in place"
            left_out.append(f"{path}: left out, {wrong}; {mend}")
    return found, left_out


# ------------------------------------------------------------------------------------------------ the code


def changed_code(results: Path, methods: Iterable[str]) -> list[str] | None:
    """Files of code that have changed since the stages behind these methods' figures ran, by DVC's lock; None where there is no pipeline.

    Raises UserError where params, data, models or results have: then the figures are not those of the experiment in place.
    """
    if not (results.parent / "dvc.yaml").exists():
        return None
    code: set[str] = set()
    for stage, name in _changes(_status(results.parent), set(methods)):
        if name.startswith((*CODE, "dvc.yaml")):
            code.add(name)
        else:
            raise UserError(f"{name}: not as it was when {stage} ran; run `dvc repro`, or go back to the params.yaml of the run")
    return sorted(code)


def _status(folder: Path) -> dict[str, list[Any]]:
    """What `dvc status` finds changed, by stage."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"dvc status: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    found: dict[str, list[Any]] = json.loads(done.stdout or "{}")
    return found


def _changes(status: dict[str, list[Any]], methods: set[str]) -> Iterable[tuple[str, str]]:
    """(stage, file or key of params.yaml) of whatever differs from the run of a stage behind the figures.

    What is gone or not in DVC's cache is no difference: clips may have been deleted since.
    """
    for stage, changes in status.items():
        name, _, method = stage.partition("@")
        if name in AFTERWARDS or (method and method not in methods):
            continue
        for change in changes:
            if isinstance(change, str):  # of the command
                yield stage, "dvc.yaml"
                continue
            for path, what in (entry for kind in change.values() for entry in kind.items()):
                if isinstance(what, dict):
                    yield from ((stage, f"{path}: {key}") for key in what)
                elif what in ("modified", "new"):
                    yield stage, path


def commit(folder: Path) -> str:
    """Short hash of the commit, and whether the stages' code or the ready-made params differ from it."""
    found = _git(folder, "rev-parse", "--short=12", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", "dvc.yaml", "params", *_code(folder / "dvc.yaml"))
    return f"{found}{' with changes' if changed else ''}" if found else "unknown"


def _git(folder: Path, *words: str) -> str:
    """What git says; nothing where there is no repository."""
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()


def _code(pipeline: Path) -> set[str]:
    """Files and folders of code that stages depend on."""
    stages = YAML(typ="safe", pure=True).load(pipeline.read_text(encoding="utf-8"))["stages"] if pipeline.exists() else {}
    return {path for stage in stages.values() for path in stage["deps"] if path.startswith(CODE)}
