"""The code that a result comes from is named where somebody asks whether it is out of date: in dvc.yaml, and in a trial's hash."""

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stprivacy.training.trial import MADE_BY

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]

IN_NO_RESULT = {
    "pipelines/submit.py", "stprivacy/jobs.py", "stprivacy/stages.py",  # where a stage runs
    "stprivacy/config",  # its values are the stage's params
    "stprivacy/errors.py", "stprivacy/times.py", "stprivacy/tracking.py", "stprivacy/tracking_front.py",  # what people are told
    "stprivacy/fingerprint.py", "stprivacy/data/cache.py", "stprivacy/data/fetched.py", "stprivacy/data/processes.py",
    "stprivacy/data/storage.py", "stprivacy/data/storage_s3.py",  # where bytes lie, and that no process stays
}  # fmt: skip
MAKES_CLIPS = {"stprivacy/data/shards.py", "stprivacy/data/synthetic.py"}
"""Reaches the stages behind shard as data/shards, which they depend on."""
ANONYMIZERS = {
    f"stprivacy/models/{name}.py"
    for name in (
        "anonymizer",
        "anonymizers",
        "baselines",
        "canonical",
        "code",
        "encoder",
        "frame_networks",
        "painter",
        "sparsification",
    )
}
UPLOADS = "stprivacy/evaluation/raw_frames.py"
"""Decides which pictures go to the tracking server; in the page of pareto it decides what is in a result."""
NEVER_REACHED = {
    "sweep": {UPLOADS},
    "evaluate": {"stprivacy/training", UPLOADS},  # Ray's tasks, which run the same functions side by side
    "evaluate-baseline": {"stprivacy/training", UPLOADS},
    "evaluate-raw": {"stprivacy/training", UPLOADS, *ANONYMIZERS},  # raw clips pass through none
    "pareto": {"stprivacy/evaluation/results.py"},  # the columns of a table
    "register": {"stprivacy/models", "stprivacy/evaluation/released.py", "stprivacy/release/clips.py"},  # names; it releases nothing
}
"""By stage: imported for something else than its result."""


def covered(file: str, paths: Collection[str]) -> bool:
    return any(file == path or file.startswith(f"{path}/") for path in paths)


@cache
def imported(file: str) -> tuple[str, ...]:
    """The files of this project that a file imports, inside functions, too."""
    return tuple(dict.fromkeys(_imported(ast.parse((ROOT / file).read_text(encoding="utf-8")))))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            file = name.replace(".", "/") + ".py"
            if name.startswith(("stprivacy.", "pipelines.")) and (ROOT / file).exists():
                yield file


def reached(start: str, without: Collection[str]) -> set[str]:
    """All files that `start` comes to by imports, itself among them; not `without`, nor what is imported there alone."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file not in found and not covered(file, without):
            found.add(file)
            waiting += imported(file)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_its_result_comes_from(name):
    stage = STAGES[name]
    script = stage["cmd"].split()[2].replace(".", "/") + ".py"
    behind_shard = any(dep.startswith("data/shards") for dep in stage["deps"])
    without = IN_NO_RESULT | NEVER_REACHED.get(name, set()) | (MAKES_CLIPS if behind_shard else set())
    # VP-Synth's source is its renderer.
    lacking = {file for file in reached(script, without) if not covered(file, [*stage["deps"], "stprivacy/data/synthetic.py"])}
    assert not lacking, f"dvc.yaml: deps of {name} lack {', '.join(sorted(lacking))}"


def test_a_trial_is_named_by_all_code_that_its_result_comes_from_and_by_no_other():
    boxes = {"stprivacy/data/boxes.py", "stprivacy/data/synthetic_boxes.py"}  # for methods that hide them: no trial is one
    made_before = MAKES_CLIPS - {"stprivacy/data/synthetic.py"}  # which also draws what a code is to paint
    files = reached("stprivacy/training/trial.py", IN_NO_RESULT | made_before | boxes | {UPLOADS})
    named = {f"stprivacy/{name}" for name in MADE_BY}
    assert not {file for file in files if not covered(file, named)}
    assert {name for name in named if not any(covered(file, [name]) for file in files)} == set()


def test_paths_without_a_result_are_still_there():
    listed = IN_NO_RESULT | MAKES_CLIPS | set().union(*NEVER_REACHED.values())
    assert not [path for path in listed if not (ROOT / path).exists()]
    assert NEVER_REACHED.keys() <= STAGES.keys()
