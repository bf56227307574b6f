"""Stage preprocess: decode every video of the data set once (VP-Synth is rendered first), cut val, quarantine what is broken."""

import argparse
from pathlib import Path

from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, load_params
from stprivacy.errors import exit_with_one_line
from stprivacy.times import timed


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.preprocess", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    params = load_params(parser.parse_args().params)
    source, target = Path(params.dataset.source), Path("data/clips") / params.dataset.name
    with timed("preprocess"), tracking.start("preprocess", params, "preprocess", inputs=[source]) as run:
        from stprivacy.data.preprocess import preprocess

        counts = preprocess(params.dataset, params.clip, params.preprocess, target, Path(".cache/stprivacy"))
        run.metrics({name: float(value) for name, value in counts.items()})
    print(f"{target}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))


if __name__ == "__main__":
    main()
