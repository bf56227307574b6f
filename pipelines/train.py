"""Stage train: init phase, then the game, on Ray Train with one engine a player; leaves the anonymizer that the game made."""

import argparse
from pathlib import Path

from pipelines.submit import here_or_as_job
from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, load_params
from stprivacy.errors import exit_with_one_line
from stprivacy.times import timed

RECOGNIZERS = Path("models/recognizers")
OUTPUTS = {"anonymizer": Path("models/anonymizer"), "init": Path("models/init"), "history": Path("results/train/history.csv")}


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    params_file = parser.parse_args().params
    here_or_as_job("train", lambda: train_here(params_file), params_file)


def train_here(params_file: Path) -> None:
    """Read params and inputs, play, leave the models."""
    params = load_params(params_file)
    shards = Path("data/shards") / params.dataset.name
    if params.train.anonymizer_from:
        from stprivacy.training.transfer import take_over  # torch

        take_over(Path(params.train.anonymizer_from), params.clip, params.model, OUTPUTS)
        return
    with timed("train"), tracking.start("train", params, "train", inputs=[shards, RECOGNIZERS]) as run:
        from stprivacy.training.distributed import train  # Ray: seconds to import

        progress = train(params, shards, RECOGNIZERS, OUTPUTS, run.id)
        run.metrics({f"last_epoch/{name}": value for name, value in progress.metrics.items()}, progress.epochs)


if __name__ == "__main__":
    main()
