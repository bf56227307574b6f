"""The model card of a version: what it is, on which data and by whom it was judged, and what that does not prove.

Every figure comes from a file that a stage wrote; what no file says is said to be unknown.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprivacy.action_task import task_of
from stprivacy.config import Params
from stprivacy.errors import UserError
from stprivacy.evaluation.floor_titles import FLOOR_TITLES
from stprivacy.release.model import config_at
from stprivacy.release.points import Entry

LONGEST = 5000
"""Characters that the registry keeps of a description (MLflow's column)."""


@dataclass(frozen=True)
class Evidence:
    """What the files of earlier stages say."""

    raw: dict[str, Any]
    """metrics.json of raw video, floors included."""
    judged: tuple[dict[str, Any], ...]
    """metrics.json of every judged method and trial, to find an entry's own in."""
    num_videos: dict[str, int]
    """By split."""

    @classmethod
    def read(cls, results: Path, shards: Path) -> "Evidence":
        """Raises UserError when raw video was not judged, or the data set is not there."""
        raw, info = results / "evaluate" / "raw" / "metrics.json", shards / "dataset.json"
        for path, stage in ((raw, "evaluate-raw"), (info, "shard")):
            if not path.exists():
                raise UserError(f"{path}: no such file; run `dvc repro {stage}`")
        files = [*sorted((results / "evaluate").glob("*/metrics.json")), *sorted((results / "sweep").rglob("metrics.json"))]
        judged = tuple(found for found in map(_read, files) if "privacy" in found)
        return cls(_read(raw), judged, _read(info)["num_videos"])

    def precisions_of(self, entry: Entry) -> dict[str, float | None]:
        """AP by attribute from the metrics.json that holds this entry's very figures; empty where no file does."""
        for metrics in self.judged:
            task = task_of(entry.figures)
            found = (metrics["keep_ratio"] or 1.0, metrics["action"].get(task.name, math.nan), metrics["privacy"]["cmap"])
            own = (entry.keep_ratio, entry.figures[task.figure], entry.figures["privacy_cmap"])
            if all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(found, own, strict=True)):
                precisions: dict[str, float | None] = metrics["privacy"]["ap"]
                return precisions
        return {}


def card(entry: Entry, evidence: Evidence, params: Params) -> str:
    """The card in Markdown, at most LONGEST characters."""
    text = "\n\n".join([_what(entry), _how(entry, evidence, params), "\n".join(_table(entry, evidence)), _limits(entry, evidence, params)])
    return text if len(text) <= LONGEST else text[: LONGEST - 2] + " …"


def _what(entry: Entry) -> str:
    config = config_at(entry.folder)
    model, clip, channel = config["model"], config["clip"], config["channel"]
    kind, noise = model.get("kind", "stprivacy"), f"with noise of σ {channel['noise']:g}"
    clips = (
        f"Clips of {clip['num_frames']} × {clip['size']} × {clip['size']} in (`frame_step` {clip['frame_step']} of a video), "
        f"released clips {'of brightness alone ' if channel.get('grey') else ''}out."
    )
    if _is_bounded(entry):
        num_latents = clip["num_frames"] // model["tubelet"][0] * model["latents"]
        looked_at = f"Keep ratio {entry.keep_ratio:.4g}: a share of {entry.kept_share:.2f} of the tubelets is looked at to the end."
        drawn = f"Each is painted from {num_latents} noisy latents and nothing else{_bits(entry)}"
        return f"**Video anonymizer (STPrivacy, bounded).** {clips} {drawn} {looked_at}"
    if kind != "stprivacy":
        return f"**Video anonymizer ({kind}).** {clips} Every frame is repainted, {noise}; nothing is dropped."
    kept = "kept and repainted" if model.get("repaint", True) else "kept as it is"
    share = f"a share of {entry.kept_share:.2f} of the tubelets is {kept}, {noise}"
    return (
        f"**Video anonymizer (STPrivacy).** {clips} Keep ratio {entry.keep_ratio:.4g}: {share}; dropped ones hold the constant "
        f"{channel['fill']:g}."
    )


def _is_bounded(entry: Entry) -> bool:
    return bool(config_at(entry.folder)["model"].get("release") == "code")


def _bits(entry: Entry) -> str:
    bits = entry.figures.get("bits")
    return "." if bits is None else f": {bits:.1f} bits a clip, which bounds what anybody can learn from it, on average over clips."


