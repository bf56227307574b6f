"""Stage evaluate (and evaluate-raw): release every clip by one method, attack the releases afresh, write what was found."""

import argparse
from pathlib import Path
from typing import get_args

from pipelines.submit import here_or_as_job
from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, BaselineKind, load_params
from stprivacy.errors import UserError, exit_with_one_line
from stprivacy.times import timed

MODEL, BASELINES = Path("models/anonymizer"), Path("models/baselines")
RESULTS, RECOGNIZERS, CACHE = Path("results/evaluate"), Path("models/recognizers"), Path(".cache/stprivacy/evaluate")
LEARNED_BASELINES = get_args(BaselineKind)


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluate", description=__doc__)
    parser.add_argument("--method", required=True, help="stprivacy, or a baseline such as downsample-2, noise or unet")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    arguments = parser.parse_args()
    method, params_file = arguments.method, arguments.params
    stage = "evaluate-baseline" if method in LEARNED_BASELINES else "evaluate"
    here_or_as_job(f"{stage}@{method}", lambda: evaluate(method, stage, params_file, RESULTS / "raw/metrics.json"), params_file)


def evaluate(method: str, stage: str, params_file: Path, raw: Path | None, recognizers: Path | None = None) -> None:
    """Judge `method` and leave results/evaluate/<method>; `recognizers`: where raw attackers' weights go, None for other methods."""
    if raw and not raw.exists():
        raise UserError(f"{raw}: no such file; run `dvc repro evaluate-raw` first")
    params, model = load_params(params_file), MODEL
    if method in LEARNED_BASELINES:
        params, model = params.for_baseline(method), BASELINES / method / "anonymizer"
    shards = Path("data/shards") / params.dataset.name
    inputs = [shards, *([model] if method in ("stprivacy", *LEARNED_BASELINES) else [])]
    with timed(stage if method == "raw" else f"{stage}@{method}"), tracking.start(stage, params, method, inputs) as run:
        from stprivacy.evaluation.judge import judge
        from stprivacy.evaluation.pictures import write_pictures
        from stprivacy.evaluation.raw_frames import raw_allowed
        from stprivacy.evaluation.results import keep_recognizers, write_results
        from stprivacy.training.distributed import cluster, run_tasks

        with cluster(num_cpus=1, dashboard=False):  # one for releases and attacks: a start costs seconds
            found = judge(method, params, shards, model, CACHE, run_tasks, None if method == "raw" else RECOGNIZERS)
        metrics = write_results(found, params, RESULTS / method, raw)
        if recognizers:
            keep_recognizers(found, recognizers)
        pictures = write_pictures(found, metrics, params, model, RESULTS / method)
        run.judgement(metrics, pictures, raw_allowed(params))
    removed = "" if metrics["leak_removed"] is None else f", leak removed {metrics['leak_removed']:.2f}"
    (action,) = metrics["action"].values()
    print(f"{method}: action {action:.3f}, cMAP {metrics['privacy']['cmap']:.3f}{removed}")


if __name__ == "__main__":
    main()
