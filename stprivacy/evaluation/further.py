"""The tables that a kept result has beside the main one: how sure the figures are, every attacker, who it is, and clips painted back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy.action_task import task_of
from stprivacy.evaluation.predictions import NAME, SavedPoint, load_predictions
from stprivacy.evaluation.statistics import LEVEL, RESAMPLES, interval, macro, resampled_aps, resamples
from stprivacy.evaluation.uncertainty import resampled_action

Metrics = dict[str, dict[str, Any]]
"""metrics.json of each method, raw's first."""

INTERVALS = f"""{LEVEL:.0%} intervals over {RESAMPLES:,} resamples of the test clips, clips of a group together{{seeds}}; other trainings
and attackers are no part of them. *Strongest*: the privacy attacker that was best on val. *Leak beyond the action*: cMAP of the strongest
attacker who is told the action, too, less that of the action label alone; it and leak removed have intervals at the kept share alone
that the model was trained for."""
ATTACKERS = "cMAP of every privacy attacker on test; in bold the one that was best on val, which counts. {only}"
IDENTITY = """Who is it? *Identity top-1*: the strongest privacy attacker names the person. *Re-identification*: the person's raw training
clips are found by likeness. Rank-1 is the one to read: raw clips of one person lie close together, so that a guess puts all of somebody's
first, and mAP can be above the random order's where nobody is recognized. {only}"""
INVERSION = """Raw clips painted back from releases (inversion): likeness to raw clips beside that of the release as it is and of the mean
training clip, and what recognizers trained on raw clips read in what was painted. {only}"""
ONLY = "At the kept share that the model was trained for{seed}."


def further(results: Path, metrics: Metrics) -> str:
    """The tables as Markdown. Raises UserError for a method whose answers (predictions.npz) are missing."""
    seeds = metrics["raw"]["num_attacker_seeds"]
    only = ONLY.format(seed=f", the first of {seeds} seeds of attackers alone" if seeds > 1 else "")
    of_seeds = f", figures being means over {seeds} seeds of attackers" if seeds > 1 else ""
    parts = [
        _part(INTERVALS.format(seeds=of_seeds), *_intervals(results, metrics)),
        _part(ATTACKERS.format(only=only), *_attackers(metrics)),
        _part(IDENTITY.format(only=only), *_identity(metrics)),
        _part(INVERSION.format(only=only), *_inversion(metrics)),
    ]
    return "\n".join(part for part in parts if part)


def _part(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table below its caption; nothing where it has no rows."""
    if not rows:
        return ""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join([caption, "", *("| " + " | ".join(line) + " |" for line in lines), ""])


def _intervals(results: Path, metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    rows = []
    for method, found in metrics.items():
        kept = load_predictions(results / "evaluate" / method / NAME)
        times = resamples(kept.groups)
        for share in sorted({point.kept_share for point in kept.points}, key=lambda share: -(share or 0)):
            points = kept.at(share)
            action = interval(resampled_action([point.action for point in points], kept.labels, times))
            aps = np.mean([resampled_aps(point.privacy, kept.labels.present, times) for point in points], axis=0)
            main = share == kept.main_share
            removed = _span(found["intervals"]["leak_removed"], 2) if main else ""
            beyond = f"{found['leak_beyond_action']['cmap']:.3f}: {_span(found['intervals']['leak_beyond_action'])}" if main else ""
            rows.append([method, _share(share), _strongest(points), _span(action), _span(interval(macro(aps))), removed, beyond])
    action_title = f"action {task_of(metrics['raw']['action']).title}"
    return ["method", "kept share", "strongest", action_title, "cMAP", "leak removed", "leak beyond the action"], rows


def _strongest(points: Iterable[SavedPoint]) -> str:
    """The attackers that counted, one a seed: the most frequent first."""
    names = Counter(_short(point.strongest) for point in points)
    return ", ".join(name if sum(names.values()) == 1 else f"{name} {count}×" for name, count in names.most_common())


def _attackers(metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    """A row an attacker, a column a method."""
    names = dict.fromkeys(name for found in metrics.values() for name, about in found["attackers"].items() if "cmap" in about)
    rows = []
    for name in names:
        cells = [_number(found["attackers"].get(name, {}).get("cmap")) for found in metrics.values()]
        strong = [found["strongest_attacker"] == name for found in metrics.values()]
        rows.append([_short(name), *(f"**{cell}**" if bold else cell for cell, bold in zip(cells, strong, strict=True))])
    columns = [method if found["kept_share"] is None else f"{method} at {found['kept_share']:g}" for method, found in metrics.items()]
    return ["attacker", *columns], rows


def _identity(metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    rows, floor = [], None
    for method, found in metrics.items():
        named = found["attackers"][found["strongest_attacker"]].get("identity_top1")
        again = found.get("reidentification", {})
        if named is not None or again:
            rows.append([method, _share(found["kept_share"]), _number(named), _number(again.get("rank1")), _number(again.get("map"))])
        floor = floor or again
    if floor:
        rows.append(["_floor: random order_", "", "", *(f"_{floor[name]:.3f}_" for name in ("chance_rank1", "chance_map"))])
    return ["method", "kept share", "identity top-1 ↓", "re-identification rank-1 ↓", "re-identification mAP ↓"], rows


def _inversion(metrics: Metrics) -> tuple[list[str], list[list[str]]]:
    rows = []
    for method, found in metrics.items():
        if not (painted := found.get("inversion")):
            continue
        compared = [painted, painted["floors"]["released"], painted["floors"]["constant"]]
        likeness = [" / ".join(f"{one[name]:.{digits}f}" for one in compared) for name, digits in (("psnr", 1), ("ssim", 3))]
        read = [_short(painted.get("attacker", "")), _number(painted.get("cmap")), _number(painted.get("identity_top1"))]
        action = _number(painted.get(task_of(found["action"]).figure))
        rows.append([method, _share(found["kept_share"]), *likeness, *read, action])
    titles = [f"{name}: painted / release / mean clip" for name in ("PSNR in dB", "SSIM")]
    title = task_of(metrics["raw"]["action"]).title
    return ["method", "kept share", *titles, "read by", "cMAP ↓", "identity top-1 ↓", f"action {title}"], rows


def _short(attacker: str) -> str:
    return attacker.removeprefix("privacy-")


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _span(found: Sequence[float] | None, digits: int = 3) -> str:
    """Both ends of an interval; nothing where there is none."""
    return "" if found is None else " to ".join(f"{round(end, digits) + 0.0:.{digits}f}" for end in found)  # + 0: no −0.00
