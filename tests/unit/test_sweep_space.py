"""Which configurations a sweep tries, and what a search that was killed proposes when it is started again."""

import itertools
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stprivacy.config import Range, Sweep
from stprivacy.training.run_storage import CACHE
from stprivacy.training.space import Configuration, OptunaSpace, grid, open_space, random_draws

RANGES = Sweep(
    search="random",
    kept_share=Range(low=0.2, high=0.9),
    privacy_weight=Range(low=1, high=100, log=True),
    action_weight=(0.5, 1.0),
    num_trials=20,
)


def taken(space, most: int = 100) -> list[Configuration]:
    """What a space proposes when nothing is ever told."""
    return list(itertools.islice(iter_space(space), most))


def iter_space(space):
    while True:
        try:
            yield next(space)
        except StopIteration:
            return


def test_a_grid_is_every_combination_with_the_last_changing_fastest():
    sweep = Sweep(kept_share=(0.7, 0.4), privacy_weight=(1.0, 2.0), action_weight=(3.0, 4.0), num_trials=100)
    assert [c.setting for c in grid(sweep)] == [
        (share, privacy, action) for share in (0.7, 0.4) for privacy in (1.0, 2.0) for action in (3.0, 4.0)
    ]


def test_a_grid_is_cut_at_the_number_of_trials_and_each_setting_has_every_seed():
    sweep = Sweep(kept_share=(0.7, 0.4), privacy_weight=(1.0, 2.0), num_trials=3, seeds=(5, 6))
    found = grid(sweep)
    assert [c.setting for c in found[::2]] == [(0.7, 1.0, 1.0), (0.7, 2.0, 1.0), (0.4, 1.0, 1.0)]
    assert [c.seed for c in found] == [5, 6] * 3


def test_a_value_named_twice_is_tried_once():
    assert len(grid(Sweep(kept_share=(0.4, 0.4), privacy_weight=(1.0,), num_trials=9))) == 1


def test_names_say_the_configuration_and_are_good_for_folders():
    name = Configuration(0.4, 15.0, 1.0, 0).name
    assert name == "share-0.4_privacy-15_action-1_seed-0"
    drawn = random_draws(RANGES, seed=0)
    assert len({c.name for c in drawn}) == len(drawn) == RANGES.num_trials
    assert all(Path(c.name).name == c.name for c in drawn)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_random_draws_stay_in_their_ranges_and_belong_to_the_seed(seed):
    drawn = random_draws(RANGES, seed)
    assert drawn == random_draws(RANGES, seed)
    for configuration in drawn:
        assert 0.2 <= configuration.kept_share <= 0.9
        assert 1 <= configuration.privacy_weight <= 100
        assert configuration.action_weight in (0.5, 1.0)
        assert float(f"{configuration.kept_share:.3g}") == configuration.kept_share


def test_another_seed_draws_otherwise():
    assert random_draws(RANGES, 0) != random_draws(RANGES, 1)


def test_a_logarithmic_range_is_uniform_in_the_logarithm():
    weights = sorted(c.privacy_weight for c in random_draws(RANGES.model_copy(update={"num_trials": 400}), 0))
    assert 8 < weights[200] < 12.5  # the median of 1 … 100 is 10 there, and 50 in a plain range


def test_lists_with_fewer_combinations_than_trials_end_by_themselves():
    sweep = Sweep(search="random", kept_share=(0.4, 0.7), privacy_weight=(1.0,), action_weight=(1.0,), num_trials=10)
    assert sorted(c.kept_share for c in random_draws(sweep, 0)) == [0.4, 0.7]


@pytest.mark.parametrize(("changes", "said"), [
    ({"kept_share": (1.2,)}, "share of the tubelets"),
    ({"kept_share": Range(low=0.5, high=1.5), "search": "random"}, "share of the tubelets"),
    ({"privacy_weight": Range(low=1, high=2)}, "search grid needs lists"),
    ({"seeds": ()}, "at least 1"),
])  # fmt: skip
def test_a_space_that_cannot_be_is_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        Sweep(**changes)


# ------------------------------------------------------------------------------------------------------------ Optuna

OPTUNA = RANGES.model_copy(update={"search": "optuna", "num_trials": 8})


