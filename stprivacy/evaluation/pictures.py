"""Pictures for human eyes: raw and released frames one above the other, and what attackers read from them."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from stprivacy.config import Params
from stprivacy.data.clips import ShardReader
from stprivacy.evaluation.gallery import LabelledClips, pick_clips, releasers
from stprivacy.evaluation.judge import Judgement
from stprivacy.evaluation.raw_frames import REPAINTED

NUM_EXAMPLES = 4
FRAMES_SHOWN = 8


def write_pictures(judgement: Judgement, metrics: dict[str, Any], params: Params, model: Path, folder: Path) -> dict[str, Path]:
    """Write `clips.png` (raw above released, test clips), `attributes.png` and the examples behind them; gives the pictures by name.

    `released.png` holds released frames alone, and no release that can hold raw ones: it is for a tracking server that must not see
    those. All clips are released anew, by the anonymizer in the folder `model`: the releases that attackers read have noise that
    repeats, which anybody could take off.
    """
    folder.joinpath("released.png").unlink(missing_ok=True)
    clips = _example_clips(judgement, params)
    shares = [share for share in judgement.released if share is not None]
    shown = [] if judgement.method == "raw" else releasers(params, model, [judgement.method], shares)
    releases = [one.show(clips.pixels, clips.boxes) for one in shown]
    strips = {release.title: release.pixels for release in releases}
    repainted = [release.title for release in releases if release.repainted]
    np.savez_compressed(folder / "examples.npz", **strips | {"raw": clips.pixels, REPAINTED: np.array(repainted, str)})  # type: ignore[arg-type]  # names are no keyword of numpy's
    pictures = {"clips": frame_grid(clips.pixels, strips, folder / ("clips.png" if strips else "raw.png"))}
    if repainted:
        pictures["released"] = frame_grid(None, {title: strips[title] for title in repainted}, folder / "released.png")
    return pictures | {"attributes": _attribute_bars(metrics, folder / "attributes.png")}


def _example_clips(judgement: Judgement, params: Params) -> LabelledClips:
    """The first test clip of each of a few actions."""
    reader = ShardReader(judgement.shards, "test")
    firsts = [int(np.flatnonzero(reader.foremost == action)[0]) for action in np.unique(reader.foremost)]
    rows = firsts[:: max(1, len(firsts) // NUM_EXAMPLES)][:NUM_EXAMPLES]
    return pick_clips(params, judgement.shards, [reader.keys[row] for row in rows], methods=[judgement.method])


def frame_grid(raw: np.ndarray | None, strips: dict[str, np.ndarray], path: Path) -> Path:
    """A row of frames for every clip and method, raw first; each array is uint8 (clips, T, S, S, 3)."""
    rows = ({"raw": raw} if raw is not None else {}) | strips
    num_clips, num_frames = next(iter(rows.values())).shape[:2]
    frames = np.linspace(0, num_frames - 1, FRAMES_SHOWN).round().astype(int)
    figure, axes = plt.subplots(num_clips * len(rows), 1, figsize=(10, 1.1 * num_clips * len(rows)), squeeze=False)
    for clip in range(num_clips):
        for place, (title, clips) in enumerate(rows.items()):
            axis = axes[clip * len(rows) + place, 0]
            axis.imshow(np.concatenate(list(clips[clip][frames]), axis=1), interpolation="nearest")
            axis.set_ylabel(title.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.16, right=0.995, top=0.995, bottom=0.005, hspace=0.06)
    figure.savefig(path, dpi=100, facecolor="white")
    plt.close(figure)
    return path


def _attribute_bars(metrics: dict[str, Any], path: Path) -> Path:
    """AP of each attribute for each privacy attacker, with the floors' macro average as lines."""
    attackers = {name: found["ap"] for name, found in metrics["attackers"].items() if "ap" in found}
    names = list(metrics["privacy"]["ap"])
    figure, axis = plt.subplots(figsize=(max(5.0, 0.9 * len(names) + 2), 3.2))
    width = 0.8 / len(attackers)
    for index, (attacker, ap) in enumerate(attackers.items()):
        label = attacker + (" (strongest)" if attacker == metrics["strongest_attacker"] else "")
        axis.bar(np.arange(len(names)) + index * width, [ap[name] or 0 for name in names], width, label=label)
    for floor, style in (("chance", ":"), ("action_only", "--")):
        label = f"floor: {floor.replace('_', ' ')} (macro)"
        axis.axhline(metrics["floors"][floor]["cmap"], linestyle=style, color="black", linewidth=1, label=label)
    axis.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, rotation=20, ha="right")
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("AP of a fresh attacker")
    axis.set_title(f"{metrics['dataset']}, {metrics['method']}: what is read from the release", fontsize=10)
    axis.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
