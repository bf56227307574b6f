"""Ablations: a declared grid of changes to params.yaml, played as DVC experiments, and the table of what they did.

DVC is called as a person would call it: `dvc exp run --queue -S …` for every row and seed, then the queue is worked off in
folders of its own, so that the workspace stays as it is. Experiments are found again by their name: it holds a hash of params.yaml and
the row's changes, so that nothing of another experiment is taken for this one's. What one found is its points.csv.
"""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stprivacy.action_task import task_of
from stprivacy.config import PARAMS_FILE, BaselineKind, config_hash, load_params
from stprivacy.config.base import Section
from stprivacy.errors import RunError, UserError

ANONYMIZER = "stprivacy"
"""The method that is judged where none is named."""
FIGURES = ("action", "privacy_cmap", "privacy_f1", "leak_removed")
JUDGED = "results/evaluate/{method}"
"""What the stage leaves that judges a method."""
Found = dict[float, dict[str, float | None]]
"""Figures of an experiment at every kept share that it was judged at: means over the seeds of attackers."""


class Row(Section):
    """One line of the table: what is changed, and in words."""

    what: str = Field(min_length=1)
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of params.yaml and their values here."""

    @property
    def changes(self) -> tuple[str, ...]:
        """`key=value`, as `dvc exp run -S` takes them."""
        return tuple(f"{key}={_for_hydra(value)}" for key, value in self.set.items())


class Grid(Section):
    """A file of params/ablations/: rows by name, the first being the one that the others are compared with."""

    rows: dict[str, Row] = Field(min_length=1)


@dataclass(frozen=True)
class Experiment:
    """A row at one seed of training, and whose figures are asked for."""

    method: str
    row: str
    seed: int
    changes: tuple[str, ...]
    params: str
    """The text of the params.yaml that is changed."""

    @property
    def name(self) -> str:
        """How DVC calls it."""
        of_method = "" if self.method == ANONYMIZER else f"{self.method}-"
        return f"ablate-{of_method}{self.row}-seed-{self.seed}-{config_hash(self.params, *self.changes)[:6]}"


def read_grid(path: Path) -> Grid:
    """A grid file. Raises UserError naming key and mend."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; there are {', '.join(map(str, sorted(Path('params/ablations').glob('*.yaml'))))}")
    try:
        return Grid.model_validate(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {})
    except YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())[:160]}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; a row has `what` and `set`") from None


def experiments(grid: Grid, rows: Sequence[str], seeds: Iterable[int], method: str = ANONYMIZER) -> list[Experiment]:
    """Every row (of those named, or all) at every seed, of ./params.yaml. Raises UserError for a row that is not in the grid."""
    unknown = [row for row in rows if row not in grid.rows]
    if unknown:
        raise UserError(f"{unknown[0]}: no such row; there are {', '.join(grid.rows)}")
    chosen = {name: row for name, row in grid.rows.items() if not rows or name in rows}
    params = PARAMS_FILE.read_text(encoding="utf-8") if PARAMS_FILE.exists() else ""
    return [Experiment(method, name, seed, (*row.changes, f"train.seed={seed}"), params) for name, row in chosen.items() for seed in seeds]


def stage_of(method: str) -> str:
    """The stage that judges a method of ./params.yaml. Raises UserError where none does."""
    params = load_params(PARAMS_FILE)
    for stage, methods in (("evaluate", params.evaluate.methods), ("evaluate-baseline", params.baselines.methods)):
        if method in methods:
            return f"{stage}@{method}"
    there = ", ".join([*params.evaluate.methods, *params.baselines.methods])
    wanted = f"add it to {'baselines' if method in get_args(BaselineKind) else 'evaluate'}.methods of {PARAMS_FILE}"
    raise UserError(f"--method {method}: no stage judges it; {wanted}, or take one of {there}")


def queue_command(experiment: Experiment, stage: str) -> list[str]:
    """The command that puts an experiment into DVC's queue, as a person may type it."""
    changes = [word for change in experiment.changes for word in ("-S", change)]
    copied = ["-C", "data/raw"] if Path("data/raw").exists() else []  # videos that git does not know and a temporary folder would miss
    return ["dvc", "exp", "run", "--queue", "--name", experiment.name, *copied, *changes, stage]


def play(pending: Sequence[Experiment], stage: str, jobs: int) -> None:
    """Queue the experiments and work the queue off; returns when all have ended. Raises RunError when DVC refuses."""
    for experiment in pending:
        _dvc(queue_command(experiment, stage), quiet=True)
        print(f"queued {experiment.name}: {' '.join(experiment.changes)}", flush=True)
    if pending:
        _dvc(["dvc", "exp", "run", "--run-all", "--jobs", str(jobs)], quiet=False)


def finished(wanted: Iterable[Experiment], method: str) -> dict[str, Found]:
    """What those that have finished found, by their names."""
    shown = json.loads(_dvc(["dvc", "exp", "show", "--json", "--all-commits", "--hide-queued", "--hide-failed"], quiet=True))
    judged, names = JUDGED.format(method=method), {experiment.name for experiment in wanted}
    return {name: figures(_read(rev, f"{judged}/points.csv")) for name, rev in _finished(shown, judged) if name in names}


