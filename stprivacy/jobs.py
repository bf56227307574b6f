"""A stage as a job on a cluster: how its inputs get there, how its outs come back, and what becomes of a job meanwhile.

Code, params and dvc.lock travel with a job (Ray calls that its working directory); data doesn't. Both sides meet in STPRIVACY_STORAGE:

    trees/<md5>.json               a folder, named by the MD5 that DVC gives it: of an input before the job, of an out after it
    stages/<stage>/<hash>.json     path → MD5 of what the stage has made, where `hash` is over its code, params and inputs

The MD5s of a stage's inputs come from whoever submits it, or, in a job that was typed by hand, from the dvc.lock that travelled along.
DVC computes the same MD5 of the outs that were brought back and writes it into dvc.lock, so the next stage finds them in the storage
without sending them again. The record under `stages/` is written last: where it is, the stage is done, whoever has run it, and is only
fetched. Nothing of this knows Ray; `pipelines/submit.py` has its client.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from stprivacy.config import Environment
from stprivacy.config.job import JobEnvironment
from stprivacy.data.storage import Storage, alone, get_folder, open_storage, put_folder, tree_key
from stprivacy.errors import RunError, UserError
from stprivacy.stages import Stage, folder_md5, recorded

PATIENCE_S = 600.0
"""For a cluster that doesn't answer: a head that is started again needs minutes."""
STOP_S = 30.0
"""For a job that was told to stop; Ray kills it after three seconds."""
POLL_S = 1.0


# ------------------------------------------------------------------------------------------------ what travels through the storage


def inputs_here(stage: Stage) -> dict[str, str]:
    """Path → MD5 of each input in this folder. Under DVC, which has just compared them, dvc.lock is believed.

    Raises UserError for an input that isn't here.
    """
    known = recorded() if Environment.read().dvc_stage else {}
    for path in map(Path, stage.data):
        if not path.is_dir() or not any(path.iterdir()):
            raise UserError(f"{path}: no such folder, or an empty one; run `dvc repro {stage.name}`, which makes what is missing")
    return {path: known.get(path) or folder_md5(Path(path)) for path in stage.data}


def send_inputs(storage: Storage, data: dict[str, str]) -> None:
    """Put each input that isn't there into the storage."""
    for path, md5 in data.items():
        if not storage.exists(tree_key(_tree(md5))):
            count = put_folder(storage, Path(path), _tree(md5))
            print(f"{path}: {count} files sent to {storage.url}", flush=True)


def fetch_inputs() -> None:
    """In any process of a job, on whatever node: bring the stage's inputs into this node's working directory. Elsewhere: nothing.

    Jobs of the same code share that directory, and what an earlier one read may be other data: a note beside the folder says its MD5.
    Raises UserError for an input that is not in the storage.
    """
    job = JobEnvironment.read()
    for path, md5 in ((job and job.data) or {}).items():
        folder = Path(path)
        note = folder.with_name(f".{folder.name}.md5")
        with alone(folder.with_name(folder.name + ".fetched")):  # get_folder's own lock is by process, too
            if not (folder.exists() and note.exists() and note.read_text() == md5):  # a folder appears whole or not at all
                note.unlink(missing_ok=True)  # first: from here on it may be true no more
                _fetch_input(folder, md5)
                note.write_text(md5)


