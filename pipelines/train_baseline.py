"""Stage train-baseline: a frame network (unet, itnet or collective) in the anonymizer's place, trained by the same game."""

import argparse
from pathlib import Path
from typing import get_args

from pipelines.submit import here_or_as_job
from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, BaselineKind, load_params
from stprivacy.errors import UserError, exit_with_one_line
from stprivacy.times import timed

RECOGNIZERS, MODELS, RESULTS = Path("models/recognizers"), Path("models/baselines"), Path("results/train-baseline")


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train_baseline", description=__doc__)
    parser.add_argument("--method", required=True, choices=get_args(BaselineKind), help="the network")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    arguments = parser.parse_args()
    method, params_file = arguments.method, arguments.params
    here_or_as_job(f"train-baseline@{method}", lambda: train_here(method, params_file), params_file)


def train_here(method: BaselineKind, params_file: Path) -> None:
    """Read params and inputs, play (or take what is there already), leave the models in models/baselines/<method>."""
    params = load_params(params_file).for_baseline(method)
    taken_from = params.baselines.taken_from
    if bool(taken_from) != bool(params.train.anonymizer_from):
        why = f"of the anonymizer and {method} one would be judged on actions that it has met, and the other not"
        raise UserError(f"{params_file}: {why}; set both train.anonymizer_from and baselines.taken_from, or neither")
    shards, models = Path("data/shards") / params.dataset.name, MODELS / method
    outputs = {"anonymizer": models / "anonymizer", "init": models / "init", "history": RESULTS / method / "history.csv"}
    if taken_from:
        from stprivacy.training.transfer import take_over  # torch

        take_over(Path(taken_from) / method / "anonymizer", params.clip, params.model, outputs)
        return
    with timed(f"train-baseline@{method}"), tracking.start("train", params, method, inputs=[shards, RECOGNIZERS]) as run:
        from stprivacy.training.distributed import train  # Ray: seconds to import

        progress = train(params, shards, RECOGNIZERS, outputs, run.id)
        run.metrics({f"last_epoch/{name}": value for name, value in progress.metrics.items()}, progress.epochs)


if __name__ == "__main__":
    main()
