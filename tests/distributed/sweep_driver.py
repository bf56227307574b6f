"""A sweep over a tiny data set, as a process that a test may kill: `python -m tests.distributed.sweep_driver FOLDER NUM_CPUS`."""

import json
import os
import sys
from pathlib import Path

import torch

from stprivacy import tracking
from stprivacy.config import Adversary, ClosedForm, Params, Sweep
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.checkpoints import save_model, save_weights
from stprivacy.models.recognizers import build_recognizer
from stprivacy.training.trial import Sources
from tests.unit.evaluation_files import ACTIONS, ATTRIBUTES, CLIP, SIZES, noise_clips, random_labels, tiny_params, write_dataset

OUTPUTS = {"results": Path("results/sweep"), "models": Path("models/sweep")}
EPOCHS, STEPS = 8, 3
"""Epochs of a trial, and steps of an epoch."""
NO_LOSS = 1e60
"""A privacy weight with which the loss is infinite from the first step on."""


def tiny_sweep() -> Params:
    """Three trials, the last of which must fail; a few seconds each, beside what starting Ray Train takes."""
    params = tiny_params(kinds=("cnn2d",), min_epochs=1, max_epochs=1)
    adversaries = (Adversary(kind="cnn2d", start="raw", replay=2),)
    game = params.train.game.model_copy(
        update={
            "adversaries": adversaries,
            "adversary_steps": 1,
            "closed_form": ClosedForm(weight=1.0, random_kinds=("cnn2d",), raw_trained=False),
        }
    )
    return params.model_copy(
        update={
            "train": params.train.model_copy(update={"global_batch": 8, "micro_batch": 8, "game": game}),
            "pareto": params.pareto.model_copy(update={"kept_shares": (0.25,)}),
            "sweep": Sweep(kept_share=(0.5,), privacy_weight=(1.0, 2.0, NO_LOSS), epochs=EPOCHS, hopeless=100.0),
        }
    )


def write_sources(folder: Path) -> None:
    """What the stages before leave: 40 clips of noise, recognizers and an init that have learned nothing, raw figures."""
    params, sizes = tiny_sweep(), {"train": 24, "val": 8, "test": 8}
    actions, attributes = random_labels(sizes)
    write_dataset(folder, noise_clips(sizes), actions, attributes)
    torch.manual_seed(0)
    action = build_recognizer("cnn3d", len(ACTIONS), SIZES, CLIP)
    save_weights(folder / "recognizers" / "action.safetensors", action)
    save_weights(folder / "recognizers" / "privacy-cnn2d.safetensors", build_recognizer("cnn2d", len(ATTRIBUTES), SIZES, CLIP))
    config = {section: getattr(params, section).model_dump(mode="json") for section in ("model", "channel", "clip")}
    save_model(folder / "init", Anonymizer(params.model, CLIP), config)
    save_weights(folder / "init" / "action.safetensors", action)
    (folder / "raw.json").write_text(json.dumps({"privacy": {"cmap": 0.9}}))


def main(folder: Path, num_cpus: int) -> None:
    from stprivacy.training.sweep import sweep

    os.cpu_count = lambda: num_cpus  # the size of the cluster that starts here; one CPU is one trial at a time
    params = tiny_sweep()
    sources = Sources(folder / "shards", folder / "recognizers", folder / "init", folder / "raw.json", folder / ".cache" / "stprivacy")
    with tracking.start("sweep", params, "sweep") as run:
        counts = sweep(params, sources, OUTPUTS, run)
    print("ended:", dict(counts), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
