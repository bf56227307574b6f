"""Made results folders, as evaluate and sweep leave them, for tests of the front and of its page."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stprivacy.evaluation.results import POINT_COLUMNS, leak_removed, write_csv

ATTRIBUTES = ("skin_color", "face", "gender", "nudity", "relationship")
NUM_CLIPS, NUM_FRAMES, SIDE = 4, 8, 48
TRIAL_COLUMNS = ("trial", "keep_ratio", "kept_share", "action_weight", "privacy_weight", "seed", "status", "reason", "run_id")


@dataclass(frozen=True)
class Made:
    """One made point; val figures are the test figures moved by a little."""

    method: str
    action: float
    cmap: float
    kept_share: float | None = None
    privacy_weight: float | None = None
    seed: int = 0
    trial: str | None = None
    trained_at: float | None = None


METHODS = ("downsample-2", "downsample-4", "blur", "stprivacy")
EVALUATED = (
    Made("raw", 0.998, 0.985),
    Made("downsample-2", 0.985, 0.955),
    Made("downsample-4", 0.91, 0.86),
    Made("blur", 0.935, 0.90),
    Made("stprivacy", 0.965, 0.71, 0.7, 15.0),
    Made("stprivacy", 0.94, 0.645, 0.4, 15.0),
)
SWEPT = (
    Made("stprivacy", 0.978, 0.80, 0.7, 5.0, 0, "p5-s0", 0.7),
    Made("stprivacy", 0.968, 0.775, 0.7, 5.0, 1, "p5-s1", 0.7),
    Made("stprivacy", 0.951, 0.735, 0.4, 5.0, 0, "p5-s0", 0.7),
    Made("stprivacy", 0.939, 0.725, 0.4, 5.0, 1, "p5-s1", 0.7),
    Made("stprivacy", 0.925, 0.60, 0.4, 30.0, 0, "p30-s0", 0.4),
    Made("stprivacy", 0.903, 0.61, 0.4, 30.0, 1, "p30-s1", 0.4),
    Made("stprivacy", 0.86, 0.575, 0.2, 30.0, 0, "p30-s0", 0.4),
    Made("stprivacy", 0.83, 0.59, 0.2, 30.0, 1, "p30-s1", 0.4),
)
CHANCE = 0.5
NUM_CONFIGURATIONS = len(EVALUATED) + len(SWEPT) // 2


def make_results(results: Path, evaluated: tuple[Made, ...] = EVALUATED, swept: tuple[Made, ...] = SWEPT) -> Path:
    """Write evaluate/ and, unless `swept` is empty, sweep/ below `results`."""
    raw_cmap = next(made.cmap for made in evaluated if made.method == "raw")
    for method in dict.fromkeys(made.method for made in evaluated):
        _write_judgement(results / "evaluate" / method, [made for made in evaluated if made.method == method], raw_cmap)
    if swept:
        trials = {made.trial: made for made in swept}
        for trial in trials:
            _write_judgement(results / "sweep" / str(trial), [made for made in swept if made.trial == trial], raw_cmap)
        write_csv(results / "sweep/points.csv", POINT_COLUMNS, [point_row(made, raw_cmap) for made in swept])
        write_csv(results / "sweep/trials.csv", TRIAL_COLUMNS, [
            {"trial": trial, "kept_share": made.trained_at, "keep_ratio": ratio(made.trained_at), "action_weight": 1.0,
             "privacy_weight": made.privacy_weight, "seed": made.seed, "status": "finished", "run_id": f"run-of-{trial}"}
            for trial, made in trials.items()
        ])  # fmt: skip
    return results


def ratio(kept_share: float | None) -> float | None:
    """The keep ratio of two sparsification blocks."""
    return kept_share**0.5 if kept_share else None


def point_row(made: Made, raw_cmap: float) -> dict[str, object]:
    learned = made.method == "stprivacy"
    return {
        "method": made.method, "kept_share": made.kept_share, "keep_ratio": ratio(made.kept_share), "seed": made.seed,
        "action_weight": 1.0 if learned else None, "privacy_weight": made.privacy_weight,
        "val_action_top1": made.action + 0.002, "val_privacy_cmap": made.cmap - 0.004,
        "action_top1": made.action, "privacy_cmap": made.cmap, "privacy_f1": made.cmap - 0.05,
        "leak_removed": leak_removed(made.cmap, raw_cmap, CHANCE), "run_id": f"run-of-{made.trial}" if made.trial else None,
        "model_path": (f"models/sweep/{made.trial}" if made.trial else "models/anonymizer") if learned else None,
    }  # fmt: skip


def _write_judgement(folder: Path, points: list[Made], raw_cmap: float) -> None:
    folder.mkdir(parents=True)
    if "evaluate" in folder.parts:
        write_csv(folder / "points.csv", POINT_COLUMNS, [point_row(made, raw_cmap) for made in points])
    main = points[0]
    ap = {name: min(1.0, main.cmap + 0.02 * (place - 2)) for place, name in enumerate(ATTRIBUTES)}
    privacy = {"cmap": main.cmap, "f1": main.cmap - 0.05, "ap": ap}
    metrics = {
        "dataset": "vp-synth", "method": main.method, "seed": main.seed, "kept_share": main.kept_share,
        "action": {"top1": main.action}, "privacy": privacy, "leak_removed": leak_removed(main.cmap, raw_cmap, CHANCE),
        "attackers": {"action": {"top1": main.action, "fitted": True}}
        | {name: privacy | {"fitted": fitted} for name, fitted in (("privacy-cnn3d", True), ("privacy-cnn2d", main.cmap > 0.6))},
        "strongest_attacker": "privacy-cnn3d", "num_test_clips": 400, "num_attacker_seeds": 1,
        "floors": {"chance": floor(CHANCE, 0.499, 0.125), "constant": floor(CHANCE, 0.133, 0.125), "action_only": floor(0.51, 0.517, 1.0)},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    clips = made_clips()
    examples = {"raw": clips, "repainted": np.array([], str)}
    for made in points:
        if made.method != "raw":
            name = made.method if made.kept_share is None else f"{made.method}, kept share {made.kept_share:g}"
            examples[name] = released(clips, made.kept_share)
            if made.method == "stprivacy":
                examples["repainted"] = np.append(examples["repainted"], name)
    np.savez(folder / "examples.npz", **examples)


def floor(cmap: float, f1: float, top1: float) -> dict[str, object]:
    return {"cmap": cmap, "f1": f1, "action_top1": top1, "ap": dict.fromkeys(ATTRIBUTES, cmap)}


def made_clips() -> np.ndarray:
    """A figure of blocks that walks over a shaded ground, uint8 (clips, T, S, S, 3)."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    ground = np.stack([60 + rows * 2, 90 + columns, 140 - rows], axis=-1)
    clips = np.repeat(np.repeat(ground[None, None], NUM_FRAMES, 1), NUM_CLIPS, 0).copy()
    for clip in range(NUM_CLIPS):
        for frame in range(NUM_FRAMES):
            left, top = (6 + 3 * frame, 8 + 2 * clip) if clip % 2 else (16 + 4 * clip, 4 + 2 * frame)
            clips[clip, frame, top : top + 8, left : left + 8] = (224, 172, 105 + 30 * clip)
            clips[clip, frame, top + 8 : top + 24, left - 2 : left + 10] = (40, 60 + 40 * clip, 160)
    return clips.astype(np.uint8)


def released(clips: np.ndarray, kept_share: float | None) -> np.ndarray:
    """Coarse pixels, or noise with dropped tubelets."""
    if kept_share is None:
        return clips[:, :, ::4, ::4].repeat(4, axis=2).repeat(4, axis=3)
    draw = np.random.default_rng(0)
    noisy = np.clip(clips * 0.5 + 64 + 50 * draw.normal(size=clips.shape), 0, 255)
    kept = draw.random((NUM_CLIPS, NUM_FRAMES // 2, SIDE // 8, SIDE // 8)) < kept_share
    mask = kept.repeat(2, axis=1).repeat(8, axis=2).repeat(8, axis=3)
    return (noisy * mask[..., None]).astype(np.uint8)
