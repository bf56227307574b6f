"""A game that is hopeless, or whose loss is no number, stops by its own report, on every worker alike."""

from types import SimpleNamespace

import pytest

from stprivacy.training.loop import Phase, play
from stprivacy.training.recorder import GiveUp, Recorder

STEPS = 3
"""Steps of an epoch."""


class Epochs:
    """Batches without clips: the loop asks for their steps alone."""

    def epoch(self, epoch):
        return [[SimpleNamespace(step=epoch * STEPS + step)] for step in range(STEPS)]


class Scripted:
    """An engine whose action loss in each epoch is written down beforehand."""

    def __init__(self, losses):
        self.losses = losses

    def update(self, loss, parts):
        action = self.losses[parts[0].step // STEPS]
        return {"loss/action": action, "loss/total": 2 * action}


def played(losses: list[float], give_up: GiveUp | None, rank: int = 0, name: str = "game") -> tuple[bool, list[dict]]:
    """Whether the game was played to its end, and what each epoch reported."""
    reports = []
    recorder = Recorder(None, rank, 2, lambda name, write, metrics: reports.append(metrics), None, give_up=give_up)
    phase = Phase(name, len(losses), SimpleNamespace(look_ahead=list), None, Scripted(losses))
    return play(phase, Epochs(), 0, recorder), reports


@pytest.mark.parametrize("rank", [0, 1])
def test_a_hopeless_game_stops_after_its_grace(rank):
    to_the_end, reports = played([9.0, 9.0, 9.0, 9.0], GiveUp(grace_epochs=2, action_loss=2.3), rank)
    assert not to_the_end
    assert len(reports) == 2


def test_a_game_that_recovers_within_its_grace_goes_on():
    to_the_end, reports = played([9.0, 2.0, 1.0], GiveUp(grace_epochs=2, action_loss=2.3))
    assert to_the_end
    assert [report["loss/action"] for report in reports] == [9.0, 2.0, 1.0]
    assert [report["epoch"] for report in reports] == [1, 2, 3]


def test_hope_is_judged_by_the_epoch_and_not_by_all_there_was():
    to_the_end, reports = played([0.1, 0.1, 2.4, 0.1], GiveUp(grace_epochs=2, action_loss=2.3))
    assert not to_the_end
    assert len(reports) == 3


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_any_phase(loss, rank):
    for name in ("init", "game"):
        to_the_end, reports = played([1.0, loss, 1.0], None, rank, name)
        assert not to_the_end
        assert len(reports) == 2


def test_init_is_never_given_up():
    assert played([9.0] * 4, GiveUp(1, 2.3), name="init")[0]


def test_without_a_sweep_nobody_gives_up():
    assert played([9.0] * 4, None)[0]
