"""Where training and attacks run: Ray Train workers, and Ray tasks side by side. Ray is imported here, in watch.py and sweep.py alone.

A training run is named by the hash of its configuration, and its checkpoints are kept under that name outside DVC's outs
(`checkpoints.py`): the same command after a kill finds them and goes on. Ray starts and watches the workers; it keeps nothing.
"""

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stprivacy.config import Environment, Params, config_hash
from stprivacy.config.job import JobEnvironment
from stprivacy.errors import RunError, UserError
from stprivacy.fingerprint import code_fingerprint, fingerprint
from stprivacy.jobs import fetch_inputs
from stprivacy.training.budget import calibrate_model
from stprivacy.training.checkpoints import Checkpoints, GivenUp
from stprivacy.training.engine import rows_of_all
from stprivacy.training.ray_folder import ray_folder
from stprivacy.training.recorder import Progress
from stprivacy.training.run_storage import bring, bring_paths, keep, keep_paths, place
from stprivacy.training.worker import TrainingJob, run_worker

CACHE = Path(".cache/stprivacy")
NOT_IN_THE_RESULT = {"num_workers", "max_workers", "micro_batch", "loader_processes"}
"""Keys of `train` that say how a result is computed and not which."""

PATIENCE_S = 600.0
"""For room in the cluster, and for a storage that is away."""
MAX_FAILURES = 4
"""Times in a run that its workers are started again because one was lost; a fault in the code would otherwise come back for ever."""
WORKER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller's poll, which every report waits for; 2 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it says every line twice
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",  # then it looks again whether there is room for the workers, as often as Watch lets it
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",  # 60 by default, too few on a machine that is busy with something else
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in params.yaml are relative to the project's folder
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",  # DeepSpeed's use of torch
}
DRIVER_ENVIRONMENT = WORKER_ENVIRONMENT | {
    "RAY_DEDUP_LOGS": "0",  # progress of two attackers is no repetition
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports its use to its makers otherwise
}
"""To be set before Ray is imported, which reads some of it at that moment alone."""


