"""Tubelets as tokens, and attention in which dropped tokens are keys for nobody but themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stprivacy.models.vit import Attention, TubeletEmbedding, fold, masked_attention


def explicit_attention(query, key, value, keep):
    """Eq. 8-10 as written: an N × N mask in which every row has the kept tokens and the token itself."""
    itself = torch.eye(query.shape[2], dtype=query.dtype)
    mask = keep[:, None, None, :] + (1 - keep[:, None, None, :]) * itself
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * mask
    return weights / weights.sum(-1, keepdim=True) @ value


def random_heads(seed, batch=2, heads=2, num_tokens=7, size=4):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(batch, heads, num_tokens, size, generator=generator, dtype=torch.float64) for _ in range(3))
    keep = (torch.rand(batch, num_tokens, generator=generator) < 0.6).double()
    return [tensor.requires_grad_() for tensor in (query, key, value, keep)]


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 12), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_masked_attention_is_the_paper_s_in_value_and_gradient(seed, batch, heads, num_tokens, size):
    inputs = random_heads(seed, batch, heads, num_tokens, size)
    ours, oracle = masked_attention(*inputs), explicit_attention(*inputs)
    torch.testing.assert_close(ours, oracle)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for mine, theirs in zip(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(oracle, inputs, upstream), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_its_gradient_is_what_finite_differences_give():
    assert torch.autograd.gradcheck(masked_attention, random_heads(0))


def test_kept_tokens_attend_as_if_dropped_ones_were_not_there():
    query, key, value, keep = random_heads(1, batch=1)
    kept = keep[0] > 0
    alone = F.scaled_dot_product_attention(query[:, :, kept], key[:, :, kept], value[:, :, kept])
    torch.testing.assert_close(masked_attention(query, key, value, keep)[:, :, kept], alone)


def test_where_all_are_dropped_each_sees_itself():
    query, key, value, _ = random_heads(2)
    torch.testing.assert_close(masked_attention(query, key, value, torch.zeros(2, 7, dtype=torch.float64)), value)


@pytest.mark.parametrize("strength", [1e-3, 30.0, 1e3])
def test_masked_attention_survives_scores_of_any_size_in_single_precision(strength):
    query, key, value, keep = random_heads(3)
    expected = explicit_attention(query * strength, key, value, keep.detach())
    ours = masked_attention((query * strength).float(), key.float(), value.float(), keep.float())
    assert ours.isfinite().all()
    if strength < 1e3:  # beyond that the explicit form itself divides 0 by 0
        torch.testing.assert_close(ours.double(), expected, atol=1e-3, rtol=1e-3)


def test_a_mask_that_keeps_everything_changes_nothing():
    attention, tokens = Attention(24, 3), torch.randn(2, 10, 24)
    torch.testing.assert_close(attention(tokens, torch.ones(2, 10)), attention(tokens))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_tubelet_embedding_is_the_convolution_it_stands_for(batch, frames, height, width, slices, columns):
    embedding = TubeletEmbedding(5, (frames, height, width))
    clips = torch.rand(batch, 3, slices * frames, 2 * height, columns * width)
    expected = embedding.proj(clips).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(clips), expected)


def test_tokens_come_slice_by_slice_and_row_by_row():
    clips = torch.zeros(1, 3, 4, 16, 24)
    clips[:, :, 2:, 8:, 16:] = 1  # slice 1 of 2, row 1 of 2, column 2 of 3
    filled = fold(clips, (2, 8, 8)).sum(-1)[0].nonzero().flatten().tolist()
    assert filled == [1 * 6 + 1 * 3 + 2]
