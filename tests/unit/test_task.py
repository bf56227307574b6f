"""The rules of the game: who learns from what, and what is drawn from which key."""

import itertools
import math

import pytest
import torch

from stprivacy.config import Adversary, ClosedForm
from stprivacy.config import Game as GameParams
from stprivacy.models.sparsification import num_kept
from stprivacy.training.loop import Phase, play
from stprivacy.training.players import anonymizer_player
from stprivacy.training.task import Batch
from tests.distributed.two_workers import GLOBAL_BATCH, global_batch, play_steps, tiny_game, tiny_train


def one_batch(step: int = 0, samples: range = range(GLOBAL_BATCH)) -> Batch:
    rows = list(samples)
    return Batch(**{name: values[rows] for name, values in global_batch(step).items()}, samples=tuple(rows), step=step)


@pytest.fixture
def game():
    return tiny_game(tiny_train(engine="torch"), lambda rows: rows)


def gradients(module: torch.nn.Module) -> float:
    return sum(p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None)


def test_the_anonymizer_player_moves_neither_adversaries_nor_the_reference(game):
    loss, _ = game.anonymizer_loss(one_batch())
    loss.backward()
    assert gradients(game.networks.anonymizer) > 0
    assert gradients(game.networks.action) > 0
    assert gradients(game.networks.adversaries) == 0
    assert gradients(game.networks.reference) == 0


def test_the_adversary_player_moves_adversaries_alone(game):
    game.anonymizer_loss(one_batch())
    loss, _ = game.adversary_loss(game.recall(step=0, turn=0, num_parts=1)[0])
    loss.backward()
    assert gradients(game.networks.adversaries) > 0
    assert gradients(game.networks.anonymizer) == gradients(game.networks.action) == 0


def test_init_knows_no_adversary(game):
    loss, metrics = game.init_loss(one_batch())
    loss.backward()
    assert gradients(game.networks.adversaries) == 0
    assert set(metrics) == {"loss/action", "loss/reconstruction", "loss/ratio", "loss/polarisation", "loss/total", "keep/share"}


def test_init_keeps_everything_at_first_and_eases_to_the_target():
    train = tiny_train(init={"full_steps": 3, "ease_steps": 10})
    game = tiny_game(train, lambda rows: rows)
    ratios = [game._eased_keep_ratio(step) for step in range(20)]
    assert ratios[:3] == [1.0] * 3
    assert all(late <= early for early, late in itertools.pairwise(ratios))
    assert ratios[-1] == pytest.approx(game.networks.anonymizer.keep_ratio)


def seen_by_adversaries(game, step: int, turn: int = 0) -> torch.Tensor:
    return game.recall(step, turn, num_parts=1)[0].clips[0]


def test_adversaries_see_released_clips_and_nothing_else(game):
    game.anonymizer_loss(one_batch())
    clips = seen_by_adversaries(game, 0)
    assert torch.equal((clips * 255).round() / 255, clips)
    assert not torch.allclose(clips, one_batch().clips, atol=0.05)


