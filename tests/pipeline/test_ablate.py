"""`stprivacy ablate` with a real DVC, in a repository whose stages take no time."""

import csv
import json
import shutil
import subprocess
import sys

import pytest

from tests.pipeline.conftest import EXPERIMENT, ROOT, Project, ended

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PIPELINE = """
stages:
  evaluate:
    matrix: {method: "${evaluate.methods}"}
    cmd: python judge.py ${item.method}
    params: [train.seed]
    outs: ["results/evaluate/${item.method}"]
  evaluate-baseline:
    matrix: {method: "${baselines.methods}"}
    cmd: python judge.py ${item.method}
    params: [train]
    outs: ["results/evaluate/${item.method}"]
"""
JUDGE = """
import pathlib, sys
import ruamel.yaml
weight = ruamel.yaml.YAML(typ="safe").load(pathlib.Path("params.yaml"))["train"]["privacy_weight"]
folder = pathlib.Path("results/evaluate") / sys.argv[1]
folder.mkdir(parents=True)
head = "kept_share,action_top1,privacy_cmap,privacy_f1,leak_removed,seed"
(folder / "points.csv").write_text(f"{head}\\n,0.5,{weight / 100},0.5,0.5,0\\n")
"""
"""A judge whose cMAP says with which privacy weight a row was played."""
GRID = """
rows:
  both: {what: as it is}
  weight-3: {what: a quarter, set: {train.privacy_weight: 3.0}}
"""


@pytest.fixture
def toy(tmp_path):
    """A repository of git and DVC with the tiny params, unet among the baselines."""
    (tmp_path / "params/ablations").mkdir(parents=True)
    shutil.copy(ROOT / "params" / f"{EXPERIMENT}.yaml", tmp_path / "params.yaml")
    for name, text in (("dvc.yaml", PIPELINE), ("judge.py", JUDGE), ("params/ablations/paper.yaml", GRID), (".gitignore", "results\n")):
        (tmp_path / name).write_text(text)
    with ended(Project(tmp_path)) as project:
        project.environment["PYTHONPATH"] = str(ROOT)
        project.set("baselines.methods", ["unet"])
        for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"], ["git", "add", "--all"]):
            subprocess.run(words, cwd=tmp_path, env=project.environment, check=True)
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, "commit", "-q", "-m", "toy"], cwd=tmp_path, check=True)
        yield project


def test_rows_go_through_dvc_s_queue_and_into_the_table(toy):
    played = toy.run(sys.executable, "-m", "stprivacy", "ablate", "--method", "unet")
    assert played.returncode == 0, played.stdout
    tables = toy.folder / "results/ablations"
    with open(tables / "paper-unet.csv", newline="") as file:
        assert [(row["row"], float(row["privacy_cmap"])) for row in csv.DictReader(file)] == [("both", 0.12), ("weight-3", 0.03)]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=toy.folder, capture_output=True, text=True, check=True).stdout
    assert json.loads((tables / "paper-unet.json").read_text())["commits"] == [head[:12]]
    assert not (toy.folder / "results/evaluate").exists()  # the workspace is as it was
