"""What benchmarks train and read in place of the real thing: networks that have learned nothing, and shards of noise."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stprivacy.config import Channel, Clip, Model, NetworkKind, Recognizers, Train
from stprivacy.data.shards import write_shards
from stprivacy.models.anonymizers import build_anonymizer
from stprivacy.models.recognizers import build_recognizer
from stprivacy.training.task import Game, Networks

CPU = torch.device("cpu")


def fresh_game(
    model: Model,
    clip: Clip,
    train: Train,
    channel: Channel,
    sizes: Recognizers,
    num_actions: int,
    num_attributes: int,
    device: torch.device = CPU,
) -> Game:
    """The game as a worker holds it, with random weights: what a step costs does not depend on what they have learned."""
    torch.manual_seed(0)

    def recognizer(kind: NetworkKind, num_outputs: int) -> nn.Module:
        return build_recognizer(kind, num_outputs, sizes, clip).to(device)

    adversaries = train.game.adversaries
    networks = Networks(
        anonymizer=build_anonymizer(model, clip).to(device).train(),
        action=recognizer(train.action_kind, num_actions),
        adversaries=nn.ModuleList(recognizer(adversary.kind, num_attributes) for adversary in adversaries),
        reference=recognizer(train.action_kind, num_actions).requires_grad_(False) if train.game.reference_weight else None,
        raw_trained=tuple(
            recognizer(kind, num_attributes).requires_grad_(False)
            for kind in sorted({adversary.kind for adversary in adversaries if adversary.start == "raw"})
        ),
    )
    return Game(networks, train, channel, clip, sizes, torch.full((num_attributes,), 0.5, device=device))


def write_noise(folder: Path, clip: Clip, num_clips: int, num_actions: int, num_attributes: int) -> Path:
    """Shards of training clips of noise in the shape of `clip`; gives their folder."""
    generator, clips = np.random.default_rng(0), folder / "clips"
    (clips / "clips").mkdir(parents=True)
    rows = []
    for index in range(num_clips):
        frames = generator.integers(0, 256, (clip.num_frames, clip.size, clip.size, 3), dtype=np.uint8)
        np.save(clips / "clips" / f"clip{index:04d}.npy", frames)
        shape = {"num_frames": clip.num_frames, "height": clip.size, "width": clip.size}
        labels = {"split": "train", "action": index % num_actions, "attributes": [index >> bit & 1 for bit in range(num_attributes)]}
        rows.append({"key": f"clip{index:04d}", "file": f"clip{index:04d}.mp4", "group": str(index)} | labels | shape)
    (clips / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"actions": [f"action{index}" for index in range(num_actions)], "attributes": [f"bit{bit}" for bit in range(num_attributes)]}
    counts = {"train": num_clips, "val": 0, "test": 0}
    (clips / "dataset.json").write_text(json.dumps({"name": "noise", "num_videos": counts} | names))
    write_shards(clips, folder / "shards", max_megabytes=64)
    return folder / "shards"
