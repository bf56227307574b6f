"""The losses of the game against brute force, closed forms and limits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stprivacy.training import objectives


@given(
    blocks=st.integers(1, 3),
    clips=st.integers(1, 3),
    slices=st.integers(1, 4),
    tokens=st.integers(1, 9),
    ratio=st.floats(0.1, 1.0),
    seed=st.integers(0, 99),
)
def test_the_ratio_loss_is_the_mean_over_blocks_clips_and_slices_of_squared_misses(blocks, clips, slices, tokens, ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    decisions = [torch.randint(0, 2, (clips, slices, tokens), generator=generator).float() for _ in range(blocks)]
    by_hand = [
        (sum(decision[b, place].tolist()) / tokens - ratio ** (m + 1)) ** 2
        for m, decision in enumerate(decisions) for b in range(clips) for place in range(slices)
    ]  # fmt: skip
    assert objectives.ratio_loss(decisions, ratio).item() == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-6)


def test_polarisation_is_one_for_coin_flips_and_zero_for_certainty():
    assert objectives.polarisation_loss([torch.full((2, 3, 4), 0.5)]).item() == pytest.approx(1)
    assert objectives.polarisation_loss([torch.tensor([[[0.0, 1.0]]])]).item() == pytest.approx(0)


def test_dropping_a_tubelet_costs_no_reconstruction():
    clips, pixels = torch.rand(2, 3, 2, 8, 8), torch.rand(2, 3, 2, 8, 8)
    keep = torch.zeros(2, 1, 2, 8, 8)
    assert objectives.reconstruction_loss(clips, pixels, keep).item() == 0
    assert objectives.reconstruction_loss(clips, pixels, torch.ones_like(keep)).item() == pytest.approx(F.mse_loss(pixels, clips).item())


@pytest.mark.parametrize(("objective", "prior"), [("entropy", 0.2), ("prior", 0.2), ("prior", 0.5)])
def test_the_privacy_objective_is_least_and_zero_where_the_adversary_says_the_target(objective, prior):
    target = torch.tensor(0.5 if objective == "entropy" else prior)
    answer = torch.logit(target).expand(4, 3).clone().requires_grad_()
    loss = objectives.privacy_objective(answer, torch.ones(4, 3), torch.full((3,), prior), objective)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert answer.grad.abs().max().item() == pytest.approx(0, abs=1e-6)
    assert objectives.privacy_objective(answer.detach() + 1, torch.ones(4, 3), torch.full((3,), prior), objective).item() > 0.01


def test_the_negative_objective_is_minus_the_cross_entropy_until_the_adversary_is_badly_wrong():
    attributes = torch.tensor([[1.0, 0.0]])
    right = torch.tensor([[1.0, -1.0]])
    expected = -F.binary_cross_entropy_with_logits(right, attributes)
    assert objectives.privacy_objective(right, attributes, torch.ones(2), "negative").item() == pytest.approx(expected.item())
    assert objectives.privacy_objective(-30 * right, attributes, torch.ones(2), "negative").item() == pytest.approx(-1)


def test_leave_one_out_r2_equals_refitting_without_each_sample():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    attributes = (features[:, :2] + 0.3 * torch.randn(12, 2, generator=generator)).double()
    ridge = 0.3
    standard = (features - features.mean(0)) / (features.std(0) + 1e-4)
    target = attributes - attributes.mean(0)
    residuals = []
    for left_out in range(12):
        rest = [i for i in range(12) if i != left_out]
        x, t = standard[rest], target[rest]
        # Kernel ridge with K = XXᵀ/F is ridge regression with penalty F·λ.
        weights = torch.linalg.solve(x.T @ x + 5 * ridge * torch.eye(5, dtype=torch.float64), x.T @ t)
        residuals.append(target[left_out] - standard[left_out] @ weights)
    expected = 1 - torch.stack(residuals).square().mean(0) / target.square().mean(0)
    assert torch.allclose(objectives.ridge_r2(features, attributes, ridge).double(), expected, atol=1e-4)


def test_closed_form_finds_a_linear_code_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(1)
    attributes = torch.randint(0, 2, (64, 1), generator=generator).float()
    noise = torch.randn(64, 8, generator=generator)
    assert objectives.ridge_r2(noise, attributes, 0.1).item() < 0.2
    assert objectives.ridge_r2(noise + 3 * attributes, attributes, 0.1).item() > 0.8


def test_rows_of_the_past_are_learned_from_and_not_judged():
    generator = torch.Generator().manual_seed(2)
    attributes = torch.randint(0, 2, (40, 1), generator=generator).float()
    leak = torch.randn(40, 8, generator=generator) + attributes
    all_judged = objectives.ridge_r2(leak, attributes, 2.0)
    halves = [objectives.ridge_r2(leak.roll(shift, 0), attributes.roll(shift, 0), 2.0, 20) for shift in (0, -20)]
    squares = [(attributes.roll(shift, 0)[:20] - attributes.mean()).square().mean() for shift in (0, -20)]
    left = [(1 - r2) * square for r2, square in zip(halves, squares, strict=True)]
    assert torch.allclose(1 - sum(left) / sum(squares), all_judged, atol=1e-5)


@given(step=st.integers(0, 200), steps=st.integers(0, 100))
def test_a_ramp_grows_from_above_zero_to_one(step, steps):
    value = objectives.ramp(step, steps)
    assert 0 < value <= 1
    assert value == 1 or step < steps - 1


def test_the_ratio_loss_per_clip_forgives_slices_that_make_up_for_each_other():
    uneven = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])  # one clip: all of a slice, none of the next
    assert objectives.ratio_loss([uneven], 0.5).item() == pytest.approx(0.25)
    assert objectives.ratio_loss([uneven], 0.5, per="clip").item() == 0
    assert objectives.ratio_loss([uneven], 0.25, per="clip").item() == pytest.approx(0.25**2)
