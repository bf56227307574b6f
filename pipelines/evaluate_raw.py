"""Stage evaluate-raw: attackers and floors on raw clips; the recognizers it trains start the game."""

import argparse
from pathlib import Path

from pipelines.evaluate import evaluate
from stprivacy.config import PARAMS_FILE
from stprivacy.errors import exit_with_one_line


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluate_raw", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    evaluate("raw", "evaluate-raw", parser.parse_args().params, raw=None, recognizers=Path("models/recognizers"))


if __name__ == "__main__":
    main()
