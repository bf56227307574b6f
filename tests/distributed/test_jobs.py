"""Stages as jobs on a real Ray cluster with a real bucket: submitted by dvc repro, by hand, cancelled, killed, attached to.

One cluster, of a head with the drivers and a node with their tasks, and one project for all of them, in the order of the file: each
test begins where the one before it has ended.
"""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from ruamel.yaml import YAML

from stprivacy.data.storage import open_storage
from tests.distributed.ray_cluster import ray_cluster
from tests.pipeline.conftest import Project, assert_shown, made_project
from tests.services.s3 import rclone_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
AS_JOBS = ["evaluate-raw", "train"]
UNPACKED = "r/session_2*/runtime_resources/working_dir_files/_ray_pkg_*"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    with rclone_server(folder / "s3") as s3, ray_cluster(folder, s3, num_cpus=2) as found:
        yield found


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory):
    """The tiny experiment on a laptop that knows the cluster."""
    with made_project(tmp_path_factory.mktemp("laptop")) as made:
        made.environment |= cluster.environment | {"PYTHONPATH": str(made.folder)}
        for words in (["add", "--all"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "made"]):
            subprocess.run(["git", *words], cwd=made.folder, check=True)
        yield made


@pytest.fixture(scope="module")
def repro(project):
    """What `dvc repro` printed up to train; the last two stages are jobs."""
    printed = ""
    for stage in AS_JOBS:
        ran = project.dvc("repro", stage)
        assert ran.returncode == 0, ran.stdout
        printed += ran.stdout
    return printed


@pytest.fixture
def storage(cluster, monkeypatch):
    for name, value in cluster.environment.items():
        if name.startswith(("AWS_", "STPRIVACY_")):
            monkeypatch.setenv(name, value)
    return open_storage()


def jobs(cluster) -> dict[str, str]:
    """Submission id → status."""
    import urllib.request

    with urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=30) as answer:
        return {job["submission_id"]: job["status"] for job in json.load(answer) if job["submission_id"]}


def working_folders(disk: Path) -> dict[str, Path]:
    """Where a node has unpacked what was uploaded with jobs, by Ray's names."""
    return {path.name: path for path in disk.glob(UNPACKED) if path.is_dir()}


