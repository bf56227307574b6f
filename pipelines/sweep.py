"""Stage sweep: Ray Tune over kept share and loss weights; every trial plays the game from models/init and is attacked afresh."""

import argparse
from pathlib import Path

from pipelines.submit import here_or_as_job
from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, load_params
from stprivacy.errors import UserError, exit_with_one_line
from stprivacy.times import timed

RECOGNIZERS, INIT, RAW = Path("models/recognizers"), Path("models/init"), Path("results/evaluate/raw/metrics.json")
OUTPUTS = {"results": Path("results/sweep"), "models": Path("models/sweep")}


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.sweep", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    params_file = parser.parse_args().params
    here_or_as_job("sweep", lambda: sweep_here(params_file), params_file)


def sweep_here(params_file: Path) -> None:
    """Read params and inputs, carry out the trials, leave their table and models."""
    params = load_params(params_file)
    if params.train.anonymizer_from:
        taken = f"train.anonymizer_from = {params.train.anonymizer_from}: an anonymizer that is taken as it is plays no games"
        raise UserError(f"{params_file}: {taken}; run `dvc repro evaluate` instead of sweep")
    shards = Path("data/shards") / params.dataset.name
    for needed, stage in ((shards / "index.jsonl", "shard"), (RAW, "evaluate-raw"), (INIT / "anonymizer.safetensors", "train")):
        if not needed.exists():
            raise UserError(f"{needed}: no such file; run `dvc repro {stage}` first")
    with timed("sweep"), tracking.start("sweep", params, "sweep", inputs=[shards, INIT, RECOGNIZERS, RAW.parent]) as run:
        from stprivacy.training.sweep import sweep  # Ray Tune: seconds to import
        from stprivacy.training.trial import Sources

        sources = Sources(*(path.absolute() for path in (shards, RECOGNIZERS, INIT, RAW, Path(".cache/stprivacy"))))
        counts = sweep(params, sources, OUTPUTS, run)
    print(f"{OUTPUTS['results']}: " + ", ".join(f"{counts[status]} {status}" for status in ("finished", "stopped", "failed")))


if __name__ == "__main__":
    main()
