"""Postgres: the machine's own binaries, a cluster of ours, passwords on every connection, no socket file."""

import os
import pwd
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

from stprivacy.errors import RunError, UserError
from stprivacy.services.folder import Folder, write_private
from stprivacy.services.processes import run_as

DEBIAN, FALLBACK = Path("/usr/lib/postgresql"), Path("/var/lib/stprivacy")
SUPERUSER, ROLE = "postgres", "mlflow"
DATABASES = ("mlflow", "mlflow_auth")
UNPRIVILEGED = ("postgres", "nobody")
"""Postgres refuses to run as root; the first of these that exists runs it then."""


def binaries() -> Path:
    """The folder with initdb and postgres. Raises UserError when there is none."""
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: [int(part) for part in re.findall(r"\d+", path.parts[-3])])
    on_path = shutil.which("initdb")
    if not (versions or on_path):
        raise UserError("services: no Postgres here (initdb is missing); install it (Debian: apt-get install postgresql)")
    return versions[-1].parent if versions else Path(str(on_path)).resolve().parent


def user() -> pwd.struct_passwd | None:
    """Whom Postgres runs as, where we are root; None: as we do. Raises UserError when root has nobody to give it to."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    found = next((known[name] for name in UNPRIVILEGED if name in known), None)
    if found is None:
        raise UserError(f"services: Postgres doesn't run as root, and there is no user {' or '.join(UNPRIVILEGED)}; add one")
    return found


def place(folder: Folder) -> Path:
    """Where the data are: in the services' folder, or, where Postgres' user could not get there (below /root), in /var/lib."""
    if "postgres" not in folder.state.elsewhere:
        closed = any(not parent.stat().st_mode & 0o001 for parent in folder.path.parents)
        if not (user() and closed):
            return folder.path / "postgres"
        folder.state.elsewhere["postgres"] = str(FALLBACK / sha256(str(folder.path).encode()).hexdigest()[:12])
        folder.save()
    return Path(folder.state.elsewhere["postgres"])


def initialise(folder: Folder) -> None:
    """Make the cluster, once. Raises RunError when initdb fails."""
    home, owner = place(folder), user()
    if (home / "data/PG_VERSION").exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(home / "data", ignore_errors=True)  # of an initdb that was killed
    password = write_private(home / "password", folder.passwords["postgres"] + "\n")
    if owner:
        for path in (home, password):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    command = [
        str(binaries() / "initdb"), "-D", str(home / "data"), "-U", SUPERUSER, f"--pwfile={password}", "--auth=scram-sha-256",
        "--encoding=UTF8", "--locale=C",
    ]  # fmt: skip
    made = subprocess.run(command, cwd="/", env=environment(), capture_output=True, text=True, check=False, **run_as(owner))
    password.unlink()
    if made.returncode:
        raise RunError(f"services: initdb failed: {' '.join(made.stderr.split())[-300:]}")


def command(folder: Folder, port: int) -> list[str]:
    """The server, on loopback alone; `postgres` itself, so that its process is the one that is started."""
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": "", "max_connections": "200"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return [str(binaries() / "postgres"), "-D", str(place(folder) / "data"), *options]


def environment() -> dict[str, str]:
    """Nothing of ours: it may be another user."""
    return {"PATH": os.defpath, "LANG": "C", "LC_ALL": "C"}


def is_ready(folder: Folder) -> bool:
    """Does it take connections?"""
    asked = [str(binaries() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(folder.state.ports["postgres"])]
    return subprocess.run(asked, env=environment(), cwd="/", check=False).returncode == 0


def make_databases(folder: Folder) -> None:
    """MLflow's role and its two databases, where they are missing. Raises RunError when Postgres refuses."""
    if ROLE not in _ask(folder, "SELECT rolname FROM pg_roles").split():
        _ask(folder, f"CREATE ROLE {ROLE} LOGIN PASSWORD '{folder.passwords['database']}'")
    for name in DATABASES:
        if name not in _ask(folder, "SELECT datname FROM pg_database").split():
            _ask(folder, f"CREATE DATABASE {name} OWNER {ROLE}")


def uri(folder: Folder, database: str) -> str:
    """For SQLAlchemy, whose plain `postgresql://` means another driver from 2.1 on."""
    return f"postgresql+psycopg2://{ROLE}:{folder.passwords['database']}@127.0.0.1:{folder.state.ports['postgres']}/{database}"


def _ask(folder: Folder, statement: str) -> str:
    """A statement as the superuser; it goes in by stdin, since every user of the machine can read command lines."""
    server = ["-h", "127.0.0.1", "-p", str(folder.state.ports["postgres"]), "-U", SUPERUSER, "-d", "postgres"]
    asked = subprocess.run(
        [str(binaries() / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", *server],
        input=statement, env=environment() | {"PGPASSWORD": folder.passwords["postgres"]}, cwd="/",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode:
        raise RunError(f"services: Postgres refused: {' '.join(asked.stderr.split())[:300]}")
    return asked.stdout
