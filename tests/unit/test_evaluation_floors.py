"""What needs no picture: figures that can be worked out on paper, or by drawing often enough."""

import numpy as np
import pytest

from stprivacy.evaluation.floor_titles import FLOOR_TITLES
from stprivacy.evaluation.floors import action_only, chance, constant, floors, random_ranking_cmap
from stprivacy.evaluation.metrics import Labels, average_precisions, macro_f1


def labels(actions: list[int], *attributes: list[int]) -> Labels:
    return Labels(np.array(actions), np.array(attributes).T)


def random_labels(num: int, seed: int, shares: tuple[float, ...] = (0.1, 0.5, 0.8)) -> Labels:
    draw = np.random.default_rng(seed)
    return Labels(draw.integers(0, 4, num), (draw.random((num, len(shares))) < shares).astype(float))


def test_action_only_answers_with_the_share_among_training_clips_of_the_same_action():
    # Action 0: 1 of 2 have it; action 1: 2 of 2; over all 3 of 4 have it, which counts as one more clip of each action.
    train = labels([0, 0, 1, 1], [1, 0, 1, 1])
    test = labels([1, 0, 1, 0], [1, 1, 0, 0])
    floor = action_only(train, test)  # answers (2 + 3/4) / 3 for action 1, (1 + 3/4) / 3 for action 0
    # Both clips of action 1 are ranked first: precision 1/2 at recall 1/2, then 2/4 at recall 1.
    assert floor.cmap == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 4)
    assert floor.f1 == pytest.approx(2 * 2 / (4 + 2))  # all four are answered yes
    assert floor.action == 1
    assert floor.ap == (floor.cmap,)


def test_an_action_without_training_clips_is_answered_with_the_share_of_all():
    train, test = labels([0, 0, 1], [1, 1, 0]), labels([0, 1, 2], [1, 0, 1])
    answer = np.array([(2 + 2 / 3) / 3, (0 + 2 / 3) / 2, 2 / 3])[:, None]
    assert action_only(train, test).ap == tuple(average_precisions(answer, test.present))


def test_action_only_finds_attributes_that_go_with_the_action_and_none_that_do_not():
    draw = np.random.default_rng(0)
    splits = []
    for num in (4000, 2000):
        actions = draw.integers(0, 4, num)
        splits.append(Labels(actions, np.stack([actions % 2, draw.integers(0, 2, num)], 1)))
    tied, free = action_only(*splits).ap
    assert tied == 1
    assert free == pytest.approx(0.5, abs=0.05)


def test_a_constant_answer_has_the_share_of_positives_as_precision():
    train, test = random_labels(50, 0), random_labels(40, 7)
    assert test.present.any(0).all()
    floor = constant(train, test)
    assert floor.ap == pytest.approx(test.present.mean(0))
    assert floor.action == pytest.approx((test.actions == np.bincount(train.actions).argmax()).mean())
    always = test.present[:, train.present.mean(0) > 0.5].mean(0)  # answered yes: precision is the share, recall 1
    assert floor.f1 == pytest.approx(sum(2 * always / (1 + always)) / 3)


def test_chance_is_what_random_answers_get():
    train, test = random_labels(60, 2), random_labels(2000, 3)
    draw = np.random.default_rng(4)
    hits, f1s, top1s = [], [], []
    for _ in range(200):
        picked = draw.random(test.present.shape) < train.present.mean(0)
        hits.append([test.present[picked[:, a], a].mean() for a in range(3)])
        f1s.append(macro_f1(picked.astype(float), test.present))
        top1s.append((draw.choice(train.actions, len(test.actions)) == test.actions).mean())
    floor = chance(train, test)
    assert floor.cmap == pytest.approx(np.mean(hits), abs=0.005)
    assert floor.f1 == pytest.approx(np.mean(f1s), abs=0.005)
    assert floor.action == pytest.approx(np.mean(top1s), abs=0.005)


@pytest.mark.parametrize("num", [2, 7, 30])
def test_a_random_ranking_has_the_expected_cmap(num):
    test = random_labels(num, 5)
    draw = np.random.default_rng(6)
    columns = [test.present[:, column] for column in np.flatnonzero(test.present.any(0))]
    ranked = np.stack([draw.permuted(np.tile(column, (20_000, 1)), axis=1) for column in columns])  # (attributes, draws, ranks)
    precision = ranked.cumsum(2) / np.arange(1, num + 1)
    seen = ((precision * ranked).sum(2) / ranked.sum(2)).mean(0)  # AP: mean precision at the ranks of the positives
    assert random_ranking_cmap(test) == pytest.approx(seen.mean(), abs=5 * seen.std() / 20_000**0.5)


def test_a_random_ranking_of_one_positive_among_two_has_three_quarters():
    assert random_ranking_cmap(labels([0, 0], [1, 0])) == pytest.approx(0.75)


def test_an_attribute_that_no_test_clip_has_counts_nowhere():
    train = labels([0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0])
    test = labels([0, 1, 0], [1, 0, 1], [0, 0, 0])
    alone = floors(labels([0, 1, 0, 1], [1, 0, 1, 0]), labels([0, 1, 0], [1, 0, 1]))
    for name, floor in floors(train, test).items():
        assert (floor.cmap, floor.f1) == pytest.approx((alone[name].cmap, alone[name].f1)), name
        assert np.isnan(floor.ap[1])
    assert random_ranking_cmap(test) == random_ranking_cmap(labels([0, 1, 0], [1, 0, 1]))


def test_every_floor_has_a_title():
    assert list(floors(labels([0, 1], [1, 0]), labels([0, 1], [1, 0]))) == list(FLOOR_TITLES)
