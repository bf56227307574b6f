"""`python -m tests.services.log_runs FIRST COUNT`: that many runs side by side in threads, each with many metrics, as stages log them."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stprivacy import tracking
from stprivacy.config import load_params

STEPS = 60
PARAMS = Path(__file__).resolve().parents[2] / "params/vp-synth-tiny.yaml"


def log(number: int) -> None:
    """One run: value `1000 · number + step` at each step, sent in six batches."""
    with tracking.start("evaluate", load_params(PARAMS), f"side by side {number}") as run:
        for step in range(STEPS):
            run.later({"loss/total": 1000.0 * number + step}, step)
            if step % 10 == 9:
                run.flush()


if __name__ == "__main__":
    first, count = map(int, sys.argv[1:])
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(log, range(first, first + count)))
