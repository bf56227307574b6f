"""Intervals and p-values agree with other libraries and with what they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, f1_score

from stprivacy.evaluation.metrics import average_precisions, cmap, macro_f1
from stprivacy.evaluation.statistics import (
    interval,
    macro,
    paired_difference,
    resampled_aps,
    resampled_f1,
    resampled_share,
    resamples,
    weighted_ap,
)

DRAW = np.random.default_rng(0)


def answers(num: int, skill: float, seed: int = 0, num_attributes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, present) in which the clips that have an attribute score higher by `skill` standard deviations."""
    draw = np.random.default_rng(seed)
    present = draw.random((num, num_attributes)) < 0.4
    return 1 / (1 + np.exp(-(skill * present + draw.standard_normal((num, num_attributes))))), present


# ---------------------------------------------------------------------------------------------------- average precision


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_the_ap_of_a_resample_is_scikit_learn_s_with_the_clips_repeated(rows):
    scores, truth, times = (np.array(column) for column in zip(*rows, strict=True))
    (found,) = weighted_ap(scores / 4, truth, times[None].astype(float))
    repeated = np.repeat(truth, times), np.repeat(scores / 4, times)
    if repeated[0].any():
        assert found == pytest.approx(average_precision_score(*repeated))
    else:
        assert np.isnan(found)


def test_average_precision_and_macro_figures_are_torchmetrics_s():
    """scikit-learn computes, torchmetrics checks."""
    from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

    probabilities, present = answers(200, 1.0)
    mine, theirs = torch.from_numpy(probabilities), torch.from_numpy(present.astype(int))
    each = multilabel_average_precision(mine, theirs, num_labels=3, average="none").numpy()
    assert average_precisions(probabilities, present) == pytest.approx(each, abs=1e-5)
    assert cmap(probabilities, present) == pytest.approx(float(multilabel_average_precision(mine, theirs, num_labels=3)), abs=1e-5)
    assert macro_f1(probabilities, present) == pytest.approx(float(multilabel_f1_score(mine, theirs, num_labels=3)), abs=1e-5)


def test_an_attribute_that_was_not_drawn_counts_in_no_macro_mean():
    aps = np.array([[0.5, np.nan], [0.5, 0.7], [np.nan, np.nan]])
    assert macro(aps) == pytest.approx([0.5, 0.6, np.nan], nan_ok=True)


def test_f1_and_shares_of_a_resample_are_those_of_the_clips_repeated():
    probabilities, present = answers(50, 1.0)
    times = resamples(np.arange(50), num=5)
    for row, found in zip(times.astype(int), resampled_f1(probabilities, present, times), strict=True):
        truth, answer = np.repeat(present, row, axis=0), np.repeat(probabilities, row, axis=0) > 0.5
        assert found == pytest.approx(f1_score(truth, answer, average="macro"))
    right = present[:, 0]
    expected = [np.repeat(right, row).mean() for row in times.astype(int)]
    assert resampled_share(right, times) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------- resampling


def test_every_resample_holds_as_many_clips_and_a_group_comes_whole_or_not_at_all():
    alone = resamples(np.arange(40), num=200)
    assert (alone.sum(1) == 40).all()
    groups = np.repeat([f"film {number}" for number in range(10)], 4)
    times = resamples(groups, num=200)
    assert (times.sum(1) == 40).all()
    assert all(len(np.unique(row[groups == group])) == 1 for row in times for group in np.unique(groups))


def test_resamples_are_the_same_every_time_and_another_seed_draws_others():
    assert np.array_equal(resamples(np.arange(30), num=20), resamples(np.arange(30), num=20))
    assert not np.array_equal(resamples(np.arange(30), num=20), resamples(np.arange(30), num=20, seed=1))


def test_an_interval_is_as_wide_as_scipy_s_percentile_bootstrap():
    right = DRAW.random(150) < 0.7
    low, high = interval(resampled_share(right, resamples(np.arange(150), num=4000)))
    other = bootstrap((right.astype(float),), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    assert (low, high) == pytest.approx((other.confidence_interval.low, other.confidence_interval.high), abs=0.015)


def test_clips_of_few_groups_give_wider_intervals_than_as_many_single_clips():
    """Ten films of twenty clips that are right or wrong together are ten pieces of evidence."""
    right, films = np.repeat(np.arange(10) % 2 == 0, 20), np.repeat(np.arange(10), 20)
    single = interval(resampled_share(right, resamples(np.arange(200))))
    grouped = interval(resampled_share(right, resamples(films)))
    assert grouped[1] - grouped[0] > 3 * (single[1] - single[0])


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        right = np.random.default_rng(seed).random(100) < 0.6
        low, high = interval(resampled_share(right, resamples(np.arange(100), num=400, seed=seed)))
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_no_value_has_no_interval():
    assert interval(np.full(5, np.nan)) is None


# ---------------------------------------------------------------------------------------------------- differences


def difference(skill_a: float, skill_b: float, seed: int = 0):
    """Of the cMAP of two methods on the same clips."""
    one, present = answers(150, skill_a, seed)
    draw = np.random.default_rng(seed + 1000)
    other = 1 / (1 + np.exp(-(skill_b * present + draw.standard_normal(present.shape))))
    times = resamples(np.arange(150), num=300, seed=seed)
    drawn = [macro(resampled_aps(probabilities, present, times)) for probabilities in (one, other)]
    return paired_difference(cmap(one, present) - cmap(other, present), *drawn)


def test_a_method_is_not_different_from_itself():
    probabilities, present = answers(80, 1.0)
    drawn = macro(resampled_aps(probabilities, present, resamples(np.arange(80))))
    found = paired_difference(0.0, drawn, drawn)
    assert (found.low, found.high, found.p) == (0, 0, 1)


def test_a_large_difference_is_told_and_has_its_sign():
    found = difference(2.0, 0.0)
    assert found.p < 0.01
    assert 0 < found.low < found.value < found.high
    turned = difference(0.0, 2.0)
    assert turned.high < 0


def test_methods_that_are_equally_good_are_seldom_called_different():
    called = sum(difference(1.0, 1.0, seed).p < 0.05 for seed in range(60))
    assert called <= 8  # 3 expected
