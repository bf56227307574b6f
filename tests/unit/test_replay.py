"""The adversaries' memory of past releases."""

import torch

from stprivacy.models.anonymizer import Painted
from stprivacy.training.replay import Replay


def painted(value: float) -> Painted:
    """Two clips of one grey value, a multiple of 1/255, in four tubelets of which the first is dropped."""
    keep = torch.tensor([[[0.0, 1, 1, 1]]] * 2)
    return Painted(torch.full((2, 3, 2, 4, 4), value / 255), keep)


def filled(num_steps: int, capacity: int = 3) -> Replay:
    replay = Replay(capacity)
    for step in range(num_steps):
        replay.add(step, painted(step), torch.full((2, 1), float(step)), (step, 100 + step))
    return replay


def test_turn_zero_is_the_newest_exactly():
    entry = filled(5).draw(last=3, turn=0, key=("any",))
    assert torch.equal(entry.painted().pixels, painted(4).pixels)
    assert torch.equal(entry.painted().keep, painted(4).keep)
    assert torch.equal(entry.attributes, torch.full((2, 1), 4.0))
    assert entry.samples.tolist() == [4, 104]


def test_later_turns_see_only_the_last_entries_and_all_of_them():
    replay = filled(9)
    seen = {int(replay.draw(3, 1, ("replay", step)).samples[0]) for step in range(100)}
    assert seen == {6, 7, 8}
    assert {int(replay.draw(1, 1, ("replay", step)).samples[0]) for step in range(20)} == {8}


def test_the_same_key_draws_the_same_entry_on_every_worker():
    here, there = filled(9), filled(9)
    for step in range(20):
        assert torch.equal(here.draw(3, 1, ("k", step)).pixels, there.draw(3, 1, ("k", step)).pixels)


def test_micro_batches_of_a_step_become_one_entry():
    replay = Replay(2)
    for part in range(3):
        replay.add(7, painted(part), torch.zeros(2, 1), (part, part))
    entry = replay.draw(2, 0, ())
    assert torch.equal(entry.painted().pixels, torch.cat([painted(part).pixels for part in range(3)]))
    assert entry.samples.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_memory_that_was_restored_on_a_device_takes_what_comes_next_there():
    """`meta` stands for a GPU: tensors of two devices in one stack are refused there, too."""
    replay = Replay(3)
    replay.load({name: value if name == "steps" else value.to("meta") for name, value in filled(2).state().items()})
    new = painted(2)
    replay.add(2, Painted(new.pixels.to("meta"), new.keep.to("meta")), torch.zeros(2, 1, device="meta"), (2, 102))
    assert {value.device.type for name, value in replay.state().items() if name != "steps"} == {"meta"}


def test_a_restored_memory_draws_what_the_old_one_would_have():
    old, new = filled(6), Replay(3)
    new.load(old.state())
    for replay in (old, new):
        replay.add(6, painted(6), torch.ones(2, 1), (0, 1))
    for step in range(10):
        assert torch.equal(old.draw(3, 1, ("k", step)).pixels, new.draw(3, 1, ("k", step)).pixels)
