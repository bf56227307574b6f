"""`stprivacy compare`: two methods on the same test clips. Imports wait until the command runs."""

from pathlib import Path

import click

RESULTS = Path("results")


@click.command()
@click.argument("method_a", metavar="METHOD_A")
@click.argument("method_b", metavar="METHOD_B")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Where the stages left their figures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def compare(method_a: str, method_b: str, results: Path, as_json: bool) -> None:
    """Say how METHOD_A and METHOD_B differ on the same test clips.

    Each figure's difference has a 95 % interval and a p-value; they come from the answers that `evaluate` keeps. A learned method may be
    named with a kept share, METHOD@SHARE; without, it is the share that the model was trained for. cMAP and AP are those of each one's
    strongest attacker. All by the paired bootstrap over clips, whole groups of them; p says how often resampling turns the sign.

    \b
    stprivacy compare raw stprivacy
    stprivacy compare stprivacy@0.7 stprivacy@0.4
    """
    import dataclasses
    import json

    from rich.console import Console
    from rich.table import Table

    from stprivacy.evaluation.compare import compare as compared

    found = compared(results, method_a, method_b)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
        return
    table = Table(title=f"{found.dataset}: {found.num_clips} test clips in {found.num_groups} groups")
    for heading in ("figure", found.a, found.b, "difference", "95 % interval", "p"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for line in found.lines:
        difference = line.difference
        bounds = f"{difference.low:+.3f} … {difference.high:+.3f}"
        table.add_row(line.figure, f"{line.a:.3f}", f"{line.b:.3f}", f"{difference.value:+.3f}", bounds, f"{difference.p:.4f}")
    Console().print(table)
    click.echo(f"strongest attackers: {found.attackers[0]} on {found.a}, {found.attackers[1]} on {found.b}")
    if max(found.seeds) > 1:
        click.echo(f"means over {found.seeds[0]} and {found.seeds[1]} attacker seeds")
