"""The game of a bounded release: its losses, its adversary, and that parts of a batch are the batch."""

from dataclasses import replace

import pytest
import torch

from stprivacy.config import Clip, CodeTraining, Model, Recognizers, Train
from stprivacy.models.code import CodeAnonymizer
from stprivacy.models.recognizers import build_recognizer
from stprivacy.training.code_game import CodeGame
from stprivacy.training.engine import TorchEngine
from stprivacy.training.latents_adversary import FEWEST, LatentsAdversary
from stprivacy.training.objectives import kernel_r2
from stprivacy.training.players import code_player
from stprivacy.training.targets import motion
from stprivacy.training.task import Batch, Networks
from tests.unit.test_models_code import moving

CLIP = Clip(num_frames=4, size=16)


def make_game(**changes) -> CodeGame:
    torch.manual_seed(0)
    train = Train(code=CodeTraining(**{"ramp_steps": 0, **changes}), engine="torch")
    model = Model(release="code", latents=3, tubelet=(2, 8, 8), width=16, depth=3, num_heads=2, keep_ratio=0.8)
    anonymizer = CodeAnonymizer(model, CLIP).train()
    reference = build_recognizer("cnn3d", 3, Recognizers(cnn_width=4), CLIP).requires_grad_(False).eval()
    networks = Networks(anonymizer, torch.nn.Linear(anonymizer.num_latents, 3), torch.nn.ModuleList(), reference)
    return CodeGame(networks, train, motion)


def batch(step: int = 0, num: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 3, (num,), generator=draw), torch.randint(0, 2, (num, 2), generator=draw).float()
    return Batch(moving(num, CLIP, step), *labels, samples=tuple(range(step * num, (step + 1) * num)), step=step)


def halves(whole: Batch) -> list[Batch]:
    return [
        replace(
            whole, clips=whole.clips[rows], actions=whole.actions[rows], attributes=whole.attributes[rows], samples=whole.samples[rows],
            part=part, num_parts=2,
        )
        for part, rows in enumerate((slice(0, 4), slice(4, 8)))
    ]  # fmt: skip


def test_init_asks_nothing_for_bits_and_the_game_does():
    game = make_game()
    assert "loss/rate" not in game.init_loss(batch())[1]
    _, metrics = game.game_loss(batch())
    assert metrics["rate/bits"] > 0
    priced = make_game(rate_weight=1.0).game_loss(batch())[1]["loss/total"]
    assert priced > metrics["loss/total"]


def test_a_price_makes_the_rate_fall():
    bits = {}
    for price in (0.0, 1.0):
        game = make_game(rate_weight=price)
        torch.nn.init.normal_(game.networks.anonymizer.head_code.weight, std=0.3)
        engine = TorchEngine(code_player(game.networks, game.train, "game", 30), game.train)
        bits[price] = [engine.update(game.game_loss, [batch(step % 3)])["rate/bits"] for step in range(30)]
    assert bits[0.0][0] == bits[1.0][0] > 3
    assert bits[1.0][-1] < 0.5 * min(bits[1.0][0], bits[0.0][-1])


def test_init_drops_nothing_and_the_game_comes_to_its_share():
    game = make_game(ramp_steps=10)
    share = game.networks.anonymizer.config.kept_share
    assert game._keep_ratio(0, "init") == game._keep_ratio(99, "init") == 1
    falling = [game._keep_ratio(step, "game") for step in range(12)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] ** 2 == pytest.approx(share)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_two_halves_of_a_batch_have_the_gradient_of_the_whole(weight):
    whole, parts = make_game(adversary_weight=weight), make_game(adversary_weight=weight)
    for game in (whole, parts):
        for step in range(1, 2 + FEWEST // 8):
            with torch.no_grad():
                game.game_loss(batch(step))
    after = batch(FEWEST)
    loss, metrics = whole.game_loss(after)
    loss.backward()
    assert ("loss/latents" in metrics) == bool(weight)
    for part in parts.look_ahead(halves(after)):
        (parts.game_loss(part)[0] / 2).backward()
    for ours, theirs in zip(whole.networks.anonymizer.parameters(), parts.networks.anonymizer.parameters(), strict=True):
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_the_adversary_finds_a_leak_and_no_luck():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400, 2), generator=draw).float()
    latents = torch.randn(400, 4, generator=draw)
    latents[:, 0] = 2 * labels[:, 0] - 1 + 0.3 * latents[:, 0]
    found = kernel_r2(latents[:100], labels[:100], latents[100:], labels[100:], 0.3)
    assert (found[:, 0] > 0.5).all()
    assert (found[:, 1] < 0.1).all()


def test_the_adversary_never_learns_from_the_clips_it_judges():
    adversary = LatentsAdversary(0.3)
    draw = torch.Generator().manual_seed(0)
    samples = list(range(80))
    latents, labels = torch.randn(80, 3, generator=draw), torch.randint(0, 2, (80, 2), generator=draw).float()
    adversary.r2(latents, labels, samples, 0)
    again = adversary.r2(latents, labels, samples, 1)  # all that is remembered is judged
    assert again.shape[0] == 1 and not again.any()


def test_a_killed_run_goes_on_with_what_the_adversary_remembered():
    ours, theirs = LatentsAdversary(0.3), LatentsAdversary(0.3)
    draw = torch.Generator().manual_seed(0)
    latents, labels = torch.randn(160, 3, generator=draw), torch.randint(0, 2, (160, 2), generator=draw).float()
    ours.r2(latents[:120], labels[:120], list(range(120)), 0)
    theirs.load(ours.state())
    judged = latents[120:], labels[120:], list(range(120, 160)), 1
    torch.testing.assert_close(ours.r2(*judged), theirs.r2(*judged))
    assert LatentsAdversary(0.3).state() == {}


def test_draws_belong_to_clips_and_not_to_batches():
    game, whole = make_game(), batch()
    both = torch.cat([game._latents(part, "game")[1] for part in halves(whole)])
    torch.testing.assert_close(game._latents(whole, "game")[1], both, rtol=1e-4, atol=1e-5)
