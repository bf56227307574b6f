"""What `stprivacy services` does before any server runs: ports, passwords, which process is whose, messages."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from stprivacy.cli import main as cli
from stprivacy.errors import RunError, UserError
from stprivacy.services import postgres, together
from stprivacy.services.folder import Folder
from stprivacy.services.processes import MARK, Process, belonging, end, spawn, wait_until

SLEEP = "import time; time.sleep(300)"


@pytest.fixture
def folder(tmp_path):
    return Folder.open(tmp_path / "services")


@pytest.fixture
def started(tmp_path):
    """started(program, mark) → a Python program as a service's process, ended with the test."""
    mine: list[Process] = []

    def call(program, mark="mark:one"):
        process = spawn([sys.executable, "-c", program], os.environ | {MARK: mark}, tmp_path / "log", tmp_path)
        mine.append(process)
        return process

    yield call
    for process in mine:
        found = process.find()
        if found:
            found.kill()
        with contextlib.suppress(ChildProcessError):  # psutil has waited for it
            os.waitpid(process.pid, 0)


def until(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


# ---------------------------------------------------------------------------------------------------- the folder


def test_passwords_are_made_once_and_only_their_owner_can_read_them(folder):
    again = Folder.open(folder.path)
    assert again.passwords == folder.passwords
    assert len(set(folder.passwords.values())) == len(folder.passwords)
    for name in ("secrets.json", "state.json"):
        assert (folder.path / name).stat().st_mode & 0o777 == 0o600


def test_first_starts_at_once_agree_on_one_set_of_passwords(tmp_path, monkeypatch):
    together, draw = threading.Barrier(4), secrets.token_urlsafe

    def slow(length):
        time.sleep(0.01)  # long enough for all four to find no passwords yet, unless one at a time looks
        return draw(length)

    def first_start(_):
        together.wait()
        made = Folder.open(tmp_path / "services")
        return made.passwords, made.state.mark

    monkeypatch.setattr(secrets, "token_urlsafe", slow)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(first_start, range(4)))
    assert made == made[:1] * 4


def test_a_port_stays_the_same_while_it_is_free(folder):
    first = folder.port("mlflow")
    assert folder.port("mlflow") == first
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", first))
        somebody.listen()
        assert folder.port("mlflow") != first
        with pytest.raises(UserError, match=f"--port mlflow={first}.*name another one"):
            folder.port("mlflow", first)


def test_the_state_outlives_its_process(folder):
    folder.state.processes["s3"] = Process(7, 1.5)
    folder.state.ports["s3"] = 9000
    folder.save()
    assert Folder.existing(folder.path).state == folder.state
    json.loads((folder.path / "state.json").read_text())


def test_data_are_where_postgres_user_can_get(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "FALLBACK", tmp_path / "var")
    monkeypatch.setattr(postgres, "user", lambda: None)
    assert postgres.place(folder) == folder.path / "postgres"
    monkeypatch.setattr(postgres, "user", object)
    (tmp_path / "closed").mkdir(mode=0o700)
    elsewhere = postgres.place(Folder.open(tmp_path / "closed/services"))
    assert elsewhere.parent == tmp_path / "var"


# ---------------------------------------------------------------------------------------------------- processes


def test_a_pid_that_is_somebody_elses_by_now_is_not_ours(started):
    process = started(SLEEP)
    assert process.find() is not None
    assert Process(process.pid, process.created - 10).find() is None


def test_orphans_of_a_crash_are_found_by_their_mark_and_nobody_else_is(started, tmp_path):
    parent = started(f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); {SLEEP}'])", "ours:one")
    other = started(SLEEP, "theirs:one")
    sibling = started(SLEEP, "ours:two")
    until(lambda: "1\n" in (tmp_path / "log").read_text())  # before that a child may have no environment of its own yet
    assert len(belonging("ours", "one", None)) == 2
    killed = psutil.Process(parent.pid)
    killed.kill()
    killed.wait(10)
    (orphan,) = belonging("ours", "one", parent)
    end([orphan], signal.SIGTERM, parent)
    assert not orphan.is_running()
    assert other.find() is not None
    assert sibling.find() is not None


def test_who_does_not_end_politely_is_killed(started, tmp_path):
    process = started("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(300)")
    until(lambda: "ready" in (tmp_path / "log").read_text())
    end(belonging("mark", "one", process), signal.SIGTERM, process, seconds=0.5)
    assert process.find() is None


def test_a_service_that_does_not_come_up_shows_the_end_of_its_log(started, tmp_path, capsys):
    process = started("print('first'); raise SystemExit('the port is taken')")
    with pytest.raises(RunError, match=r"mlflow ended before it was ready.*log are above"):
        wait_until(lambda: False, "mlflow", process, tmp_path / "log", seconds=60)
    assert "the port is taken" in capsys.readouterr().err


def test_a_service_that_does_not_answer_in_time_is_an_error(started, tmp_path):
    with pytest.raises(RunError, match="didn't answer within 0 s"):
        wait_until(lambda: False, "mlflow", started(SLEEP), tmp_path / "log", seconds=0.3)


# ---------------------------------------------------------------------------------------------------- messages


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["stprivacy", "services", *words])
    with pytest.raises(SystemExit) as ended:
        cli()
    return ended.value.code or 0


@pytest.mark.parametrize("command", ["stop", "status", "env"])
def test_where_nothing_was_started_one_line_says_so(command, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, command, "--folder", str(tmp_path / "none")) == 2
    assert "no services were started here; `make services`" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_variables_of_services_that_do_not_run_are_refused(folder):
    with pytest.raises(UserError, match="postgres, s3, mlflow not running"):
        together.exports(folder.path)


@pytest.mark.parametrize("given", ["mlflow", "mlflow=no", "mlflow=70000", "web=80"])
def test_a_port_in_another_form_is_refused(given, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, "start", "--port", given, "--folder", str(tmp_path / "none")) == 2
    assert f"--port {given}: give NAME=NUMBER" in capsys.readouterr().err


def test_a_missing_postgres_is_named_with_its_mend(monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install postgresql"):
        together.start(tmp_path / "services")
    assert not (tmp_path / "services").exists()


def test_help_needs_no_server_and_no_heavy_import():
    program = "import sys, stprivacy.commands.services; sys.exit(bool({'psutil', 'mlflow', 'ray'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
