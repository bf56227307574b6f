"""The tiny experiment through real `dvc repro`: what it leaves, what makes it run again, what survives a kill -9."""

import csv
import json
import re
import shutil
import sqlite3
import sys
from contextlib import closing

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.pipeline.conftest import EXPERIMENT, assert_shown

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EPOCH_OF_ATTACKER = re.compile(r"(\S+), ((?:action|privacy-\w+), seed \d+: epoch \d+) of at most")
NOT_AGAIN = {"preprocess", "shard", "evaluate-raw"}
EPOCH_OF_TRAINING = re.compile(r"(init|game) epoch (\d+) of \d+ done and saved")


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def part_of(stage: str, output: str) -> str:
    """What a stage printed."""
    return output.partition(f"Running stage '{stage}'")[2].partition("Running stage '")[0]


def stages_of(project) -> set[str]:
    """All stages of dvc.yaml, as DVC calls them."""
    params, names = read_yaml(project.folder / "params.yaml"), read_yaml(project.folder / "dvc.yaml")["stages"].keys()
    baselines = params["baselines"]["methods"]
    many = {"evaluate": params["evaluate"]["methods"], "train-baseline": baselines, "evaluate-baseline": baselines}
    return {full for name in names for full in ([f"{name}@{method}" for method in many[name]] if name in many else [name])}


def changed(project) -> set[str]:
    """The stages that `dvc status` names."""
    return set(json.loads(project.dvc("status", "--json").stdout))


def read_yaml(path) -> dict:
    return YAML(typ="safe", pure=True).load(path.read_text())


# ---------------------------------------------------------------------------------------------------- undisturbed


def test_every_stage_leaves_its_outs(repro):
    project, output = repro
    lock = read_yaml(project.folder / "dvc.lock")["stages"]
    assert stages_run(output) == lock.keys() == stages_of(project)
    outs = {out["path"] for stage in lock.values() for out in stage["outs"]}
    assert outs >= {
        f"data/clips/{EXPERIMENT}", f"data/shards/{EXPERIMENT}", "models/recognizers", "models/anonymizer", "models/init",
        "results/evaluate/raw", "results/evaluate/blur", "results/evaluate/stprivacy", "models/baselines/unet", "results/evaluate/unet",
    }  # fmt: skip
    for out in outs:
        path = project.folder / out
        assert path.is_file() or any(path.iterdir()), out
    for model in ("anonymizer", "init", "baselines/unet/anonymizer", "baselines/unet/init"):
        assert {path.name for path in (project.folder / "models" / model).iterdir()} >= {"anonymizer.safetensors", "config.json"}
    assert not list(project.folder.glob("models/**/*.p*t*"))  # never pickles


