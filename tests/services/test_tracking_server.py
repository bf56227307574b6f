"""Stages and registry against MLflow on Postgres and S3 with a password, as `make services` starts them; and what they withstand."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow.server.auth.client import AuthServiceClient

from stprivacy import tracking
from stprivacy.cli import main as cli
from stprivacy.config import load_params
from stprivacy.errors import RunError, UserError
from stprivacy.release import registry
from stprivacy.services.together import ALWAYS
from tests.services.log_runs import PARAMS, STEPS
from tests.services.registry_project import NAME, make_project
from tests.services.running import ROOT, exported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test starts three servers
PROCESSES, RUNS_OF_EACH = 4, 5


@pytest.fixture
def environment(services, monkeypatch, tmp_path):
    """Ours in an empty folder, with the server's address and password and no S3 keys."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name, value in services.variables().items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return services


@pytest.fixture
def client(environment):
    return tracking.connect()


@pytest.fixture
def params():
    return load_params(PARAMS)


def values(client, run_id: str) -> list[float]:
    return [metric.value for metric in sorted(client.get_metric_history(run_id, "loss/total"), key=lambda metric: metric.step)]


def asked(process: psutil.Process, question: str, **about: str) -> list:
    """What a process says of itself; nothing when it has ended since it was listed, as what Postgres starts now and then does."""
    try:
        return getattr(process, question)(**about)
    except psutil.NoSuchProcess:
        return []


# ---------------------------------------------------------------------------------------------------- what is started


def test_nobody_but_loopback_can_reach_the_services(services):
    listening = [
        connection.laddr
        for service in ALWAYS
        for process in services.processes(service.name)
        for connection in asked(process, "net_connections", kind="inet")
        if connection.status == "LISTEN"
    ]
    assert len({port for _, port in listening}) >= 3
    assert {host for host, _ in listening} == {"127.0.0.1"}


def test_passwords_are_in_a_file_of_their_owner_and_nowhere_else(services):
    kept = services.folder / "secrets.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    secrets = json.loads(kept.read_text()).values()
    assert len(set(secrets)) == len(secrets)
    commands = [word for process in services.processes() for word in asked(process, "cmdline")]
    for secret in secrets:
        assert not any(secret in word for word in commands)
        assert secret not in services.printed
        for log in (services.folder / "logs").iterdir():
            assert secret not in log.read_text(errors="replace"), log


def test_starting_twice_is_harmless(services):
    before = {process.pid for process in services.lasting()}
    again = services.run("start")
    assert (again.returncode, again.stdout.count("runs already")) == (0, 3)
    assert before <= {process.pid for process in services.lasting()}
    assert services.run("status").returncode == 0


def test_the_printed_variables_are_the_clients(services):
    assert exported(services.run("env").stdout) == services.variables()


# ---------------------------------------------------------------------------------------------------- who may


def test_a_wrong_password_is_one_clear_line_before_any_work(environment, params, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a guess of somebody")
    with pytest.raises(UserError) as refused, tracking.start("train", params, "nobody"):
        pytest.fail("the stage began without a password")
    assert "MLFLOW_TRACKING_PASSWORD" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD"):
        registry.released_version(NAME)


def test_what_a_user_may_not_do_is_one_clear_line(environment, params, monkeypatch):
    with tracking.start("evaluate", params, "of the administrator") as run:
        pass
    AuthServiceClient(os.environ["MLFLOW_TRACKING_URI"]).create_user("guest", "only for looking round")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "guest")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "only for looking round")
    assert tracking.connect().get_run(run.id).info.run_id == run.id
    with pytest.raises(UserError, match="this user and forbids it"), tracking.start("evaluate", params, "of a guest"):
        pytest.fail("the stage began though its metrics could not be logged")


# ---------------------------------------------------------------------------------------------------- what is logged


