"""The front for people: one self-contained page that opens anywhere and without a network, and a picture.

The page's text, tables and clips are made here; page_template/ holds its markup, looks and behaviour. plotly.js is put in once.
"""

import base64
import json
import tempfile
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from stprivacy.data.video import write_mp4
from stprivacy.errors import UserError
from stprivacy.evaluation.floor_titles import FLOOR_TITLES
from stprivacy.evaluation.front_text import figure, marks_of, measured, metrics_of, not_proved, precisions_of
from stprivacy.evaluation.pareto import Configuration, Front, summary
from stprivacy.evaluation.raw_frames import shown_releases

CLIPS_EACH, CLIPS_TOGETHER = 4, 240
"""Clips of a point, and of all points together: beyond that every point shows fewer, at least one."""
LEAST_SIDE = 96
"""Clips are enlarged to so many pixels at least before they are encoded; the page shows them at twice that, without smoothing."""
FRAMES_PER_SECOND = 8
CRF = 12
"""Quality of the page's clips: noise that a release bears is still to be seen."""
HEADINGS = ("cMAP ↓", "F1 ↓", "leak removed ↑", "bits ↓", "val action", "val cMAP")
COLUMNS = ("action_top1", "privacy_cmap", "privacy_f1", "leak_removed", "bits", "val_action_top1", "val_privacy_cmap")


