"""`stprivacy anonymize`, `promote` and `registry`: the registered anonymizer, used and chosen. Imports wait until a command runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stprivacy.action_task import task_of
from stprivacy.commands.seed import refused_seed
from stprivacy.errors import RunError, UserError
from stprivacy.files import same_file

if TYPE_CHECKING:
    from stprivacy.release.model import ReleaseModel
    from stprivacy.release.video import Report, Settings


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--model", "named", metavar="MODEL", help="A model's folder, models:/NAME@ALIAS or models:/NAME/VERSION. "
              "Default: the registry's champion, else its candidate, else models/anonymizer here.")  # fmt: skip
@click.option("--keep-ratio", type=float, metavar="R", help="Share that a sparsification keeps, in (0, 1]. Default: the model's own.")
@click.option("--kept-share", type=float, metavar="S", help="The same as the share that is left in the end, r^M.")
@click.option("--bits", type=click.FloatRange(min=0, min_open=True), metavar="B", help="Of a bounded release: what a clip can say at "
              "most, on average. Fewer than the model's own by more noise, without training again.")  # fmt: skip
@refused_seed
@click.option("--crf", type=click.IntRange(0, 51), default=23, show_default=True, help="Quality of the video codec; smaller is better.")
@click.option("--height", type=click.IntRange(min=2, max=4320), help="Enlarge the output to this height, by nearest neighbour.")
@click.option("--force", is_flag=True, help="Overwrite what OUT holds.")
def anonymize(
    source: Path, target: Path, named: str | None, keep_ratio: float | None, kept_share: float | None,
    bits: float | None, crf: int, height: int | None, force: bool,
) -> None:  # fmt: skip
    """Release the video IN, or every video of the folder IN, as OUT.

    Frames are taken at the model's frame step, resized to its size, and anonymized in square tiles that cover all of the frame; nothing
    else of IN passes. Sound is left out, since voices tell who speaks. A folder can be broken off and started again: what is done stays.

    \b
    stprivacy anonymize in.mp4 out.mp4
    stprivacy anonymize in.mov out.webm --bits 8 --height 480
    stprivacy anonymize recordings/ released/ --model models:/stprivacy-anonymizer@champion
    """
    from stprivacy.release.clips import checked_keep_ratio, keep_ratio_of, more_noise
    from stprivacy.release.model import find_model, foreign_data
    from stprivacy.release.video import Settings, format_of, opened

    if keep_ratio is not None and kept_share is not None:
        raise UserError("--keep-ratio and --kept-share are two ways to say the same; give one")
    if keep_ratio is not None:
        checked_keep_ratio(keep_ratio)
    if not source.is_dir():
        _check_files(source, target, force)
        format_of(target)
        with opened(source):
            pass  # what is wrong with it is told before the model is fetched
    model = find_model(named)
    anonymizer = model.anonymizer
    if kept_share is not None:
        keep_ratio = keep_ratio_of(kept_share, anonymizer.num_sparsifications)
    ratio = anonymizer.keep_ratio if keep_ratio is None else keep_ratio
    share = ratio**anonymizer.num_sparsifications
    click.echo(f"model: {model.origin}, keep ratio {ratio:.4g} (kept share {share:.2f}), trained on {model.trained_on or '?'}", err=True)
    if named is None and (foreign := foreign_data(model)):
        click.echo(f"warning: {foreign}", err=True)
    if bits is not None:
        more_noise(anonymizer, bits)  # what is wrong with it is told before a file is opened
    settings = Settings(ratio, crf, height, bits)
    if source.is_dir():
        _folder(source, target, model, settings, force)
    else:
        _file(source, target, model, settings)


def _check_files(source: Path, target: Path, force: bool) -> None:
    """Raises UserError where OUT cannot be written without harm."""
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name a file in it, such as {target / (source.stem + '.mp4')}")
    if same_file(source, target):
        raise UserError(f"{target}: is the original itself; take another name")
    if target.exists() and not force:
        raise UserError(f"{target}: exists already; take another name, or --force overwrites it")
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such folder; make it first")


def _file(source: Path, target: Path, model: "ReleaseModel", settings: "Settings") -> None:
    from stprivacy.release.video import anonymize_video

    _tell(source, target, anonymize_video(source, target, model, settings))


def _folder(source: Path, target: Path, model: "ReleaseModel", settings: "Settings", force: bool) -> None:
    """Raises RunError when a video failed, after all others are done and every failure was told."""
    from stprivacy.release.folder import anonymize_folder

    outcome = anonymize_folder(source, target, model, settings, force, _tell)
    click.echo(f"{target}: {len(outcome.released)} released, {len(outcome.skipped)} were there already, {len(outcome.failed)} failed")
    for video, reason in outcome.failed.items():
        click.echo(f"failed: {video}: {reason}", err=True)
    if outcome.failed:
        total = len(outcome.failed) + len(outcome.released) + len(outcome.skipped)
        raise RunError(f"{len(outcome.failed)} of {total} videos, named above; mend or remove them and run again, the others are done")


def _tell(source: Path, target: Path, report: "Report") -> None:
    width, height = report.size
    tiles = "1 tile" if report.num_tiles == 1 else f"{report.num_tiles} tiles"
    left_out = f"; left out: {', '.join(report.left_out)}" if report.left_out else ""
    click.echo(
        f"{target}: {report.frames_out} of {report.frames_in} frames of {source}, {width} × {height} in {tiles}, "
        f"{float(report.rate):.4g} a second{left_out}"
    )
    if report.bits is not None:
        minutes = report.frames_out / float(report.rate) / 60
        click.echo(
            f"  all that it can say: {report.bits.mean():.1f} bits a clip (largest {report.bits.max():.1f}), {report.bits.sum():.0f} in "
            f"{len(report.bits)} clips, {report.bits.sum() / minutes:.0f} a minute; those of one person add up"
        )


# ------------------------------------------------------------------------------------------------ registry


@click.command()
@click.option("--to", type=click.Choice(["challenger", "champion"]), help="The alias to give. Default: whichever is next.")
@click.option("--force", is_flag=True, help="Promote although the comparison speaks against it; the reason is kept as a tag.")
@click.option("--name", help="Another registered model than that of params.yaml.")
def promote(to: str | None, force: bool, name: str | None) -> None:
    """Move a version up: candidate → challenger → champion.

    A version that is worse on the policy than the champion is refused (exit code 1): its val action figure misses the policy's bar, or,
    with the bar reached, its val cMAP is higher, in each case by more than the spread over seeds. Where a version was judged with one
    seed, a spread of 0.02 is assumed, and said.

    \b
    stprivacy promote                     candidate → challenger
    stprivacy promote                     challenger → champion
    stprivacy promote --to champion       the same, named
    """
    from stprivacy.release import promotion
    from stprivacy.release.model import registered_name

    for line in promotion.promote(name or registered_name(), to, force):
        click.echo(line)


@click.command()
@click.option("--name", help="Another registered model than that of params.yaml.")
def registry(name: str | None) -> None:
    """List the registered versions with aliases and figures.

    The figures are of the test split; val chose.
    """
    from rich.console import Console
    from rich.table import Table

    from stprivacy.release.model import registered_name
    from stprivacy.release.registry import connected, list_versions

    name = name or registered_name()
    with connected() as client:
        versions = list_versions(client, name)
    if not versions:
        raise UserError(f"{name}: no versions; `dvc repro register` makes them from the front")
    table = Table(title=f"models:/{name}")
    for heading in ("version", "alias", "keep ratio", "action ↑", "cMAP ↓", "leak removed ↑", "data set", "created"):
        table.add_column(heading, justify="left" if heading in ("alias", "data set", "created") else "right")
    for version in versions:
        figures = [_shown(version.tags.get(tag)) for tag in ("keep_ratio", task_of(version.tags).figure, "privacy_cmap", "leak_removed")]
        created = version.created.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(str(version.number), ", ".join(version.aliases), *figures, version.tags.get("dataset", ""), created)
    Console().print(table)


def _shown(tag: str | None) -> str:
    """A figure of a tag with three digits; nothing where the version has no such tag."""
    return "" if tag is None else f"{float(tag):.3f}"
