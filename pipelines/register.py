"""Stage register: the front's learned points become versions in MLflow's registry, the policy's choice becomes candidate."""

import argparse
import json
from pathlib import Path

from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, load_params
from stprivacy.errors import exit_with_one_line
from stprivacy.times import timed

RESULTS, OUT = Path("results"), Path("results/register.json")


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.register", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    params = load_params(parser.parse_args().params)
    shards, points = Path("data/shards") / params.dataset.name, RESULTS / "pareto/points.csv"
    with timed("register"), tracking.start("register", params, "register", inputs=[points, shards]) as run:
        from stprivacy.release.register import register

        standing = register(params, run, RESULTS, shards)
        OUT.write_text(json.dumps(standing, indent=2) + "\n")
    print(f"{OUT}: {len(standing['versions'])} versions of {standing['name']}; `stprivacy registry` lists them")


if __name__ == "__main__":
    main()