def test_twenty_concurrent_runs_lose_no_metric(client, environment, params):
    environs = os.environ | {"PYTHONPATH": str(ROOT)}
    commands = [
        [sys.executable, "-m", "tests.services.log_runs", str(number * RUNS_OF_EACH), str(RUNS_OF_EACH)] for number in range(PROCESSES)
    ]
    started = [subprocess.Popen(command, env=environs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands]
    try:
        for process in started:
            printed, _ = process.communicate(timeout=600)
            assert process.returncode == 0, printed
            assert "wait for the next try" not in printed
    finally:
        for process in started:
            process.kill()
    experiment = client.get_experiment_by_name(f"stprivacy/{params.dataset.name}/evaluate")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for number in range(PROCESSES * RUNS_OF_EACH):
        run = runs[f"side by side {number}"]
        assert run.info.status == "FINISHED"
        assert values(client, run.info.run_id) == [1000.0 * number + step for step in range(STEPS)]


def test_an_artifact_is_read_back_with_nothing_but_the_servers_password(client, environment, params, tmp_path):
    (tmp_path / "clips.png").write_bytes(bytes(range(256)))
    with tracking.start("evaluate", params, "with a picture") as run:
        run.picture(tmp_path / "clips.png")
    uri = client.get_run(run.id).info.artifact_uri
    assert uri.startswith("mlflow-artifacts:")
    found = mlflow.artifacts.download_artifacts(
        f"{uri}/pictures/clips.png", dst_path=str(tmp_path / "back"), tracking_uri=client.tracking_uri
    )
    assert Path(found).read_bytes() == bytes(range(256))
    assert list((environment.folder / "s3").glob(f"*/mlflow/**/{run.id}/artifacts/pictures/clips.png"))
    assert not (tmp_path / "mlruns").exists()
    assert not (tmp_path / "mlartifacts").exists()


def test_registry_and_promotion_work_from_front_to_challenger(client, environment, project_root, tmp_path, monkeypatch, capsys):
    from pipelines.register import main

    run_id = client.create_run(client.create_experiment("stprivacy/vp-synth/pareto"), run_name="point").info.run_id
    make_project(tmp_path, project_root, run_id)
    monkeypatch.setattr(sys, "argv", ["register"])
    main()
    standing = json.loads((tmp_path / "results/register.json").read_text())
    assert [version["aliases"] for version in standing["versions"]][-2:] == [[], ["candidate"]]  # a pipeline may have registered before
    with registry.downloaded(registry.named_version(NAME, "candidate", None)) as folder:
        assert (folder / "anonymizer.safetensors").read_bytes() == (tmp_path / "models/anonymizer/anonymizer.safetensors").read_bytes()
    monkeypatch.setattr(sys, "argv", ["stprivacy", "promote"])
    with pytest.raises(SystemExit) as ended:
        cli()
    assert not ended.value.code, capsys.readouterr()
    assert "challenger" in registry.named_version(NAME, "challenger", None).aliases


def test_the_ui_command_names_the_servers_address(client, environment, project_root, tmp_path, monkeypatch, capsys):
    shutil.copy(project_root / "params/weizmann.yaml", tmp_path / "params.yaml")
    monkeypatch.setattr(sys, "argv", ["stprivacy", "ui"])
    with pytest.raises(SystemExit) as ended:
        cli()
    assert not ended.value.code
    assert "no front of weizmann" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- what goes away


def test_a_run_outlives_its_server_with_all_its_metrics(client, environment, params, capsys):
    with tracking.start("evaluate", params, "outlives its server") as run:
        run.metrics({"loss/total": 0.0}, 0)
        environment.kill("mlflow")
        run.metrics({"loss/total": 1.0}, 1)
        assert "1 metrics wait for the next try" in capsys.readouterr().err
        again = environment.popen("start")
        run.later({"loss/total": 2.0}, 2)  # the end of the block waits for the server
    printed, _ = again.communicate(timeout=600)
    assert again.returncode == 0, printed
    assert values(client, run.id) == [0.0, 1.0, 2.0]
    assert client.get_run(run.id).info.status == "FINISHED"


def test_everything_is_stopped_after_a_crash_and_data_survive(client, environment, params, monkeypatch, tmp_path):
    picture = tmp_path / "clips.png"
    picture.write_text("before the crash")
    with tracking.start("evaluate", params, "before the crash") as run:
        run.metrics({"loss/total": 4.0})
        run.picture(picture)
    state = json.loads((environment.folder / "state.json").read_text())
    everything = environment.processes()
    main = next(process for process in everything if process.pid == state["processes"]["mlflow"]["pid"])
    main.kill()  # its workers are left
    main.wait(10)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "mlflow server postgres rclone"])
    try:
        assert environment.run("status").returncode == 1
        assert environment.run("stop").returncode == 0
        assert not environment.processes()
        assert not [process for process in everything if process.is_running()]
        assert bystander.poll() is None  # by pid and start time, never by name
    finally:
        bystander.kill()
        bystander.wait()
    for port in state["ports"].values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    with pytest.raises(RunError, match="finished work is kept"), tracking.persevering():
        run.picture(picture, "later")
    environment.start()
    assert environment.variables()["MLFLOW_TRACKING_URI"] == os.environ["MLFLOW_TRACKING_URI"]
    assert client.get_run(run.id).data.metrics["loss/total"] == 4.0
    assert mlflow.artifacts.load_text(f"{client.get_run(run.id).info.artifact_uri}/pictures/clips.png") == "before the crash"