def test_no_replayed_release_has_the_same_noise_twice(game):
    game.anonymizer_loss(one_batch())
    first, again, later = seen_by_adversaries(game, 0), seen_by_adversaries(game, 0), seen_by_adversaries(game, 0, turn=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_the_noise_belongs_to_the_sample_not_to_its_place_in_the_batch(game):
    game.networks.anonymizer.eval()  # no Gumbel draws: what is left is the channel's noise
    game.anonymizer_loss(one_batch(samples=range(4)))
    first = seen_by_adversaries(game, 0)
    game.replay.load({})
    game.anonymizer_loss(one_batch(samples=range(2, 6)))
    moved = seen_by_adversaries(game, 0)
    assert torch.equal(first[2:4], moved[:2])


def test_some_replayed_clips_are_mirrored_and_none_where_left_and_right_matter(game):
    game.channel = game.channel.model_copy(update={"noise": 0.0})
    game.anonymizer_loss(one_batch())
    plain = game.train.game.model_copy(update={"mirror": False})
    game.train, mirroring = game.train.model_copy(update={"game": plain}), game.train
    as_they_are = seen_by_adversaries(game, 0)
    game.train = mirroring
    seen = seen_by_adversaries(game, 0)
    mirrored = [not torch.equal(one, other) for one, other in zip(seen, as_they_are, strict=True)]
    assert any(mirrored) and not all(mirrored)
    assert all(torch.equal(one.flip(-1), other) for one, other, turned in zip(seen, as_they_are, mirrored, strict=True) if turned)


def test_the_closed_form_adversary_goes_on_exactly_after_a_restart(game):
    for step in range(3):
        game.anonymizer_loss(one_batch(step))
    other = tiny_game(game.train, lambda rows: rows)
    other.closed_form.load(game.closed_form.state())
    expected, _ = game.anonymizer_loss(one_batch(3))
    found, metrics = other.anonymizer_loss(one_batch(3))
    assert torch.equal(found, expected)
    other.closed_form.load({})
    without, _ = other.anonymizer_loss(one_batch(3))
    assert "loss/closed_form" in metrics and not torch.equal(without, expected)


def train_with_statistics(**changes):
    train = tiny_train(engine="torch", **changes)
    closed_form = train.game.closed_form.model_copy(update={"statistics": True})
    return train.model_copy(update={"game": train.game.model_copy(update={"closed_form": closed_form})})


def test_statistics_are_one_more_feature_set_and_leave_the_others_as_they_are(game):
    more = tiny_game(train_with_statistics(), lambda rows: rows)
    for step in range(3):
        without, found = (each._closed_form_r2(one_batch(step).clips, one_batch(step)) for each in (game, more))
        assert len(found) == len(without) + 1
        assert torch.equal(found[:-1], without)


def test_statistics_tell_what_is_only_in_the_mean_colour_of_a_corner():
    game, found = tiny_game(train_with_statistics(), lambda rows: rows), []
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        released = torch.rand(24, 3, 4, 16, 16, generator=generator)
        attributes = torch.randint(0, 2, (24, 2), generator=generator).float()
        released[:, 0, :, :4, :4] += attributes[:, 0].view(-1, 1, 1, 1)  # the other one is nowhere
        batch = Batch(released, torch.zeros(24, dtype=torch.int64), attributes, tuple(range(24)), step)
        found.append(game._closed_form_r2(released, batch)[-1])
    shown, hidden = torch.stack(found[-4:]).mean(0).tolist()
    assert shown > 0.3
    assert hidden < 0.05


def test_statistics_teach_the_anonymizer_though_dropped_tubelets_are_constant():
    game = tiny_game(train_with_statistics(), lambda rows: rows)
    released = game._release(game._paint(one_batch(), game._keep_ratio(0)), one_batch(), noisy=True)
    assert (released.std(2) == 0).any()
    game._closed_form_r2(released, one_batch())[-1].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in game.networks.anonymizer.parameters() if parameter.grad is not None)
    assert gradients(game.networks.anonymizer) > 0


def test_micro_batches_play_the_same_game_with_statistics():
    whole = play_steps(0, 1, train_with_statistics())
    parts = play_steps(0, 1, train_with_statistics(micro_batch=GLOBAL_BATCH // 2))
    assert [step["loss/closed_form"] for step in parts] == pytest.approx([step["loss/closed_form"] for step in whole], abs=1e-4)


def train_against_the_mask(weight=0.0, **changes):
    train = tiny_train(engine="torch", **changes)
    closed_form = train.game.closed_form.model_copy(update={"weight": weight, "mask_weight": 20.0})
    return train.model_copy(update={"game": train.game.model_copy(update={"closed_form": closed_form})})


def test_the_mask_is_one_more_feature_set_and_leaves_the_others_as_they_are(game):
    more, keep = tiny_game(train_against_the_mask(40.0), lambda rows: rows), torch.rand(len(one_batch().clips), 2, 4).round()
    for step in range(3):
        batch = one_batch(step)
        without, found = game._closed_form_r2(batch.clips, batch, keep), more._closed_form_r2(batch.clips, batch, keep)
        assert len(found) == len(without) + 1
        assert torch.equal(found[:-1], without)


def test_the_mask_s_regression_sees_what_only_the_mask_tells():
    game, found = tiny_game(train_against_the_mask(), lambda rows: rows), []
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        released, keep = torch.rand(24, 3, 4, 16, 16, generator=generator), torch.rand(24, 2, 4, generator=generator).round()
        attributes = torch.randint(0, 2, (24, 2), generator=generator).float()
        keep[:, :, 0] = attributes[:, :1]  # the other one is nowhere
        found.append(game._closed_form_r2(released, Batch(released, torch.zeros(24), attributes, tuple(range(24)), step), keep)[0])
    shown, hidden = torch.stack(found[-4:]).mean(0).tolist()
    assert shown > 0.3
    assert hidden < 0.05


def test_the_mask_s_regression_teaches_the_scorers():
    game = tiny_game(train_against_the_mask(), lambda rows: rows)
    batch = one_batch()
    painted = game._paint(batch, game._keep_ratio(0))
    terms = game._closed_form_terms(batch.clips, batch, painted.keep)
    assert terms.keys() == {"mask"}
    game._closed_form_r2(batch.clips, batch, painted.keep).sum().backward()
    assert gradients(game.networks.anonymizer) > 0


def test_a_change_that_isn_t_there_can_be_learned():
    """Both halves of the features, how often a place is kept and how often that changes, have a slope whatever the decisions are."""
    game = tiny_game(train_against_the_mask(), lambda rows: rows)
    keep = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], requires_grad=True)
    (features,) = game._mask_features(keep)
    assert features.tolist() == [[1.0, 0.5, 0.0, 1.0]]
    features[0, 2].backward()
    assert keep.grad[0, :, 0].abs().min() > 0


