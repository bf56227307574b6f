"""docs/results.md, written by the program: what was measured, with command and commit, the paper's figures, and what was not run.

A finished run is kept as one file, `docs/results/<experiment>.json`: its tables and where they come from. The page is made of those
files alone, so that it can be made again at any time and no figure in it is typed.
"""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.data.annotations_vp import LABELS, TEST, TRAIN, read_digits
from stprivacy.errors import UserError
from stprivacy.evaluation.floors import floors
from stprivacy.evaluation.metrics import Labels
from stprivacy.evaluation.report import FLOORS, markdown

PUBLISHED = Path(__file__).with_name("published.json")
WITHOUT_RESULTS = {"vp-synth-tiny", "folder"}
"""Ready-made experiments whose figures mean nothing, or that are nobody's data set."""
HEAD = """# Results

Written by `stprivacy results` from the files in [results/](results/), each of them kept by `stprivacy results --keep` after a run.
Figures are of the test split, by fresh attackers; what they mean is in [evaluation.md](evaluation.md).
"""

ABLATIONS = """`stprivacy ablate --grid params/ablations/{grid}.yaml` at the same commit: a training a row and seed, fresh attackers at each
kept share. ± is half of largest less smallest over seeds of training; *to the first*: the difference of cMAP to the first row."""


def keep(results: Path, folder: Path, name: str, command: str, note: str = "") -> Path:
    """Keep the tables of `results` as `folder`/`name`.json, with command, commit and date; gives the file.

    Raises UserError when nothing has been judged.
    """
    found = json.loads((results / "evaluate/raw/metrics.json").read_text()) if (results / "evaluate/raw/metrics.json").exists() else {}
    record: dict[str, Any] = {"experiment": name, "command": command, "commit": _commit(), "note": note}
    record |= {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "table": markdown(results).splitlines()}
    record |= {"dataset": found["dataset"], "num_test_clips": found["num_test_clips"], "attacker_seeds": found["num_attacker_seeds"]}
    record["ablations"] = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(results.glob("ablations/*.md"))}
    front = results / "pareto/metrics.json"
    if front.exists():
        record["choice"] = json.loads(front.read_text())["choice_explained"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def page(folder: Path, experiments: dict[str, str]) -> str:
    """The Markdown page of what `folder` keeps. `experiments`: the ready-made ones and what each is, to name those not run."""
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    beside = {record["dataset"] for record in records}
    parts = [HEAD, *(_section(record, published) for record in records), _paper(published, beside), _label_floors()]
    return "\n".join([*parts, _not_run(records, experiments)])


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("experiment", "dataset", "command", "commit", "date", "table"):
            record[key]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: not a kept result ({error}); remove it, or keep it anew with `stprivacy results --keep`") from None
    return record


def _section(record: dict[str, Any], published: dict[str, Any]) -> str:
    seeds = record["attacker_seeds"]
    about = f"{record['num_test_clips']} test clips, {seeds} {'seed' if seeds == 1 else 'seeds'} of attackers"
    lines = [f"## {record['experiment']}", "", f"`{record['command']}`, commit {record['commit']}, {record['date']}; {about}.", ""]
    lines += [record["note"], ""] if record.get("note") else []
    lines += [*record["table"], ""]
    lines += [f"The policy: {record['choice']}", ""] if record.get("choice") else []
    for grid, table in record.get("ablations", {}).items():
        lines += [f"### Ablations of {record['experiment']}: {grid}", "", ABLATIONS.format(grid=grid), "", *table, ""]
    if record["dataset"] in published["data_sets"]:
        beside = published["data_sets"][record["dataset"]]
        lines += [f"Beside it, the paper's ({beside['title']}):", "", *_published_table(beside), ""]
    return "\n".join(lines)


def _paper(published: dict[str, Any], shown: set[str]) -> str:
    """The paper's tables, but for those that stand beside a result already."""
    lines = ["## The paper's figures", "", f"Published in {published['source']}; none of them was measured here.", ""]
    for name, table in ((name, table) for name, table in published["data_sets"].items() if name not in shown):
        lines += [f"**{name}** ({table['title']})", "", *_published_table(table), ""]
    return "\n".join(lines)


def _published_table(table: dict[str, Any]) -> list[str]:
    head = ["| method | " + " | ".join(table["columns"]) + " |", "| --- |" + " ---: |" * len(table["columns"])]
    return head + [f"| {method} | " + " | ".join(figures) + " |" for method, figures in table["rows"].items()]


def _label_floors() -> str:
    """What needs no picture, from the labels that are shipped: official split 1, all labelled videos."""
    about = "Floors from the labels in this repository, official split 1, all labelled videos: F1 / cMAP."
    lines = ["## What needs no picture", "", about, ""]
    found = {name: floors(*_official_split(name)) for name in ("hmdb51", "ucf101")}
    lines += ["| floor | VP-HMDB51 | VP-UCF101 |", "| --- | ---: | ---: |"]
    for floor, title in FLOORS.items():
        cells = (f"{of[floor].f1:.3f} / {of[floor].cmap:.2%}" for of in found.values())
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _official_split(name: str) -> tuple[Labels, Labels]:
    """(train, test) labels of a VP data set."""
    labels, splits = read_digits(LABELS / f"vp-{name}.txt", 5), read_digits(LABELS / f"{name}-splits.txt", 3)
    number = {action: place for place, action in enumerate(sorted({video.split("/")[0] for video in labels}))}
    of = [[video for video in labels if splits[video][0] == digit] for digit in (TRAIN, TEST)]
    train, test = (
        Labels(np.array([number[video.split("/")[0]] for video in videos]), np.array([labels[video] for video in videos])) for videos in of
    )
    return train, test


def _not_run(records: list[dict[str, Any]], experiments: dict[str, str]) -> str:
    kept = {record["experiment"] for record in records}
    missing = {name: what for name, what in experiments.items() if name not in kept | WITHOUT_RESULTS}
    if not missing:
        return ""
    lines = ["## Not run", "", "Ready-made experiments without a result here. They are valid; nothing is claimed about their figures.", ""]
    return "\n".join([*lines, *(f"- `{name}`: {what}" for name, what in missing.items()), ""])


def _commit() -> str:
    """Short hash of the commit, and whether files that git knows differ from it (DVC's lock, which a run writes, apart)."""
    git = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()  # noqa: E731
    commit = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!params.yaml")
    return f"{commit}{' with changes' if changed else ''}" if commit else "unknown"
