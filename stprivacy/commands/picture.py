"""`stprivacy picture`: what is released, for human eyes. Imports wait until a command runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stprivacy.commands.seed import refused_seed
from stprivacy.errors import UserError

if TYPE_CHECKING:
    from stprivacy.config import Params
    from stprivacy.evaluation.gallery import LabelledClips, Release

MODEL, PARAMS = Path("models/anonymizer"), Path("params.yaml")


@click.group()
def picture() -> None:
    """Draw what is released, for people to look at.

    Grids of frames, kept tubelets with their scores, and side-by-side videos. The clips are test clips of params.yaml's data set,
    released afresh by the trained model (`dvc repro train` makes it) and by the other methods. Raw frames, and what filters make of them,
    are drawn of VP-Synth only, where nobody is in them, or where tracking.log_raw_clips is true.

    \b
    stprivacy picture grid docs/grid.png              the same clips under every method and kept share
    stprivacy picture scores scores.png               which tubelets are kept, and how sure the scorers are
    stprivacy picture video side-by-side.mp4          the grid, in motion
    """


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all three ask."""
    for option in (
        click.option("--clips", "num_clips", type=click.IntRange(1, 50), default=3, show_default=True, help="How many test clips."),
        click.option("--clip", "keys", multiple=True, metavar="KEY", help="A certain test clip in place of these; may be repeated."),
        click.option("--model", type=click.Path(path_type=Path), default=MODEL, show_default=True, help="Folder of the trained model."),
        click.option("--no-raw", is_flag=True, help="Leave raw frames out."),
        click.option("--params", "params_file", type=click.Path(path_type=Path), default=PARAMS, show_default=True, help="The experiment."),
        refused_seed,
    ):
        command = option(command)
    return command


def _methods(command: Callable[..., Any]) -> Callable[..., Any]:
    """What grid and video ask, too."""
    for option in (
        click.option("--method", "methods", multiple=True, metavar="NAME", help="A method; may be repeated. Default: all that are judged."),
        click.option(
            "--kept-share", "kept_shares", type=float, multiple=True, metavar="S",
            help="A kept share of learned methods; may be repeated. Default: evaluate.kept_shares.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@picture.command()
@click.argument("out", metavar="OUT.png", type=click.Path(path_type=Path))
@click.option("--frames", type=click.IntRange(1, 32), default=8, show_default=True, help="Frames of a clip, evenly spread.")
@_methods
@_options
def grid(out: Path, frames: int, **asked: Any) -> None:
    """Draw the same test clips under every method and kept share into OUT.png, a row each.

    \b
    stprivacy picture grid grid.png
    stprivacy picture grid grid.png --method blur --method stprivacy --kept-share 0.4 --clips 6
    stprivacy picture grid grid.png --clip wave_test_00012 --frames 4
    """
    _check(out, ".png")
    clips, rows = _gathered(**asked)
    from stprivacy.evaluation.sheets import draw_grid

    click.echo(f"{draw_grid(clips, rows, out, frames)}: {len(clips.keys)} clips, {len(rows)} rows each")


@picture.command()
@click.argument("out", metavar="OUT.mp4", type=click.Path(path_type=Path))
@_methods
@_options
def video(out: Path, **asked: Any) -> None:
    """Play the same test clips under every method and kept share side by side, as OUT.mp4 (H.264, which may soften colours).

    \b
    stprivacy picture video side-by-side.mp4
    stprivacy picture video two.mp4 --method stprivacy --kept-share 0.7 --kept-share 0.4 --clips 2
    """
    _check(out, ".mp4")
    clips, columns = _gathered(**asked)
    from stprivacy.evaluation.sheets import write_side_by_side

    click.echo(f"{write_side_by_side(clips, columns, out)}: {len(clips.keys)} clips, {len(columns)} columns")


@picture.command()
@click.argument("out", metavar="OUT.png", type=click.Path(path_type=Path))
@click.option("--kept-share", type=float, metavar="S", help="The share of tubelets to be kept. Default: the first of evaluate.kept_shares.")
@_options
def scores(
    out: Path, kept_share: float | None, num_clips: int, keys: tuple[str, ...], model: Path, no_raw: bool, params_file: Path,
) -> None:  # fmt: skip
    """Draw which tubelets the anonymizer keeps and the scorers' keep probabilities, block by block, into OUT.png.

    \b
    stprivacy picture scores scores.png
    stprivacy picture scores scores.png --kept-share 0.2 --clips 2
    """
    _check(out, ".png")
    params = _params(no_raw, params_file)
    from stprivacy.evaluation import gallery, sheets

    clips = gallery.pick_clips(params, Path("data/shards") / params.dataset.name, keys, num_clips)

    share = params.evaluate.kept_shares[0] if kept_share is None else kept_share
    anonymizer = gallery.load_learned(params, model)
    shown = gallery.decisions(anonymizer, clips.pixels, share)
    (releaser,), _ = gallery.presentable(params, gallery.releasers(params, model, ["stprivacy"], [share]), clips)
    released = releaser.show(clips.pixels)
    click.echo(f"{sheets.draw_scores(clips, shown, released, out, anonymizer.tubelet, not no_raw)}: {len(clips.keys)} clips")


def _check(out: Path, suffix: str) -> None:
    if out.suffix.lower() != suffix:
        raise UserError(f"{out}: this command writes {suffix} files; call it {out.with_suffix(suffix)}")


def _params(no_raw: bool, params_file: Path) -> "Params":
    """Raises UserError where raw frames are asked for that may not be shown, before anything is drawn."""
    from stprivacy.config import load_params
    from stprivacy.evaluation.raw_frames import refuse_raw

    params = load_params(params_file)
    if not no_raw:
        refuse_raw(params, "leave them out with --no-raw")
    return params


def _gathered(
    num_clips: int, keys: tuple[str, ...], model: Path, no_raw: bool, params_file: Path,
    methods: tuple[str, ...], kept_shares: tuple[float, ...],
) -> "tuple[LabelledClips, list[Release]]":  # fmt: skip
    """Clips, and what each method makes of them."""
    params = _params(no_raw, params_file)
    from stprivacy.evaluation.gallery import RAW, methods_of, pick_clips, presentable, releasers  # torch

    bad = next((share for share in kept_shares if not 0 < share <= 1), None)
    if bad is not None:
        raise UserError(f"--kept-share {bad:g}: it must lie above 0 and at most at 1, which drops nothing")
    named = [name for name in methods if name != RAW] or methods_of(params)
    found = releasers(params, model, named if no_raw else [RAW, *named], kept_shares or params.evaluate.kept_shares)
    clips = pick_clips(params, Path("data/shards") / params.dataset.name, keys, num_clips, methods=named)
    shown, left_out = presentable(params, found, clips)
    if left_out:
        click.echo(f"note: left out, since they can hold raw frames: {', '.join(left_out)}", err=True)
    return clips, [one.show(clips.pixels, clips.boxes) for one in shown]
