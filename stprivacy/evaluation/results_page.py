"""docs/results.md, written by the program: what was measured, with command and commit, the paper's figures, and what was not run.

A finished run is kept as one file, `docs/results/<experiment>.json`: its tables and where they come from. The page is made of those
files alone, so that it can be made again at any time and no figure in it is typed.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.data.annotations_vp import LABELS, TEST, TRAIN, read_digits
from stprivacy.errors import UserError
from stprivacy.evaluation.floor_titles import FLOOR_TITLES
from stprivacy.evaluation.floors import floors
from stprivacy.evaluation.further import further
from stprivacy.evaluation.metrics import Labels
from stprivacy.evaluation.provenance import ablations, changed_code, commit, judged, params_beside, policy
from stprivacy.evaluation.report import markdown, tell

PUBLISHED = Path(__file__).with_name("published.json")
WITHOUT_RESULTS = {"vp-synth-tiny", "folder"}
"""Ready-made experiments whose figures mean nothing, or that are nobody's data set."""
HEAD = """# Results

Written by `stprivacy results` from the files in [results/](results/), each of them kept by `stprivacy results --keep` after a run.
Figures are of the test split, by fresh attackers; what they mean is in [evaluation.md](evaluation.md). The commit of a result has the
code that its stages ran with; files that differed from that commit when it ran, by DVC's lock, are named.
"""

ABLATIONS = """`{command}`{at}: a training a row and seed, fresh attackers at each
kept share. ± is half of largest less smallest over seeds of training; *to the first*: the difference of cMAP to the first row."""


def keep(results: Path, folder: Path, name: str, command: str, note: str = "") -> Path:
    """Keep the tables of `results` as `folder`/`name`.json, with command, commit and date; gives the file.

    What is of another experiment than the params.yaml beside `results` is left out, and said on stderr. Raises UserError when nothing
    has been judged, or when DVC's lock says that params, data or results are others than the run's.
    """
    methods, _ = judged(results)
    params, raw = params_beside(results), methods["raw"]
    record: dict[str, Any] = {"experiment": name, "command": command, "commit": commit(results.parent), "note": note}
    record["changed_code"] = changed_code(results, methods)
    record |= {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "table": markdown(results).splitlines()}
    record["further"] = further(results, methods).splitlines()
    record |= {"dataset": raw["dataset"], "num_test_clips": raw["num_test_clips"], "attacker_seeds": raw["num_attacker_seeds"]}
    record["anonymizer_from"] = params.train.anonymizer_from if params else None
    record["ablations"], left_out = ablations(results)
    record["choice"], stale = policy(results, methods)
    tell([*left_out, *([stale] if stale else [])])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def page(folder: Path, experiments: dict[str, str], grids: Mapping[str, Sequence[str]]) -> str:
    """The Markdown page of what `folder` keeps. To name what was not run: `experiments`, the ready-made ones and what each is; `grids`, of
    ablations, and the rows of each."""
    records = [_read(path) for path in sorted(folder.glob("*.json"))]
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    beside = {_published_name(record, published) for record in records}
    parts = [HEAD, *(_section(record, published, grids) for record in records), _paper(published, beside), _label_floors()]
    return "\n".join([*parts, _not_run(records, experiments, grids)])


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("experiment", "dataset", "command", "commit", "date", "table"):
            record[key]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: not a kept result ({error}); remove it, or keep it anew with `stprivacy results --keep`") from None
    return record


def _section(record: dict[str, Any], published: dict[str, Any], grids: Mapping[str, Sequence[str]]) -> str:
    seeds = record["attacker_seeds"]
    about = f"{record['num_test_clips']} test clips, {seeds} {'seed' if seeds == 1 else 'seeds'} of attackers"
    lines = [f"## {record['experiment']}", ""]
    lines += [f"`{record['command']}`, commit {record['commit']}, {record['date']}; {about}.{_since(record)}", ""]
    lines += [record["note"], ""] if record.get("note") else []
    lines += [*record["table"], ""]
    lines += [f"The policy: {record['choice']}", ""] if record.get("choice") else []
    lines += [*record["further"], ""] if record.get("further") else []
    for grid, kept in record.get("ablations", {}).items():
        lines += [f"### Ablations of {record['experiment']}: {grid}", "", *_ablation(grid, kept, grids.get(grid, ())), ""]
    lines += ["None of the ablations in params/ablations/ was played with it.", ""] if grids and not record.get("ablations") else []
    if beside := published["data_sets"].get(_published_name(record, published)):
        lines += [f"Beside it, the paper's ({beside['title']}):", "", *_published_table(beside), ""]
    return "\n".join(lines)


def _since(record: dict[str, Any]) -> str:
    """What is known of the code that the figures were made with."""
    if record.get("changed_code") is None:
        return " The commit is that of the folder when it was kept; DVC's lock was not asked for the run's code."
    changed = ", ".join(record["changed_code"])
    return f" Code that was another when the stages ran: {changed}." if changed else ""


def _ablation(grid: str, kept: dict[str, Any] | list[str], rows: Sequence[str]) -> list[str]:
    """A table with its caption, and the rows of the grid that are not in it. An older record has nothing but the table."""
    command, at = f"stprivacy ablate --grid params/ablations/{grid}.yaml", ", at a commit that was not kept with it"
    table = kept if isinstance(kept, list) else kept["table"]
    if not isinstance(kept, list):
        command, at = kept["command"], f" at commit {', '.join(kept['commits'])}" if kept["commits"] else at
    played = {line.split("|")[1].strip() for line in table if line.startswith("| ")}
    missing = [f"`{row}`" for row in rows if row not in played]
    return [ABLATIONS.format(command=command, at=at), "", *table, *(["", f"Without a result: {', '.join(missing)}."] if missing else [])]


def _published_name(record: dict[str, Any], published: dict[str, Any]) -> str | None:
    """The paper's table that belongs beside a result: that of the experiment, or else of its data set; None where there is none.

    A result may be kept as `<experiment>-<what differs>`. Where the anonymizer was trained elsewhere, the data set's is another question.
    """
    name, tables = record["experiment"], published["data_sets"]
    named = [table for table in tables if name == table or name.startswith(f"{table}-")]
    if named:
        return str(max(named, key=len))
    return record["dataset"] if record["dataset"] in tables and not record.get("anonymizer_from") else None


def _paper(published: dict[str, Any], shown: set[str | None]) -> str:
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
    for floor, title in FLOOR_TITLES.items():
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


def _not_run(records: list[dict[str, Any]], experiments: dict[str, str], grids: Mapping[str, Sequence[str]]) -> str:
    kept = {record["experiment"] for record in records}
    lines = [f"- `{name}`: {what}" for name, what in experiments.items() if name not in kept | WITHOUT_RESULTS]
    played = {grid for record in records for grid in record.get("ablations", {})}
    for grid, rows in ((grid, rows) for grid, rows in grids.items() if grid not in played):
        lines.append(f"- `stprivacy ablate --grid params/ablations/{grid}.yaml`: {', '.join(f'`{row}`' for row in rows)}")
    if not lines:
        return ""
    about = "Ready-made experiments and ablations without a result here. They are valid; nothing is claimed about their figures."
    return "\n".join(["## Not run", "", about, "", *lines, ""])
