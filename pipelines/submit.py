"""Heavy stages run here, or, with RAY_ADDRESS=http(s)://…, as a job on that Ray cluster. What a job is: stprivacy/jobs.py.

By itself: `python -m pipelines.submit --inputs-of STAGE` sends what a stage reads to STPRIVACY_STORAGE, for `ray job submit` by hand.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML

from stprivacy.config import PARAMS_FILE, Environment, load_params
from stprivacy.config.job import JobEnvironment
from stprivacy.data.storage import configured_url, open_storage
from stprivacy.errors import RunError, UserError, exit_with_one_line
from stprivacy.jobs import JobTaken, Log, State, Unreachable, inputs_here, run_as_job, send_inputs, work_in_job
from stprivacy.stages import read_stage
from stprivacy.times import timed
from stprivacy.tracking import current_commit

RUNTIME_ENV = Path("infra/ray/runtime_env.yaml")
INTERRUPTED = 130
"""Exit code of a command that Ctrl-C has ended, as shells count: 128 + SIGINT."""
TOLD = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "STPRIVACY_NUM_WORKERS")
SILENCE_S = 300.0
"""A log that says nothing for so long is asked for again: a connection that was lost without a word looks the same."""


def here_or_as_job(stage_name: str, work: Callable[[], None], params_file: Path = PARAMS_FILE) -> None:
    """Do the stage's work in this process, with its inputs and outs in the storage where this is a job; or submit it as one.

    Ends the process with the job's exit code where that isn't 0.
    """
    load_params(params_file)  # a broken key is told before anything travels
    address, job = Environment.read().ray_address or "", JobEnvironment.read()
    if job:
        work_in_job(read_stage(stage_name, params_file), job, work)
    elif address.startswith(("http://", "https://")):
        with timed(stage_name), _interrupted_by_signals():
            try:
                storage = open_storage()
                code = run_as_job(read_stage(stage_name, params_file), RayJobs(address), storage, current_commit(), _variables())
            except KeyboardInterrupt:
                code = INTERRUPTED
            if code:
                sys.exit(code)
    else:
        work()


def _variables() -> dict[str, str]:
    """What this environment has to tell a job: never a secret, which the dashboard would show, and no address that is only good here."""
    storage = configured_url() or ""
    variables = {"STPRIVACY_STORAGE": storage if "://" in storage else str(Path(storage).absolute())}
    for name in TOLD:
        value = os.environ.get(name)
        if value and not _only_good_here(value):
            variables[name] = value
    return variables


def _only_good_here(value: str) -> bool:
    url = urlsplit(value)
    return url.scheme in ("sqlite", "file") or (url.hostname or "").startswith(("127.", "localhost", "::1")) or url.password is not None


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM is what Ctrl-C is, and Ctrl-C works in the background, too, where shells switch it off."""
    before = {signal.SIGINT: signal.getsignal(signal.SIGINT), signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RayJobs:
    """Jobs (stprivacy/jobs.py) by Ray's own client. Raises UserError when there is no cluster at the address."""

    def __init__(self, address: str):
        from ray.job_submission import JobSubmissionClient  # Ray: seconds to import

        logging.getLogger("ray").setLevel(logging.ERROR)  # what it left out of the upload, and every connection that it closed
        self.address = address
        try:
            with _answering():
                self.client = JobSubmissionClient(address)
        except Unreachable as error:
            raise UserError(f"RAY_ADDRESS = {address}: {error}; is the cluster up, and RAY_AUTH_TOKEN the one it has?") from None

    def states(self, prefix: str) -> dict[str, State]:
        with _answering():
            found = [job for job in self.client.list_jobs() if (job.submission_id or "").startswith(prefix)]
        return {str(job.submission_id): _state(job) for job in sorted(found, key=lambda job: job.start_time or 0)}

    def submit(self, submission_id: str, command: str, variables: dict[str, str]) -> None:
        if not RUNTIME_ENV.exists():
            raise UserError(f"{RUNTIME_ENV}: no such file; run in the project's folder")
        runtime_env: dict[str, Any] = YAML(typ="safe", pure=True).load(RUNTIME_ENV.read_text())
        runtime_env["env_vars"] = runtime_env.get("env_vars", {}) | variables
        try:
            with _answering():
                self.client.submit_job(entrypoint=command, submission_id=submission_id, runtime_env=runtime_env | {"working_dir": "."})
        except Unreachable as error:
            if "already exists" in str(error):
                raise JobTaken(submission_id) from None
            raise

    def state(self, submission_id: str) -> State:
        try:
            with _answering():
                return _state(self.client.get_job_info(submission_id))
        except Unreachable as error:
            if "does not exist" in str(error):
                raise RunError(f"{submission_id}: {self.address} doesn't know it any more; the same command submits it again") from None
            raise

    def show(self, submission_id: str, log: Log) -> None:
        import aiohttp

        async def tail() -> None:
            log.begin()
            parts: Any = self.client.tail_job_logs(submission_id)
            try:
                while True:
                    log.add(await asyncio.wait_for(anext(parts), SILENCE_S))
            except (StopAsyncIteration, TimeoutError):
                return
            finally:
                await parts.aclose()

        try:
            with _answering():
                asyncio.run(tail())
        except aiohttp.ClientError as error:
            raise Unreachable(str(error)) from None

    def stop(self, submission_id: str) -> None:
        with _answering():
            self.client.stop_job(submission_id)


@contextmanager
def _answering() -> Iterator[None]:
    """Ray's client raises OSError (requests' errors are) for a cluster that is away, and two kinds more for one that refuses."""
    from ray.exceptions import RayError

    try:
        yield
    except (OSError, RuntimeError, RayError) as error:
        raise Unreachable(" ".join(str(error).split())[:300]) from error


def _state(job: Any) -> State:
    return State(job.status.value, job.driver_exit_code, job.message or "")


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.submit", description=__doc__)
    parser.add_argument("--inputs-of", metavar="STAGE", required=True, help="as DVC calls it: train, evaluate@blur")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    arguments = parser.parse_args()
    send_inputs(open_storage(), inputs_here(read_stage(arguments.inputs_of, arguments.params)))


if __name__ == "__main__":
    main()
