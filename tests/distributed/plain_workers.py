"""A whole training run on spawned processes, without Ray: what ray_worker does around run_worker, for tests of engines and checkpoints."""

import os
import tempfile
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from stprivacy.training.checkpoints import Checkpoints
from stprivacy.training.engine import rows_of_all
from stprivacy.training.worker import TrainingJob, run_worker
from tests.distributed.two_workers import end_process


class Stopped(BaseException):
    """What nothing catches."""


def worker(rank: int, num_workers: int, job: TrainingJob, checkpoints: Checkpoints, stop_after: str, rendezvous: str) -> None:
    """One of the processes: goes on where the checkpoints are, until the one named `stop_after` is written."""
    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)})  # as Ray Train sets them
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_workers)

    def exchange(mine):
        everyone = [None] * num_workers
        dist.all_gather_object(everyone, mine)
        return everyone

    def save(name, write, metrics):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            checkpoints.put(name, Path(folder), rank, num_workers)
        dist.barrier()
        if name == stop_after:
            raise Stopped

    try:
        with tempfile.TemporaryDirectory() as folder:
            run_worker(job, rank, num_workers, checkpoints.take_up(Path(folder), exchange, print), save, rows_of_all)
    except Stopped:
        pass
    end_process()


def play(job: TrainingJob, num_workers: int, runs: Path, stop_after: str = "") -> pd.DataFrame:
    """Play what is left of the run whose checkpoints are in `runs`; gives all metrics of every step of it."""
    checkpoints = Checkpoints(str(runs), "run")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(num_workers, job, checkpoints, stop_after, f"{folder}/rendezvous"), nprocs=num_workers)
    return pd.read_csv(runs / "run" / checkpoints.names()[0] / "history.csv").drop(columns="time/step_s")
