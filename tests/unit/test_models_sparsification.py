"""Which tubelets are kept: scores from three levels, hard decisions in training, the top of each slice at inference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stprivacy.models.sparsification import Scorer, gumbel_decision, gumbel_top_share, num_kept, top_of_each_slice


def scores_by_hand(scorer: Scorer, tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Eq. 2-5 token by token: local, mean of the kept tokens of its slice, mean of the kept tokens of the clip."""
    third, per_slice = scorer.third, tokens.shape[1] // scorer.num_slices
    rows = []
    for clip, kept in zip(tokens, keep.bool(), strict=True):
        projected = scorer.in_conv(clip)
        for index, token in enumerate(projected):
            first = index // per_slice * per_slice
            neighbours = projected[first : first + per_slice][kept[first : first + per_slice]]
            levels = [token[:third], neighbours[:, third : 2 * third].mean(0), projected[kept][:, 2 * third :].mean(0)]
            rows.append(scorer.out_conv(torch.cat(levels)) * scorer.logit_scale)
    return torch.stack(rows).view(*tokens.shape[:2], 2)


@pytest.mark.parametrize("width", [12, 16])  # 16 is no multiple of three
def test_scores_pool_over_kept_tokens_of_the_slice_and_of_the_clip(width):
    torch.manual_seed(0)
    scorer, tokens = Scorer(width, num_slices=3, logit_scale=2.0), torch.randn(2, 12, width)
    keep = torch.tensor([[1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 1]]).float()
    torch.testing.assert_close(scorer(tokens, keep), scores_by_hand(scorer, tokens, keep))


def test_a_slice_without_kept_tokens_has_finite_scores():
    scorer, keep = Scorer(12, num_slices=2), torch.tensor([[0.0, 0, 0, 1, 1, 0]])
    assert scorer(torch.randn(1, 6, 12), keep).isfinite().all()
    assert scorer(torch.randn(1, 6, 12), torch.zeros(1, 6)).isfinite().all()


@pytest.mark.parametrize(("keep_bias", "logit_scale"), [(2.0, 4.0), (0.0, 1.0), (-1.0, 2.0)])
def test_training_starts_at_the_keep_probability_of_the_bias(keep_bias, logit_scale):
    scorer = Scorer(24, num_slices=2, keep_bias=keep_bias, logit_scale=logit_scale)
    for parameter in scorer.out_conv.parameters():
        torch.nn.init.zeros_(parameter)
    scorer.reset_bias()
    probabilities = scorer(torch.randn(3, 8, 24), torch.ones(3, 8)).softmax(-1)[..., 0]
    torch.testing.assert_close(probabilities, torch.tensor(keep_bias).sigmoid().expand(3, 8))


@given(st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_a_decision_is_exactly_zero_or_one_and_whichever_wins_with_its_noise(seed):
    torch.manual_seed(seed)
    logits, noise = 5 * torch.randn(2, 6, 2), torch.randn(2, 6, 2)
    decision = gumbel_decision(logits.requires_grad_(), noise)
    assert torch.equal(decision, ((logits + noise)[..., 0] >= (logits + noise)[..., 1]).float())


def test_a_decision_is_torch_s_hard_gumbel_softmax_in_value_and_gradient():
    logits = torch.randn(4, 9, 2, requires_grad=True)
    torch.manual_seed(5)
    expected = F.gumbel_softmax(logits, tau=1, hard=True)[..., 0]
    torch.manual_seed(5)
    ours = gumbel_decision(logits, -torch.empty_like(logits).exponential_().log())
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn(4, 9)
    torch.testing.assert_close(torch.autograd.grad(ours, logits, upstream), torch.autograd.grad(expected, logits, upstream))


def test_the_paper_keeps_34_24_and_16_of_49():
    assert [num_kept(0.7**block, 49) for block in (1, 2, 3)] == [34, 24, 16]


@given(st.floats(1e-9, 1), st.integers(1, 500))
def test_at_least_one_tubelet_of_a_slice_is_kept_and_never_more_than_the_share(share, patches):
    count = num_kept(share, patches)
    assert 1 <= count <= max(1, share * patches + 1e-6)
    assert count == patches or count > share * patches - 1


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4])
def test_rounding_errors_of_a_keep_ratio_take_no_tubelet(num_blocks):
    for patches in (36, 49, 196):
        for kept in range(1, patches + 1):
            keep_ratio = (kept / patches) ** (1 / num_blocks)  # as a kept share is turned into r
            assert num_kept(keep_ratio**num_blocks, patches) == kept


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 9), st.data())
@settings(max_examples=40, deadline=None)
def test_the_top_of_each_slice_is_what_sorting_gives(seed, num_slices, patches, data):
    count = data.draw(st.integers(1, patches))
    logits = torch.randn(2, num_slices * patches, 2, generator=torch.Generator().manual_seed(seed))
    chosen = top_of_each_slice(logits, num_slices, count)
    for clip in range(2):
        expected = set()
        for first in range(0, num_slices * patches, patches):
            lead = [(float(logits[clip, i, 0] - logits[clip, i, 1]), i) for i in range(first, first + patches)]
            expected |= {index for _, index in sorted(lead, reverse=True)[:count]}
        assert set(chosen[clip].tolist()) == expected


