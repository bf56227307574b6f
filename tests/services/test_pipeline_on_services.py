"""The whole tiny experiment with the tracking server and the store of `make services`, and a second clone that takes it from there."""

import shutil
import subprocess

import pytest

from stprivacy import tracking
from tests.pipeline.conftest import EXPERIMENT, Project, ended, made_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
REMOTE = ("remote", "add", "--local", "--default", "services", "s3://stprivacy/dvc")


@pytest.fixture(scope="module")
def variables(services):
    """The server's and DVC's; data stay here: jobs have tests of their own."""
    return {name: value for name, value in services.variables().items() if name != "STPRIVACY_STORAGE"}


@pytest.fixture(scope="module")
def done(variables, tmp_path_factory):
    """A project after `dvc repro` that knew nothing but the variables."""
    with made_project(tmp_path_factory.mktemp("on-services")) as project:
        project.environment |= variables
        for target in (["train"], ["sweep"], []):  # in three, since the time limit is of one command
            ran = project.dvc("repro", *target)
            assert ran.returncode == 0, ran.stdout
        yield project


def test_every_run_is_on_the_server_finished_and_none_is_here(done, variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = tracking.connect()
    found = {
        (experiment.name.removeprefix(f"stprivacy/{EXPERIMENT}/"), run.info.run_name): run
        for experiment in client.search_experiments(filter_string=f"name LIKE 'stprivacy/{EXPERIMENT}/%'")
        for run in client.search_runs([experiment.experiment_id])
        if run.data.tags.get("git.commit") is not None
    }
    expected = {("data", "preprocess"), ("data", "shard"), ("train", "train"), ("evaluate", "raw"), ("evaluate", "stprivacy")}
    assert expected <= found.keys()
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    train = found["train", "train"].info.run_id
    assert [metric.step for metric in client.get_metric_history(train, "loss/total")] == list(range(6))
    assert not (done.folder / "mlflow.db").exists()
    assert not (done.folder / "mlartifacts").exists()


def test_a_second_clone_pulls_everything_and_runs_nothing(done, tmp_path):
    assert done.dvc(*REMOTE).returncode == 0
    pushed = done.dvc("push")
    assert pushed.returncode == 0, pushed.stdout
    second = tmp_path / "second"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=done.folder, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (second / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(done.folder / name, second / name)
    subprocess.run(["git", "init", "--quiet"], cwd=second, check=True)
    shutil.copy(done.folder / "dvc.lock", second / "dvc.lock")
    weights = "models/anonymizer/anonymizer.safetensors"
    assert not (second / weights).exists()
    with ended(Project(second)) as project:
        project.environment |= {name: value for name, value in done.environment.items() if name.startswith(("AWS_", "MLFLOW_"))}
        assert project.dvc(*REMOTE).returncode == 0
        pulled = project.dvc("pull")
        assert pulled.returncode == 0, pulled.stdout
        again = project.dvc("repro")
        assert (again.returncode, again.stdout.count("Running stage")) == (0, 0), again.stdout
        assert "up to date" in again.stdout
    assert (second / weights).read_bytes() == (done.folder / weights).read_bytes()
