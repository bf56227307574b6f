"""Stage evaluate-raw: attackers and floors on raw clips; the recognizers it trains start the game."""

import argparse
from pathlib import Path

from pipelines.evaluate import evaluate
from pipelines.submit import here_or_as_job
from stprivacy.config import PARAMS_FILE
from stprivacy.errors import exit_with_one_line


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluate_raw", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    params_file, recognizers = parser.parse_args().params, Path("models/recognizers")
    here_or_as_job("evaluate-raw", lambda: evaluate("raw", "evaluate-raw", params_file, raw=None, recognizers=recognizers), params_file)


if __name__ == "__main__":
    main()
