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
    """Read params and inputs, play, leave the models in models/baselines/<method>."""
    params = load_params(params_file).for_baseline(method)
    if params.train.anonymizer_from:  # beside it, a network that has met the data set it is judged on would not compare
        taken = f"train.anonymizer_from = {params.train.anonymizer_from}: it is judged on actions that it has not met"
        raise UserError(f"{params_file}: {taken}, and {method} would be trained on them; set baselines.methods: []")
    shards, models = Path("data/shards") / params.dataset.name, MODELS / method
    outputs = {"anonymizer": models / "anonymizer", "init": models / "init", "history": RESULTS / method / "history.csv"}
    with timed(f"train-baseline@{method}"), tracking.start("train", params, method, inputs=[shards, RECOGNIZERS]) as run:
        from stprivacy.training.distributed import train  # Ray: seconds to import

        progress = train(params, shards, RECOGNIZERS, outputs, run.id)
        run.metrics({f"last_epoch/{name}": value for name, value in progress.metrics.items()}, progress.epochs)


if __name__ == "__main__":
    main()
