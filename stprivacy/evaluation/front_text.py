"""What is said about a front in words: how it was measured, what that does not prove, and a summary for MLflow's notes."""

import json
import math
from typing import Any, get_args

from stprivacy.action_task import ONE_ACTION
from stprivacy.config.evaluation import ExtraAttack
from stprivacy.evaluation.floor_titles import FLOOR_TITLES
from stprivacy.evaluation.pareto import Configuration, Front

NOTE_ROWS = 20
"""MLflow takes 5,000 characters as the description of an experiment."""


def metrics_of(c: Configuration) -> dict[str, Any]:
    """The metrics.json beside a configuration's typical point."""
    found: dict[str, Any] = json.loads((c.typical.folder / "metrics.json").read_text())
    return found


def precisions_of(c: Configuration) -> dict[str, float | None] | None:
    """AP by attribute; None where metrics.json speaks of another kept share of the same model."""
    metrics, share = metrics_of(c), c.settings["kept_share"]
    other = share is not None and not math.isclose(metrics["kept_share"] or 0.0, share)
    return None if other else metrics["privacy"]["ap"]


def measured(front: Front) -> str:
    """How the figures came about, in plain words; every number is read from the results."""
    raw, floors = front.raw_metrics, front.raw_metrics["floors"]
    names = dict.fromkeys(name for c in front.configurations for name in metrics_of(c)["attackers"] if name != "action")
    beside = [name for name in names if name.removeprefix("privacy-").startswith(get_args(ExtraAttack))]
    fresh = [name for name in names if name not in beside]
    others = f" Beside them: {', '.join(beside)}." if beside else ""
    return (
        f"Every point is one way to release the videos of {front.dataset}. It released all clips, and attackers that it had never met "
        f"({', '.join(fresh)}) were then trained on the released training clips, {_times(raw['num_attacker_seeds'], 'seed')} each.{others} "
        f"The one that does best on the validation clips counts. A recognizer trained afresh on the same releases gives the action. "
        f"Front, knee and choice read validation figures; what is shown is read once from {raw['num_test_clips']} test clips. With no "
        f"picture at all an attacker has cMAP {floors['chance']['cmap']:.3f} (chance) or {floors['action_only']['cmap']:.3f} (from the "
        f"action label alone); from raw video {raw['privacy']['cmap']:.3f}."
    )


def not_proved(front: Front, rendered: bool) -> str:
    """What the figures do not say. `rendered`: nobody real is in the videos."""
    fits = [fit["fitted"] for c in front.configurations for name, fit in metrics_of(c)["attackers"].items() if name != "action"]
    unfitted, bound = fits.count(False), ""
    if unfitted:
        bound = f" {unfitted} of the {len(fits)} privacy attackers here had not fitted their clips: their figures are lower bounds."
    shown = front.choice or max((c for c in front.configurations if c.learned), key=lambda c: c.val_action)
    attributes = ", ".join(front.raw_metrics["privacy"]["ap"]).replace("_", " ")
    people = " The people in these videos are rendered: real footage has to be judged on its own." if rendered else ""
    return (
        "A low cMAP says that these attackers found little, not that there is nothing to find: another network, more clips or longer "
        f"training may find more.{bound} Only {attributes} were looked for. {_seeds(front)} "
        f"{_luck(front, shown)}{people}"
    )


def _luck(front: Front, c: Configuration) -> str:
    """How far the test clips leave the action figure open; of a mean of average precisions the interval that was drawn for it."""
    clips = front.raw_metrics["num_test_clips"]
    if front.task is ONE_ACTION:
        luck = 2 * math.sqrt(c.action * (1 - c.action) / clips)
        return f"{clips} test clips leave an action top-1 of {c.action:.3f} uncertain by ± {luck:.3f} (two standard errors)."
    return f"{clips} test clips are a sample: each point's metrics.json has the interval of its action {front.task.title}."


def _seeds(front: Front) -> str:
    if front.seeds == 1:
        return (
            "At least one learned configuration stands on a single seed: how far another seed would move it is not known, "
            "and a small difference between neighbours may be luck."
        )
    return (
        f"Every learned configuration has at least {front.seeds} seeds; bars reach from the smallest to the largest, "
        "which is no confidence interval."
    )


def _times(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def note(front: Front, metrics: dict[str, Any]) -> str:
    """Markdown for the tracking server: the choice, a table of the front, and what it does not prove."""
    sizes = f"Front of {metrics['front_size']} among {_times(metrics['num_configurations'], 'configuration')}"
    volumes = f"hypervolume {metrics['hypervolume']:.4f}, without the learned ones {metrics['hypervolume_without_learned']:.4f}"
    lines = [
        f"**Policy:** {front.explain_choice()}.",
        "",
        f"{sizes}; {volumes}. Test figures:",
        "",
        f"| on the front | action {front.task.title} ↑ | cMAP ↓ | F1 ↓ | leak removed ↑ | bits ↓ | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    shown, left_out = _most_telling(front)
    for c in shown:
        cells = [figure(c.mean[name]) for name in (front.task.figure, "privacy_cmap", "privacy_f1", "leak_removed", "bits")]
        lines.append(f"| {' | '.join([c.name, *cells, ', '.join(marks_of(c, front)[1:])])} |")
    for name, title in FLOOR_TITLES.items():
        floor = front.raw_metrics["floors"][name]
        lines.append(f"| _floor: {title}_ | {floor[front.task.figure]:.3f} | {floor['cmap']:.3f} | {floor['f1']:.3f} | | | |")
    if left_out:
        lines += ["", f"{_times(left_out, 'more point')} of the front left out here."]
    lines += ["", "The interactive page is the artifact `report.html`, the picture `front.png`."]
    return "\n".join(lines) + "\n"


def _most_telling(front: Front) -> tuple[list[Configuration], int]:
    """What of the front a note has room for, evenly over it, with knee and choice; and how many are left out."""
    step = -(-len(front.on_front) // NOTE_ROWS)
    shown = [c for place, c in enumerate(front.on_front) if place % step == 0 or c is front.knee or c is front.choice]
    return shown, len(front.on_front) - len(shown)


def figure(value: float, digits: int = 3) -> str:
    """A figure, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def marks_of(c: Configuration, front: Front) -> list[str]:
    """What a configuration is: on the `front`, the `knee`, the `choice`."""
    return [mark for mark, true in (("front", c in front.on_front), ("knee", c is front.knee), ("choice", c is front.choice)) if true]
