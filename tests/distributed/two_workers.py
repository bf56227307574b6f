"""Helpers of test_two_workers.py in an importable module, as spawned processes need them."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from stprivacy.config import Adversary, Channel, Clip, ClosedForm, InitPhase, Model, Recognizers, Train
from stprivacy.config import Game as GameParams
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.recognizers import build_recognizer
from stprivacy.training.batches import num_micro_batches
from stprivacy.training.engine import build_engine, rows_of_all
from stprivacy.training.players import adversary_player, anonymizer_player
from stprivacy.training.task import Batch, Game, Networks

CLIP = Clip(num_frames=4, size=16)
GLOBAL_BATCH = 8
STEPS = 4


def tiny_train(**changes) -> Train:
    """A game with every rule in it, small enough for a test."""
    game = GameParams(
        ramp_steps=1,
        adversaries=(Adversary(start="fresh"), Adversary(kind="cnn2d", start="fresh", replay=2)),
        adversary_steps=2,
        closed_form=ClosedForm(weight=5.0, raw_trained=False),
    )
    return Train(**{"global_batch": GLOBAL_BATCH, "micro_batch": GLOBAL_BATCH, "game": game, "init": InitPhase(full_steps=0), **changes})


def tiny_game(train: Train, gather) -> Game:
    torch.manual_seed(0)
    sizes = Recognizers(cnn_width=4)
    anonymizer = Anonymizer(Model(tubelet=(2, 8, 8), width=24, depth=3, num_heads=2), CLIP)
    action = build_recognizer("cnn3d", 3, sizes, CLIP)
    adversaries = torch.nn.ModuleList(build_recognizer(adversary.kind, 2, sizes, CLIP) for adversary in train.game.adversaries)
    reference = build_recognizer("cnn3d", 3, sizes, CLIP).requires_grad_(False) if train.game.reference_weight else None
    return Game(Networks(anonymizer.train(), action, adversaries, reference), train, Channel(), CLIP, sizes, torch.full((2,), 0.5), gather)


def global_batch(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {
        "clips": torch.rand(GLOBAL_BATCH, 3, CLIP.num_frames, CLIP.size, CLIP.size, generator=generator),
        "actions": torch.randint(0, 3, (GLOBAL_BATCH,), generator=generator),
        "attributes": torch.randint(0, 2, (GLOBAL_BATCH, 2), generator=generator).float(),
    }


def play_steps(rank: int, world_size: int, train: Train, gather=lambda rows: rows) -> list[dict[str, float]]:
    """STEPS steps of init, then of the game, as `loop.play` takes them; the metrics of each."""
    num_parts, share = num_micro_batches(train, world_size), GLOBAL_BATCH // world_size
    game, seen = tiny_game(train, gather), []
    anonymizer = build_engine(anonymizer_player(game.networks, train, "game", STEPS), train, num_parts)
    adversary = build_engine(adversary_player(game.networks, train, STEPS), train, num_parts)
    for step in range(STEPS):
        whole = global_batch(step)
        micro = share // num_parts
        parts = []
        for part in range(num_parts):
            rows = slice(rank * share + part * micro, rank * share + (part + 1) * micro)
            samples = tuple(range(rows.start, rows.stop))
            mine = {name: values[rows] for name, values in whole.items()}
            parts.append(Batch(**mine, samples=samples, step=step, part=rank * num_parts + part, num_parts=world_size * num_parts))
        if game.restart_adversaries(step):
            adversary.begin_anew()
        metrics = anonymizer.update(game.anonymizer_loss, game.look_ahead(parts))
        for turn in range(train.game.adversary_steps):
            metrics |= {
                f"turn{turn}/{name}": value
                for name, value in adversary.update(game.adversary_loss, game.recall(step, turn, num_parts)).items()
            }
        seen.append(metrics)
    return seen


def worker(rank: int, world_size: int, train: Train, folder: str) -> None:
    """One of `world_size` processes: plays and leaves its metrics and weights."""
    torch.set_num_threads(1)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)})  # as Ray Train sets them
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)

    torch.save(play_steps(rank, world_size, train, rows_of_all), Path(folder) / f"metrics-{rank}.pt")
    end_process()


def end_process() -> None:
    """End a worker whose results are on disk, and skip the interpreter's own end: in one run of all tests a thread of C++ that was
    still there made it abort()."""
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
