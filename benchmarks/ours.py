"""This project as a contestant, a turn at a time.

python -m benchmarks.ours step --precision fp32|bf16     one adversarial step at the paper's configuration, as `train` takes it
python -m benchmarks.ours inference --keep-ratio 0.3     the paper-size anonymizer, frozen
python -m benchmarks.ours train init|game                one step of the default configuration (VP-Synth)
python -m benchmarks.ours loader                         one epoch of the default configuration's clips, out of made shards
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.contestants import serve
from benchmarks.stand_ins import fresh_game, write_noise
from stprivacy.config import Adversary, Channel, Clip, ClosedForm, Model, Recognizers, Train
from stprivacy.config import Game as GameParams
from stprivacy.data.clips import ShardReader
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.training.batches import GlobalBatches
from stprivacy.training.engine import build_engine
from stprivacy.training.players import adversary_player, anonymizer_player
from stprivacy.training.task import Batch, Game

PAPER_CLIP = Clip(num_frames=16, size=112)
PAPER_MODEL = Model(
    tubelet=(2, 16, 16),
    width=384,
    depth=12,
    num_heads=6,
    mlp_ratio=4,
    sparsify_before=(3, 6, 9),
    keep_ratio=0.7,
    keep_bias=0.85,  # scorers that keep 0.7, as trained ones do: with the paper's 0 fresh ones keep half, and less is faster
    logit_scale=1,
    final_norm=True,
    identity_start=False,
)
NUM_LOADER_CLIPS = 480
Work = Callable[[], None]


def paper_train(precision: str, batch: int) -> Train:
    """The paper's game: one video-level adversary, −BCE, both weights 0.5, nothing that this project adds."""
    adversary = Adversary(kind="vit", start="fresh", learning_rate=1e-4, replay=0)
    game = GameParams(
        objective="negative",
        learning_rate=1e-4,
        ramp_steps=0,
        reference_weight=0,
        adversaries=(adversary,),
        adversary_steps=1,
        closed_form=ClosedForm(weight=0),
    )
    return Train.model_validate(
        {
            "privacy_weight": 0.5,
            "action_weight": 0.5,
            "ratio_weight": 1,
            "polarisation_weight": 0,
            "gradient_clip": 0,
            "action_kind": "vit",
            "action_learning_rate": 1e-4,
            "game": game,
            "global_batch": batch,
            "micro_batch": batch,
            "precision": precision,
        }
    )


def training_step(game: Game, phase: str, num_actions: int, device: torch.device) -> Work:
    """A step as `training/loop.py` takes it, on the same clips each time."""
    train, size = game.train, game.train.global_batch
    clips = torch.rand(size, 3, game.clip.num_frames, game.clip.size, game.clip.size, device=device)
    actions = torch.randint(0, num_actions, (size,), device=device)
    attributes = torch.randint(0, 2, (size, 5), device=device).float()
    anonymizer = build_engine(anonymizer_player(game.networks, train, phase, 1000), train, num_parts=1)
    adversary = build_engine(adversary_player(game.networks, train, 1000), train, num_parts=1) if phase == "game" else None
    steps = iter(range(train.init.full_steps + train.init.ease_steps, 10**9))  # past the first steps, which drop nothing

    def work() -> None:
        step = next(steps)
        batch = Batch(clips, actions, attributes, samples=tuple(range(size)), step=step)
        anonymizer.update(game.anonymizer_loss if adversary else game.init_loss, game.look_ahead([batch]))
        for turn in range(train.game.adversary_steps if adversary else 0):
            assert adversary
            adversary.update(game.adversary_loss, game.recall(step, turn, num_parts=1))

    return work


def paper_step(precision: str, batch: int, device: torch.device) -> Work:
    """Beside the reference's: 51 actions, 5 attributes, a channel that only bounds, fills and rounds."""
    game = fresh_game(PAPER_MODEL, PAPER_CLIP, paper_train(precision, batch), Channel(noise=0), Recognizers(), 51, 5, device)
    return training_step(game, "game", 51, device)


def default_step(phase: str, device: torch.device) -> Work:
    """What a data loader has to keep up with."""
    game = fresh_game(Model(), Clip(), Train(num_workers=1), Channel(), Recognizers(), 8, 5, device)
    return training_step(game, phase, 8, device)


def paper_inference(keep_ratio: float, precision: str, batch: int, device: torch.device) -> Work:
    """The frozen anonymizer on `batch` clips."""
    torch.manual_seed(0)
    anonymizer = Anonymizer(PAPER_MODEL, PAPER_CLIP).to(device).eval()
    clips = torch.rand(batch, 3, 16, 112, 112, device=device)

    @torch.no_grad()
    def work() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            anonymizer(clips, keep_ratio)

    return work


def loader_epoch(folder: Path) -> Work:
    """One epoch of global batches, as `train` reads them, out of shards of noise in the default configuration's shape."""
    clip, shards = Clip(), write_noise(folder, Clip(), NUM_LOADER_CLIPS, num_actions=8, num_attributes=5)
    batches = GlobalBatches(ShardReader(shards, "train"), clip, Train(num_workers=1), 0, 1, torch.device("cpu"))
    epochs = iter(range(10**9))

    def work() -> None:
        for _ in batches.epoch(next(epochs)):
            pass

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "inference", "train", "loader"))
    parser.add_argument("phase", nargs="?", choices=("init", "game"), default="game")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--keep-ratio", type=float, default=0.7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    device = torch.device(args.device)
    wait = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    if args.what == "loader":
        with tempfile.TemporaryDirectory() as folder:
            serve(loader_epoch(Path(folder)))
    elif args.what == "train":
        serve(default_step(args.phase, device), wait)
    elif args.what == "step":
        serve(paper_step(args.precision, args.batch, device), wait)
    else:
        serve(paper_inference(args.keep_ratio, args.precision, args.batch, device), wait)


if __name__ == "__main__":
    main()
