"""Stage pareto: all operating points, the front among them, the policy's choice, a page for people and a run a point in MLflow."""

import argparse
from pathlib import Path

from stprivacy import tracking
from stprivacy.config import PARAMS_FILE, load_params
from stprivacy.errors import exit_with_one_line
from stprivacy.times import timed

RESULTS, OUTPUT = Path("results"), Path("results/pareto")


@exit_with_one_line
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.pareto", description=__doc__)
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help="the experiment (default: params.yaml)")
    params = load_params(parser.parse_args().params)
    methods = (*params.evaluate.methods, *params.baselines.methods)
    inputs = [RESULTS / "evaluate" / method for method in ("raw", *methods)] + [RESULTS / "sweep"]
    with timed("pareto"), tracking.start("pareto", params, "front", inputs, again=True) as run:
        from stprivacy.evaluation.front_text import note
        from stprivacy.evaluation.page import draw_front, write_page
        from stprivacy.evaluation.pareto import find_front, rows, write_front
        from stprivacy.evaluation.raw_frames import raw_allowed
        from stprivacy.tracking_front import log_front, log_points

        front = find_front(RESULTS, methods, params.pareto.policy)
        run_ids = log_points(run, rows(front), params)
        metrics = write_front(front, run_ids, OUTPUT)
        page = write_page(front, OUTPUT / "report.html", raw_allowed(params), rendered=params.dataset.kind == "vp-synth")
        picture = draw_front(front, OUTPUT / "front.png")
        run.metrics({name: metrics[name] for name in ("hypervolume", "hypervolume_without_learned", "front_size", "num_points")})
        log_front(run, note(front, metrics), [page, picture], front.task)
    print(f"policy: {front.explain_choice()}")


if __name__ == "__main__":
    main()
