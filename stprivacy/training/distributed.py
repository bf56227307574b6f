"""Where training and attacks run: Ray Train workers, and Ray tasks side by side. Ray is imported here (and in sweep.py) alone.

A training run is named by the hash of its configuration, and Ray keeps its checkpoints under that name outside DVC's outs:
the same command after a kill finds them and goes on.
"""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stprivacy.config import Environment, Params, config_hash
from stprivacy.errors import RunError
from stprivacy.fingerprint import code_fingerprint, fingerprint
from stprivacy.training.recorder import Progress
from stprivacy.training.worker import TrainingJob, run_worker

CACHE = Path(".cache/stprivacy")
NOT_IN_THE_RESULT = {"num_workers", "micro_batch", "loader_processes"}
"""Keys of `train` that say how a result is computed and not which."""


WORKER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the controller's poll, which every report waits for; 2 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it says every line twice
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",  # 60 by default, too few on a machine that is busy with something else
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in params.yaml are relative to the project's folder
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",  # DeepSpeed's use of torch
}


@contextmanager
def cluster(num_cpus: int, show_workers: bool = True, dashboard: bool = True) -> Iterator[Any]:
    """Connect to the cluster of RAY_ADDRESS, or start one on this machine with at least `num_cpus` slots; left as it was found.

    `show_workers`: what workers print appears here, too. `dashboard`: training runs want it, tasks start quicker without.
    """
    environment = Environment.read()
    address, variables = environment.ray_address, WORKER_ENVIRONMENT | {"MLFLOW_TRACKING_URI": environment.absolute_tracking_uri}
    os.environ.update(WORKER_ENVIRONMENT | {"RAY_DEDUP_LOGS": "0"})  # before Ray is imported: progress of two attackers is no repetition
    import ray

    if ray.is_initialized():
        yield ray
        return
    # The dashboard's State API tells Ray's cleaner of placement groups that a training run is over.
    local: dict[str, Any] = {"num_cpus": max(num_cpus, os.cpu_count() or 1), "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}
    where = {"address": address} if address else {"address": "local", **local}
    if not address:
        # Workers are told their own cluster: Ray's cleaner would look for any on this machine, miss its run in another's, and end it.
        os.environ["RAY_GCS_SERVER_PORT"] = port = str(_free_port())
        variables["RAY_ADDRESS"] = f"{ray.util.get_node_ip_address()}:{port}"
    ray.init(log_to_driver=show_workers, logging_level=logging.WARNING, runtime_env={"env_vars": variables}, **where)
    try:
        yield ray
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
        remote = ray.remote(num_cpus=num_cpus, max_retries=2, scheduling_strategy="DEFAULT")(_single_threaded)
        remote = remote.options(name=function.__name__)
        pending = [remote.remote(function, arguments_of_one) for arguments_of_one in arguments]
        try:
            return ray.get(pending)
        except ray.exceptions.RayTaskError as error:
            raise RunError(f"{function.__name__}: {error.cause or error}") from error
        except ray.exceptions.RayError as error:
            raise RunError(f"{function.__name__}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error


def _single_threaded(function: Callable[..., Any], arguments: tuple) -> Any:
    torch.set_num_threads(1)  # two threads on two busy cores are many times slower than one each
    return function(*arguments)


def train(params: Params, shards: Path, recognizers: Path, outputs: dict[str, Path], tracking_run: str | None = None) -> Progress:
    """Play init and game on Ray Train workers and put the models in place.

    `outputs`: where `anonymizer`, `init` (folders) and `history` (CSV) go. A run that was killed goes on from its last
    checkpoint; an init of the same configuration that is in the cache is not trained again (no weight of the game changes it).
    Raises RunError when the workers failed for good.
    """
    num_workers = Environment.read().num_workers or params.train.num_workers
    cache = CACHE.absolute() / "train"
    init_cache = cache / f"init-{init_hash(params, shards, recognizers)}"
    job = TrainingJob(
        params, shards.absolute(), recognizers.absolute(), init_cache if (init_cache / "done").exists() else None, tracking_run
    )
    checkpoint = fit(job, num_workers, cache, name=f"game-{game_hash(params, shards, recognizers)}")
    progress = Progress.read(checkpoint)
    if progress.stopped:
        raise RunError(
            f"the loss was {progress.stopped} in epoch {progress.epochs} of {progress.phase}; lower the weights or learning rates of train"
        )
    if not (init_cache / "done").exists():
        _replace_folder(checkpoint / "init", init_cache)
        (init_cache / "done").touch()
    _replace_folder(checkpoint / "init", outputs["init"])
    _replace_folder(checkpoint / "model", outputs["anonymizer"])
    outputs["history"].parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(checkpoint / "history.csv", outputs["history"])
    return progress


def init_hash(params: Params, shards: Path, recognizers: Path) -> str:
    """Names the init phase: everything that changes its result, and none of the game's numbers."""
    unread = {"game", "privacy_weight", "action_weight", *NOT_IN_THE_RESULT}
    return config_hash(
        params.clip, params.model, params.channel.model_dump(include={"fill"}), params.recognizers,
        params.train.model_dump(mode="json", exclude=unread), _inputs(shards, recognizers),
    )  # fmt: skip


def game_hash(params: Params, shards: Path, recognizers: Path) -> str:
    """Names the whole training run."""
    train = params.train.model_dump(mode="json", exclude=NOT_IN_THE_RESULT)
    return config_hash(params.clip, params.model, params.channel, params.recognizers, train, _inputs(shards, recognizers))


def _inputs(shards: Path, recognizers: Path) -> str:
    """What a run is made from beside numbers: clips (their index holds checksums), recognizers, and the code that trains."""
    code = code_fingerprint("training", "models", "data/clips.py", "randomness.py")
    return fingerprint(shards / "index.jsonl", recognizers) + code


def fit(job: TrainingJob, num_workers: int, storage: Path, name: str, callbacks: Sequence[Any] = ()) -> Path:
    """Run the job's workers to the end; gives the folder of the last checkpoint. `callbacks`: Ray Train's, for the controller."""
    with cluster(num_cpus=num_workers) as ray:
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        # Asked of the cluster: where this runs there may be none, as in a trial of a sweep, which holds no GPU itself.
        has_gpus = ray.cluster_resources().get("GPU", 0) >= num_workers
        trainer = TorchTrainer(
            ray_worker,
            train_loop_config=job.as_dict(),
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=has_gpus, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=2),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                callbacks=list(callbacks),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise RunError(
                f"training run {name}: {' '.join(str(error).split())[-400:]}; its checkpoints are in {storage / name}"
            ) from error
    if result.checkpoint is None:
        raise RunError(f"training run {name} ended without a checkpoint; remove {storage / name} and start again")
    return Path(result.checkpoint.path)


def ray_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs: the job, with Ray's checkpoints behind two callables."""
    import ray.train

    torch.set_num_threads(1)
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # a line for every checkpoint and report
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()

    def save(write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def gather(rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    job, checkpoint = TrainingJob.from_dict(config), ray.train.get_checkpoint()
    if checkpoint is None:
        run_worker(job, rank, world_size, None, save, gather)
    else:
        with checkpoint.as_directory() as folder:
            run_worker(job, rank, world_size, Path(folder), save, gather)


def _replace_folder(source: Path, target: Path) -> None:
    """Copy a folder so that the target is either the old or the whole new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
