"""A stage as a job, with a cluster that can be told to misbehave: what real ones do too seldom (tests/distributed has a real one)."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from stprivacy import jobs
from stprivacy.config.job import JobEnvironment
from stprivacy.data.storage import FolderStorage, file_sha256, get_folder, put_folder
from stprivacy.errors import RunError, UserError
from stprivacy.jobs import JobTaken, Log, State, Unreachable, bring_outs, follow, outs_made, run_as_job, work_in_job
from stprivacy.stages import read_stage
from stprivacy.training import run_storage

PIPELINE = """
stages:
  shard: {cmd: none, deps: [code.py], outs: [data/shards]}
  train: {cmd: python -m pipelines.train, deps: [data/shards, code.py], outs: [models/made, results/train]}
"""
OF_A_JOB = ("STPRIVACY_JOB", "STPRIVACY_COMMIT", "STPRIVACY_STAGE_HASH", "STPRIVACY_DATA_MD5", "DVC_STAGE", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    for name in OF_A_JOB:
        monkeypatch.setenv(name, "")  # so that what a test's job sets is undone
        monkeypatch.delenv(name)


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    """A project with the input of `train`."""
    make_project(tmp_path / "laptop")
    monkeypatch.chdir(tmp_path / "laptop")
    Path("data/shards").mkdir(parents=True)
    Path("data/shards/one.json").write_text("clips")
    return tmp_path / "laptop"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("STPRIVACY_STORAGE", str(tmp_path / "storage"))
    return FolderStorage(tmp_path / "storage")


def make_project(folder):
    folder.mkdir()
    for name, text in {"dvc.yaml": PIPELINE, "params.yaml": "train: {}\n", "code.py": "1\n"}.items():
        (folder / name).write_text(text)


def train():
    """The stage's work: what it makes tells what it read."""
    for out in ("models/made", "results/train"):
        Path(out).mkdir(parents=True)
        (Path(out) / "file").write_text(f"from {Path('data/shards/one.json').read_text()}")


class Cluster:
    """Runs a job in a folder of its own, as a real one does, at the moment when its log is asked for."""

    address = "http://cluster"

    def __init__(self, folder, log="working\n", work=train):
        self.folder, self.log, self.work = folder, log, work
        self.jobs: dict[str, State] = {}
        self.submitted: list[str] = []
        self.variables: dict[str, str] = {}
        self.away = 0
        """So many requests will not be answered."""

    def _answer(self):
        self.away -= 1
        if self.away >= 0:
            raise Unreachable("connection refused")

    def states(self, prefix):
        self._answer()
        return {name: state for name, state in self.jobs.items() if name.startswith(prefix)}

    def submit(self, submission_id, command, variables):
        self._answer()
        self.submitted.append(submission_id)
        self.jobs[submission_id] = State("RUNNING")
        self.variables = variables

    def state(self, submission_id):
        self._answer()
        return self.jobs[submission_id]

    def show(self, submission_id, log):
        log.begin()
        for part in self.log:
            log.add(part)
            self._answer()
        if not self.jobs[submission_id].over:
            code = self._run(submission_id)
            self.jobs[submission_id] = State("FAILED" if code else "SUCCEEDED", code)

    def _run(self, submission_id):
        folder = self.folder / f"node-{submission_id}"
        make_project(folder)
        before = dict(os.environ)
        os.environ.update(self.variables)
        try:
            with contextlib.chdir(folder):
                work_in_job(read_stage("train"), JobEnvironment.read(), self.work)
        except UserError:
            return 2
        finally:
            os.environ.clear()
            os.environ.update(before)
        return 0

    def stop(self, submission_id):
        self._answer()
        self.jobs[submission_id] = State("STOPPED", message="told to")


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def run(cluster, storage):
    return run_as_job(read_stage("train"), cluster, storage, "c0ffee", {"STPRIVACY_STORAGE": storage.url})


def made():
    return {out: (Path(out) / "file").read_text() for out in ("models/made", "results/train")}


# ---------------------------------------------------------------------------------------------------- the whole way


