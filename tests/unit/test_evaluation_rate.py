"""Ceilings by Fano's inequality, and what is surely known of the action."""

import numpy as np
import pytest

from stprivacy.evaluation.rate import action_information, entropy_bits, highest_accuracy, rate_figures


def mutual_information(joint: np.ndarray) -> float:
    """Bits, of a table of probabilities."""
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    return float(np.sum(joint * np.log2(np.where(joint > 0, joint / (rows * columns), 1))))


@pytest.mark.parametrize("seed", range(20))
def test_no_reader_of_a_small_channel_passes_the_ceiling(seed):
    """The best possible guess from the output of a random channel, with its exact mutual information."""
    draw = np.random.default_rng(seed)
    share, channel = draw.uniform(0.1, 0.9), draw.dirichlet(np.full(5, 0.5), size=2)
    joint = np.array([[1 - share], [share]]) * channel
    best = joint.max(0).sum()
    assert best <= highest_accuracy(share, mutual_information(joint)) + 1e-9


def test_the_ceiling_is_reached_by_a_symmetric_channel():
    error = 0.11
    assert highest_accuracy(0.5, 1 - entropy_bits(error)) == pytest.approx(1 - error)


def test_without_information_the_larger_class_is_all_there_is():
    assert highest_accuracy(0.5, 0.0) == pytest.approx(0.5)
    assert highest_accuracy(0.3, 0.0) == pytest.approx(0.7)
    assert highest_accuracy(0.5, 1.0) == 1.0
    assert highest_accuracy(0.5, 7.0) == 1.0


def test_what_answers_tell_of_the_action_is_never_more_than_there_is():
    draw = np.random.default_rng(0)
    actions = np.arange(4000) % 4
    channel = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
    seen = np.array([draw.choice(4, p=channel[action]) for action in actions])
    exact = mutual_information(channel / 4)
    honest = channel[:, seen].T  # a posteriori probabilities, the channel being symmetric
    assert action_information(honest, actions, 4) == pytest.approx(exact, abs=0.05)
    assert action_information(honest**3 / (honest**3).sum(1, keepdims=True), actions, 4) < exact  # too sure of itself
    assert action_information(np.full((4000, 4), 0.25), actions, 4) == pytest.approx(0)


def test_figures_of_a_release_with_a_small_rate():
    bits, present = np.full((40, 1), 2.3), np.arange(40)[:, None] % 2 == 0
    found = rate_figures(bits, 2.0, present, np.arange(40), ("face",))
    assert found["bits_per_clip"] == pytest.approx(2.3)
    assert found["interval"] == pytest.approx([2.3, 2.3])
    assert found["ceiling"]["face"] == pytest.approx(highest_accuracy(0.5, 0.3))
    assert 0.5 < found["ceiling"]["face"] < 0.9