def test_one_slice_never_changes():
    (features,) = tiny_game(train_against_the_mask(), lambda rows: rows)._mask_features(torch.tensor([[[1.0, 0.0]]]))
    assert features.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_a_game_against_the_mask_goes_on_exactly_after_a_restart():
    game = tiny_game(train_against_the_mask(40.0), lambda rows: rows)
    for step in range(3):
        game.anonymizer_loss(one_batch(step))
    other = tiny_game(game.train, lambda rows: rows)
    other.closed_form.load(game.closed_form.state())
    assert torch.equal(other.anonymizer_loss(one_batch(3))[0], game.anonymizer_loss(one_batch(3))[0])


def test_a_method_without_a_mask_is_not_attacked_by_it():
    game = tiny_game(train_against_the_mask(40.0), lambda rows: rows)
    assert game._closed_form_terms(one_batch().clips, one_batch(), None).keys() == {"closed_form"}


def test_micro_batches_play_the_same_game_against_the_mask():
    whole = play_steps(0, 1, train_against_the_mask(40.0))
    parts = play_steps(0, 1, train_against_the_mask(40.0, micro_batch=GLOBAL_BATCH // 2))
    assert "loss/mask" in whole[0]
    for name in ("loss/closed_form", "loss/mask"):
        assert [step[name] for step in parts] == pytest.approx([step[name] for step in whole], abs=1e-4)


def test_the_paper_s_game_needs_neither_closed_form_nor_reference():
    plain = GameParams(
        objective="negative",
        reference_weight=0,
        adversaries=(Adversary(start="fresh", replay=0),),
        adversary_steps=1,
        closed_form=ClosedForm(weight=0),
    )
    metrics = play_steps(0, 1, tiny_train(engine="torch", game=plain))
    assert "loss/closed_form" not in metrics[0]
    assert metrics[0]["loss/privacy"] <= 0


def test_playing_twice_gives_the_same_game():
    assert play_steps(0, 1, tiny_train(engine="torch")) == play_steps(0, 1, tiny_train(engine="torch"))


def sampling_game(**changes):
    train = tiny_train(engine="torch", **changes)
    return tiny_game(train.model_copy(update={"game": train.game.model_copy(update={"sampled_kept_share": (0.3, 0.9)})}), lambda rows: rows)


def test_a_sampled_step_keeps_exactly_the_drawn_share_of_every_slice():
    game = sampling_game()
    anonymizer, seen = game.networks.anonymizer, set()
    for step in range(4):
        ratio = game._keep_ratio(step)
        assert 0.3 <= ratio**anonymizer.num_sparsifications <= 0.9
        for block, decision in enumerate(game._paint(one_batch(step), ratio, exact=True).decisions, start=1):
            assert (decision.sum(2) == num_kept(ratio**block, anonymizer.num_patches)).all()
        seen.add(ratio)
    assert len(seen) == 4


def test_the_ratio_of_a_step_belongs_to_the_seed_and_the_step():
    ratios = [sampling_game()._keep_ratio(step) for step in range(3)]
    assert ratios == [sampling_game()._keep_ratio(step) for step in range(3)]
    assert ratios != [sampling_game(seed=1)._keep_ratio(step) for step in range(3)]


def test_the_ratio_loss_asks_for_the_ratio_that_was_drawn():
    game = sampling_game()
    _, metrics = game.anonymizer_loss(one_batch())
    # Exactly the share is kept, so what is left of the loss is the rounding to whole tubelets: under (1 / patches)².
    assert metrics["loss/ratio"] < 1 / game.networks.anonymizer.num_patches**2


def test_a_sampled_game_still_teaches_the_scorers():
    game = sampling_game()
    loss, _ = game.anonymizer_loss(one_batch())
    loss.backward()
    assert all(gradients(scorer) > 0 for scorer in game.networks.anonymizer.score_predictor)


# ---------------------------------------------------------------------------------------------------- several adversaries


def strongest_game(gather=lambda rows: rows, **changes):
    train = tiny_train(engine="torch", **changes)
    return tiny_game(train.model_copy(update={"game": train.game.model_copy(update={"combine": "strongest"})}), gather)


def privacy_by_hand(game, batch: Batch) -> list[float]:
    """The objective `entropy` on each adversary's answer: BCE towards 0.5 less its minimum, ln 2."""
    released = game._release(game._paint(batch, game._keep_ratio(batch.step)), batch, noisy=True)
    half = torch.full_like(batch.attributes, 0.5)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    return [bce(adversary(released), half).item() - math.log(2) for adversary in game.networks.adversaries]


def test_the_privacy_loss_is_the_strongest_adversary_s_or_the_mean():
    for game, combined in ((strongest_game(), max), (tiny_game(tiny_train(engine="torch"), lambda rows: rows), lambda v: sum(v) / len(v))):
        expected = combined(privacy_by_hand(game, one_batch()))
        assert game.anonymizer_loss(one_batch())[1]["loss/privacy"].item() == pytest.approx(expected, abs=1e-5)


def test_who_is_strongest_is_asked_of_the_global_batch():
    """The other worker's answers outweigh this one's; and micro-batches all get the same answer."""
    alone, batch = strongest_game(), one_batch()
    mine = privacy_by_hand(alone, batch)
    weaker = mine.index(min(mine))

    def gather(rows: torch.Tensor) -> torch.Tensor:
        other = torch.full_like(rows, -10.0)
        other[..., weaker] = 10.0
        return torch.cat([rows, other if rows.shape[-1] == len(mine) and rows.ndim == 2 and len(rows) == 1 else rows])

    two = strongest_game(gather, game=tiny_train().game.model_copy(update={"closed_form": ClosedForm(weight=0)}))
    assert two._strongest(torch.tensor(mine), batch) == weaker
    halves = [one_batch(samples=range(4)), one_batch(samples=range(4, 8))]
    looked_ahead = strongest_game().look_ahead(halves)
    assert len({part.strongest for part in looked_ahead}) == 1
    means = [sum(values) / 2 for values in zip(*(privacy_by_hand(alone, half) for half in halves), strict=True)]
    assert looked_ahead[0].strongest == means.index(max(means))


def test_micro_batches_play_the_same_game_with_the_strongest_adversary():
    game = tiny_train().game.model_copy(update={"combine": "strongest"})
    whole = play_steps(0, 1, tiny_train(engine="torch", game=game))
    parts = play_steps(0, 1, tiny_train(engine="torch", game=game, micro_batch=GLOBAL_BATCH // 2))
    assert parts[0]["loss/privacy"] == pytest.approx(whole[0]["loss/privacy"], abs=1e-4)


def test_adversaries_begin_anew_when_it_is_time_and_alike_everywhere():
    def restarting(seed: int = 0):
        train = tiny_train(engine="torch", seed=seed)
        return tiny_game(train.model_copy(update={"game": train.game.model_copy(update={"restart_every": 3})}), lambda rows: rows)

    game, other = restarting(), restarting()
    before = [tensor.clone() for tensor in game.networks.adversaries.state_dict().values()]
    assert [game.restart_adversaries(step) for step in range(6)] == [False, False, False, True, False, False]
    after = list(game.networks.adversaries.state_dict().values())
    assert not all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    other.restart_adversaries(3)
    assert all(torch.equal(one, two) for one, two in zip(after, other.networks.adversaries.state_dict().values(), strict=True))
    first = [tensor.clone() for tensor in after]
    game.restart_adversaries(6)
    assert not all(torch.equal(one, two) for one, two in zip(first, game.networks.adversaries.state_dict().values(), strict=True))


def test_restarts_draw_nothing_from_the_global_generator(game):
    game.train = game.train.model_copy(update={"game": game.train.game.model_copy(update={"restart_every": 1})})
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    game.restart_adversaries(1)
    assert torch.equal(torch.rand(1), expected)


def test_the_loop_restarts_adversaries_before_the_step_and_tells_their_engine():
    train = tiny_train(engine="torch")
    game = tiny_game(train.model_copy(update={"game": train.game.model_copy(update={"restart_every": 2})}), lambda rows: rows)
    told: list[str] = []

    class Engine:
        def __init__(self, name: str):
            self.name = name

        def update(self, loss, parts):
            told.append(self.name)
            loss(parts[0])
            return {}

        def begin_anew(self):
            told.append("anew")

    class Batches:
        def epoch(self, epoch):
            return ([one_batch(step)] for step in range(3))

    class Observer:
        def step(self, phase, step, metrics):
            told.append(str(step))

        def epoch(self, phase, epoch):
            return True

    play(Phase("game", 1, game, game.anonymizer_loss, Engine("a"), Engine("b"), 1), Batches(), 0, Observer())
    assert told == ["a", "b", "0", "a", "b", "1", "anew", "a", "b", "2"]


def test_a_game_without_init_starts_from_where_it_is():
    assert tiny_train(init={"epochs": 0}).init.epochs == 0
    game = tiny_game(tiny_train(engine="torch"), lambda rows: rows)
    assert anonymizer_player(game.networks, tiny_train(schedule="cosine"), "init", 0).groups[0].schedule(0) == 1
