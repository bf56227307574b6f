"""Front, hypervolume and knee as geometry: against pymoo, against counting, and under changes that must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprivacy.evaluation.pareto import hypervolume, knee, undominated

REFERENCE = (0.125, 1.0)
GRID = 16


@st.composite
def points(draw, least=1):
    """(n, 2) of (action, cMAP) on a coarse grid, so that ties and twins come often."""
    cells = draw(st.lists(st.tuples(st.integers(0, GRID), st.integers(0, GRID)), min_size=least, max_size=12))
    return np.array(cells, dtype=float) / GRID


def dominates(one, other):
    at_least = one[0] >= other[0] and one[1] <= other[1]
    return at_least and (one[0] > other[0] or one[1] < other[1])


@given(points())
def test_the_front_is_what_no_other_point_dominates(values):
    assert undominated(values).tolist() == [not any(dominates(other, value) for other in values) for value in values]


@given(points())
def test_the_front_is_the_one_that_pymoo_finds(values):
    sorting = pytest.importorskip("pymoo.util.nds.non_dominated_sorting")
    first = sorting.NonDominatedSorting().do(np.stack([-values[:, 0], values[:, 1]], axis=1), only_non_dominated_front=True)
    assert sorted(first.tolist()) == np.flatnonzero(undominated(values)).tolist()


@given(points())
def test_the_hypervolume_is_the_one_that_pymoo_finds(values):
    indicator = pytest.importorskip("pymoo.indicators.hv")
    theirs = indicator.HV(ref_point=np.array([-REFERENCE[0], REFERENCE[1]]))(np.stack([-values[:, 0], values[:, 1]], axis=1))
    assert hypervolume(values, REFERENCE) == pytest.approx(theirs, abs=1e-12)


@given(points())
def test_the_hypervolume_is_the_count_of_dominated_cells(values):
    """Every corner of the front lies on the grid, so that a cell is dominated as a whole or not at all."""
    centres = (np.arange(GRID) + 0.5) / GRID
    counted = sum(
        any(action >= x and cmap <= y for action, cmap in values) for x in centres for y in centres if x > REFERENCE[0] and y < REFERENCE[1]
    )
    assert hypervolume(values, REFERENCE) == pytest.approx(counted / GRID**2, abs=1e-12)


@given(points(), st.integers(0, GRID), st.integers(0, GRID))
def test_a_dominated_point_changes_nothing(values, less_action, more_leak):
    worse = values[:1] + np.array([[-less_action, more_leak]]) / GRID
    both = np.concatenate([values, worse])
    assert hypervolume(both, REFERENCE) == pytest.approx(hypervolume(values, REFERENCE), abs=1e-12)
    assert undominated(both)[: len(values)].tolist() == undominated(values).tolist()


@given(points(least=2), st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert undominated(values[order]).tolist() == undominated(values)[order].tolist()
    assert hypervolume(values[order], REFERENCE) == pytest.approx(hypervolume(values, REFERENCE), abs=1e-12)


@given(points(least=2))
def test_another_point_never_lowers_the_hypervolume(values):
    assert hypervolume(values, REFERENCE) >= hypervolume(values[:-1], REFERENCE) - 1e-12


@given(points(least=2), st.floats(0.1, 10), st.floats(0.1, 10), st.floats(-1, 1), st.floats(-1, 1))
def test_other_units_of_the_axes_scale_the_hypervolume_and_leave_front_and_knee(values, wide, high, right, up):
    scale, shift = np.array([wide, high]), np.array([right, up])
    moved = values * scale + shift
    reference = tuple(np.array(REFERENCE) * scale + shift)
    assert undominated(moved).tolist() == undominated(values).tolist()
    assert hypervolume(moved, reference) == pytest.approx(hypervolume(values, REFERENCE) * wide * high, rel=1e-6, abs=1e-9)
    front = np.unique(values[undominated(values)], axis=0)
    before, after = knee(front), knee(front * scale + shift)
    assert (before is None) == (after is None)
    if before is not None:
        scaled = (front - front.min(0)) / np.ptp(front, axis=0)
        gains = scaled[:, 0] - scaled[:, 1]
        assert gains[after] == pytest.approx(gains[before], abs=1e-6)  # among equals rounding may pick another


def test_points_behind_the_reference_add_no_area():
    assert hypervolume(np.array([[0.1, 0.2], [0.9, 1.0]]), REFERENCE) == 0
    assert hypervolume(np.array([[1.0, 0.0]]), REFERENCE) == pytest.approx(0.875)


def test_the_knee_is_where_the_front_bends_most():
    bent = np.array([[1.0, 0.9], [0.97, 0.62], [0.9, 0.58], [0.6, 0.5]])
    assert knee(bent) == 1


@pytest.mark.parametrize(
    "front",
    [[[1.0, 0.9]], [[1.0, 0.9], [0.5, 0.4]], [[1.0, 0.9], [0.75, 0.7], [0.5, 0.5]], [[1.0, 0.9], [0.6, 0.85], [0.5, 0.5]]],
    ids=["one point", "two points", "straight", "hollow"],
)
def test_a_front_that_bends_nowhere_has_no_knee(front):
    assert knee(np.array(front)) is None
