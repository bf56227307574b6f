"""Small data sets, releases and judgements, for the tests of the evaluation part."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stprivacy.config import Attack, Channel, Clip, Model, Params, Recognizers, load_params
from stprivacy.data.frame_labels import spans_of
from stprivacy.data.shards import write_shards
from stprivacy.evaluation.jobs import AttackJob, AttackResult, Epoch, attacker_name
from stprivacy.evaluation.judge import Judgement, Point
from stprivacy.evaluation.released import Released, ReleaseJob, release
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.checkpoints import save_model

CLIP = Clip(num_frames=4, size=16)
ATTACK = Attack(min_epochs=2, max_epochs=4, patience=1, batch=16)
SIZES = Recognizers(cnn_width=4)
ATTRIBUTES = ("hat", "glasses")
ACTIONS = ("run", "walk", "wave")
SHARE = 0.5
"""Kept share of `tiny_model`."""
COUNTS = {"train": 48, "val": 24, "test": 48}
QUICK = Attack(min_epochs=8, max_epochs=12, patience=4, batch=16, learning_rate=3e-3)
"""Clips, and an attack that learns what there is to learn from so many."""
NUM_VAL = 12
"""Val clips of a made judgement."""


def one_by_one(function: Callable[..., Any], arguments: Sequence[tuple]) -> list[Any]:
    """A plain loop in place of Ray tasks."""
    return [function(*arguments_of_one) for arguments_of_one in arguments]


def tiny_params(**attack: object) -> Params:
    """The tiny experiment for clips of `CLIP`, with the release of the paper; `attack` changes `evaluate.attack`."""
    params = load_params(Path(__file__).resolve().parents[2] / "params" / "vp-synth-tiny.yaml")
    evaluate = params.evaluate.model_copy(update={"attack": ATTACK.model_copy(update=attack), "kept_shares": (SHARE, 0.25)})
    changes = {"clip": CLIP, "recognizers": SIZES, "evaluate": evaluate}
    return params.model_copy(update=changes | {"model": params.model.model_copy(update={"keep_ratio": SHARE**0.5, "release": "tubelets"})})


def write_dataset(
    folder: Path, clips: dict[str, np.ndarray], actions: dict[str, np.ndarray], attributes: dict[str, np.ndarray],
    of_frames: dict[str, np.ndarray] | None = None,
) -> Path:  # fmt: skip
    """Shards of clips uint8 (n, F, H, W, 3), each by split, with actions (n,) or (n, C) of 0/1, attributes (n, A), and those of frames
    int8 (n, F, A)."""
    (folder / "clips" / "clips").mkdir(parents=True)
    rows = []
    for split, frames in clips.items():
        for index, video in enumerate(frames):
            key = f"{split}{index:04d}"
            np.save(folder / "clips" / "clips" / f"{key}.npy", video)
            rows.append({
                "key": key, "file": f"{key}.mp4", "split": split, "group": key, "action": actions[split][index].tolist(),
                "attributes": attributes[split][index].astype(float).tolist(),
                "num_frames": video.shape[0], "height": video.shape[1], "width": video.shape[2],
            } | ({"frame_labels": [spans_of(column) for column in of_frames[split][index].T]} if of_frames else {}))  # fmt: skip
    (folder / "clips" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about: dict[str, Any] = {"name": "tiny", "actions": ACTIONS, "attributes": ATTRIBUTES[: len(rows[0]["attributes"])]}
    if actions["train"].ndim == 2:
        about["several_actions"] = True
    (folder / "clips" / "dataset.json").write_text(json.dumps(about))
    write_shards(folder / "clips", folder / "shards", 1)
    return folder / "shards"


def random_labels(sizes: dict[str, int], seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Actions in turn and attributes by coin flips, by split."""
    draw = np.random.default_rng(seed)
    actions = {split: np.arange(count) % len(ACTIONS) for split, count in sizes.items()}
    return actions, {split: draw.integers(0, 2, (count, len(ATTRIBUTES))) for split, count in sizes.items()}


