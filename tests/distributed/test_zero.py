"""ZeRO 0, 1 and 2 train as plain data parallelism does, and what any number of workers has written any other takes up. Without Ray."""

import shutil

import pandas as pd
import pytest
import torch

from stprivacy.training.checkpoints import Checkpoints
from stprivacy.training.worker import TrainingJob
from tests.distributed.fault_driver import tiny_game, write_sources
from tests.distributed.plain_workers import play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
EPOCHS, STEPS = 2, 3
FIRST = "game-0001"
ROUNDING = 2e-3
"""Two orders of adding the same numbers part by 2e-4 of a loss in six steps of the game; an optimizer that starts anew, by over 1e-2."""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """job(engine, **changes of train): init of one epoch, game of two, three steps each."""
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)

    def job(engine="deepspeed", **changes):
        game = tiny_game().train.game.model_copy(update={"epochs": EPOCHS})
        params = tiny_game(engine=engine, game=game, windows_per_epoch=1, **changes)
        return TrainingJob(params, folder / "shards", folder / "recognizers")

    return job


@pytest.fixture(scope="module")
def plain(job, tmp_path_factory):
    """Plain torch on two workers, gradients averaged by all-reduce: history, and the folder of its checkpoints."""
    runs = tmp_path_factory.mktemp("plain")
    return play(job("torch"), 2, runs), runs


def assert_same_game(found, expected, tolerance):
    assert found[["phase", "step"]].to_dict("records") == expected[["phase", "step"]].to_dict("records")
    names = [name for name in expected if name not in ("phase", "step")]
    pd.testing.assert_frame_equal(found[names], expected[names], check_exact=False, rtol=tolerance, atol=tolerance)


def weights_and_moments(runs, player):
    """Everything that the last checkpoint says of a player, as one dict of tensors."""
    name = Checkpoints(str(runs), "run").names()[0]
    state = torch.load(runs / "run" / name / f"{player}-player" / "engine.pt", weights_only=True)["parameters"]
    return {f"{parameter}/{what}": value for parameter, known in state.items() for what, value in known.items()}


def test_the_run_has_every_step_once(plain):
    history, _ = plain
    assert history["step"].tolist() == [*range(STEPS), *range(EPOCHS * STEPS)]
    assert (history["loss/closed_form"].dropna() > 0).any()


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_zero_trains_as_plain_data_parallelism_does(job, plain, zero_stage, tmp_path):
    history, runs = plain
    assert_same_game(play(job(zero_stage=zero_stage), 2, tmp_path), history, ROUNDING)
    for player in ("anonymizer", "adversary"):
        ours, theirs = weights_and_moments(tmp_path, player), weights_and_moments(runs, player)
        assert ours.keys() == theirs.keys()
        distance = torch.cat([(ours[name] - theirs[name]).flatten() for name in theirs if name.endswith("weight")]).norm()
        length = torch.cat([values.flatten() for name, values in theirs.items() if name.endswith("weight")]).norm()
        assert distance < 1e-3 * length
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name.endswith("step"))


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 1), (1, 1)), ((1, 1), (2, 2)), ((2, 0), (1, 0)), ((2, 2), (4, 1)), ((4, 1), (1, 2))],
    ids=lambda case: f"{case[0]}-workers-zero-{case[1]}",
)
def test_another_number_of_workers_and_another_stage_go_on_with_the_same_game(job, plain, before, after, tmp_path):
    first = play(job(zero_stage=before[1]), before[0], tmp_path, stop_after=FIRST)
    assert len(first) == 2 * STEPS
    assert_same_game(play(job(zero_stage=after[1]), after[0], tmp_path), plain[0], ROUNDING)


def test_bf16_goes_on_with_its_own_fp32_weights(job, tmp_path):
    """At stage 0 and at stage 1 DeepSpeed keeps them in different places."""
    for stage in (0, 1):
        whole = play(job(zero_stage=stage, precision="bf16"), 2, tmp_path / f"whole-{stage}")
        stopped = tmp_path / f"stopped-{stage}"
        play(job(zero_stage=stage, precision="bf16"), 2, stopped, stop_after=FIRST)
        assert_same_game(play(job(zero_stage=stage, precision="bf16"), 2, stopped), whole, 1e-6)


def test_deepspeed_goes_on_where_torch_was(job, plain, tmp_path):
    """The form of a checkpoint is of neither."""
    history, runs = plain
    shutil.copytree(runs / "run" / FIRST, tmp_path / "run" / FIRST)
    assert_same_game(play(job(), 1, tmp_path), history, ROUNDING)
