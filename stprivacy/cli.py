"""The `stprivacy` command. What a subcommand needs is imported when it runs, so that `stprivacy --help` answers at once."""

import difflib
from pathlib import Path

import click

from stprivacy import __version__
from stprivacy.commands import picture, release, study
from stprivacy.commands.ablate import ablate
from stprivacy.commands.compare import compare
from stprivacy.commands.results import results
from stprivacy.commands.services import services
from stprivacy.commands.storage import purge, videos
from stprivacy.errors import UserError, exit_with_one_line

PARAMS, SHIPPED, RESULTS = Path("params.yaml"), Path("params"), Path("results")
TABLE_BEGIN, TABLE_END = "<!-- table:begin -->", "<!-- table:end -->"


@exit_with_one_line
def main() -> None:
    """The console script: bad input ends with one line and exit code 2, a failed run with 1."""
    cli(prog_name="stprivacy")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="stprivacy")
def cli() -> None:
    """Learn a video anonymizer that keeps the action and is to hide private attributes; measure by fresh attackers what is still seen.

    Run in the project's folder. The pipeline itself is DVC's; this command is for what stands around it.

    \b
    make repro                          the whole pipeline at params.yaml, then the two lines below
    stprivacy show                      what the attackers found
    stprivacy times                     where the time went, stage by stage
    stprivacy ui                        MLflow's UI with the front in it
    \b
    stprivacy params list               the ready-made experiments
    stprivacy params use weizmann       put one in place, then `dvc repro`
    stprivacy params check              is params.yaml valid? (every stage asks, too)
    """


# ------------------------------------------------------------------------------------------------ params


@cli.group()
def params() -> None:
    """Choose and check the experiment: params.yaml and the ready-made files in params/.

    \b
    stprivacy params list
    stprivacy params use vp-synth-tiny      every stage at its smallest, to see that everything works
    stprivacy params check params/*.yaml
    """


def _shipped() -> dict[str, Path]:
    """The ready-made files by name. Raises UserError outside the project's folder."""
    found = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    if not found:
        raise UserError(f"{SHIPPED}/: no ready-made files here; run stprivacy in the project's folder")
    return found


@params.command("list")
def list_() -> None:
    """Name the ready-made files, with the first line of each."""
    for name, path in _shipped().items():
        click.echo(f"{name:20} {path.read_text().splitlines()[0].removeprefix('#').strip()}")