def _how(entry: Entry, evidence: Evidence, params: Params) -> str:
    task = task_of(entry.figures)
    counts = ", ".join(f"{evidence.num_videos.get(split, 0)} {split}" for split in ("train", "val", "test"))
    bounded = _is_bounded(entry)
    left_out = {"reidentification"}  # told apart, and doesn't count
    left_out |= {"mask"} if bounded or entry.kept_share == 1 else set()
    left_out |= set() if bounded else {"latents"}
    beside = [name for name in params.evaluate.attack.extra if name not in left_out]
    kinds = ", ".join(f"privacy-{kind}" for kind in params.evaluate.attack.kinds) + ("; beside them " if beside else "") + ", ".join(beside)
    if entry.spread:
        seeds = "; ".join(f"{name} {value:.3f}" for name, value in entry.spread.items())
        seeds = f"Largest − smallest over {entry.num_seeds} seeds: {seeds}."
    else:
        seeds = "One seed: how much the figures vary with it is unknown."
    return "\n".join([
        f"- **Data:** {params.dataset.name}, {counts} videos. `val` was withheld from all training and chose; `test` is only reported.",
        f"- **Training:** privacy weight {entry.privacy_weight:g}, action weight {entry.action_weight:g} (`{entry.folder.as_posix()}`).",
        f"- **Attackers:** fresh recognizers trained on released training clips ({kinds}); the strongest on val counts.",
        f"- **On val:** action {task.title} {entry.figures[task.val_figure]:.3f}, cMAP {entry.figures['val_privacy_cmap']:.3f}. {seeds}",
    ])  # fmt: skip


def _table(entry: Entry, evidence: Evidence) -> list[str]:
    task = task_of(evidence.raw["action"])
    raw, floors, own = evidence.raw, evidence.raw["floors"], evidence.precisions_of(entry)
    titles = " | ".join(FLOOR_TITLES.values())
    lines = [f"| test split | this release | raw video | {titles} |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    rows: list[tuple[str, list[float | None]]] = [
        (
            f"action {task.title} ↑",
            [entry.figures.get(task.figure), raw["action"][task.name], *(floors[name][task.figure] for name in FLOOR_TITLES)],
        ),
        ("cMAP ↓", [entry.figures.get("privacy_cmap"), raw["privacy"]["cmap"], *(floors[name]["cmap"] for name in FLOOR_TITLES)]),
        ("F1 ↓", [entry.figures.get("privacy_f1"), raw["privacy"]["f1"], *(floors[name]["f1"] for name in FLOOR_TITLES)]),
    ]
    rows += [
        (f"AP {attribute} ↓", [own.get(attribute), precision, *(floors[name]["ap"].get(attribute) for name in FLOOR_TITLES)])
        for attribute, precision in raw["privacy"]["ap"].items()
    ]
    lines += [f"| {title} | {' | '.join('–' if value is None else f'{value:.3f}' for value in values)} |" for title, values in rows]
    removed = entry.figures.get("leak_removed")
    lines += ["", "Leak removed: " + ("unknown." if removed is None else f"{removed:.2f} of what raw video gives away above chance.")]
    if not own:
        lines[-1] += " The AP of each attribute was not recorded for this point."
    return lines


def _limits(entry: Entry, evidence: Evidence, params: Params) -> str:
    crf = params.channel.codec_crf
    pixels = "as they leave the channel, before a video codec" if crf is None else f"as H.264 at crf {crf} leaves them"
    limits = [
        "The figures hold for these attackers on this data. They prove nothing about stronger attackers or other footage.",
        f"They are of clips {pixels}; of other keep ratios they say nothing.",
        "Bits add up over the clips of one person, and over releases of one clip by other settings or under another key."
        if _is_bounded(entry)
        else "Each release draws its noise anew, and several releases of one clip can be averaged: release a clip once.",
    ]
    if params.dataset.kind == "vp-synth":
        limits.insert(0, "Nobody is in this data: rendered people say little about real ones. Train on real, labelled footage before use.")
    if entry.figures["privacy_cmap"] > evidence.raw["floors"]["action_only"]["cmap"]:
        limits.insert(1, "The attackers still find more than the action label alone gives away.")
    return "**Limits**\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