def _fetch_input(folder: Path, md5: str) -> None:
    storage = open_storage()
    if not storage.exists(tree_key(_tree(md5))):
        raise UserError(f"{folder}: not in {storage.url}; where it is, `python -m pipelines.submit --inputs-of STAGE` sends it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    get_folder(storage, _tree(md5), folder, later=".tar")  # a shard comes to the node that reads it, when it is read


def _tree(md5: str) -> str:
    return md5.removesuffix(".dir")


def _record(stage: Stage, stage_hash: str) -> str:
    return f"stages/{stage.name}/{stage_hash}.json"


def outs_made(storage: Storage, stage: Stage, stage_hash: str) -> dict[str, str] | None:
    """Path → MD5 of the outs of a stage that is done, None of one that isn't."""
    key = _record(stage, stage_hash)
    if not storage.exists(key):
        return None
    outs: dict[str, str] = json.loads(storage.get_bytes(key))["outs"]
    return outs if all(storage.exists(tree_key(_tree(md5))) for md5 in outs.values()) else None


def keep_outs(storage: Storage, stage: Stage, stage_hash: str, job: JobEnvironment) -> None:
    """Put what the stage has made into the storage, and then the record that says so."""
    outs = {out: folder_md5(Path(out)) for out in stage.outs}
    for out, md5 in outs.items():
        put_folder(storage, Path(out), _tree(md5))
    about = {"outs": outs, "commit": job.commit, "submission_id": job.submission_id, "ended": round(time.time())}
    storage.put_bytes(_record(stage, stage_hash), (json.dumps(about, indent=1) + "\n").encode())


def bring_outs(storage: Storage, outs: dict[str, str]) -> None:
    """Fetch each out to its place, where the old one stays until the new one is whole."""
    for out, md5 in outs.items():
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        get_folder(storage, _tree(md5), Path(out))
    print(f"brought back: {', '.join(outs)}", flush=True)


# ------------------------------------------------------------------------------------------------ within the job


def work_in_job(stage: Stage, job: JobEnvironment, work: Callable[[], None]) -> None:
    """Fetch the stage's inputs, do the work, put its outs into the storage. Raises UserError when dvc.lock doesn't know an input."""
    if job.data is None:
        known = recorded()
        if unknown := [path for path in stage.data if not known.get(path)]:
            raise UserError(f"dvc.lock: no record of {unknown[0]}, which {stage.name} reads; run `dvc repro` up to it before you submit")
        job = job.model_copy(update={"data": {path: known[path] for path in stage.data}})
    data = job.data or {}
    stage_hash = job.stage_hash or stage.hash(data)
    os.environ.update(job.variables())  # from here on, every process that this one starts is told
    if Environment.read().absolute_tracking_uri != Environment.read().tracking_uri:  # a file in this folder
        print("warning: MLFLOW_TRACKING_URI is not set on the cluster; what this job tracks is lost with its folder", file=sys.stderr)
    storage = open_storage()
    fetch_inputs()
    work()
    keep_outs(storage, stage, stage_hash, job)


# ------------------------------------------------------------------------------------------------ from outside


@dataclass(frozen=True)
class State:
    """A job as the cluster sees it."""

    status: Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
    exit_code: int | None = None
    """Of its driver, where that has ended by itself."""
    message: str = ""

    @property
    def over(self) -> bool:
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class Unreachable(Exception):
    """The cluster doesn't answer, for now."""


class JobTaken(Exception):
    """Another submitter was faster with the same id."""


class Jobs(Protocol):
    """A cluster's jobs. Every method raises Unreachable while the cluster doesn't answer."""

    address: str

    def states(self, prefix: str) -> dict[str, State]:
        """The jobs whose submission id begins with `prefix`, oldest first."""

    def submit(self, submission_id: str, command: str, variables: dict[str, str]) -> None:
        """Submit `command` with the project as it is here. Raises JobTaken when there is a job of that id."""

    def state(self, submission_id: str) -> State:
        """Raises RunError when the cluster doesn't know the job (any more)."""

    def show(self, submission_id: str, log: "Log") -> None:
        """Show the job's log, until the connection or the job ends."""

    def stop(self, submission_id: str) -> None:
        """Tell a job to stop."""


class Log:
    """Prints a log once, however often it is sent from its beginning."""

    def __init__(self) -> None:
        self.shown = self.arriving = 0

    def begin(self) -> None:
        """The log comes from its beginning (again)."""
        self.arriving = 0

    def add(self, text: str) -> None:
        """The next part of the log."""
        new = text[max(0, self.shown - self.arriving) :]
        self.arriving += len(text)
        self.shown = max(self.shown, self.arriving)
        sys.stdout.write(new)
        sys.stdout.flush()


def run_as_job(stage: Stage, jobs: Jobs, storage: Storage, commit: str | None, variables: dict[str, str]) -> int:
    """Have the stage run on a cluster and bring its outs here; gives the exit code of the job.

    What is done is fetched, a job that runs is attached to, and one that failed or was stopped is submitted again under a new name.
    An interrupt (Ctrl-C) stops the job. `variables`: of the environment, for the job. Raises RunError when the job or the cluster is
    lost.
    """
    data = inputs_here(stage)
    stage_hash = stage.hash(data)
    outs = outs_made(storage, stage, stage_hash)
    if outs is None:
        base = f"{stage.name.replace('@', '-')}-{stage_hash}"
        try:
            known = jobs.states(base)
            submission_id = next((name for name, state in known.items() if not state.over), None)
            if submission_id is None:
                send_inputs(storage, data)
                submission_id = base if not known else f"{base}-{len(known) + 1}"
                job = JobEnvironment(submission_id=submission_id, commit=commit, stage_hash=stage_hash, data=data)
                jobs.submit(submission_id, stage.command, variables | job.variables())
                print(f"{submission_id}: submitted to {jobs.address}; Ctrl-C cancels it", flush=True)
            else:
                print(f"{submission_id}: runs already on {jobs.address}, attached to it; Ctrl-C cancels it", flush=True)
        except Unreachable as error:
            raise UserError(f"RAY_ADDRESS = {jobs.address}: {error}; is the cluster up, and RAY_AUTH_TOKEN the one it has?") from None
        except JobTaken as error:
            raise RunError(f"{error}: was submitted by somebody else just now; the same command attaches to it") from None
        state = follow_or_stop(jobs, submission_id)
        if state.status != "SUCCEEDED":
            return _failed(submission_id, state)
        outs = outs_made(storage, stage, stage_hash)
        if outs is None:
            raise RunError(f"{submission_id}: succeeded, but left no outs in {storage.url}; does the cluster see the same storage?")
    else:
        print(f"{stage.name}: done before, with this code, these params and this data ({stage_hash})", flush=True)
    bring_outs(storage, outs)
    return 0


def _failed(submission_id: str, state: State) -> int:
    """The exit code of a job that has said itself what was wrong. Raises RunError for one that was ended from outside."""
    if state.status == "FAILED" and state.exit_code in (1, 2):
        return state.exit_code
    what = "was stopped" if state.status == "STOPPED" else "failed"
    message = " ".join(state.message.split())[:300]
    raise RunError(f"{submission_id}: {what} ({message}); the same command submits it again and goes on where its last checkpoint is")


def follow_or_stop(jobs: Jobs, submission_id: str) -> State:
    """Follow the job to its end. KeyboardInterrupt stops the job, then goes on."""
    try:
        return follow(jobs, submission_id)
    except KeyboardInterrupt:
        print(f"\n{submission_id}: cancelling", flush=True)
        try:
            jobs.stop(submission_id)
            deadline = time.monotonic() + STOP_S
            while not jobs.state(submission_id).over and time.monotonic() < deadline:
                time.sleep(POLL_S / 4)
            print(f"{submission_id}: {jobs.state(submission_id).status.lower()}", flush=True)
        except Unreachable as error:
            print(f"warning: {submission_id} may still run: {error}; `ray job stop {submission_id}` stops it", file=sys.stderr)
        raise


def follow(jobs: Jobs, submission_id: str, patience_s: float = PATIENCE_S) -> State:
    """Show the job's log until it is over; gives how it ended. The cluster may be away for `patience_s`; then RunError is raised."""
    log, last_answer, warned = Log(), time.monotonic(), False
    while True:
        try:
            state = jobs.state(submission_id)
            last_answer, warned = time.monotonic(), False
        except Unreachable as error:
            if not warned:
                print(f"warning: {jobs.address} doesn't answer ({error}); trying again", file=sys.stderr)
            warned = True
            if time.monotonic() - last_answer > patience_s:
                raise RunError(
                    f"{submission_id}: {jobs.address} hasn't answered for {patience_s:.0f} s; the job may go on there, and the same "
                    "command attaches to it"
                ) from None
        else:
            try:
                if state.status != "PENDING":
                    jobs.show(submission_id, log)
            except Unreachable as error:
                if state.over:  # its node may be gone, and the log with it
                    print(f"warning: {submission_id}: the log can't be had: {error}", file=sys.stderr)
            if state.over:
                return state
        time.sleep(POLL_S)