@params.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Overwrite a params.yaml that has changes of its own.")
def use(name: str, force: bool) -> None:
    """Put params/NAME.yaml in place as params.yaml.

    A params.yaml that differs from every ready-made file is your work and stays, unless --force says otherwise.

    \b
    stprivacy params use weizmann && dvc repro
    stprivacy params use vp-synth           back to the default
    """
    from stprivacy.config import load_params

    shipped = _shipped()
    if name not in shipped:
        near = difflib.get_close_matches(name, shipped, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{name}: no such file in {SHIPPED}/; {meant}There are {', '.join(shipped)}")
    content = shipped[name].read_bytes()
    load_params(shipped[name])
    known = {path.read_bytes() for path in shipped.values()}
    if PARAMS.exists() and PARAMS.read_bytes() not in known and not force:
        raise UserError(f"{PARAMS}: has changes of its own; keep a copy (cp {PARAMS} {SHIPPED}/kept.yaml) or overwrite it with --force")
    PARAMS.write_bytes(content)
    click.echo(f"{PARAMS} is now {shipped[name]}; next: dvc repro")


@params.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Validate FILES (params.yaml when none is named): the first problem ends it, with key, value and mend."""
    from stprivacy.config import load_params

    for file in files or (PARAMS,):
        found = load_params(file)
        clip, train = found.clip, found.train
        epochs = (train.code.init_epochs, train.code.epochs) if found.model.is_code else (train.init.epochs, train.game.epochs)
        methods = (*found.evaluate.methods, *found.baselines.methods)
        click.echo(
            f"{file}: valid. {found.dataset.name}: clips of {clip.num_frames} × {clip.size} × {clip.size}, kept share "
            f"{found.model.kept_share:.2f}, {epochs[0]} + {epochs[1]} epochs, then {', '.join(methods)}"
        )


# ------------------------------------------------------------------------------------------------ results


@cli.command()
@click.option("--markdown", is_flag=True, help="Print the table as Markdown, with the AP of every attribute.")
@click.option("--into", type=click.Path(path_type=Path), help=f"Put the Markdown into this file, between {TABLE_BEGIN} and {TABLE_END}.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw test clips, raw and released by every method, into this PNG.")
@click.option("--no-raw", is_flag=True, help="Leave raw frames out of the figure. Those of real people are refused otherwise.")
def show(markdown: bool, into: Path | None, figure: Path | None, no_raw: bool) -> None:
    """Print what fresh attackers found on the released test clips, beside raw video, the other methods and the floors.

    \b
    stprivacy show
    stprivacy show --figure released.png
    stprivacy show --into README.md          what `make readme` does
    """
    from stprivacy.evaluation import report

    if figure and not no_raw:
        _refuse_raw_figure()
    if into:
        put_between_markers(into, report.markdown(RESULTS))
        click.echo(f"{into}: table written")
    elif markdown:
        click.echo(report.markdown(RESULTS), nl=False)
    elif not figure:
        report.show(RESULTS)
        from stprivacy.evaluation.provenance import judged, policy

        chosen, stale = policy(RESULTS, judged(RESULTS)[0])
        if chosen:
            click.echo(f"policy: {chosen}\nmore: {RESULTS / 'pareto/report.html'}")
        elif stale:
            click.echo(stale, err=True)
    if figure:
        from stprivacy.config import load_params
        from stprivacy.evaluation.overview import overview
        from stprivacy.evaluation.raw_frames import raw_allowed

        figure.parent.mkdir(parents=True, exist_ok=True)
        click.echo(f"{overview(RESULTS, figure, not no_raw, raw_allowed(load_params(PARAMS)))}: drawn")


def _refuse_raw_figure() -> None:
    """Raises UserError, before anything is written, where the figure would show real people unasked."""
    from stprivacy.config import load_params
    from stprivacy.evaluation.raw_frames import refuse_raw

    refuse_raw(load_params(PARAMS), "draw released frames alone with --no-raw")


@cli.command()
@click.option("--port", default=5000, show_default=True, envvar="PORT", help="Port on 127.0.0.1.")
def ui(port: int) -> None:
    """Serve MLflow's UI on the local store and print where the front is in it.

    With MLFLOW_TRACKING_URI set to a server it only prints the addresses there.

    \b
    stprivacy ui --port 5001                 what `PORT=5001 make ui` does
    """
    from stprivacy.config import load_params
    from stprivacy.tracking_front import serve

    serve(load_params(PARAMS).dataset.name, port)


def put_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the two table markers of a Markdown file. Raises UserError when the file or a marker is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a Markdown file with {TABLE_BEGIN} and {TABLE_END}")
    before, begin, rest = path.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    _, end, after = rest.partition(TABLE_END)
    if not (begin and end):
        raise UserError(f"{path}: needs the lines {TABLE_BEGIN} and {TABLE_END}; add them where the table shall stand")
    path.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")


@cli.command()
def times() -> None:
    """Say how many seconds each stage's latest finished run took, and what share of the whole that is."""
    from stprivacy.times import TIMES, latest

    seconds = latest()
    if not seconds:
        raise UserError(f"{TIMES}: no stage has finished yet; run `make repro` or `dvc repro`")
    whole = sum(seconds.values())
    width = max(map(len, [*seconds, "together"]))
    for stage, taken in seconds.items():
        click.echo(f"{stage:{width}} {taken:8.1f} s {taken / max(whole, 1e-9):5.0%}")
    click.echo(f"{'together':{width}} {whole:8.1f} s, {whole / 60:.1f} minutes")


cli.add_command(results)
cli.add_command(ablate)
cli.add_command(compare)


# ------------------------------------------------------------------------------------------------ labels


@cli.group()
def labels() -> None:
    """Bring labels that others published into this project's text form."""


@labels.command("import")
@click.argument("pickle", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def import_(pickle: Path, out: Path) -> None:
    """Write the text form OUT of a VP data set's PICKLE. Only arrays of numbers are read from it: nothing in it can run.

    \b
    stprivacy labels import annotations/hmdb51.pickle vp-hmdb51.txt
    """
    from stprivacy.data.annotations_vp import import_labels

    click.echo(f"{out}: {import_labels(pickle, out)} videos")


# ------------------------------------------------------------------------------------------------ the registered anonymizer

cli.add_command(release.anonymize)
cli.add_command(release.promote)
cli.add_command(release.registry)

# ------------------------------------------------------------------------------------------------ servers on this machine

cli.add_command(services)

# ------------------------------------------------------------------------------------------------ what is kept of videos

cli.add_command(videos)
cli.add_command(purge)

# ------------------------------------------------------------------------------------------------ for human eyes

cli.add_command(picture.picture)
cli.add_command(study.study)
