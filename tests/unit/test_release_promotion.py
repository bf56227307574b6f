"""When a version may take the champion's place: the rule alone, without a registry."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprivacy.errors import UserError
from stprivacy.release.promotion import UNKNOWN_SPREAD, Standing, compare
from stprivacy.release.registry import Version

BAR = 0.9


def standing(action=0.95, cmap=0.6, spread: float | None = 0.01, judged_on="same", origin="models:/m/1"):
    return Standing(origin, action, cmap, BAR, judged_on, spread, spread)


@pytest.mark.parametrize(("newcomer", "champion", "why"), [
    (standing(cmap=0.55), standing(), None),  # more private
    (standing(cmap=0.609), standing(), None),  # less private, within the spread
    (standing(cmap=0.62), standing(), "cMAP 0.620 is above 0.600 .* spread 0.010"),
    (standing(cmap=0.62, spread=0.03), standing(), None),  # the larger spread of the two counts
    (standing(cmap=0.62), standing(spread=0.03), None),
    (standing(action=0.895), standing(), None),  # misses the bar by less than the spread
    (standing(action=0.85, cmap=0.5), standing(), "action top-1 0.850 is below the policy's 0.900"),  # however private it is
    (standing(action=0.99, cmap=0.7), standing(action=0.8), None),  # the champion misses the bar, the newcomer doesn't
    (standing(action=0.85), standing(action=0.8), None),
    (standing(action=0.7, cmap=0.5), standing(action=0.8), "neither reaches the policy's action 0.900"),
    (standing(cmap=0.1, judged_on="other"), standing(), "cannot be compared"),
])  # fmt: skip
def test_worse_on_the_policy_beyond_the_spread_is_refused(newcomer, champion, why):
    objection = compare(newcomer, champion).objection
    if why is None:
        assert objection is None
    else:
        assert re.search(why, objection)


def test_a_spread_that_one_seed_leaves_unknown_is_assumed_and_said():
    close, far = standing(cmap=0.6 + UNKNOWN_SPREAD / 2, spread=None), standing(cmap=0.61 + UNKNOWN_SPREAD, spread=None)
    assert compare(close, standing()).objection is None
    assert compare(far, standing()).objection is not None
    assert compare(close, standing()).assumed
    assert not compare(standing(), standing()).assumed


SHARE = st.floats(0, 1)
STANDINGS = st.builds(standing, action=SHARE, cmap=SHARE, spread=st.one_of(st.none(), st.floats(0, 0.1)))


@given(STANDINGS)
def test_nobody_is_worse_than_itself(one):
    assert compare(one, one).objection is None


@given(STANDINGS, STANDINGS)
def test_of_two_at_most_one_is_worse(one, other):
    assert compare(one, other).objection is None or compare(other, one).objection is None


@given(STANDINGS, STANDINGS, SHARE, SHARE)
def test_a_better_newcomer_is_never_refused_where_a_worse_one_is_taken(newcomer, champion, more_action, less_cmap):
    better = Standing("models:/m/2", max(newcomer.action, more_action), min(newcomer.cmap, less_cmap), BAR, "same",
                      newcomer.spread_action, newcomer.spread_cmap)  # fmt: skip
    if compare(newcomer, champion).objection is None:
        assert compare(better, champion).objection is None


def test_a_version_without_figures_is_named_with_the_mend():
    version = Version("m", 3, {"val_action_top1": "0.9"}, ("candidate",), datetime.now(UTC), None)
    with pytest.raises(UserError, match=r"models:/m/3 \(candidate\): tag 'val_privacy_cmap' is missing"):
        Standing.of(version)