def several_labels(sizes: dict[str, int], seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """One to three actions a clip and attributes by coin flips, by split."""
    draw = np.random.default_rng(seed)
    actions = {split: draw.integers(0, 2, (count, len(ACTIONS))) for split, count in sizes.items()}
    for rows in actions.values():
        rows[rows.sum(1) == 0, 0] = 1
    return actions, {split: draw.integers(0, 2, (count, len(ATTRIBUTES))) for split, count in sizes.items()}


def noise_clips(sizes: dict[str, int], shape: tuple[int, int, int] = (4, 16, 16), seed: int = 1) -> dict[str, np.ndarray]:
    """Clips of independent pixels, uint8 (n, F, H, W, 3), by split."""
    draw = np.random.default_rng(seed)
    return {split: draw.integers(0, 256, (count, *shape, 3), dtype=np.uint8) for split, count in sizes.items()}


def release_job(shards: Path, cache: Path, method: str = "raw", **changes: object) -> ReleaseJob:
    plain: dict[str, Any] = {
        "method": method, "kept_share": 1.0, "shards": shards, "model": cache / "no-model", "clip": CLIP, "channel": Channel(noise=0.2),
        "attack": ATTACK, "cache": cache,
    }  # fmt: skip
    return ReleaseJob(**plain | changes)


def attack_job(
    released: Path, cache: Path, target: str = "privacy", kind: str = "cnn2d", attack: Attack = ATTACK, seed: int = 0
) -> AttackJob:
    return AttackJob(released, target, kind, seed, attack, SIZES, CLIP, cache, "tiny")  # type: ignore[arg-type]


def tiny_model(folder: Path, channel: Channel = Channel(noise=0.0, fill=0.25), seed: int = 0) -> Path:  # noqa: B008 (frozen)
    """A learned anonymizer that has learned nothing: 2 slices of 4 tubelets, one sparsification."""
    model = Model(tubelet=(2, 8, 8), width=16, depth=2, num_heads=2, sparsify_before=(1,), keep_ratio=SHARE, identity_start=False)
    torch.manual_seed(seed)
    config = {name: section.model_dump(mode="json") for name, section in (("model", model), ("channel", channel), ("clip", CLIP))}
    save_model(folder, Anonymizer(model, CLIP), config)
    return folder


def found(target: str, kind: str, val_score: float, test: np.ndarray, weights: Path, seed: int = 0) -> AttackResult:
    """What an attacker with these answers on test, of which the first `NUM_VAL` are those on val, too, would have left."""
    curve = (Epoch(1, 0.7, val_score - 0.1, 0.7), Epoch(2, 0.5, val_score, 0.6))
    return AttackResult(
        attacker_name(target, kind), target, kind, seed, curve, 2, val_score, 0.5, True, test[:NUM_VAL], test, weights  # type: ignore[arg-type]
    )  # fmt: skip


def made_judgement(
    folder: Path, method: str, shares: tuple[float | None, ...] = (None,), seeds: tuple[int, ...] = (0,), skill: float = 0.9, num: int = 40,
    several: bool = False,
) -> Judgement:  # fmt: skip
    """A judgement of a method whose attackers answer rightly with about the share `skill`, over a real release of noise.

    `several`: clips have several actions.
    """
    sizes = {"train": 24, "val": NUM_VAL, "test": num}
    actions, attributes = several_labels(sizes) if several else random_labels(sizes)
    shards = write_dataset(folder / "data", noise_clips(sizes), actions, attributes)
    released = Released(release(release_job(shards, folder / "cache")))
    weights = folder / "weights.safetensors"
    weights.write_bytes(b"weights")
    points = []
    for place, share in enumerate(shares):
        for seed in seeds:
            draw = np.random.default_rng((place, seed, int(1000 * skill)))
            seen_action = actions["test"].astype(float) if several else np.eye(len(ACTIONS))[actions["test"]]
            seen = attributes["test"].astype(float)
            answer = [np.where(draw.random(truth.shape) < skill, truth, draw.random(truth.shape)) for truth in (seen_action, seen, seen)]
            action = found("actions" if several else "action", "cnn3d", 0.9, answer[0], weights, seed)
            privacy = tuple(found("privacy", kind, score, given, weights, seed) for kind, score, given in (
                ("cnn3d", 0.8, answer[1]), ("cnn2d", 0.7, answer[2]),
            ))  # fmt: skip
            points.append(Point(share, None if share is None else share**0.5, seed, action, privacy))
    return Judgement(method, tuple(points), dict.fromkeys(shares, released), shards)
