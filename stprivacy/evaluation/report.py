"""What stands in results/ as tables for people: in the terminal (`stprivacy show`) and as Markdown for README and docs."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from stprivacy.action_task import task_of
from stprivacy.evaluation.floor_titles import FLOOR_TITLES
from stprivacy.evaluation.provenance import judged


@dataclass(frozen=True)
class Row:
    """One line of the table: a method at a kept share, means over attackers' seeds. Figures are of the test split."""

    method: str
    kept_share: float | None
    action: float
    cmap: float
    f1: float
    leak_removed: float
    bits: float | None
    """A clip's rate; None where nothing bounds what a release says."""
    seeds: int
    spread: float
    """Largest − smallest cMAP over seeds."""


def collect(results: Path) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """The judged points of the experiment in place, raw first, and the metrics of each method. What is left out is said on stderr.

    Raises UserError when nothing was judged, or nothing of this experiment.
    """
    metrics, left_out = judged(results)
    tell(left_out)
    rows = [row for method in metrics for row in _rows(results / "evaluate" / method / "points.csv")]
    order = {"raw": 0, "stprivacy": 2}
    rows.sort(key=lambda row: (order.get(row.method, 1), row.method, -(row.kept_share or 0)))
    return rows, {row.method: metrics[row.method] for row in rows}


def tell(lines: Iterable[str]) -> None:
    """On stderr: a table may go into a file."""
    for line in lines:
        click.echo(line, err=True)


def _rows(path: Path) -> list[Row]:
    """The rows of one points.csv, seeds of a kept share put together."""
    with open(path, newline="") as file:
        points = list(csv.DictReader(file))
    rows = []
    for share in dict.fromkeys(point["kept_share"] for point in points):
        same = [point for point in points if point["kept_share"] == share]
        names = task_of(same[0]).named(("action_top1", "privacy_cmap", "privacy_f1", "leak_removed"))
        values = {name: [float(point[name] or "nan") for point in same] for name in names}
        mean = {name: sum(found) / len(found) for name, found in values.items()}
        spread = max(values["privacy_cmap"]) - min(values["privacy_cmap"])
        kept = float(share) if share else None
        action, cmap, f1, removed = (mean[name] for name in names)
        bits = float(same[0]["bits"]) if same[0].get("bits") else None
        rows.append(Row(same[0]["method"], kept, action, cmap, f1, removed, bits, len(same), spread))
    return rows


def _headings(raw: dict[str, Any]) -> tuple[str, ...]:
    return "method", "kept share", f"action {task_of(raw['action']).title} ↑", "cMAP ↓", "F1 ↓", "leak removed ↑", "bits ↓"


def _cells(row: Row) -> tuple[str, ...]:
    share = "" if row.kept_share is None else f"{row.kept_share:g}"
    cmap = f"{row.cmap:.3f}" + (f" ± {row.spread / 2:.3f}" if row.seeds > 1 else "")
    removed = "" if math.isnan(row.leak_removed) else f"{row.leak_removed:.2f}"
    return row.method, share, f"{row.action:.3f}", cmap, f"{row.f1:.3f}", removed, "" if row.bits is None else f"{row.bits:.1f}"


def _floor_cells(raw: dict[str, Any]) -> list[tuple[str, ...]]:
    floors = [(f"floor: {title}", raw["floors"][name]) for name, title in FLOOR_TITLES.items()]
    return [
        (title, "", f"{floor[task_of(floor).figure]:.3f}", f"{floor['cmap']:.3f}", f"{floor['f1']:.3f}", "", "") for title, floor in floors
    ]


def show(results: Path, console: Console | None = None) -> None:
    """Print the table. Raises UserError when there is nothing to show."""
    rows, metrics = collect(results)
    raw = metrics["raw"]
    table = Table(title=f"{raw['dataset']}: fresh attackers, test split ({raw['num_test_clips']} clips)", pad_edge=False)
    for heading in _headings(raw):
        if heading == "method":  # names whole; floors' titles may wrap
            table.add_column(heading, min_width=max(len(row.method) for row in rows))
        else:
            table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*_cells(row), style="bold" if row.method == "stprivacy" else None)
    table.add_section()
    for cells in _floor_cells(raw):
        table.add_row(*cells, style="dim")
    (console or Console()).print(table)


def markdown(results: Path) -> str:
    """The table as Markdown, with the AP of each attribute."""
    rows, metrics = collect(results)
    raw = metrics["raw"]
    attributes, headings = list(raw["privacy"]["ap"]), _headings(raw)
    lines = ["| " + " | ".join(headings) + " |", "| --- |" + " ---: |" * (len(headings) - 1)]
    for row in rows:
        cells = _cells(row)
        lines.append("| " + " | ".join(f"**{cell}**" if cell and row.method == "stprivacy" else cell for cell in cells) + " |")
    lines += ["| " + " | ".join(f"_{cell}_" if cell else "" for cell in cells) + " |" for cells in _floor_cells(raw)]
    lines += ["", f"AP of each attribute, strongest attacker{_of_seeds(raw)}:", ""]
    lines += ["| method | attacker | " + " | ".join(attributes) + " |", "| --- | --- |" + " ---: |" * len(attributes)]
    for method, found in metrics.items():
        values = [found["privacy"]["ap"][name] for name in attributes]
        precisions = " | ".join("" if value is None else f"{value:.2f}" for value in values)  # null: no test clip has the attribute
        lines.append(f"| {method} | {found['strongest_attacker']} | {precisions} |")
    return "\n".join([*lines, *_frame_lines(metrics)]) + "\n"


def _of_seeds(raw: dict[str, Any]) -> str:
    """What a name beside a mean over seeds means."""
    seeds = raw["num_attacker_seeds"]
    return f" (figures: mean over {seeds} seeds of attackers; the name is the first seed's)" if seeds > 1 else ""


def _frame_lines(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """The figures of single frames, where frames have labels."""
    frames = {name: found["frame_level"] for name, found in metrics.items() if found.get("frame_level")}
    if not frames:
        return []
    lines = ["", f"Single frames, strongest attacker{_of_seeds(metrics['raw'])}:", ""]
    lines += ["| method | attacker | cMAP ↓ | F1 ↓ | leak removed ↑ |", "| --- | --- | ---: | ---: | ---: |"]
    for name, figures in frames.items():
        removed = "" if figures["leak_removed"] is None else f"{figures['leak_removed']:.2f}"
        lines.append(f"| {name} | {figures['strongest_attacker']} | {figures['cmap']:.3f} | {figures['f1']:.3f} | {removed} |")
    floors = next(iter(frames.values()))["floors"]
    for name, floor in floors.items():
        lines.append(f"| _floor: {FLOOR_TITLES[name]}_ |  | _{floor['cmap']:.3f}_ | _{floor['f1']:.3f}_ |  |")
    return lines
