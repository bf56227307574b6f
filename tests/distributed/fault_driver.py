"""A training run of some seconds in a process that a test may kill: `python -m tests.distributed.fault_driver FOLDER '{"name": …}'`."""

import json
import sys
from pathlib import Path

import torch

from stprivacy.config import Adversary, ClosedForm, Params
from stprivacy.errors import exit_with_one_line
from stprivacy.models.checkpoints import save_weights
from stprivacy.models.recognizers import build_recognizer
from stprivacy.training.recorder import Progress
from stprivacy.training.worker import TrainingJob
from tests.unit.evaluation_files import ACTIONS, ATTRIBUTES, CLIP, SIZES, noise_clips, random_labels, tiny_params, write_dataset

EPOCHS, STEPS = 5, 13
"""Epochs of the game, after one of init, and steps of an epoch."""
RUNS = Path(".cache/stprivacy/train")


def tiny_game(**changes: object) -> Params:
    """A game with a replay and a closed-form adversary that remembers, a second or two an epoch."""
    params = tiny_params()
    game = params.train.game.model_copy(update={
        "epochs": EPOCHS, "ramp_steps": 1, "adversary_steps": 2, "adversaries": (Adversary(kind="cnn2d", replay=5),),
        "closed_form": ClosedForm(weight=5.0, random_kinds=("cnn2d",), raw_trained=False),
    })  # fmt: skip
    settings = {"global_batch": 8, "micro_batch": 8, "windows_per_epoch": 4, "game": game} | changes
    init = params.train.init.model_copy(update={"epochs": 1, "full_steps": 0})
    return params.model_copy(update={"train": params.train.model_copy(update=settings | {"init": init})})


def write_sources(folder: Path) -> None:
    """Clips of noise, and recognizers that have learned nothing."""
    sizes = {"train": 26, "val": 2, "test": 2}
    actions, attributes = random_labels(sizes)
    write_dataset(folder, noise_clips(sizes), actions, attributes)
    torch.manual_seed(0)
    for name, kind, outputs in (("action", "cnn3d", ACTIONS), ("privacy-cnn2d", "cnn2d", ATTRIBUTES)):
        save_weights(folder / "recognizers" / f"{name}.safetensors", build_recognizer(kind, len(outputs), SIZES, CLIP))  # type: ignore[arg-type]


@exit_with_one_line
def main(folder: Path, name: str, num_workers: int | list[int], patience_s: float = 120.0, **changes: object) -> None:
    from stprivacy.training import distributed

    for variables in (distributed.WORKER_ENVIRONMENT, distributed.DRIVER_ENVIRONMENT):
        variables["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"  # to look for room, and to say so, well before patience ends
    job = TrainingJob(tiny_game(**changes), folder / "shards", folder / "recognizers")
    workers = num_workers if isinstance(num_workers, int) else (num_workers[0], num_workers[1])
    checkpoint = distributed.fit(job, workers, folder / RUNS, name, patience_s=patience_s)
    progress = Progress.read(checkpoint)
    print(f"ended after {progress.phase} epoch {progress.epochs}, {progress.world_size} workers", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
