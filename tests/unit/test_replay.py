"""The adversaries' memory of past releases."""

import torch

from stprivacy.training.replay import Replay


def release(value: float) -> torch.Tensor:
    """Two clips of one grey value, a multiple of 1/255."""
    return torch.full((2, 3, 2, 4, 4), value / 255)


def filled(num_steps: int, capacity: int = 3) -> Replay:
    replay = Replay(capacity)
    for step in range(num_steps):
        replay.add(step, release(step), torch.full((2, 1), float(step)))
    return replay


def test_turn_zero_is_the_newest_release_exactly():
    clips, attributes = filled(5).draw(last=3, turn=0, key=("any",))
    assert torch.equal(clips, release(4))
    assert torch.equal(attributes, torch.full((2, 1), 4.0))


def test_later_turns_see_only_the_last_releases_and_all_of_them():
    replay = filled(9)
    seen = {int(replay.draw(3, 1, ("replay", step))[1][0, 0]) for step in range(100)}
    assert seen == {6, 7, 8}
    assert {int(replay.draw(1, 1, ("replay", step))[1][0, 0]) for step in range(20)} == {8}


def test_the_same_key_draws_the_same_release_on_every_worker():
    here, there = filled(9), filled(9)
    for step in range(20):
        assert torch.equal(here.draw(3, 1, ("k", step))[0], there.draw(3, 1, ("k", step))[0])


def test_micro_batches_of_a_step_become_one_entry():
    replay = Replay(2)
    for part in range(3):
        replay.add(7, release(part), torch.zeros(2, 1))
    clips, _ = replay.draw(2, 0, ())
    assert torch.equal(clips, torch.cat([release(0), release(1), release(2)]))


def test_a_restored_memory_draws_what_the_old_one_would_have():
    old, new = filled(6), Replay(3)
    new.load(old.state())
    old.add(6, release(6), torch.ones(2, 1))
    new.add(6, release(6), torch.ones(2, 1))
    for step in range(10):
        assert torch.equal(old.draw(3, 1, ("k", step))[0], new.draw(3, 1, ("k", step))[0])
