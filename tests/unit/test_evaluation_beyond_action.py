"""The leak beyond the action: nothing where the clip shows nothing more, all of it where it shows more."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from stprivacy.evaluation.beyond_action import PRIOR, answers_alone, fitted, folds_of, log_odds, strongest_told, told_the_action
from stprivacy.evaluation.floors import action_only, answer_from_action
from stprivacy.evaluation.jobs import AttackResult
from stprivacy.evaluation.metrics import Labels, cmap

NUM_ACTIONS = 4
SIZES = {"train": 400, "val": 160, "test": 400}


def labels(seed: int, told_by_action: float) -> dict[str, Labels]:
    """Labels by split, an attribute's share being ½ ± `told_by_action` / 2 by the action."""
    draw = np.random.default_rng(seed)
    found = {}
    for split, count in SIZES.items():
        actions = draw.integers(0, NUM_ACTIONS, count)
        share = 0.5 + told_by_action * (np.stack([actions % 2, actions // 2], axis=1) - 0.5)
        found[split] = Labels(actions, (draw.random((count, 2)) < share).astype(int))
    return found


def attacker(of: dict[str, Labels], skill: float, seed: int = 5, from_action: bool = False, name: str = "privacy-cnn3d") -> AttackResult:
    """Answers from the clip: log-odds `skill` times the truth and noise, or the action's share alone."""
    draw = np.random.default_rng(seed)

    def answers(split: str) -> np.ndarray:
        if from_action:
            return answer_from_action(of["train"], of[split])
        truth = of[split].present
        return 1 / (1 + np.exp(-(skill * (truth - 0.5) + draw.standard_normal(truth.shape))))

    val, test = answers("val"), answers("test")
    return AttackResult(name, "privacy", "cnn3d", 0, (), 0, cmap(val, of["val"].present), None, True, val, test, None)


def groups(of: dict[str, Labels]) -> np.ndarray:
    return np.arange(len(of["val"].actions)).astype(str)


def told(result: AttackResult, of: dict[str, Labels]):
    return told_the_action(result, answers_alone(of["train"], of["val"], of["test"]), of["val"], groups(of))


def test_who_reads_the_action_from_the_clip_and_nothing_else_gains_nothing_by_the_clip():
    """Its own cMAP is far above chance: all of it is the action."""
    of = labels(0, told_by_action=0.8)
    found = attacker(of, 0, from_action=True)
    alone = action_only(of["train"], of["test"]).cmap
    assert cmap(found.test, of["test"].present) > 0.75
    assert cmap(told(found, of).test, of["test"].present) - alone == pytest.approx(0, abs=0.01)


def test_a_clip_that_says_nothing_takes_nothing_from_what_the_action_says():
    of = labels(1, told_by_action=0.8)
    found = told(attacker(of, skill=0), of)
    assert cmap(found.test, of["test"].present) == pytest.approx(action_only(of["train"], of["test"]).cmap, abs=0.03)


def test_what_the_clip_shows_beyond_the_action_is_found():
    of = labels(2, told_by_action=0.8)
    clip_alone = attacker(of, skill=2)
    both, alone = cmap(told(clip_alone, of).test, of["test"].present), action_only(of["train"], of["test"]).cmap
    assert both > alone + 0.05
    assert both > cmap(clip_alone.test, of["test"].present) + 0.03


def test_the_strongest_is_chosen_by_val_with_the_action_told():
    """One attacker knows the action alone and has the better score; told the action, the other one is stronger."""
    of = labels(3, told_by_action=0.8)
    parrot, eye = attacker(of, 0, from_action=True, name="parrot"), attacker(of, skill=1.2, name="eye")
    assert parrot.val_score > eye.val_score
    assert strongest_told([parrot, eye], of["train"], of["val"], of["test"], groups(of)).name == "eye"


def test_test_labels_change_nothing_but_figures():
    of = labels(4, told_by_action=0.5)
    found = attacker(of, skill=1)
    other = of | {"test": Labels(of["test"].actions, 1 - of["test"].attributes)}
    assert np.array_equal(told(found, of).test, told(found, other).test)
    assert told(found, of).val_score == told(found, other).val_score


def test_the_model_is_scikit_learn_s_logistic_regression_with_weights_held_to_one():
    """With many clips what they are held to says nothing, and neither does scikit-learn's penalty."""
    draw = np.random.default_rng(6)
    truth = draw.random(4000) < 0.5
    clip, action = 3 * truth + draw.standard_normal((2, 4000)) * 2
    weights = fitted(clip, action, truth)
    judge = LogisticRegression(C=1e6).fit(np.stack([clip, action], axis=1), truth)
    assert weights == pytest.approx([*judge.coef_[0], judge.intercept_[0]], abs=0.03)
    assert fitted(clip[:0], action[:0], truth[:0]) == pytest.approx([1, 1, 0])
    assert PRIOR > 0


def test_an_opinion_that_was_wrong_on_val_counts_for_nothing_and_never_turned_round():
    draw = np.random.default_rng(7)
    truth = draw.random(300) < 0.5
    weights = fitted(np.where(truth, -2.0, 2.0), np.where(truth, 1.0, -1.0) + draw.standard_normal(300), truth)
    assert weights[0] == 0
    assert weights[1] > 0


def test_folds_hold_whole_groups_and_are_about_equal():
    of_clip = np.repeat([f"film {number}" for number in range(23)], 3)
    folds = folds_of(of_clip)
    assert all(len(set(folds[of_clip == group])) == 1 for group in np.unique(of_clip))
    sizes = np.bincount(folds) // 3
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 1


def test_log_odds_stay_finite_where_an_answer_is_sure():
    assert np.isfinite(log_odds(np.array([0.0, 0.5, 1.0]))).all()