def test_the_outs_of_a_job_come_back_and_the_same_stage_is_not_run_again(laptop, storage, cluster, capsys):
    assert run(cluster, storage) == 0
    assert made() == {"models/made": "from clips", "results/train": "from clips"}
    assert "working" in capsys.readouterr().out
    (laptop / "models/made/file").write_text("changed")
    assert run(cluster, storage) == 0
    assert made()["models/made"] == "from clips"
    assert len(cluster.submitted) == 1


def test_other_data_is_another_job(laptop, storage, cluster):
    run(cluster, storage)
    Path("data/shards/one.json").write_text("other clips")
    run(cluster, storage)
    assert made()["models/made"] == "from other clips"
    assert len(set(cluster.submitted)) == 2


def test_a_job_that_runs_already_is_attached_to(laptop, storage, cluster, capsys):
    stage, data = read_stage("train"), jobs.inputs_here(read_stage("train"))
    jobs.send_inputs(storage, data)
    job = JobEnvironment(submission_id=f"train-{stage.hash(data)}", stage_hash=stage.hash(data), data=data)
    cluster.submit(job.submission_id, stage.command, job.variables() | {"STPRIVACY_STORAGE": storage.url})
    assert run(cluster, storage) == 0
    assert cluster.submitted == [job.submission_id]
    assert "attached to it" in capsys.readouterr().out


def test_a_job_that_was_stopped_is_submitted_again_under_a_new_name(laptop, storage, cluster):
    stage = read_stage("train")
    name = f"train-{stage.hash(jobs.inputs_here(stage))}"
    cluster.jobs[name] = State("STOPPED")
    assert run(cluster, storage) == 0
    assert cluster.submitted == [f"{name}-2"]


def test_bad_input_in_the_job_ends_with_two_and_leaves_the_old_outs(laptop, storage, cluster):
    def refuse():
        raise UserError("sweep.num_workers = 9: too many")

    Path("models/made").mkdir(parents=True)
    cluster.work = refuse
    assert run(cluster, storage) == 2
    assert Path("models/made").exists()
    assert outs_made(storage, read_stage("train"), cluster.submitted[0].removeprefix("train-")) is None


def test_a_driver_that_was_killed_is_told_from_one_that_gave_up(laptop, storage, cluster):
    cluster.show = lambda name, log: cluster.jobs.update({name: State("FAILED", -9, "Job entrypoint command failed with exit code -9")})
    with pytest.raises(RunError, match=r"train-\w+: failed \(.*exit code -9\); the same command submits it again"):
        run(cluster, storage)


def test_an_input_that_is_not_here_is_named_before_anything_is_submitted(laptop, storage, cluster):
    Path("data/shards/one.json").unlink()
    with pytest.raises(UserError, match="data/shards: no such folder, or an empty one"):
        run(cluster, storage)
    assert not cluster.submitted


def test_a_success_without_outs_is_no_success(laptop, storage, cluster):
    cluster._run = lambda name: 0
    with pytest.raises(RunError, match="succeeded, but left no outs"):
        run(cluster, storage)


def test_whoever_submits_the_same_a_moment_earlier_wins(laptop, storage, cluster):
    def taken(submission_id, command, variables):
        raise JobTaken(submission_id)

    cluster.submit = taken
    with pytest.raises(RunError, match="the same command attaches to it"):
        run(cluster, storage)


def test_under_dvc_its_lock_is_believed(laptop, storage, cluster, monkeypatch):
    """DVC has just compared them, and a large data set takes minutes to read."""
    monkeypatch.setenv("DVC_STAGE", "train")
    Path("dvc.lock").write_text("stages: {shard: {outs: [{path: data/shards, md5: 00ff.dir}]}}")
    assert run(cluster, storage) == 0
    assert storage.exists("trees/00ff.json")


# ---------------------------------------------------------------------------------------------------- a cluster that is away


