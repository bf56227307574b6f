"""`stprivacy study`: what do people still see in a release? Imports wait until a command runs."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stprivacy.commands.seed import refused_seed
from stprivacy.errors import UserError

if TYPE_CHECKING:
    from stprivacy.config import Params
    from stprivacy.evaluation.gallery import LabelledClips
    from stprivacy.study.scoring import Accuracy

MODEL = Path("models/anonymizer")
MOST_CLIPS = 1000
"""Test clips that questions are drawn from; of a larger test split, evenly over its actions."""


@click.group()
def study() -> None:
    """Ask people what they still see.

    Attackers are networks, and people see differently. `make` writes a page with two-alternative questions on released test clips: which
    action, which clip has the attribute, which person. Send the page to participants, keep the key file to yourself; each participant
    sends a file of answers back.

    \b
    stprivacy study make study.html                  study.html for participants, study.key.json for you
    stprivacy study score answers-*.csv              how often they were right, with intervals
    """


@study.command()
@click.argument("out", metavar="OUT.html", type=click.Path(path_type=Path))
@click.option("--each", type=click.IntRange(1, 50), default=2, show_default=True, help="Questions of each kind on each release.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="A method; may be repeated. Default: all that are judged.")
@click.option("--kept-share", "kept_shares", type=float, multiple=True, metavar="S",
              help="A kept share of learned methods; may be repeated. Default: evaluate.kept_shares.")  # fmt: skip
@refused_seed
@click.option("--title", default="A study of video clips", show_default=True, help="Stands above the page.")
@click.option("--wording", type=click.Path(path_type=Path), metavar="FILE", help="YAML of attribute: question, in place of ours.")
@click.option("--model", type=click.Path(path_type=Path), default=MODEL, show_default=True, help="Folder of the trained model.")
@click.option("--no-raw", is_flag=True, help="Ask about no raw clips, and compare persons by released ones.")
@click.option("--params", "params_file", type=click.Path(path_type=Path), default="params.yaml", show_default=True, help="The experiment.")
@click.option("--force", is_flag=True, help="Overwrite a study that is there: answers to the old page then fit no key.")
def make(
    out: Path, each: int, methods: tuple[str, ...], kept_shares: tuple[float, ...], title: str, wording: Path | None,
    model: Path, no_raw: bool, params_file: Path, force: bool,
) -> None:  # fmt: skip
    """Write the page OUT.html, which opens anywhere without a network, and beside it OUT.key.json with the right answers.

    Raw video is one of the releases, where it may be shown: it tells how well people do who see everything. The more questions,
    the narrower the intervals: with --each 2 and ten participants, a kind on a release has 20 answers, and a share of .5 is known
    to ± .2.

    \b
    stprivacy study make study.html
    stprivacy study make study.html --each 4 --method blur --method stprivacy --kept-share 0.4
    stprivacy study make study.html --wording questions.yaml --title "Ward cameras"
    """
    from stprivacy.config import load_params
    from stprivacy.evaluation.raw_frames import refuse_raw
    from stprivacy.study.page import key_path

    if out.suffix != ".html":
        raise UserError(f"{out}: the page is an .html file; call it {out.with_suffix('.html')}")
    for path in (out, key_path(out)):
        if path.exists() and not force:
            raise UserError(f"{path}: exists already; take another name, or --force overwrites page and key")
    params = load_params(params_file)
    if not no_raw:
        refuse_raw(params, "ask about released clips alone with --no-raw")
    shares = kept_shares or params.evaluate.kept_shares
    _make(out, params, model, methods, no_raw, shares, each, title, _own_wording(wording))


def _make(
    out: Path, params: "Params", model: Path, methods: Sequence[str], no_raw: bool, shares: Sequence[float], each: int,
    title: str, own: dict[str, str],
) -> None:  # fmt: skip
    """Draw the questions, release the clips that they show, write page and key, and say so."""
    from stprivacy.evaluation.gallery import RAW, methods_of, pick_clips, presentable, releasers
    from stprivacy.study.page import write_study
    from stprivacy.study.questions import Drawer, are_persons, wording_for

    named = [name for name in methods if name != RAW] or methods_of(params)
    found = releasers(params, model, named if no_raw else [RAW, *named], shares)
    shards = Path("data/shards") / params.dataset.name
    clips = pick_clips(params, shards, count=MOST_CLIPS, methods=named)
    shown, left_out = presentable(params, found, clips)
    if left_out:
        click.echo(f"note: left out, since they can hold raw frames: {', '.join(left_out)}", err=True)
    gallery = pick_clips(params, shards, count=MOST_CLIPS, split="train", methods=named) if are_persons(clips) else None
    words = wording_for(params.dataset.kind, clips.attribute_names, own)
    # The right answers are a secret: drawn from the system's entropy, and kept in the key file alone.
    drawer = Drawer(clips, len(shown), each, secrets.randbits(256), words, gallery, raw_gallery=not no_raw)
    questions = drawer.all()
    about = {"releases": [one.title for one in shown]}
    written = write_study(out, title, clips, gallery, shown, questions, about)
    for reason in drawer.left_out:
        click.echo(f"note: not asked: {reason}", err=True)
    if not written.lossless:
        click.echo("note: so many clips are compressed with loss; fewer questions (--each 1) or methods keep every pixel", err=True)
    _note_repeats(drawer.used, clips)
    megabytes = written.page.stat().st_size / 1e6
    click.echo(f"{written.page}: {written.num_questions} questions on {len(shown)} releases, {megabytes:.1f} MB; for participants")
    click.echo(f"{written.key}: the right answers; keep it to yourself, `stprivacy study score` needs it")


def _note_repeats(used: dict[int, int], clips: "LabelledClips") -> None:
    repeated = sum(times > 1 for times in used.values())
    if repeated:
        click.echo(
            f"note: {repeated} of {len(clips.keys)} test clips are shown more than once, so people may know them again; ask less", err=True
        )


def _own_wording(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        own = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a YAML file of attribute: question") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}; mend the line named") from None
    if not isinstance(own, dict) or not all(isinstance(word, str) for pair in own.items() for word in pair):
        raise UserError(f"{path}: expected lines such as `face: In which clip is a face to be seen?`")
    return dict(own)


@study.command()
@click.argument("sheets", metavar="CSV...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="The study's .key.json. Default: the one that fits, beside the files or here.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), metavar="FILE", help="Write the figures into this file, too.")
def score(sheets: tuple[Path, ...], key: Path | None, markdown: bool, as_json: Path | None) -> None:
    """Say how often participants were right, for every kind of question and every release, with Wilson's 95 % interval.

    Half of the answers are right by guessing. A file of another study, one that was changed, and one with questions left open are
    refused. The interval takes answers as independent; with few participants who answer many questions each it is too narrow.

    \b
    stprivacy study score answers-*.csv
    stprivacy study score answers-*.csv --key study.key.json --markdown
    """
    from stprivacy.study.scoring import accuracies, find_key, read_answers, read_key

    found = read_key(key or find_key(sheets))
    answers = read_answers(sheets, found)
    rows = accuracies(answers)
    participants = len({answer.participant for answer in answers})
    if as_json:
        plain = [asdict(row) | {"share": row.share} for row in rows]
        about = {"study": found["study"], "dataset": found["dataset"], "participants": participants, "answers": len(answers)}
        as_json.write_text(json.dumps(about | {"accuracies": plain}, indent=2) + "\n", encoding="utf-8")
    _show(rows, f"{found['dataset']}, study {found['study']}: {participants} participants, {len(answers)} answers", markdown)


HEADINGS = ("question", "release", "right", "share", "95 % interval", "")


def _show(rows: "Sequence[Accuracy]", title: str, markdown: bool) -> None:
    def cells(row: "Accuracy") -> tuple[str, ...]:
        interval = f"{row.low:.2f} to {row.high:.2f}"
        return row.kind.replace("_", " "), row.release, f"{row.right} of {row.asked}", f"{row.share:.2f}", interval, row.verdict

    if markdown:
        click.echo(f"{title}\n")
        click.echo(f"| {' | '.join(HEADINGS)} |\n| --- | --- | ---: | ---: | ---: | --- |")
        for row in rows:
            click.echo(f"| {' | '.join(cells(row))} |")
        return
    from rich.console import Console
    from rich.table import Table

    table: Any = Table(title=title)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in ("right", "share") else "left")
    before = ""
    for row in rows:
        if before and row.kind != before:
            table.add_section()
        table.add_row(*("" if row.kind == before and place == 0 else cell for place, cell in enumerate(cells(row))))
        before = row.kind
    Console().print(table)