def _finished(shown: list[dict[str, Any]], path: str) -> Iterable[tuple[str, str]]:
    """(name, commit) of the experiments that have this out. Not by metrics: dvc.yaml can't name those of methods that nobody may run."""
    for baseline in shown:
        for experiment in baseline.get("experiments") or []:
            tip = experiment["revs"][0]
            if (((tip.get("data") or {}).get("outs") or {}).get(path) or {}).get("hash"):
                yield tip["name"] or experiment["name"], tip["rev"]


def _read(rev: str, path: str) -> str:
    """A file of an experiment, from DVC's cache."""
    import dvc.api  # seconds

    return str(dvc.api.read(path, rev=rev))


def figures(points: str) -> Found:
    """Of the text of a points.csv. A method without kept shares keeps all: 1."""
    by_share: dict[float, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(points)):
        by_share.setdefault(float(row["kept_share"] or 1), []).append(row)
    return {
        share: {figure: _mean([float(row[column]) if row[column] else None for row in rows]) for figure, column in _columns(rows[0])}
        for share, rows in by_share.items()
    }


def _columns(row: dict[str, str]) -> Iterable[tuple[str, str]]:
    """Each of FIGURES and its column."""
    return zip(FIGURES, (task_of(row).figure, *FIGURES[1:]), strict=True)


def table(grid: Grid, seeds: Sequence[int], found: dict[str, Found], method: str = ANONYMIZER) -> list[dict[str, Any]]:
    """A line a kept share and row of the grid with a finished seed: means, spread (largest − smallest) of cMAP, how many seeds.

    `to_first`: its cMAP less that of the grid's first row at the same kept share; None where that one wasn't judged there.
    `leak_removed` is None where raw clips leak nothing.
    """
    lines: list[dict[str, Any]] = []
    for name, row in grid.rows.items():
        runs = [found[one.name] for one in experiments(grid, [name], seeds, method) if one.name in found]
        for share in dict.fromkeys(share for run in runs for share in run):
            there = [run[share] for run in runs if share in run]
            mean = {figure: _mean([run[figure] for run in there]) for figure in FIGURES}
            cmaps = [run["privacy_cmap"] or 0.0 for run in there]
            line = {"row": name, "kept_share": share, **mean, "spread": max(cmaps) - min(cmaps), "seeds": len(there), "what": row.what}
            first = next((other for other in lines if other["row"] == next(iter(grid.rows)) and other["kept_share"] == share), None)
            line["to_first"] = line["privacy_cmap"] - first["privacy_cmap"] if first else None
            lines.append(line)
    return sorted(lines, key=lambda line: -line["kept_share"])


def origin(grid: Path, names: Iterable[str], seeds: Sequence[int], method: str) -> dict[str, Any]:
    """What a table is of, to stand beside it: the params.yaml that was changed, the command, and the commits at which its experiments
    (`names`) were queued."""
    commits = commits_of(names)
    params = PARAMS_FILE.read_text(encoding="utf-8") if PARAMS_FILE.exists() else ""
    of_method = "" if method == ANONYMIZER else f" --method {method}"
    command = f"stprivacy ablate --grid {grid}{of_method} --seeds {','.join(map(str, seeds))}"
    return {"params": config_hash(params), "command": command, "commits": commits}


def commits_of(names: Iterable[str]) -> list[str]:
    """Short hashes of the commits that experiments of DVC start from, which keeps each as refs/exps/<commit, cut in two>/<name>."""
    listed = subprocess.run(["git", "for-each-ref", "--format=%(refname)", "refs/exps"], capture_output=True, text=True, check=False)
    wanted = set(names)
    parts = [line.split("/") for line in listed.stdout.splitlines()]
    return sorted({(ref[2] + ref[3])[:12] for ref in parts if len(ref) == 5 and ref[4] in wanted})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The table for people."""
    head = "| ablation | kept share | action ↑ | cMAP ↓ | to the first | F1 ↓ | leak removed ↑ | seeds | what |"
    rows = [head, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"]
    for line in lines:
        cmap = f"{line['privacy_cmap']:.3f}" + (f" ± {line['spread'] / 2:.3f}" if line["seeds"] > 1 else "")
        difference = f"{line['to_first']:+.3f}" if line["to_first"] else ""
        removed = "" if line["leak_removed"] is None else f"{line['leak_removed']:.2f}"
        cells = f"{line['kept_share']:g} | {line['action']:.3f} | {cmap} | {difference} | {line['privacy_f1']:.3f} | {removed}"
        rows.append(f"| {line['row']} | {cells} | {line['seeds']} | {line['what']} |")
    return "\n".join(rows) + "\n"


def _for_hydra(value: Any) -> str:
    """A value in the grammar of `dvc exp run -S`, which is Hydra's: lists and maps without quotes around plain words."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_for_hydra(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_for_hydra, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _dvc(command: Sequence[str], quiet: bool) -> str:
    """Run DVC from this environment. Raises RunError with its last line."""
    words = [sys.executable, "-m", *command]
    pipe = subprocess.PIPE if quiet else None
    done = subprocess.run(words, text=True, check=False, stdout=pipe, stderr=pipe)
    if done.returncode:
        last = " ".join((done.stderr or "see above").strip().splitlines()[-1:])
        raise RunError(f"{' '.join(command[:4])}: {last}")
    return done.stdout or ""