def read_lock(folder: Path) -> dict[str, str]:
    stages = YAML(typ="safe", pure=True).load((folder / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def read_history(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results/train/history.csv", newline="") as file:
        return list(csv.DictReader(file))


def copy_without(source: Path, target: Path, *paths: str) -> None:
    shutil.copytree(source, target)
    for path in paths:
        shutil.rmtree(target / path)


class Started:
    """A stage of the project in a process of its own."""

    def __init__(self, project: Project, stage: str):
        self.log = project.folder / f"{stage}-{time.monotonic_ns()}.log"
        with open(self.log, "wb") as file:
            command = [sys.executable, "-m", f"pipelines.{stage}"]
            self.process = subprocess.Popen(command, cwd=project.folder, env=project.environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")  # a letter may be half written

    def wait_for(self, words: str, seconds: float = 600) -> None:
        until = time.monotonic() + seconds
        while not re.search(words, self.output):
            assert self.process.poll() is None, f"ended early: {self.output}"
            assert time.monotonic() < until, self.output
            time.sleep(0.1)


# ---------------------------------------------------------------------------------------------------- dvc repro


def test_dvc_repro_runs_heavy_stages_as_jobs_and_has_their_outs(repro, project, cluster):
    ran = jobs(cluster)
    assert sorted(name.rpartition("-")[0] for name in ran) == sorted(AS_JOBS)
    assert set(ran.values()) == {"SUCCEEDED"}
    for out in read_lock(project.folder):
        assert any((project.folder / out).iterdir()), out
    assert "game epoch 1 of 2 done and saved" in repro  # the job's log
    assert [line for line in repro.splitlines() if line.startswith("brought back: ")] == [
        "brought back: models/recognizers, results/evaluate/raw",
        "brought back: models/anonymizer, models/init, results/train",
    ]


def test_what_a_job_made_is_found_by_the_md5_that_dvc_gives_it_and_not_sent_again(repro, project, storage):
    for out, md5 in read_lock(project.folder).items():
        if not out.startswith("data/clips"):
            assert storage.exists(f"trees/{md5.removesuffix('.dir')}.json"), out
    assert "files sent to" not in repro  # `shard` had sent the shards, and jobs the rest
    assert storage.list("runs/train")  # the game's checkpoints


def test_tasks_and_workers_have_the_inputs_on_the_other_node(repro, cluster):
    head, node = map(working_folders, cluster.disks)
    assert head.keys() == node.keys() and len(node) == len(AS_JOBS)
    for name, folder in node.items():
        assert list(folder.glob("data/shards/*/index.jsonl"))
        assert (head[name] / "results").exists() and not (folder / "results").exists()  # the drivers were on the head


def test_what_a_task_made_came_to_the_head_through_the_bucket(repro, cluster):
    if not cluster.apart:
        pytest.skip("unshare --mount is refused here: the other node sees the head's disk")
    fitted = f"{UNPACKED}/.cache/stprivacy/evaluate/attacks/*/finished.pt"
    head, node = ({path.parent.name for path in disk.glob(fitted)} for disk in cluster.disks)
    assert head == node != set()


def test_runs_of_jobs_know_commit_and_job(repro, project, cluster, tmp_path):
    client = mlflow.MlflowClient(tracking_uri=cluster.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("stprivacy/vp-synth-tiny/train")
    (run,) = client.search_runs([experiment.experiment_id])
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project.folder, capture_output=True, text=True, check=True).stdout.strip()
    assert run.info.status == "FINISHED"
    assert run.data.tags["git.commit"] == commit
    assert run.data.tags["ray.submission_id"] in jobs(cluster)
    assert run.data.tags["dvc.deps_md5"] != "none"


def test_a_second_repro_does_nothing(repro, project, cluster):
    before = jobs(cluster)
    again = project.dvc("repro", "train")
    assert again.returncode == 0
    assert "Running stage" not in again.stdout
    assert jobs(cluster) == before


def test_a_clone_with_the_same_code_and_data_only_fetches(repro, project, cluster, tmp_path):
    clone = tmp_path / "clone"
    copy_without(project.folder, clone, ".cache", "models/anonymizer", "models/init", "results")
    before = jobs(cluster)
    other = Project(clone)
    other.environment |= cluster.environment | {"PYTHONPATH": str(clone)}
    ran = other.stage("train")
    assert ran.returncode == 0, ran.stdout
    assert "train: done before, with this code, these params and this data" in ran.stdout
    assert read_history(clone) == read_history(project.folder)
    assert jobs(cluster) == before


def test_a_job_trains_what_this_machine_would(repro, project, tmp_path):
    here = tmp_path / "here"
    copy_without(project.folder, here, ".cache", "models/anonymizer", "models/init", "results/train")
    alone = Project(here)
    alone.environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    ran = alone.stage("train")
    assert ran.returncode == 0, ran.stdout
    ours, theirs = read_history(here), read_history(project.folder)
    assert [(row["phase"], row["step"]) for row in ours] == [(row["phase"], row["step"]) for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert float(mine["loss/total"]) == pytest.approx(float(other["loss/total"]), abs=1e-5)


# ---------------------------------------------------------------------------------------------------- interrupted


def test_ctrl_c_cancels_the_job_and_leaves_the_old_outs(repro, project, cluster):
    project.set("train.privacy_weight", 3.0)
    project.set("train.game.epochs", 12)
    before, known = read_history(project.folder), set(jobs(cluster))
    started = Started(project, "train")
    started.wait_for("game epoch 2 of 12 done")
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(120) == 130, started.output
    (name,) = set(jobs(cluster)) - known
    assert jobs(cluster)[name] == "STOPPED"
    assert f"{name}: stopped" in started.output
    assert read_history(project.folder) == before


def test_a_submitter_that_was_killed_attaches_again_and_the_game_goes_on_from_its_checkpoint_in_the_bucket(repro, project, cluster):
    known = set(jobs(cluster))
    first = Started(project, "train")
    first.wait_for(r"game epoch \d+ of 12 done")
    first.process.kill()
    first.process.wait()
    again = project.stage("train")
    assert again.returncode == 0, again.stdout
    (name,) = set(jobs(cluster)) - known
    assert jobs(cluster)[name] == "SUCCEEDED"
    assert name.endswith("-2")  # of the one that was cancelled
    assert f"{name}: runs already" in again.stdout
    (reached,) = re.findall(r"going on after game epoch (\d+)", again.stdout)  # of the job that was cancelled
    assert int(reached) >= 1
    epochs = [int(epoch) for epoch in re.findall(r"game epoch (\d+) of 12 done", again.stdout)]
    assert_shown(epochs, list(range(int(reached) + 1, 13)))  # each once, from the beginning of this job's log
    assert len([row for row in read_history(project.folder) if row["phase"] == "game"]) == 12 * 3


# ---------------------------------------------------------------------------------------------------- bad input, and by hand


def test_bad_input_that_only_the_cluster_can_know_ends_with_two_and_its_line(repro, project, cluster):
    project.set("sweep.num_workers", 64)
    ran = project.stage("sweep")
    assert ran.returncode == 2, ran.stdout
    assert re.findall(r"^error: .*", ran.stdout, re.MULTILINE) == [
        "error: params.yaml: sweep.num_workers = 64: more than the cluster's 2 CPUs; lower it or add nodes"
    ]
    assert ran.stdout.count("Traceback") == 0


def test_a_broken_key_is_told_before_anything_is_submitted(repro, project, cluster):
    before = jobs(cluster)
    project.set("sweep.num_workers", -1)
    ran = project.stage("sweep")
    project.set("sweep.num_workers", 1)
    assert ran.returncode == 2
    assert len(ran.stdout.splitlines()) == 1, ran.stdout
    assert jobs(cluster) == before


def test_no_cluster_at_the_address_is_bad_input(repro, project, free_port):
    project.environment["RAY_ADDRESS"], before = f"http://127.0.0.1:{free_port}", project.environment["RAY_ADDRESS"]
    ran = project.stage("sweep")
    project.environment["RAY_ADDRESS"] = before
    assert ran.returncode == 2, ran.stdout
    assert re.fullmatch(r"error: RAY_ADDRESS = http://\S+: .*; is the cluster up, .*\n", ran.stdout)


def test_a_job_typed_by_hand_works_and_dvc_finds_its_outs(repro, project, cluster):
    ended = project.dvc("repro", "train")  # DVC has not seen the last training, whose outs are only fetched
    assert ended.returncode == 0, ended.stdout
    ran = project.run(
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.address, "--working-dir", "."),
        *("--runtime-env", "infra/ray/runtime_env.yaml", "--", "python", "-m", "pipelines.evaluate", "--method", "blur"),
    )
    assert ran.returncode == 0, ran.stdout
    before = jobs(cluster)
    assert not (project.folder / "results/evaluate/blur").exists()
    found = project.dvc("repro", "evaluate@blur")
    assert found.returncode == 0, found.stdout
    assert "evaluate@blur: done before" in found.stdout
    assert jobs(cluster) == before
    metrics = json.loads((project.folder / "results/evaluate/blur/metrics.json").read_text())
    assert metrics["method"] == "blur"


def test_the_trials_of_a_sweep_are_played_in_a_job(repro, project):
    ended = project.dvc("repro", "sweep")
    assert ended.returncode == 0, ended.stdout
    assert "brought back: models/sweep, results/sweep" in ended.stdout
    with open(project.folder / "results/sweep/trials.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "finished"
    assert {path.name for path in (project.folder / "models/sweep" / row["trial"]).iterdir()} >= {"anonymizer.safetensors", "config.json"}