@contextmanager
def cluster(num_cpus: int, show_workers: bool = True, dashboard: bool = True) -> Iterator[Any]:
    """Connect to the cluster of RAY_ADDRESS, or start one on this machine with at least `num_cpus` slots; left as it was found.

    `show_workers`: what workers print appears here, too. `dashboard`: training runs want it, tasks start quicker without.
    """
    environment = Environment.read()
    address, variables = environment.ray_address, WORKER_ENVIRONMENT | {"MLFLOW_TRACKING_URI": environment.absolute_tracking_uri}
    if job := JobEnvironment.read():
        variables |= job.variables()
        os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # a variable that the job has been given, too, is no conflict
    os.environ.update(DRIVER_ENVIRONMENT)
    import ray

    if ray.is_initialized():
        yield ray
        return
    # The dashboard's State API tells Ray's cleaner of placement groups that a training run is over.
    local: dict[str, Any] = {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    where: dict[str, Any] = {"address": address} if address else {"address": "local", **local}
    if not address:
        # Workers are told their own cluster: Ray's cleaner would look for any on this machine, miss its run in another's, and end it.
        os.environ["RAY_GCS_SERVER_PORT"] = port = str(_free_port())
        variables["RAY_ADDRESS"] = f"{ray.util.get_node_ip_address()}:{port}"
    elif "://" not in address and address != "auto":
        variables["RAY_ADDRESS"] = address
    with nullcontext() if address else ray_folder() as folder:
        where |= {"_temp_dir": str(folder)} if folder else {}
        try:
            ray.init(log_to_driver=show_workers, logging_level=logging.WARNING, runtime_env={"env_vars": variables}, **where)
            yield ray
        finally:
            try:
                if show_workers:
                    time.sleep(0.5)  # until the workers' last lines have come; Ray itself waits so at an interpreter's exit alone
            finally:
                ray.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def run_tasks(function: Callable[..., Any], arguments: Sequence[tuple], num_cpus: float = 1) -> list[Any]:
    """`function(*arguments[i])` for every i, side by side as Ray tasks of one thread each; results in the order of `arguments`.

    `function` must be importable by its name. Raises RunError with the first failure's message.
    """
    if not arguments:
        return []
    with cluster(num_cpus=1, dashboard=False) as ray:
        # DEFAULT: within a trial of Ray Tune a task would otherwise ask for CPUs of the trial's own placement group, which has none.
        num_gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=2, scheduling_strategy="DEFAULT")(_single_threaded)
        remote = remote.options(name=function.__name__)
        pending = [remote.remote(function, arguments_of_one) for arguments_of_one in arguments]
        try:
            results = ray.get(pending)
        except ray.exceptions.RayTaskError as error:
            raise RunError(f"{function.__name__}: {error.cause or error}") from error
        except ray.exceptions.RayError as error:
            raise RunError(f"{function.__name__}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        bring_paths(results)
        return results


def _single_threaded(function: Callable[..., Any], arguments: tuple) -> Any:
    torch.set_num_threads(1)  # two threads on two busy cores are many times slower than one each
    fetch_inputs()
    bring_paths(arguments)
    result = function(*arguments)
    keep_paths(result, arguments)
    return result


def train(params: Params, shards: Path, recognizers: Path, outputs: dict[str, Path], tracking_run: str | None = None) -> Progress:
    """Play init and game on Ray Train workers and put the models in place.

    `outputs`: where `anonymizer`, `init` (folders) and `history` (CSV) go. A run that was killed goes on from its last
    checkpoint; an init of the same configuration that is in the cache is not trained again (no weight of the game changes it).
    Raises RunError when the workers failed for good.
    """
    fewest, most = params.train.num_workers, params.train.max_workers
    num_workers = Environment.read().num_workers or ((fewest, most) if most else fewest)
    cache = CACHE.absolute() / "train"
    init_cache = cache / f"init-{init_hash(params, shards, recognizers)}"
    init_done = bring(init_cache) and (init_cache / "done").exists()
    job = TrainingJob(params, shards.absolute(), recognizers.absolute(), init_cache if init_done else None, tracking_run)
    checkpoint = fit(job, num_workers, cache, name=f"game-{game_hash(params, shards, recognizers)}")
    progress = Progress.read(checkpoint)
    if progress.stopped:
        raise RunError(
            f"the loss was {progress.stopped} in epoch {progress.epochs} of {progress.phase}; lower the weights or learning rates of train"
        )
    if not init_done:
        _replace_folder(checkpoint / "init", init_cache)
        (init_cache / "done").touch()
        keep(init_cache)
    _replace_folder(checkpoint / "init", outputs["init"])
    _replace_folder(checkpoint / "model", outputs["anonymizer"])
    calibrate_model(outputs["anonymizer"], shards, params)
    outputs["history"].parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoint / "history.csv", outputs["history"])
    return progress


def init_hash(params: Params, shards: Path, recognizers: Path) -> str:
    """Names the init phase: everything that changes its result, and none of the game's numbers."""
    unread: dict[str, Any] = dict.fromkeys(("game", "privacy_weight", "action_weight", *NOT_IN_THE_RESULT), True)
    unread["code"] = {"epochs", "rate_weight", "ramp_steps", "decay_from", "adversary_weight", "ridge"}
    return config_hash(
        params.clip, params.model, params.channel.model_dump(include={"fill", "grey"}), params.recognizers,
        params.train.model_dump(mode="json", exclude=unread), _inputs(shards, recognizers),
    )  # fmt: skip


def game_hash(params: Params, shards: Path, recognizers: Path) -> str:
    """Names the whole training run."""
    train = params.train.model_dump(mode="json", exclude=NOT_IN_THE_RESULT)
    channel = params.channel.model_dump(mode="json", exclude={"codec_crf"})  # for attackers alone
    return config_hash(params.clip, params.model, channel, params.recognizers, train, _inputs(shards, recognizers))


def _inputs(shards: Path, recognizers: Path) -> str:
    """What a run is made from beside numbers: clips (their index holds checksums), recognizers, and the code that trains."""
    code = code_fingerprint("training", "models", "data/clips.py", "data/frame_labels.py", "data/synthetic.py", "randomness.py")
    return fingerprint(shards / "index.jsonl", recognizers) + code


