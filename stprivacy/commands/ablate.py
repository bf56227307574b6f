"""`stprivacy ablate`: what each part of the method is worth, by leaving it out. Imports wait until the command runs."""

import csv
import json
import shlex
from pathlib import Path

import click

from stprivacy.errors import RunError, UserError

TABLE = Path("results/ablations")


@click.command()
@click.argument("rows", nargs=-1, metavar="[ROW]...")
@click.option("--grid", "path", default=Path("params/ablations/paper.yaml"), show_default=True, type=click.Path(path_type=Path),
              help="The file that declares the rows.")  # fmt: skip
@click.option("--seeds", default="0", show_default=True, metavar="N,N,…", help="Seeds of training; a claim needs three.")
@click.option("--method", default="stprivacy", show_default=True, help="Whose figures: of evaluate.methods or baselines.methods.")
@click.option("--jobs", default=1, show_default=True, help="Experiments side by side.")
@click.option("--dry-run", is_flag=True, help="Print the DVC commands and run nothing.")
@click.option("--table", "only_table", is_flag=True, help="Run nothing; make the table of what has finished.")
def ablate(rows: tuple[str, ...], path: Path, seeds: str, method: str, jobs: int, dry_run: bool, only_table: bool) -> None:
    """Leave out parts of the method, one by one, and make the table.

    Each ROW of the grid (all of them by default) is `dvc exp run --queue -S …` on the experiment that is in place; the queue is then
    worked off in folders of its own, and the workspace stays as it is. What has finished with the params.yaml that is in place is not
    played again. The table goes to results/ablations/<grid>.md and .csv, and what it is of to <grid>.json; of another method than
    stprivacy, to <grid>-<method>.

    \b
    stprivacy ablate --dry-run                          what would run
    stprivacy ablate both anonymization-only --seeds 0,1,2
    stprivacy ablate --grid params/ablations/beyond.yaml
    stprivacy ablate --table                            the table so far
    """
    from stprivacy import ablation

    stage = ablation.stage_of(method)
    grid, numbers = ablation.read_grid(path), _seeds(seeds)
    every, wanted = (ablation.experiments(grid, names, numbers, method) for names in ((), rows))
    if dry_run:
        for experiment in wanted:
            click.echo(shlex.join(ablation.queue_command(experiment, stage)))
        click.echo(f"dvc exp run --run-all --jobs {jobs}")
        return
    found = ablation.finished(every, method)
    if not only_table:
        ablation.play([experiment for experiment in wanted if experiment.name not in found], stage, jobs)
        found = ablation.finished(every, method)
    lines = ablation.table(grid, numbers, found, method)
    if not lines:
        raise UserError(f"{path}: no row of it has finished yet; `stprivacy ablate` plays them")
    TABLE.mkdir(parents=True, exist_ok=True)
    name = path.stem if method == ablation.ANONYMIZER else f"{path.stem}-{method}"
    (TABLE / f"{name}.md").write_text(ablation.markdown(lines), encoding="utf-8")
    about = ablation.origin(path, found, numbers, method)
    (TABLE / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    with open(TABLE / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    click.echo(ablation.markdown(lines), nl=False)
    failed = [experiment.name for experiment in wanted if experiment.name not in found]
    if failed and not only_table:
        raise RunError(f"{len(failed)} of {len(wanted)} have no result ({', '.join(failed[:3])} …); `dvc queue logs NAME` says why")


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: numbers with commas between them; for example 0,1,2") from None
