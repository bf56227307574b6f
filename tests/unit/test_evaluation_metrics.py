"""Metrics against versions that follow the definitions step by step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stprivacy.evaluation.metrics import Labels, average_precisions, cmap, identity_top1, macro_f1, top1


def average_precision_by_hand(scores: list[float], truth: list[bool]) -> float:
    """Σ (recall gained at a threshold) · (precision there), equal scores entering together."""
    total, caught = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        answered = [is_true for score, is_true in zip(scores, truth, strict=True) if score >= threshold]
        gained = sum(answered) - caught
        caught += gained
        total += gained / sum(truth) * (caught / len(answered))
    return total


def f1_by_hand(scores: list[float], truth: list[bool]) -> float:
    pairs = list(zip([score > 0.5 for score in scores], truth, strict=True))
    hits, false_alarms, misses = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
    return 2 * hits / (2 * hits + false_alarms + misses)


@st.composite
def answers(draw):
    """Probabilities with many ties, and truths."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 4)))
    probabilities = draw(arrays(float, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 0.75, 1.0])))
    return probabilities, draw(arrays(bool, shape))


@settings(deadline=None, max_examples=60)
@given(answers())
def test_cmap_and_f1_are_means_over_the_attributes_that_some_clip_has(drawn):
    probabilities, present = drawn
    columns = [(p.tolist(), t.tolist()) for p, t in zip(probabilities.T, present.T, strict=True)]
    known = [(scores, truth) for scores, truth in columns if any(truth)]
    precisions = average_precisions(probabilities, present)
    expected = [average_precision_by_hand(scores, truth) if any(truth) else np.nan for scores, truth in columns]
    assert precisions == pytest.approx(np.array(expected), nan_ok=True)
    if not known:
        with pytest.raises(ValueError, match="no clip has any attribute"):
            cmap(probabilities, present)
        return
    assert cmap(probabilities, present) == pytest.approx(np.mean([average_precision_by_hand(*pair) for pair in known]))
    assert macro_f1(probabilities, present) == pytest.approx(np.mean([f1_by_hand(*pair) for pair in known]))


def test_a_perfect_ranking_has_cmap_1_and_its_reverse_is_worse_than_any_other():
    present = np.array([[1], [1], [0], [0]], dtype=bool)
    scores = np.array([[0.9], [0.8], [0.2], [0.1]])
    assert cmap(scores, present) == 1
    assert cmap(1 - scores, present) == pytest.approx((1 / 3 + 2 / 4) / 2)


@settings(deadline=None)
@given(arrays(float, (9, 3), elements=st.floats(0, 1), unique=True), st.lists(st.integers(0, 2), min_size=9, max_size=9))
def test_top1_is_the_share_of_clips_whose_most_probable_action_is_true(probabilities, actions):
    expected = sum(max(range(3), key=lambda action: row[action]) == true for row, true in zip(probabilities, actions, strict=True)) / 9
    assert top1(probabilities, np.array(actions)) == pytest.approx(expected)


def test_identities_are_told_only_where_every_clip_has_exactly_one():
    probabilities = np.array([[0.9, 0.1, 0.2], [0.1, 0.3, 0.2], [0.6, 0.7, 0.2]])
    one_each = Labels(np.zeros(3), np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]]))
    assert identity_top1(probabilities, one_each) == pytest.approx(2 / 3)
    assert identity_top1(probabilities, Labels(np.zeros(3), np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]]))) is None
    assert identity_top1(probabilities[:, :1], Labels(np.zeros(3), np.ones((3, 1)))) is None