def test_a_cluster_that_is_away_for_a_while_costs_a_warning_and_no_line_is_shown_twice(laptop, storage, cluster, capsys):
    cluster.log = ["one\n", "two\n"]
    fails = iter([0, 3, 0, 0, 0])
    state = cluster.state
    cluster.state = lambda name: (setattr(cluster, "away", next(fails, 0)), state(name))[1]
    assert run(cluster, storage) == 0
    out, err = capsys.readouterr()
    assert (out.count("one"), out.count("two"), err.count("doesn't answer")) == (1, 1, 1)


def test_a_cluster_that_stays_away_is_given_up_and_the_job_is_not_cancelled(cluster):
    cluster.jobs["train-1"] = State("RUNNING")
    cluster.away = 10**9
    with pytest.raises(RunError, match="the job may go on there, and the same command attaches to it"):
        follow(cluster, "train-1", patience_s=0.05)
    assert cluster.jobs["train-1"].status == "RUNNING"


def test_no_cluster_at_all_is_bad_input(laptop, storage, cluster):
    cluster.away = 1
    with pytest.raises(UserError, match="RAY_ADDRESS = http://cluster: connection refused"):
        run(cluster, storage)


def test_the_log_of_a_lost_node_does_not_keep_a_job_from_ending(cluster, capsys):
    cluster.jobs["train-1"] = State("FAILED", 1)
    cluster.show = lambda *_: (_ for _ in ()).throw(Unreachable("no agent"))
    assert follow(cluster, "train-1").status == "FAILED"
    assert "the log can't be had: no agent" in capsys.readouterr().err


def test_an_interrupt_stops_the_job(laptop, storage, cluster, capsys):
    def interrupt(name, log):
        raise KeyboardInterrupt

    cluster.show = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(cluster, storage)
    assert [state.status for state in cluster.jobs.values()] == ["STOPPED"]
    assert f"{cluster.submitted[0]}: stopped" in capsys.readouterr().out


def test_an_interrupt_while_the_cluster_is_away_says_how_to_stop_the_job(laptop, storage, cluster, capsys):
    def interrupt(name, log):
        cluster.away = 10
        raise KeyboardInterrupt

    cluster.show = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(cluster, storage)
    assert f"`ray job stop {cluster.submitted[0]}` stops it" in capsys.readouterr().err


def test_a_log_that_is_sent_again_from_its_beginning_is_shown_once(capsys):
    log = Log()
    for parts in (["ab", "cd"], ["abc", "de", "f"], ["abcdefgh"]):
        log.begin()
        for part in parts:
            log.add(part)
    assert capsys.readouterr().out == "abcdefgh"


# ---------------------------------------------------------------------------------------------------- within a job


def test_a_job_typed_by_hand_finds_its_inputs_by_the_lock_that_travelled_with_it(laptop, storage, monkeypatch):
    data = jobs.inputs_here(read_stage("train"))
    jobs.send_inputs(storage, data)
    Path("dvc.lock").write_text(f"stages: {{shard: {{outs: [{{path: data/shards, md5: {data['data/shards']}}}]}}}}")
    Path("data/shards/one.json").unlink()
    Path("data/shards").rmdir()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    work_in_job(read_stage("train"), JobEnvironment.read(), train)
    outs = outs_made(storage, read_stage("train"), read_stage("train").hash(data))
    assert set(outs) == {"models/made", "results/train"}
    bring_outs(storage, outs)
    assert made()["models/made"] == "from clips"
    assert JobEnvironment.read().data == data  # as the processes see it that the job starts


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (None, r"dvc.lock: no record of data/shards, which train reads"),
        ("stages: {shard: {outs: [{path: data/shards, md5: 00ff.dir}]}}", r"data/shards: not in .*--inputs-of STAGE` sends it"),
    ],
)
def test_a_job_whose_inputs_cannot_be_had_says_so(laptop, storage, monkeypatch, lock, message):
    if lock:
        Path("dvc.lock").write_text(lock)
    Path("data/shards/one.json").unlink()
    Path("data/shards").rmdir()
    with pytest.raises(UserError, match=message):
        work_in_job(read_stage("train"), JobEnvironment(submission_id="raysubmit_1"), train)


