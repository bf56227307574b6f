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
    """Equal to rounding in the `first` step. Later a pixel may round to another of the 256 levels, which one step of Adam's magnifies: in
    fp32 the total of 3.1 then moves by up to 1.3e-4, in float64, where none does, by 2e-15."""
    assert len(ours) == len(expected)
    for step, (mine, theirs) in enumerate(zip(ours, expected, strict=True)):
        assert mine.keys() == theirs.keys()
        tolerance = first if step < 1 else max(1e-3, first)
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, abs=tolerance), f"step {step}, {name}"


@pytest.fixture
def float64(monkeypatch):
    """Everything in double precision: rounding is out of the way, and what is left is what the game does."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("micro_batch", [4, 1])
@pytest.mark.parametrize("shares", [None, (0.3, 0.9)], ids=["", "sampled"])
def test_parts_of_a_batch_are_the_batch(float64, micro_batch, shares):
    """To the last digits of float64, over all steps: no gradient asks which clips happened to be computed together."""
    train = tiny_train(engine="torch")
    train = train.model_copy(update={"game": train.game.model_copy(update={"sampled_kept_share": shares})})
    whole = play_steps(0, 1, train)
    parts = play_steps(0, 1, train.model_copy(update={"micro_batch": micro_batch}))
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-10)


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
def vita():
    """The strongest adversary counts, and after two steps all begin anew at a rate at which one step shows."""
    train = tiny_train()
    adversaries = tuple(adversary.model_copy(update={"learning_rate": 0.02}) for adversary in train.game.adversaries)
    changes = {"combine": "strongest", "restart_every": 2, "adversaries": adversaries}
    return train.model_copy(update={"game": train.game.model_copy(update=changes)})


@pytest.fixture(scope="module")
def vita_alone(vita):
    return play_steps(0, 1, vita.model_copy(update={"engine": "torch"}))


def test_adversaries_that_begin_anew_answer_otherwise(vita, vita_alone):
    never = vita.model_copy(update={"engine": "torch", "game": vita.game.model_copy(update={"restart_every": 0})})
    going_on = play_steps(0, 1, never)
    assert vita_alone[1] == going_on[1]
    assert abs(vita_alone[2]["turn1/attack/0-cnn3d/bce_replayed"] - going_on[2]["turn1/attack/0-cnn3d/bce_replayed"]) > 0.03


@pytest.mark.timeout(300)
@pytest.mark.parametrize("changes", [{"zero_stage": 0}, {"zero_stage": 1}, {"zero_stage": 2, "micro_batch": 2}], ids=str)
def test_strongest_adversaries_and_restarts_agree_on_two_workers(vita, vita_alone, changes, tmp_path):
    assert_same_game(on_workers(2, vita.model_copy(update=changes), tmp_path), vita_alone)


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
