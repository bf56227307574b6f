"""`stprivacy results`: docs/results.md, from runs that were kept. Imports wait until the command runs."""

import re
from pathlib import Path

import click

from stprivacy.errors import UserError

RESULTS, KEPT, PAGE, PARAMS, SHIPPED = Path("results"), Path("docs/results"), Path("docs/results.md"), Path("params.yaml"), Path("params")


@click.command()
@click.option("--keep", is_flag=True, help=f"First keep the tables that stand in {RESULTS}/, as {KEPT}/<experiment>.json.")
@click.option("--name", metavar="NAME", help="Keep them under this name. Default: the ready-made file that params.yaml is.")
@click.option("--command", metavar="TEXT", help="How the run was started, if not by `stprivacy params use NAME && make repro`.")
@click.option("--note", default="", metavar="TEXT", help="A sentence to stand above the table, such as what differs from the experiment.")
def results(keep: bool, name: str | None, command: str | None, note: str) -> None:
    """Write docs/results.md from the runs that were kept.

    It has every kept table with its command and commit, the paper's figures, and what was not run. What stands in results/ of another
    experiment than params.yaml is left out, and named.

    \b
    stprivacy results                               make the page anew
    stprivacy results --keep                        keep the run that has just ended, too
    stprivacy results --keep --name weizmann-split-1 --note "Split 1 instead of 0."
    """
    from stprivacy.ablation import read_grid
    from stprivacy.evaluation import results_page

    if name and not keep:
        raise UserError("--name: says under which name to keep a run; add --keep")
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if not shipped:
        raise UserError(f"{SHIPPED}/: no ready-made files here; run stprivacy in the project's folder")
    if keep:
        name = name or _experiment(shipped)
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise UserError(f"--name {name}: only small letters, digits and hyphens; for example weizmann-split-1")
        command = command or f"stprivacy params use {name} && make repro"
        click.echo(f"{results_page.keep(RESULTS, KEPT, name, command, note)}: kept")
    about = {stem: path.read_text().splitlines()[0].removeprefix("#").strip() for stem, path in shipped.items()}
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    grids = {path.stem: tuple(read_grid(path).rows) for path in sorted(SHIPPED.glob("ablations/*.yaml"))}
    PAGE.write_text(results_page.page(KEPT, about, grids), encoding="utf-8")
    click.echo(f"{PAGE}: written")


def _experiment(shipped: dict[str, Path]) -> str:
    """The ready-made file that params.yaml is a copy of. Raises UserError when it is none."""
    content = PARAMS.read_bytes() if PARAMS.exists() else b""
    same = [stem for stem, path in shipped.items() if path.read_bytes() == content]
    if not same:
        raise UserError(f"{PARAMS}: is none of the ready-made files as it stands; say what the run was with --name and --command")
    return same[0]
