"""One worker, two workers and gradient accumulation play the same game; DeepSpeed plays what plain torch plays."""

import pytest
import torch
import torch.multiprocessing as mp

from tests.distributed.two_workers import play_steps, tiny_train, worker


@pytest.fixture(scope="module")
def alone():
    """The yardstick: one process, plain torch, the whole batch at once."""
    return play_steps(0, 1, tiny_train(engine="torch"))


def on_workers(world_size, train, folder):
    mp.spawn(worker, args=(world_size, train, str(folder)), nprocs=world_size)
    return torch.load(folder / "metrics-0.pt", weights_only=True)


def assert_same_game(ours, expected, first=2e-5):
    """Equal to rounding in the `first` step. Then a pixel that rounds to another of the 256 levels turns a gradient by up to 1e-3 of its
    length (four parts), which Adam's first updates magnify: the total of 3.3 moves by 1.5e-3 in step 1, by 6.4e-3 in step 2."""
    assert len(ours) == len(expected)
    for step, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
        assert mine.keys() == theirs.keys()
        tolerance = first if step < 1 else 1e-2
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, abs=tolerance), f"step {step}, {name}"


def test_the_closed_form_adversary_and_the_replay_take_part(alone):
    assert any(step["loss/closed_form"] > 0 for step in alone)
    assert alone[-1]["turn0/attack/0-cnn3d/bce_replayed"] != alone[-1]["turn1/attack/0-cnn3d/bce_replayed"]


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_gradient_accumulation_does_not_change_the_game(alone, micro_batch):
    assert_same_game(play_steps(0, 1, tiny_train(engine="torch", micro_batch=micro_batch)), alone)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_deepspeed_on_two_workers_plays_what_torch_plays_alone(alone, zero_stage, tmp_path):
    assert_same_game(on_workers(2, tiny_train(zero_stage=zero_stage), tmp_path), alone)


@pytest.mark.timeout(300)
def test_deepspeed_with_accumulation_on_two_workers(alone, tmp_path):
    assert_same_game(on_workers(2, tiny_train(micro_batch=2), tmp_path), alone)


@pytest.mark.timeout(300)
def test_bf16_stays_near_fp32(alone, tmp_path):
    ours = on_workers(2, tiny_train(precision="bf16"), tmp_path)
    assert ours[0]["loss/total"] == pytest.approx(alone[0]["loss/total"], rel=0.1)


@pytest.fixture(scope="module")
def sampled():
    """Every step at a kept share of its own."""
    train = tiny_train()
    return train.model_copy(update={"game": train.game.model_copy(update={"sampled_kept_share": (0.3, 0.9)})})


@pytest.fixture(scope="module")
def sampled_alone(sampled):
    return play_steps(0, 1, sampled.model_copy(update={"engine": "torch"}))


def test_a_sampled_kept_share_changes_from_step_to_step(sampled_alone):
    assert len({metrics["keep/share"] for metrics in sampled_alone}) > 1


def test_sampled_kept_shares_agree_under_gradient_accumulation(sampled, sampled_alone):
    parts = sampled.model_copy(update={"engine": "torch", "micro_batch": 4})
    assert_same_game(play_steps(0, 1, parts), sampled_alone, 2e-4)


@pytest.mark.timeout(300)
def test_sampled_kept_shares_agree_on_two_workers(sampled, sampled_alone, tmp_path):
    assert_same_game(on_workers(2, sampled, tmp_path), sampled_alone, 2e-4)
