"""A real sweep on Ray Tune and Ray Train: killed half way, started again, with a trial that fails."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from tests.distributed.sweep_driver import EPOCHS, OUTPUTS, STEPS, write_sources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
MARK = "STPRIVACY_TEST_SWEEP"
"""An environment variable that every process of the sweep inherits, by which those left over are known."""
FIRST, SECOND, THIRD = (f"share-0.5_privacy-{weight}_action-1_seed-0" for weight in ("1", "2", "1e+60"))


def processes(mark: str) -> dict[int, str]:
    """Command lines of all living processes that have the mark in their environment, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if command:  # none for a zombie
                    found[int(folder.name)] = command
        except OSError:  # it ended meanwhile
            continue
    return found


class Driver:
    """A sweep in a process of its own."""

    def __init__(self, folder: Path, mark: str, num_cpus: int):
        self.log, self.mark = folder / f"driver-{mark}.log", f"{os.getpid()}-{mark}"  # a test run beside this one has marks, too
        root = Path(__file__).resolve().parents[2]
        # A RAY_ADDRESS of whoever runs the tests is not ours.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {
            MARK: self.mark,
            "PYTHONPATH": str(root),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "PYTHONUNBUFFERED": "1",
        }
        with open(self.log, "w") as log:
            command = [sys.executable, "-m", "tests.distributed.sweep_driver", str(folder), str(num_cpus)]
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)

    @property
    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()  # a letter may be half written

    def wait_for(self, condition, seconds: float = 1200) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the driver ended early:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < until, f"not in {seconds} s:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.2)

    def wait_until_nothing_is_left(self, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while left := processes(self.mark):
            assert time.monotonic() < until, f"left over: {left}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep that was killed in its second trial and started again, with what was seen at the kill."""
    folder = tmp_path_factory.mktemp("sweep")
    write_sources(folder)
    seen: dict = {"folder": folder}
    first = Driver(folder, "killed", num_cpus=1)
    try:
        # Not by the lines of its epochs, which come so late that it may have played the last one by then.
        sealed = "trial-*/game-*/seal-0.json"
        first.wait_for(lambda: f"{SECOND}: starts" in first.lines and any((folder / ".cache/stprivacy/train").glob(sealed)))
        seen["finished"] = {
            path: path.stat().st_mtime_ns for path in (folder / ".cache/stprivacy/trials").rglob("*.*") if ".work" not in str(path)
        }
        seen["running"] = processes(first.mark)
    finally:
        first.process.kill()
        first.process.wait()
    first.wait_until_nothing_is_left()
    checkpoint = max((folder / ".cache/stprivacy/train").glob("trial-*/game-*/history.csv"))
    seen["history"] = pd.read_csv(checkpoint)
    second = Driver(folder, "again", num_cpus=2)
    try:
        assert second.process.wait(timeout=600) == 0, second.log.read_text()[-4000:]
    finally:
        second.process.kill()
    second.wait_until_nothing_is_left()
    return seen | {"lines": second.lines}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_trial_is_a_row_also_the_one_that_fails(swept):
    found = rows(swept["folder"] / OUTPUTS["results"] / "trials.csv")
    assert [(row["trial"], row["status"]) for row in found] == [(FIRST, "finished"), (SECOND, "finished"), (THIRD, "failed")]
    assert "not finite" in found[2]["reason"]
    assert found[2]["privacy_cmap"] == ""
    for row in found[:2]:
        assert 0 <= float(row["action_top1"]) <= 1
        assert float(row["keep_ratio"]) == pytest.approx(0.5**0.5)


def test_each_trained_model_is_a_point_at_its_own_kept_share_and_at_the_others(swept):
    found = rows(swept["folder"] / OUTPUTS["results"] / "points.csv")
    assert [(row["model_path"], float(row["kept_share"])) for row in found] == [
        (f"models/sweep/{name}", share) for name in (FIRST, SECOND) for share in (0.5, 0.25)
    ]
    for name in (FIRST, SECOND):
        metrics = json.loads((swept["folder"] / OUTPUTS["results"] / name / "metrics.json").read_text())
        assert metrics["kept_share"] == 0.5
        assert (swept["folder"] / OUTPUTS["models"] / name / "anonymizer.safetensors").exists()
    assert not (swept["folder"] / OUTPUTS["models"] / THIRD).exists()


def test_a_finished_trial_is_not_run_again_after_a_kill(swept):
    assert swept["finished"]
    assert {path: path.stat().st_mtime_ns for path in swept["finished"]} == swept["finished"]
    assert not any(line.startswith(f"{FIRST}: epoch") for line in swept["lines"])
    assert any(line.startswith(f"{FIRST}: action") for line in swept["lines"])


def test_an_unfinished_trial_goes_on_from_its_checkpoint(swept):
    lines = [line for line in swept["lines"] if line.startswith(f"{SECOND}: epoch")]
    epochs = [int(line.removeprefix(f"{SECOND}: epoch ").split(",")[0]) for line in lines]
    assert epochs == list(range(EPOCHS - len(epochs) + 1, EPOCHS + 1))
    assert len(epochs) < EPOCHS
    trials = swept["folder"] / ".cache/stprivacy/trials"
    whole = next(pd.read_csv(path) for path in trials.glob("*/history.csv") if path not in swept["finished"])
    assert len(whole) == EPOCHS * STEPS
    kept = (EPOCHS - len(epochs)) * STEPS  # the very steps from before the kill, not others like them
    assert whole["time/step_s"][:kept].tolist() == swept["history"]["time/step_s"][:kept].tolist()


def test_the_killed_driver_had_workers_and_left_none(swept):
    assert any("RayTrainWorker" in command for command in swept["running"].values())
    assert processes(f"{os.getpid()}-killed") == processes(f"{os.getpid()}-again") == {}


def test_the_trials_are_children_of_one_parent_run(swept):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{swept['folder']}/mlflow.db")
    experiment = client.get_experiment_by_name("stprivacy/vp-synth-tiny/sweep").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"sweep", FIRST, SECOND, THIRD}
    parent = runs.pop("sweep")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {name: run.info.status for name, run in runs.items()} == {FIRST: "FINISHED", SECOND: "FINISHED", THIRD: "FAILED"}
    assert {row["run_id"] for row in rows(swept["folder"] / OUTPUTS["results"] / "trials.csv")} == {
        run.info.run_id for run in runs.values()
    }
    second = runs[SECOND]
    assert {
        "action_top1",
        "privacy_cmap",
        "privacy_f1",
        "leak_removed",
        "val_action_top1",
        "val_privacy_cmap",
    } <= second.data.metrics.keys()
    assert {m.step for m in client.get_metric_history(second.info.run_id, "loss/action")} == set(range(1, EPOCHS + 1))
    assert parent.data.metrics["trials/failed"] == 1
    assert second.data.tags["ray.job_id"] == parent.data.tags["ray.job_id"]
