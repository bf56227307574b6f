"""README, CONTRIBUTING and docs/: commands that they show can be run, files that they name are there, keys exist."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from stprivacy.config import Params

pytestmark = pytest.mark.timeout(300)  # for imports of MLflow and DVC, on a busy machine
ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = {"cd", "cp", "eval", "export", "git", "ln", "mkdir", "pip", "source"}
"""Commands that need no test but for the files that they name."""
MADE_BY_RUNNING = ("results/", "models/", "data/", ".cache/", ".venv", "mlflow.db", "mlartifacts", "dvc.lock")
"""What a fresh clone doesn't have yet."""


def blocks(page: Path) -> Iterator[str]:
    """The fenced `sh` blocks of a page, also those within a list."""
    for match in re.finditer(r"^( *)```sh\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        indent, text = match.groups()
        yield "\n".join(line.removeprefix(indent) for line in text.splitlines())


def commands(block: str) -> Iterator[list[str]]:
    """Simple commands of a block as words: comments dropped, `&&`, `;` and `|` divide, variables set in front are left out."""
    text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((place for place, word in enumerate(words) if word in ("&&", "||", ";", "|")), len(words))
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command = command[1:]
            if command:
                yield command


def shown() -> list:
    """Every command that some page shows, once."""
    found = {(page.name, shlex.join(command)): command for page in PAGES for block in blocks(page) for command in commands(block)}
    return [pytest.param(command, id=f"{page}: {text}") for (page, text), command in found.items()]


def stages() -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]


# ---------------------------------------------------------------------------------------------------- commands


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets


def check_click(command: click.Command, words: list[str], name: str) -> None:
    """The words are a subcommand with its arguments and options; and it answers --help."""
    context = click.Context(command, info_name=name)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(context, words[0])
        assert inner is not None, f"{name} {words[0]}: no such command"
        command, words = inner, words[1:]
    for asked in (words, ["--help"]):
        with contextlib.suppress(click.exceptions.Exit), contextlib.redirect_stdout(io.StringIO()):  # --help exits
            command.make_context(name, list(asked))


def check_stprivacy(words: list[str]) -> None:
    from stprivacy.cli import cli

    check_click(cli, words, "stprivacy")
    if words[:2] == ["params", "use"]:
        known = {path.stem for path in (ROOT / "params").glob("*.yaml")}
        assert words[2] in known | {"mine"}  # what the reader has just made by cp


def check_mlflow(words: list[str]) -> None:
    import mlflow.cli

    check_click(mlflow.cli.cli, words, "mlflow")


def check_dvc(words: list[str]) -> None:
    """DVC's own parser takes them, and the stages and keys that they name exist."""
    from dvc.cli.parser import get_main_parser

    arguments = vars(get_main_parser().parse_args(words))
    assert {target.partition("@")[0] for target in arguments.get("targets") or ()} <= stages().keys()
    for change in arguments.get("set_param") or ():
        assert key_exists(change.partition("=")[0]), change


def check_python(words: list[str]) -> None:
    if words[0] == "-":
        return  # a program in the block: it is run by a test of its own
    assert words[0] == "-m", words
    ended = subprocess.run(
        [sys.executable, "-m", words[1], "--help"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=250,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for option in (word for word in words[2:] if word.startswith("--")):
        assert option.partition("=")[0] in ended.stdout


CHECKS = {"make": check_make, "stprivacy": check_stprivacy, "mlflow": check_mlflow, "dvc": check_dvc, "python": check_python}


@pytest.mark.parametrize("command", shown())
def test_a_command_that_is_shown_can_be_run(command):
    name, *words = command
    if name in CHECKS:
        CHECKS[name](words)
    else:
        assert name in SHELL or shutil.which(name), f"{name}: unknown; teach this test how to check it"


def test_the_readme_shows_the_two_commands_that_are_enough():
    readme = [shlex.join(command) for block in blocks(PAGES[0]) for command in commands(block)]
    assert {"make repro", "make test"} <= set(readme)


@pytest.mark.parametrize("stage", sorted({stage["cmd"].split()[2] for stage in stages().values()}))
def test_every_stage_answers_help(stage):
    check_python(["-m", stage])


PROGRAMS = [
    pytest.param(match[1], id=page.name)
    for page in PAGES for block in blocks(page) for match in re.finditer(r"python - <<'END'\n(.*?)^END$", block, re.MULTILINE | re.DOTALL)
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_is_shown_runs(program):
    ended = subprocess.run(
        [sys.executable, "-"], input=program, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=250,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


# ---------------------------------------------------------------------------------------------------- files and keys


def key_exists(key: str) -> bool:
    """Is there a key `section.name…` in params.yaml?"""
    section: object = YAML(typ="safe", pure=True).load((ROOT / "params" / "vp-synth.yaml").read_text())
    names = {field.alias or name: field for name, field in Params.model_fields.items()}
    first, *rest = key.split(".")
    if first not in names:
        return False
    section = section.get(first, names[first].get_default(call_default_factory=True))  # type: ignore[attr-defined]
    for part in rest:
        if not isinstance(section, dict):
            section = section.model_dump() if hasattr(section, "model_dump") else {}
        if part not in section and not (first == "dataset" and part in dataset_keys()):
            return False
        section = section.get(part)
    return True


def dataset_keys() -> set[str]:
    from stprivacy import config

    kinds = (
        config.SyntheticDataset, config.VPDataset, config.PADataset, config.WeizmannDataset, config.CelebVDataset, config.PHVUDataset,
        config.FolderDataset,
    )  # fmt: skip
    return {name for kind in kinds for name in kind.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_this_repository_that_are_named_are_there(page):
    """Paths in `code`; those with a placeholder and those that a run makes are left out."""
    tops = {path.name for path in ROOT.iterdir()}
    for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        for word in code.split():
            path = word.rstrip(".,:;")
            if re.search(r"[<>*$…{]", path) or path.startswith(MADE_BY_RUNNING) or path == "params/mine.yaml":
                continue
            if path.partition("/")[0] in tops and "/" in path:
                assert (ROOT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_of_params_that_are_named_exist(page):
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    for key in re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)`", page.read_text(encoding="utf-8")):
        if key.partition(".")[0] in sections and not re.search(r"\.(py|yaml|csv|json|jsonl|db|lock|md|txt)$", key):
            assert key_exists(key), f"{page.name}: {key}"