def found(configuration: Configuration) -> tuple[float, float]:
    """A made-up trial: action rises with the kept share, leak falls with the privacy weight."""
    return configuration.kept_share, 1 / configuration.privacy_weight


def played(space, num: int) -> list[Configuration]:
    """Ask and tell one after the other."""
    seen = []
    for configuration in itertools.islice(iter_space(space), num):
        space.tell(configuration, found(configuration))
        seen.append(configuration)
    return seen


def test_optuna_proposes_different_settings_in_range_as_many_as_asked(tmp_path):
    proposed = played(open_space(OPTUNA, 0, tmp_path), 100)
    assert len({c.setting for c in proposed}) == len(proposed) == 8
    assert all(0.2 <= c.kept_share <= 0.9 and 1 <= c.privacy_weight <= 100 for c in proposed)


def test_optuna_belongs_to_the_seed(tmp_path):
    runs = [played(open_space(OPTUNA, seed, tmp_path / str(place)), 8) for place, seed in enumerate((0, 0, 1))]
    assert runs[0] == runs[1] != runs[2]


def test_a_killed_optuna_search_proposes_the_same_again_before_anything_new(tmp_path):
    before = played(open_space(OPTUNA, 0, tmp_path), 4)
    space = open_space(OPTUNA, 0, tmp_path)
    before.append(next(space))  # asked, and killed before it was told
    again = played(open_space(OPTUNA, 0, tmp_path), 100)
    assert again[:4] == before[:4]
    assert len({c.setting for c in again}) == len(again) == 8


def test_a_killed_search_of_a_job_goes_on_on_whatever_node(tmp_path, monkeypatch):
    """A node takes what it has with it, or has only what an earlier job proposed on it."""
    monkeypatch.setenv("STPRIVACY_STORAGE", str(tmp_path / "storage"))
    one, other = (tmp_path / node / CACHE / "sweep" / "0123456789ab" for node in ("one", "other"))
    played(open_space(OPTUNA, 0, tmp_path / CACHE / "here"), 2)
    assert not (tmp_path / "storage").exists()  # no job
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")
    runs = [played(open_space(OPTUNA, 0, other), 2), played(open_space(OPTUNA, 1, one), 5)]  # by its seed alone each differs
    shutil.rmtree(one)
    runs.append(played(open_space(OPTUNA, 2, other), 100))
    assert runs[1][:2] == runs[0]
    assert runs[2][:5] == runs[1]
    assert len({c.setting for c in runs[2]}) == len(runs[2]) == 8


def test_a_larger_search_goes_on_where_the_smaller_one_ended(tmp_path):
    smaller = played(open_space(OPTUNA, 0, tmp_path), 100)
    larger = played(open_space(OPTUNA.model_copy(update={"num_trials": 11}), 0, tmp_path), 100)
    assert larger[:8] == smaller
    assert len(larger) == 11


def test_optuna_hears_the_mean_over_seeds_and_of_failures(tmp_path):
    space = OptunaSpace(OPTUNA.model_copy(update={"seeds": (0, 1)}), 0, tmp_path / "proposals.jsonl")
    first, second = next(space), next(space)
    assert (first.setting, first.seed, second.seed) == (second.setting, 0, 1)
    space.tell(first, (0.5, 0.1))
    space.tell(second, (0.7, 0.3))
    for configuration in (next(space), next(space)):
        space.tell(configuration, None)
    told, failed = space._study.get_trials(deepcopy=False)
    assert told.values == pytest.approx([0.6, 0.2])
    assert failed.values is None


def test_optuna_with_few_combinations_ends_by_itself(tmp_path):
    sweep = Sweep(search="optuna", kept_share=(0.4, 0.7), privacy_weight=(1.0,), action_weight=(1.0,), num_trials=10)
    assert sorted(c.kept_share for c in played(open_space(sweep, 0, tmp_path), 100)) == [0.4, 0.7]


def test_optuna_learns_where_the_good_settings_are(tmp_path):
    sweep = OPTUNA.model_copy(update={"num_trials": 40})
    proposed = played(open_space(sweep, 0, tmp_path), 100)
    late = proposed[-20:]
    assert sum(c.kept_share for c in late) / 20 > 0.55  # the middle of the range
    assert sum(c.privacy_weight for c in late) / 20 > 10