def survivors(seed: int, num_tokens: int, per_slice: int) -> torch.Tensor:
    """Random earlier decisions (2, num_tokens) that leave at least `per_slice` of each slice of 6."""
    keep = (torch.rand(2, num_tokens, generator=torch.Generator().manual_seed(seed)) < 0.7).float()
    keep.view(2, -1, 6)[..., :per_slice] = 1
    return keep


@given(st.integers(0, 10**6), st.floats(0.01, 1), st.booleans())
@settings(max_examples=50, deadline=None)
def test_exactly_the_share_of_each_slice_is_kept_and_what_fell_before_stays_away(seed, share, tied):
    torch.manual_seed(seed)
    logits, noise = torch.randn(2, 18, 2), torch.randn(2, 18, 2)
    if tied:
        logits, noise = torch.zeros_like(logits), torch.zeros_like(noise)
    keep, count = survivors(seed, 18, num_kept(share, 6)), num_kept(share, 6)
    decision = gumbel_top_share(logits, noise, keep, 3, share)
    assert set(decision.unique().tolist()) <= {0.0, 1.0}
    assert (decision.view(2, 3, 6).sum(2) == count).all()
    assert (decision <= keep).all()


def test_where_fewer_are_left_than_the_share_all_of_them_stay():
    keep = torch.tensor([[1.0, 0, 0, 1, 0, 0]])
    decision = gumbel_top_share(torch.randn(1, 6, 2), torch.randn(1, 6, 2), keep, 1, 0.7)
    assert torch.equal(decision, keep)


@given(st.integers(0, 10**6), st.floats(0.01, 1))
@settings(max_examples=50, deadline=None)
def test_without_noise_the_share_is_evaluation_s_top_of_each_slice(seed, share):
    torch.manual_seed(seed)
    logits = torch.randn(2, 18, 2)
    decision = gumbel_top_share(logits, torch.zeros_like(logits), torch.ones(2, 18), 3, share)
    chosen = top_of_each_slice(logits, 3, num_kept(share, 6))
    assert torch.equal(decision, torch.zeros(2, 18).scatter(1, chosen, 1.0))


def test_the_gradient_of_a_share_is_largest_at_its_threshold_and_none_for_what_fell_before():
    logits = torch.tensor([[[9.0, 0], [2, 0], [1, 0], [-9, 0], [1.5, 0]]], requires_grad=True)
    keep = torch.tensor([[1.0, 1, 1, 1, 0]])
    decision = gumbel_top_share(logits, torch.zeros_like(logits), keep, 1, 0.5)  # two of five: 9 and 2, threshold 1.5
    slope = torch.autograd.grad(decision.sum(), logits)[0][0, :, 0]
    assert slope.isfinite().all()
    assert slope[1] == slope[2] > slope[0] > 0
    assert slope[3] > 0
    assert slope[4] == 0


def test_noise_decides_where_the_scores_do_not():
    noise = torch.zeros(1, 6, 2)
    noise[0, [1, 4], 0] = 1.0
    decision = gumbel_top_share(torch.zeros(1, 6, 2), noise, torch.ones(1, 6), 1, 0.34)
    assert decision.nonzero()[:, 1].tolist() == [1, 4]