def write_page(front: Front, path: Path, show_raw: bool, rendered: bool) -> Path:
    """Write the page. `show_raw`: put raw clips into it (DESIGN §7), else releases without any; `rendered`: nobody real is in them.

    Raises UserError when a point's examples are missing.
    """
    from plotly.offline import get_plotlyjs

    videos: list[str] = []
    clips, floors = _clips(front, show_raw, videos), front.raw_metrics["floors"]
    data = {
        "points": [_point(index, c, front, clips[index]) for index, c in enumerate(front.configurations)],
        "front": [front.configurations.index(c) for c in front.on_front],
        "floors": {name: {"cmap": floor["cmap"], "action": floor[front.task.figure]} for name, floor in floors.items()},
        "action": {"test": front.task.figure, "val": front.task.val_figure, "title": f"action {front.task.title}"},
        "chance_ap": floors["chance"]["ap"],
        "videos": videos,
        "selected": front.configurations.index(front.choice or next(c for c in front.configurations if c.learned)),
    }
    template = files("stprivacy.evaluation") / "page_template"
    page = Template((template / "page.html").read_text(encoding="utf-8")).substitute(
        dataset=escape(front.dataset),
        policy=escape(front.explain_choice()),
        stats=_stats(front),
        points_table=_points_table(front),
        precisions_table=_precisions_table(front),
        measured=escape(measured(front)),
        not_proved=escape(not_proved(front, rendered)),
        no_raw="" if show_raw else NO_RAW,
        style=(template / "page.css").read_text(encoding="utf-8"),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
        script=(template / "page.js").read_text(encoding="utf-8"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


NO_RAW = (
    "<p class='quiet'>Raw clips of real people are left out of this page, and with them what filters and barely trained models make of "
    "them; <code>tracking.log_raw_clips: true</code> puts them in.</p>"
)


# ------------------------------------------------------------------------------------------------ clips


def _clips(front: Front, show_raw: bool, videos: list[str]) -> list[list[dict[str, int | None]]]:
    """For every configuration the numbers of its videos, pairs of raw and released, which are put into `videos` once each."""
    each = max(1, min(CLIPS_EACH, CLIPS_TOGETHER // len(front.configurations)))
    numbers: dict[bytes, int] = {}

    def number(clip: np.ndarray) -> int:
        key = clip.tobytes()
        if key not in numbers:
            numbers[key] = len(videos)
            videos.append(base64.b64encode(_mp4(clip)).decode())
        return numbers[key]

    shown: list[list[dict[str, int | None]]] = []
    for c in front.configurations:
        raw, released = _examples(c, each, show_raw)
        pairs = [{"raw": number(clip) if show_raw else None, "released": None} for clip in raw]
        for pair, clip in zip(pairs, released, strict=False):
            pair["released"] = number(clip)
        shown.append([pair for pair in pairs if pair != {"raw": None, "released": None}])
    return shown


def _examples(c: Configuration, count: int, show_raw: bool) -> tuple[np.ndarray, np.ndarray]:
    """Raw and released test clips of a configuration, uint8 (count, T, S, S, 3) each.

    Raw video itself has no released ones, and a release that can hold raw frames has none where those may not be shown.
    """
    path, method, share = c.typical.folder / "examples.npz", c.settings["method"], c.settings["kept_share"]
    if not path.exists():
        raise UserError(f"{path}: no such file; run the stage that made {c.typical.folder} again with `dvc repro -f`")
    with np.load(path) as examples:
        raw = examples["raw"][:count]
        if method == "raw":
            return raw, raw[:0]
        name = method if share is None else f"{method}, kept share {share:g}"
        if name not in examples:
            raise UserError(f"{path}: no clips of {name!r}, only of {', '.join(examples.files)}; run its stage again with `dvc repro -f`")
        return raw, shown_releases(examples, show_raw).get(name, raw[:0])[:count]


def _mp4(clip: np.ndarray) -> bytes:
    """uint8 (T, S, S, 3) as H.264, every pixel enlarged to a block: video keeps colour at half the size, and a block keeps its own."""
    factor = max(2, -(-LEAST_SIDE // clip.shape[1]))
    factor += factor % 2  # even: H.264 takes no odd sides
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, clip.repeat(factor, axis=1).repeat(factor, axis=2), FRAMES_PER_SECOND, CRF)
        return path.read_bytes()


# ------------------------------------------------------------------------------------------------ data and tables


def _point(index: int, c: Configuration, front: Front, clips: list[dict[str, int | None]]) -> dict[str, Any]:
    """What the page's script knows of a configuration. NaN becomes null."""
    figures = {
        name: [_number(value) for value in (c.mean[name], min(p.figures[name] for p in c.points), max(p.figures[name] for p in c.points))]
        for name in front.task.named(COLUMNS)
    }
    kind = "raw" if c.settings["method"] == "raw" else "learned" if c.learned else "baseline"
    return {
        "id": index, "name": c.name, "method": c.settings["method"], "kind": kind, "detail": detail_of(c, front),
        "seeds": sorted({point.seed for point in c.points}), "figures": figures, "marks": marks_of(c, front), "clips": clips,
        "ap": precisions_of(c), "attacker": metrics_of(c)["strongest_attacker"], "model_path": c.typical.model_path,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def detail_of(c: Configuration, front: Front) -> str:
    """What the method's name leaves open; without the weights that all learned configurations have in common."""
    others = [other.weights for other in front.configurations if other.learned]
    weights = [weight for place, weight in enumerate(c.weights) if len({found[place] for found in others}) > 1]
    share = c.settings["kept_share"]
    return ", ".join([*([] if share is None else [f"kept share {share:.3g}"]), *weights, *c.origin])


def _stats(front: Front) -> str:
    """The strip of headline figures, of the choice where there is one."""
    floors, raw, shown = front.raw_metrics["floors"], front.raw.mean, front.choice
    tiles = []
    if shown:
        tiles = [
            (f"Choice: action {front.task.title}", f"{shown.action:.3f}", f"raw video {front.raw.action:.3f}"),
            ("Choice: cMAP", f"{shown.mean['privacy_cmap']:.3f}", f"raw {raw['privacy_cmap']:.3f}, chance {floors['chance']['cmap']:.3f}"),
            ("Choice: leak removed", figure(shown.mean["leak_removed"], 2), "share of raw video's leak above chance"),
        ]
        if not np.isnan(shown.mean["bits"]):
            tiles.append(("Choice: bits a clip", figure(shown.mean["bits"], 1), "what anybody can learn from a release, on average"))
    about = summary(front, {})
    without = f"hypervolume {about['hypervolume']:.3f}; {about['hypervolume_without_learned']:.3f} without learned points"
    tiles.append(("Front", f"{about['front_size']} of {about['num_configurations']}", without))
    tiles.append(("Seeds", str(front.seeds), "the least of any learned configuration"))
    return "\n".join(
        f"<div class='tile'><dt>{escape(title)}</dt><dd><strong>{value}</strong><span>{escape(note)}</span></dd></div>"
        for title, value, note in tiles
    )


def _points_table(front: Front) -> str:
    """A row a configuration, which selects it by mouse or keyboard."""
    headings, columns = (f"action {front.task.title} ↑", *HEADINGS), front.task.named(COLUMNS)
    head = "".join(f"<th scope='col' class='number'>{heading}</th>" for heading in headings)
    rows = []
    for index, c in enumerate(front.configurations):
        badges = "".join(f" <span class='badge {mark}'>{mark}</span>" for mark in marks_of(c, front))
        spread = {name: f"<small>± {c.spread[name] / 2:.3f}</small>" if len(c.points) > 1 else "" for name in columns}
        cells = "".join(f"<td class='number'>{figure(c.mean[name])}{spread[name]}</td>" for name in columns)
        button = f"<button type='button' aria-pressed='false'>{_title(c, front)}</button>"
        rows.append(f"<tr data-point='{index}'><th scope='row'>{button}</th><td>{badges}</td>{cells}</tr>")
    floors = front.raw_metrics["floors"]
    for name, title in FLOOR_TITLES.items():
        cells = "".join(f"<td class='number'>{floors[name][column]:.3f}</td>" for column in (front.task.figure, "cmap", "f1"))
        rows.append(f"<tr class='floor'><th scope='row'>floor: {title}</th><td></td>{cells}<td></td><td></td><td></td></tr>")
    return f"<thead><tr><th scope='col'>Configuration</th><th scope='col'>Marks</th>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody>"


def _title(c: Configuration, front: Front) -> str:
    return f"{escape(c.settings['method'])}<small>{escape(detail_of(c, front))}</small>"


def _precisions_table(front: Front) -> str:
    """AP of each attribute, a cell the darker the more of the room above chance an attacker has found."""
    attributes, floors = list(front.raw_metrics["privacy"]["ap"]), front.raw_metrics["floors"]
    chance = floors["chance"]["ap"]

    def cells(ap: dict[str, float | None], shaded: bool) -> str:
        return "".join(_precision(ap[name], chance[name] if shaded else None) for name in attributes)

    found = [(c, precisions_of(c)) for c in front.configurations]
    rows = [
        f"<tr><th scope='row'>{_title(c, front)}</th>{cells(ap, True)}"
        f"<td class='attacker'>{escape(metrics_of(c)['strongest_attacker'])}</td></tr>"
        for c, ap in found if ap is not None
    ]  # fmt: skip
    rows += [
        f"<tr class='floor'><th scope='row'>floor: {title}</th>{cells(floors[name]['ap'], False)}<td></td></tr>"
        for name, title in FLOOR_TITLES.items()
    ]
    head = "".join(f"<th scope='col' class='number'>{escape(name.replace('_', ' '))}</th>" for name in attributes)
    return (
        f"<thead><tr><th scope='col'>Configuration</th>{head}<th scope='col'>Strongest attacker</th></tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody>"
    )


def _precision(ap: float | None, chance: float | None) -> str:
    if ap is None:
        return "<td class='number'>–</td>"
    if chance is None:
        return f"<td class='number'>{ap:.3f}</td>"
    leak = max(0.0, (ap - chance) / (1 - chance)) if chance < 1 else 0.0
    return f"<td class='number leak' style='--leak-share:{leak:.3f}'>{ap:.3f}</td>"


# ------------------------------------------------------------------------------------------------ picture

COLOURS = {"raw": "#1a1f24", "baseline": "#c65102", "learned": "#0072b2"}
"""The page's, which people of every colour vision tell apart."""
MARKERS = "sD^vphd<>"


def draw_front(front: Front, path: Path) -> Path:
    """Test figures of all points with their spread, the front as validation chose it, and the floors, as a PNG."""
    figure_, axis = plt.subplots(figsize=(7.2, 4.6))
    methods = list(dict.fromkeys(str(c.settings["method"]) for c in front.configurations))
    baselines = [method for method in methods if method != "raw" and not _of(front, method)[0].learned]
    for method in methods:
        found = _of(front, method)
        kind = "raw" if method == "raw" else "learned" if found[0].learned else "baseline"
        marker = {"raw": "X", "learned": "o"}.get(kind) or MARKERS[baselines.index(method) % len(MARKERS)]
        (xs, xbars), (ys, ybars) = (_with_bars(found, name) for name in (front.task.figure, "privacy_cmap"))
        axis.errorbar(xs, ys, ybars, xbars, fmt=marker, color=COLOURS[kind], markersize=6.5, elinewidth=1, label=method, zorder=3)
    line = [(c.action, c.mean["privacy_cmap"]) for c in front.on_front]
    axis.plot(*zip(*line, strict=True), linestyle=":", color="#56606b", linewidth=1.2, label="front, by validation", zorder=2)
    for c, marker, size, colour, label in ((front.choice, "o", 15, "#00775a", "policy's choice"), (front.knee, "s", 13, "#a8457f", "knee")):
        if c is not None:
            place = (c.action, c.mean["privacy_cmap"])
            axis.plot(*place, marker, markersize=size, markerfacecolor="none", color=colour, markeredgewidth=1.8, label=label)
    for name, style in (("chance", ":"), ("action_only", "--")):
        floor = front.raw_metrics["floors"][name]["cmap"]
        axis.axhline(floor, linestyle=style, color="#56606b", linewidth=1, label=f"floor: {FLOOR_TITLES[name]} {floor:.3f}")
    axis.set_xlabel(f"action {front.task.title} of a fresh recognizer (more is better)")
    axis.set_ylabel("cMAP of the strongest attacker (less is better)")
    axis.set_title(f"{front.dataset}: operating points, test split", fontsize=10)
    axis.grid(color="#d9dee3", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, markerscale=0.6, labelspacing=0.7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_.savefig(path, dpi=130, bbox_inches="tight", facecolor="white")
    plt.close(figure_)
    return path


def _of(front: Front, method: str) -> list[Configuration]:
    return [c for c in front.configurations if c.settings["method"] == method]


def _with_bars(found: list[Configuration], name: str) -> tuple[list[float], list[list[float]]]:
    """Means, and how far the smallest and the largest seed lie from them."""
    lows = [c.mean[name] - min(point.figures[name] for point in c.points) for c in found]
    highs = [max(point.figures[name] for point in c.points) - c.mean[name] for c in found]
    return [c.mean[name] for c in found], [lows, highs]