def test_a_job_in_the_folder_of_an_earlier_one_reads_its_own_data(laptop, storage, tmp_path, monkeypatch):
    """Ray unpacks the same code once a node, and leaves there what jobs have put beside it."""
    data = []
    for text in ("clips", "other clips"):
        Path("data/shards/one.json").write_text(text)
        data.append(jobs.inputs_here(read_stage("train")))
        jobs.send_inputs(storage, data[-1])
    first, second = (JobEnvironment(submission_id="raysubmit_1", data=md5s).variables() for md5s in data)
    make_project(tmp_path / "node")
    monkeypatch.chdir(tmp_path / "node")

    def read_by(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        jobs.fetch_inputs()
        return Path("data/shards/one.json").read_text()

    def killed_then(storage, tree, folder, later):
        get_folder(storage, tree, folder, later)
        raise KeyboardInterrupt

    assert [read_by(job) for job in (first, second, first)] == ["clips", "other clips", "clips"]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(jobs, "get_folder", killed_then)
        read_by(second)
    assert read_by(first) == "clips"
    monkeypatch.setattr(jobs, "get_folder", None)
    assert read_by(first) == "clips"  # and isn't fetched again


def test_a_finished_folder_of_the_cache_reaches_another_node(tmp_path, storage, monkeypatch):
    one, other = (tmp_path / name / run_storage.CACHE / "trials" / "abc" for name in ("one", "other"))
    one.mkdir(parents=True)
    (one / "outcome.json").write_text("{}")
    run_storage.keep(one)
    assert not run_storage.bring(other)  # no job, no other node
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    assert not run_storage.bring(other)
    run_storage.keep(one)
    assert run_storage.bring(other)
    assert (other / "outcome.json").read_text() == "{}"
    run_storage.forget(one)
    assert not run_storage.bring(tmp_path / run_storage.CACHE / "trials" / "abc")


def test_what_is_forgotten_leaves_no_bytes_behind_and_nobody_else_misses_any(tmp_path, storage, monkeypatch):
    """Two trials and a data set have a file of the same bytes: of the first trial nothing may stay, least of all without a name."""
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    first, second = (tmp_path / run_storage.CACHE / "trials" / f"{name}.work" for name in ("one", "two"))
    for work in (first, second):
        (work / "released/0123456789ab").mkdir(parents=True)
        (work / "released/0123456789ab/train-painted.npy").write_text("frames")
        run_storage.keep(work / "released/0123456789ab")
    before = storage.list("")
    put_folder(storage, second / "released/0123456789ab", "1234")
    storage.put_bytes("runs/trials/one.work/tune/state.json", b"{}")
    run_storage.forget(first)
    assert not [key for key in storage.list("") if "one.work" in key]
    assert {key for key in before if "one.work" not in key} < storage.list("").keys()
    get_folder(storage, "1234", tmp_path / "data")
    brought = tmp_path / "other" / run_storage.CACHE / "trials/two.work/released/0123456789ab"
    assert run_storage.bring(brought)
    for folder in (tmp_path / "data", brought):
        assert (folder / "train-painted.npy").read_text() == "frames"


def test_a_kept_folder_of_which_age_has_taken_something_is_made_and_kept_again(tmp_path, storage, monkeypatch):
    """As where the bucket's rules delete what below `runs/` is old; trees aren't there."""
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    made, asked = (tmp_path / node / run_storage.CACHE / "trials/abc" for node in ("one", "other"))
    made.mkdir(parents=True)
    for name in ("outcome.json", "history.csv"):
        (made / name).write_text(name)
    run_storage.keep(made)
    aged = next(key for key in storage.list("runs/trials/abc") if file_sha256(made / "history.csv") in key)
    storage.delete(aged)
    assert not run_storage.bring(asked)
    assert not asked.exists()
    run_storage.keep(made)
    assert run_storage.bring(asked)
    assert (asked / "history.csv").read_text() == "history.csv"


def test_a_half_written_folder_counts_only_with_what_the_storage_has_of_it(tmp_path, storage, monkeypatch):
    """As of an attacker whose fit was cut off on one node and finished on another, or of an init."""
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    one, other = (tmp_path / node / run_storage.CACHE / "attacks" / "0123456789ab" for node in ("one", "other"))
    for folder, files in ((one, {"best.bin": "the best", "finished.pt": "yes"}), (other, {"best.bin": "the", "checkpoint.pt": "half"})):
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    assert not run_storage.bring(other)  # nobody has kept it
    run_storage.keep(one)
    assert run_storage.bring(other)
    assert {file.name: file.read_text() for file in other.iterdir()} == {"best.bin": "the best", "finished.pt": "yes"}


def test_a_whole_folder_is_not_fetched_again_and_one_outside_the_cache_never(tmp_path, storage, monkeypatch):
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    released, init = tmp_path / run_storage.CACHE / "released" / "0123456789ab", tmp_path / "models/init"
    for folder in (released, init):
        folder.mkdir(parents=True)
        (folder / "file.bin").write_text("bytes")
    run_storage.keep(released)
    monkeypatch.setattr(run_storage, "get_folder", None)
    assert run_storage.bring(released)
    assert run_storage.bring(init)


def test_what_a_task_names_travels_between_nodes(tmp_path, storage, monkeypatch):
    """A task is told a release by its folder, and tells of its own by a file in it."""

    @dataclass(frozen=True)
    class Task:
        released: Path
        cache: Path
        number: int = 1

        @property
        def folder(self):
            return self.cache / "attacks" / "0123456789ab"

    def task(node):
        cache = tmp_path / node / run_storage.CACHE / "evaluate"
        return Task(cache / "released" / "ba9876543210", cache)

    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    one, other = task("one"), task("other")
    for folder in (one.released, one.folder):
        folder.mkdir(parents=True)
        (folder / "file.bin").write_text(folder.name)
    run_storage.keep_paths([(one.released, one.folder / "file.bin")])
    assert not other.cache.exists()
    run_storage.bring_paths((other,))
    assert (other.released / "file.bin").read_text() == "ba9876543210"
    assert (other.folder / "file.bin").read_text() == "0123456789ab"


def test_checkpoints_go_to_the_storage_in_a_job_alone(tmp_path, storage, monkeypatch):
    folder = tmp_path / run_storage.CACHE / "train"
    assert run_storage.ray_storage(folder) == (str(folder), None)
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    assert run_storage.ray_storage(folder) == (f"{storage.url}/runs/train", None)
    monkeypatch.setenv("STPRIVACY_STORAGE", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    path, filesystem = run_storage.ray_storage(folder)
    assert (path, filesystem.type_name) == ("bucket/prefix/runs/train", "py::fsspec+('s3', 's3a')")


# ---------------------------------------------------------------------------------------------------- what travels


def test_the_upload_is_the_code_and_small(project_root, tmp_path):
    """As Ray packs it, of this very folder with all that its stages and tools have left in it."""
    import zipfile

    from ray._private.runtime_env.packaging import create_package
    from ruamel.yaml import YAML

    excludes = YAML(typ="safe", pure=True).load((project_root / "infra/ray/runtime_env.yaml").read_text())["excludes"]
    create_package(str(project_root), tmp_path / "upload.zip", include_gitignore=True, excludes=excludes)
    names = zipfile.ZipFile(tmp_path / "upload.zip").namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {"dvc.yaml", "params.yaml", "pipelines", "stprivacy", "params"} <= tops
    assert not tops & {".git", ".venv", ".cache", ".dvc", "data", "models", "results", "mlartifacts", "tests", "docs", "infra"}
    assert "stprivacy/data/clips.py" in names
    assert (tmp_path / "upload.zip").stat().st_size < 2 << 20


def test_code_of_an_image_names_the_images_commit_and_brought_code_does_not(monkeypatch, tmp_path):
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    monkeypatch.setattr("stprivacy.config.job.OF_THE_IMAGE", tmp_path / "COMMIT")
    assert JobEnvironment.read().commit is None
    (tmp_path / "COMMIT").write_text("c0ffee\n")
    assert JobEnvironment.read().commit == "c0ffee"
    monkeypatch.setenv("STPRIVACY_COMMIT", "the submitter's")
    assert JobEnvironment.read().commit == "the submitter's"