def fit(
    job: TrainingJob,
    num_workers: int | tuple[int, int],
    storage: Path,
    name: str,
    callbacks: Sequence[Any] = (),
    patience_s: float = PATIENCE_S,
) -> Path:
    """Run the job's workers to the end; gives a folder with the last checkpoint.

    `num_workers`: as many, or, given two numbers, as many between them as there is room for. `callbacks`: Ray Train's, for the
    controller. `patience_s`: how long to wait for room and for a storage that is away. Raises UserError where the global batch cannot
    be shared out, RunError when the workers failed for good.
    """
    most, global_batch = max(_counts(num_workers)), job.params.train.global_batch
    if uneven := [count for count in _counts(num_workers) if global_batch % count]:
        raise UserError(f"params.yaml: train.global_batch = {global_batch}: not a multiple of {uneven[0]} workers; change one of them")
    url, top = place(storage)
    checkpoints = Checkpoints(url, f"{top}/{name}" if top else name, patience_s)
    checkpoints.names()  # wrong credentials or a missing bucket end the run here, before anything is started
    with cluster(num_cpus=most) as ray:
        from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        from stprivacy.training.watch import Watch

        # Asked of the cluster: where this runs there may be none, as in a trial of a sweep, which holds no GPU itself.
        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        has_gpus = num_gpus >= min(_counts(num_workers))
        if num_gpus and not has_gpus:
            print(f"training on CPUs: {most} workers and {num_gpus} GPUs; STPRIVACY_NUM_WORKERS={num_gpus} takes the GPUs", flush=True)
        watched: list[Any] = [*callbacks, Watch(num_workers, patience_s)]
        trainer = TorchTrainer(
            ray_worker,
            train_loop_config=job.as_dict() | {"checkpoints": checkpoints},
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=has_gpus, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage.absolute() / "ray"),  # a marker, and nothing else
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                callbacks=watched,
            ),
        )
        try:
            result: Any = trainer.fit()  # V1's type, V2's object
        except TrainingFailedError as error:
            cause = error.controller_failure if isinstance(error, ControllerError) else error
            raise RunError(
                f"training run {name}: {' '.join(str(cause).split())[-400:]}; finished epochs are kept in {checkpoints.where}"
            ) from error
    if result.return_value:
        raise RunError(f"training run {name}: {result.return_value}")
    last = storage / name / "last"
    shutil.rmtree(last, ignore_errors=True)
    found = checkpoints.take_up(last, lambda mine: [mine], lambda line: print(line, flush=True))
    if found is None:
        raise RunError(f"training run {name} ended without a checkpoint; remove {checkpoints.where} and start again")
    return found


def _counts(num_workers: int | tuple[int, int]) -> range:
    low, high = (num_workers, num_workers) if isinstance(num_workers, int) else num_workers
    return range(low, high + 1)


def ray_worker(config: dict[str, Any]) -> str | None:
    """What each Ray Train worker runs: the job, with its checkpoints behind two callables. Gives why all workers gave up, or None."""
    import ray.train
    from ray.train.v2._internal.execution import context as ray_context

    torch.set_num_threads(1)
    for logger in (logging.getLogger("ray.train"), logging.getLogger("botocore"), ray_context.logger):
        logger.setLevel(logging.WARNING)  # several lines for every report and client
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    checkpoints: Checkpoints = config["checkpoints"]

    def exchange(mine: Any) -> list[Any]:
        everyone: list[Any] = [None] * world_size
        dist.all_gather_object(everyone, mine)
        return everyone

    def say(line: str) -> None:
        if rank == 0:
            print(line, flush=True)

    def save(name: str, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            checkpoints.together(lambda: checkpoints.put(name, Path(folder), rank, world_size), exchange)
        checkpoints.together(lambda: checkpoints.tidy(name) if rank == 0 else None, exchange)
        ray.train.report(metrics)

    job = TrainingJob.from_dict(config)
    fetch_inputs()
    if job.init:
        bring(job.init)
    try:
        with tempfile.TemporaryDirectory(prefix="stprivacy-checkpoint-") as folder:
            run_worker(job, rank, world_size, checkpoints.take_up(Path(folder), exchange, say), save, rows_of_all)
    except GivenUp as error:
        return str(error)
    return None


def _replace_folder(source: Path, target: Path) -> None:
    """Copy a folder so that the target is the whole old one or the whole new one; killed between the two, there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (target.with_name(f"{target.name}.{state}") for state in ("new", "old"))
    for leaving in (fresh, old):
        shutil.rmtree(leaving, ignore_errors=True)
    shutil.copytree(source, fresh)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
