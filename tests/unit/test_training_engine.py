"""How a loss becomes a step: the plain-torch engine. That DeepSpeed does the same is what tests/distributed says."""

import pytest
import torch
from torch import nn

from stprivacy.config import Train
from stprivacy.training.engine import TorchEngine
from stprivacy.training.players import Group, Player, adversary_player, anonymizer_player
from tests.distributed.two_workers import tiny_game, tiny_train


def linear_player(learning_rate=0.1, schedule=lambda step: 1.0, gradient_clip=0.0):
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    return Player(module, (Group(tuple(module.parameters()), learning_rate, schedule),), gradient_clip)


def squared(player):
    """Mean square of the module's output: (loss, metrics) of a part."""

    def loss(rows):
        value = player.module(rows).square().mean()
        return value, {"loss": value.detach(), "rows": torch.tensor(float(len(rows)))}

    return loss


ROWS = torch.arange(18, dtype=torch.float32).view(6, 3) / 18


def test_parts_of_a_batch_make_the_step_of_the_whole():
    whole, parts = linear_player(), linear_player()
    for _ in range(3):
        metrics = TorchEngine(whole, Train()).update(squared(whole), [ROWS])
        averaged = TorchEngine(parts, Train()).update(squared(parts), list(ROWS.chunk(3)))
        assert averaged["loss"] == pytest.approx(metrics["loss"])
    assert (metrics["rows"], averaged["rows"]) == (6, 2)
    assert torch.allclose(whole.module.weight, parts.module.weight, atol=1e-6)


def test_biases_and_norms_do_not_decay():
    player = linear_player(learning_rate=0.1)
    engine = TorchEngine(player, Train(weight_decay=0.5))
    bias, weight = player.module.bias.clone(), player.module.weight.clone()
    engine.update(lambda rows: (0 * player.module(rows).sum(), {"loss": torch.zeros(())}), [ROWS])
    assert torch.equal(player.module.bias, bias)
    assert torch.allclose(player.module.weight, weight * (1 - 0.1 * 0.5))


def test_each_group_has_its_own_rate_and_schedule():
    quick, slow = nn.Linear(1, 1), nn.Linear(1, 1)
    groups = (Group(tuple(quick.parameters()), 0.1, lambda step: 1.0), Group(tuple(slow.parameters()), 0.01, lambda step: 0.5**step))
    module = nn.ModuleDict({"quick": quick, "slow": slow})
    engine = TorchEngine(Player(module, groups, 0.0), Train())
    seen = []
    for _ in range(3):
        seen.append(sorted({round(group["lr"], 6) for group in engine.optimizer.param_groups}))
        engine.update(lambda rows: (quick(rows).sum() + slow(rows).sum(), {"loss": torch.zeros(())}), [torch.ones(2, 1)])
    assert seen == [[0.01, 0.1], [0.005, 0.1], [0.0025, 0.1]]


def test_the_gradient_norm_is_limited_where_the_player_says_so(monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(optimizer, *arguments):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    for gradient_clip in (0.0, 0.25):
        player = linear_player(gradient_clip=gradient_clip)
        TorchEngine(player, Train()).update(squared(player), [100 * ROWS])
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.25, rel=1e-4)


def test_a_loaded_engine_goes_on_exactly(tmp_path):
    schedule = lambda step: 1 / (1 + step)  # noqa: E731
    undisturbed = linear_player(schedule=schedule)
    engine = TorchEngine(undisturbed, Train())
    for step in range(5):
        if step == 2:
            engine.save(tmp_path / "engine")
        engine.update(squared(undisturbed), [ROWS + step])
    again = linear_player(schedule=schedule)
    loaded = TorchEngine(again, Train())
    loaded.load(tmp_path / "engine")
    for step in range(2, 5):
        loaded.update(squared(again), [ROWS + step])
    assert torch.equal(again.module.weight, undisturbed.module.weight)
    assert torch.equal(again.module.bias, undisturbed.module.bias)


# ---------------------------------------------------------------------------------------------------- rates of the players


def rates(player, steps):
    """learning_rate × schedule of each group at the steps."""
    return [[group.learning_rate * group.schedule(step) for step in steps] for group in player.groups]


def networks():
    return tiny_game(tiny_train(engine="torch"), lambda rows: rows).networks


def test_in_the_game_the_anonymizer_s_rate_decays_to_a_tenth_and_the_recognizer_s_stays():
    train = tiny_train()
    anonymizer, action = rates(anonymizer_player(networks(), train, "game", 100), [0, 59, 60, 80, 96, 100])
    expected = [rate * train.game.learning_rate for rate in (1, 1, 1, 0.5, 0.1, 0.1)]
    assert anonymizer == pytest.approx(expected)
    assert action == [train.action_learning_rate] * 6


def test_init_warms_up():
    train = tiny_train()
    anonymizer, _ = rates(anonymizer_player(networks(), train, "init", 200), [0, 24, 49, 199])
    assert anonymizer == pytest.approx([rate * train.init.learning_rate for rate in (0.02, 0.5, 1, 1)])


def test_adversaries_keep_their_own_rates():
    train = tiny_train()
    found = rates(adversary_player(networks(), train, 100), [0, 50, 100])
    assert found == [[adversary.learning_rate] * 3 for adversary in train.game.adversaries]


@pytest.mark.parametrize("phase", ["init", "game"])
def test_a_cosine_falls_from_the_whole_rate_to_nothing_for_everybody(phase):
    train = tiny_train(schedule="cosine")
    players = [anonymizer_player(networks(), train, phase, 100), adversary_player(networks(), train, 100)]
    for group in (group for player in players for group in player.groups):
        assert [group.schedule(step) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


def test_every_parameter_belongs_to_one_player_and_one_group():
    playing = networks()
    players = [anonymizer_player(playing, tiny_train(), "game", 9), adversary_player(playing, tiny_train(), 9)]
    grouped = [id(parameter) for player in players for group in player.groups for parameter in group.parameters]
    owned = [id(parameter) for player in players for parameter in player.module.parameters()]
    assert len(grouped) == len(set(grouped))
    assert sorted(grouped) == sorted(owned)


def test_an_engine_that_begins_anew_steps_as_a_fresh_one():
    """Weights are set from outside; the next step is that of an optimizer that has seen nothing."""
    used, fresh = linear_player(), linear_player()
    start = {name: tensor.clone() for name, tensor in fresh.module.state_dict().items()}
    engine = TorchEngine(used, Train())
    for _ in range(3):
        engine.update(squared(used), [10 * ROWS])
    used.module.load_state_dict(start)
    engine.begin_anew()
    engine.update(squared(used), [ROWS])
    TorchEngine(fresh, Train()).update(squared(fresh), [ROWS])
    assert torch.equal(used.module.weight, fresh.module.weight)