def test_every_method_was_judged(repro):
    project, _ = repro
    for method, num_points in (("raw", 1), ("blur", 1), ("stprivacy", 2), ("unet", 1)):
        folder = project.folder / "results" / "evaluate" / method
        metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
        assert (metrics["dataset"], metrics["method"]) == (EXPERIMENT, method)
        assert 0 <= metrics["privacy"]["cmap"] <= 1
        with open(folder / "points.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == num_points
        assert (folder / "attributes.png").stat().st_size > 1000
        assert (folder / ("raw.png" if method == "raw" else "clips.png")).exists()


def test_training_left_its_history_and_a_model_that_can_be_loaded(repro):
    from stprivacy.models.checkpoints import load_anonymizer

    project, output = repro
    with open(project.folder / "results" / "train" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["init"] * 3 + ["game"] * 6  # 51 clips in batches of 16; 1 and 2 epochs
    assert all(np.isfinite(float(row["loss/total"])) for row in rows)
    assert_shown(EPOCH_OF_TRAINING.findall(part_of("train", output)), [("init", "1"), ("game", "1"), ("game", "2")])
    load_anonymizer(project.folder / "models" / "anonymizer")


def test_a_learned_baseline_plays_the_same_game_and_stands_among_the_points(repro):
    from stprivacy.models.checkpoints import load_anonymizer

    project, _ = repro
    with open(project.folder / "results/train-baseline/unet/history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["init"] * 3 + ["game"] * 6
    assert all(np.isfinite(float(row["loss/total"])) for row in rows)
    folder = project.folder / "models/baselines/unet/anonymizer"
    load_anonymizer(folder)
    model = json.loads((folder / "config.json").read_text())["model"]
    assert (model["kind"], model["base_width"]) == ("unet", 4)
    with open(project.folder / "results/pareto/points.csv", newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)].count("unet") == 1


def test_every_stage_is_a_finished_run_with_its_figures_in_mlflow(repro):
    project, _ = repro
    with closing(sqlite3.connect(project.folder / "mlflow.db")) as store:
        runs = store.execute("select e.name, r.name, r.status from runs r join experiments e using (experiment_id)").fetchall()
        named = "m join runs r using (run_uuid) where r.name"
        figures = dict(store.execute(f"select key, value from latest_metrics {named} = 'stprivacy' and key not like '%/%'").fetchall())
        losses = store.execute(f"select step from metrics {named} = 'train' and key = 'loss/total' order by step").fetchall()
    names = {
        "preprocess": "data", "shard": "data", "raw": "evaluate", "train": "train", "blur": "evaluate", "stprivacy": "evaluate",
    }  # fmt: skip
    assert set(runs) >= {(f"stprivacy/{EXPERIMENT}/{kind}", name, "FINISHED") for name, kind in names.items()}
    assert {status for _, _, status in runs} == {"FINISHED"}
    metrics = json.loads((project.folder / "results" / "evaluate" / "stprivacy" / "metrics.json").read_text())
    privacy = metrics["privacy"]
    expected = {"action_top1": metrics["action"]["top1"], "privacy_cmap": privacy["cmap"], "privacy_f1": privacy["f1"]}
    expected["raw_trained_action_top1"] = metrics["action_raw_trained"]["top1"]
    assert figures == pytest.approx(expected | ({} if metrics["leak_removed"] is None else {"leak_removed": metrics["leak_removed"]}))
    assert losses == [(step,) for step in range(6)]  # the game's


def test_the_table_and_where_the_time_went_can_be_shown(repro):
    project, _ = repro
    shown = project.run(sys.executable, "-m", "stprivacy", "show")
    assert shown.returncode == 0, shown.stdout
    assert [shown.stdout.count(f"│{name} ") for name in ("raw", "blur", "stprivacy", "unet")] == [1, 1, 2, 1]  # rows of the table
    times = project.run(sys.executable, "-m", "stprivacy", "times").stdout
    assert {line.split()[0].partition("@raw")[0] for line in times.splitlines()} == stages_of(project) | {"together"}


def test_the_stages_left_no_process_behind(repro):
    assert repro[0].wait_until_alone(60)


# ---------------------------------------------------------------------------------------------------- what runs again


def test_a_second_repro_does_nothing(repro):
    project, _ = repro
    again = project.dvc("repro")
    assert (again.returncode, stages_run(again.stdout)) == (0, set())
    assert "Data and pipelines are up to date." in again.stdout


def test_a_broken_key_ends_repro_with_one_clear_line(fresh):
    fresh.set("model.keep_ratio", 1.5)
    ended = fresh.dvc("repro")
    assert ended.returncode != 0
    assert re.findall(r"^error: .*", ended.stdout, re.MULTILINE) == [
        "error: params.yaml: model.keep_ratio = 1.5: Input should be less than or equal to 1"
    ]
    assert "Traceback" not in ended.stdout
    assert stages_run(ended.stdout) == {"preprocess"}
    assert not (fresh.folder / "data" / "clips" / EXPERIMENT / "manifest.jsonl").exists()
    assert not (fresh.folder / "mlflow.db").exists()


def test_another_privacy_weight_trains_and_evaluates_again_and_goes_on_after_a_kill(copied):
    """Preprocess, shard, evaluate-raw and init are not done again; a killed game goes on after its last finished epoch."""
    assert changed(copied) == set()
    copied.set("train.privacy_weight", 3.0)
    copied.set("train.game.epochs", 4)
    found = changed(copied)
    assert "train" in found
    assert not found & NOT_AGAIN

    repro = (sys.executable, "-m", "dvc", "repro", "train")
    before = copied.run_and_kill(repro, ready=lambda output: ("game", "2") in EPOCH_OF_TRAINING.findall(output))
    copied.kill("pipelines.train")  # dvc is gone; the stage that it had started must die as suddenly

    again = copied.run(*repro)
    assert again.returncode == 0, again.stdout
    assert stages_run(before) == stages_run(again.stdout) == {"train"}
    (reached,) = {int(epoch) for epoch in re.findall(r"going on after game epoch (\d)", again.stdout)}
    assert reached >= 1
    assert_shown(EPOCH_OF_TRAINING.findall(again.stdout), [("game", str(epoch)) for epoch in range(reached + 1, 5)])
    assert not [epoch for epoch in EPOCH_OF_TRAINING.findall(before) if epoch[0] == "init"]  # it is in the cache
    with open(copied.folder / "results" / "train" / "history.csv", newline="") as file:
        rows = [(row["phase"], int(row["step"])) for row in csv.DictReader(file)]
    assert rows == [("game", step) for step in range(12)]
    found = changed(copied)
    assert found >= {"evaluate@blur", "evaluate@stprivacy"}
    assert not found & NOT_AGAIN
    assert copied.wait_until_alone(90), [process.cmdline() for process in copied.processes()]


# ---------------------------------------------------------------------------------------------------- kill -9


def test_preprocess_goes_on_after_a_kill_and_decodes_nothing_twice(fresh, repro):
    decoded = lambda: {path: path.stat().st_mtime_ns for path in fresh.folder.glob(".cache/stprivacy/clips-*/*.npy")}  # noqa: E731
    fresh.set("preprocess.num_processes", 1)  # both cores decode all 96 in a fifth of a second, which a kill may miss
    fresh.run_and_kill(("nice", "-n", "19", sys.executable, "-m", "pipelines.preprocess"), ready=lambda _: len(decoded()) >= 5)
    before = decoded()
    again = fresh.stage("preprocess")
    assert again.returncode == 0, again.stdout
    after = decoded()
    assert {path: after[path] for path in before} == before
    assert len(after) == 96 > len(before)
    mine, undisturbed = (project.folder / "data" / "clips" / EXPERIMENT for project in (fresh, repro[0]))
    names = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("*") if path.is_file())
    assert sorted(path.relative_to(mine) for path in mine.rglob("*") if path.is_file()) == names
    for name in names:
        assert (mine / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_evaluate_raw_goes_on_after_a_kill_with_the_same_table(fresh, repro):
    shutil.copytree(repro[0].folder / "data" / "shards", fresh.folder / "data" / "shards")
    shutil.copy(repro[0].folder / "mlflow.db", fresh.folder / "mlflow.db")  # a migrated store; making one takes seconds
    command = (sys.executable, "-m", "pipelines.evaluate_raw")
    attacks = fresh.folder / ".cache/stprivacy/evaluate/attacks"
    # Not by the lines of its epochs, which come so late that all may be done by then.
    before = fresh.run_and_kill(command, ready=lambda _: any(attacks.glob("*/finished.pt")))
    kept = {path: path.stat().st_mtime_ns for path in attacks.glob("*/finished.pt")}
    assert kept
    assert not (fresh.folder / "results" / "evaluate" / "raw" / "metrics.json").exists()
    again = fresh.stage("evaluate_raw")
    assert again.returncode == 0, again.stdout
    assert EPOCH_OF_ATTACKER.findall(again.stdout)
    assert not set(EPOCH_OF_ATTACKER.findall(before)) & set(EPOCH_OF_ATTACKER.findall(again.stdout))
    assert "clips released" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    mine, undisturbed = (project.folder for project in (fresh, repro[0]))
    for name in ("metrics.json", "points.csv", "curves.csv"):
        assert (mine / "results/evaluate/raw" / name).read_text() == (undisturbed / "results/evaluate/raw" / name).read_text()
    for path in (undisturbed / "models" / "recognizers").iterdir():
        assert (mine / "models" / "recognizers" / path.name).read_bytes() == path.read_bytes()
    assert fresh.wait_until_alone(90), [process.cmdline() for process in fresh.processes()]
