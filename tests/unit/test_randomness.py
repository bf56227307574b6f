"""Draws belong to a key and a sample: the same wherever and beside whatever they are drawn."""

import math

import pytest
import torch

from stprivacy.randomness import keyed_gumbel, keyed_normal, keyed_seed

DRAWS = pytest.mark.parametrize("draw", [keyed_normal, keyed_gumbel])


@DRAWS
def test_a_sample_s_draw_does_not_depend_on_its_place_or_its_neighbours(draw):
    together = draw((3, 4), ("noise", 0, 7), [5, 6, 9])
    assert torch.equal(draw((3, 4), ("noise", 0, 7), [9, 5])[0], together[2])
    assert not torch.equal(together[0], together[1])


@DRAWS
def test_another_key_is_another_draw(draw):
    keys = [("noise", 0, 7), ("noise", 0, 8), ("noise", 1, 7), ("other", 0, 7), ("noise", 0, 77)]
    assert len({draw((8,), key, [5]).numpy().tobytes() for key in keys}) == len(keys)


@DRAWS
def test_drawing_leaves_torch_s_own_randomness_alone(draw):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw((5,), ("noise",), [1, 2])
    assert torch.equal(torch.rand(3), expected)


def test_normal_and_gumbel_draws_have_their_mean_and_spread():
    normal, gumbel = (draw((100,), ("spread",), range(1000)) for draw in (keyed_normal, keyed_gumbel))
    assert (normal.mean().item(), normal.std().item()) == pytest.approx((0, 1), abs=0.02)
    assert (gumbel.mean().item(), gumbel.std().item()) == pytest.approx((0.5772, math.pi / 6**0.5), abs=0.02)  # Euler's constant


def test_seeds_fit_into_63_bits_and_keys_do_not_run_into_one_another():
    keys = [("a", 1, 11), ("a", 11, 1), ("a", 111), ("a", "1", "11"), ("a1", 11), ("a", 1, 11, 0)]
    seeds = [keyed_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
