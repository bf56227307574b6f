"""Attacks beside the first two: other networks, those that train nothing, and all of them in one judgement."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from stprivacy.data.clips import ShardReader
from stprivacy.evaluation.attack_networks import DifferenceCNN, FrameVotes, build_attacker
from stprivacy.evaluation.attackers import run_attack
from stprivacy.evaluation.fitting import judge as score
from stprivacy.evaluation.fitting import predict
from stprivacy.evaluation.judge import NETWORKS, judge
from stprivacy.evaluation.metrics import average_precisions, cmap
from stprivacy.evaluation.readings import Reading, ensemble, neighbours, raw_trained
from stprivacy.evaluation.released import Released, release
from stprivacy.evaluation.results import keep_recognizers, write_results
from stprivacy.models.checkpoints import save_weights
from stprivacy.models.recognizers import GRID, FrameCNN, clip_statistics
from tests.unit.evaluation_files import (
    ACTIONS,
    ATTACK,
    CLIP,
    COUNTS,
    QUICK,
    SHARE,
    SIZES,
    attack_job,
    noise_clips,
    one_by_one,
    random_labels,
    release_job,
    tiny_model,
    tiny_params,
    write_dataset,
)


def clips(num: int = 5, frames: int = 4, side: int = 16) -> torch.Tensor:
    return torch.rand(num, 3, frames, side, side, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------- kinds of fresh attackers


@pytest.mark.parametrize("kind", ["cnn3d", "cnn2d", "frames", "difference"])
@pytest.mark.parametrize("target", ["action", "privacy"])
def test_every_kind_of_network_answers_every_clip_with_finite_logits(kind, target):
    logits = build_attacker(kind, target, 3, SIZES, CLIP)(clips())
    assert logits.shape == (5, 3)
    assert logits.isfinite().all()


def test_the_difference_attacker_sees_only_what_changes():
    network = DifferenceCNN(2, 4).eval()
    shown = clips() / 2
    assert torch.allclose(network(shown), network(shown + 0.4), atol=1e-5)  # brighter all over, and no other motion
    assert not torch.allclose(network(shown), network(shown.flip(2)), atol=1e-3)


@pytest.mark.parametrize("one_of_many", [True, False])
def test_frame_votes_are_the_mean_of_the_answers_to_single_frames(one_of_many):
    network = FrameVotes(3, 4, one_of_many).eval()
    to_probabilities = (lambda logits: logits.softmax(1)) if one_of_many else torch.sigmoid
    single = [to_probabilities(network(clips()[:, :, [frame]])) for frame in range(4)]
    assert torch.allclose(to_probabilities(network(clips())), torch.stack(single).mean(0), atol=1e-5)


def test_frame_votes_differ_from_the_answer_to_the_mean_of_features():
    votes = FrameVotes(3, 4, one_of_many=False).eval()
    features = FrameCNN(3, 4).eval()
    features.load_state_dict(votes.state_dict())
    with torch.no_grad():
        for network in (votes, features):
            network.head.weight *= 20
    assert not torch.allclose(votes(clips()), features(clips()), atol=1e-3)


def test_frame_votes_of_sure_frames_keep_a_gradient():
    network = FrameVotes(2, 4, one_of_many=False)
    with torch.no_grad():
        network.head.bias.fill_(200.0)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(network(clips()), torch.zeros(5, 2))
    loss.backward()
    assert loss.isfinite()
    assert network.head.bias.grad.abs().sum() > 0


def test_the_linear_attacker_s_statistics_are_means_spreads_and_changes_of_small_pixels():
    shown = clips(2, 4, 2 * GRID)
    small = shown.view(2, 3, 4, GRID, 2, GRID, 2).mean((4, 6)).numpy()
    expected = [small.mean(2), small.std(2), np.abs(np.diff(small, axis=2)).mean(2)]
    assert clip_statistics(shown).numpy() == pytest.approx(np.concatenate([part.reshape(2, -1) for part in expected], 1), abs=1e-5)


def painted(folder, frames_shown=slice(None)):
    """A release of noise with attribute 0 in a corner of the picture, in these frames."""
    actions, attributes = random_labels(COUNTS)
    shown = noise_clips(COUNTS)
    for split, frames in shown.items():
        frames //= 2
        frames[attributes[split][:, 0] == 1, frames_shown, :4, :4] = 255
    return release(release_job(write_dataset(folder, shown, actions, attributes), folder))


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    return painted(tmp_path_factory.mktemp("corner"))


@pytest.mark.parametrize("kind", ["linear", "frames"])
def test_what_stands_in_a_corner_is_found_by_the_cheap_attackers_too(corner, kind, tmp_path):
    found = run_attack(attack_job(corner, tmp_path, kind=kind, attack=QUICK))
    assert average_precisions(found.test, Released(corner).labels("test").present)[0] > 0.95
    assert found.name == f"privacy-{kind}"
    assert found.weights.exists()


def test_the_difference_attacker_finds_a_corner_that_blinks(tmp_path):
    blinking = painted(tmp_path / "data", slice(None, None, 2))
    found = run_attack(attack_job(blinking, tmp_path, kind="difference", attack=QUICK.model_copy(update={"min_epochs": 12})))
    assert average_precisions(found.test, Released(blinking).labels("test").present)[0] > 0.95


def test_a_linear_attack_is_chosen_by_val_among_its_penalties_and_is_the_same_every_time(corner, tmp_path):
    first = run_attack(attack_job(corner, tmp_path / "one", kind="linear"))
    again = run_attack(attack_job(corner, tmp_path / "two", kind="linear"))
    assert np.array_equal(first.test, again.test)
    assert first.val_score == max(row.val_score for row in first.curve)
    losses = [row.train_loss for row in first.curve]
    assert losses == sorted(losses, reverse=True)  # a weaker penalty fits the training clips better
    assert first.val_score == score(first.val, Released(corner).labels("val"), "privacy")[0]


def test_the_linear_attacker_reads_actions_too(corner, tmp_path):
    found = run_attack(attack_job(corner, tmp_path, "action", "linear"))
    assert found.test.shape == (COUNTS["test"], len(ACTIONS))
    assert found.test.sum(1) == pytest.approx(1)


def test_a_finished_fit_of_a_kind_that_was_there_before_is_found_again(corner, tmp_path):
    """The name of its folder is a hash of these and of nothing else; it has been so since the first release."""
    from stprivacy.config import config_hash

    job = attack_job(corner, tmp_path, kind="cnn3d")
    settings = ATTACK.model_dump(include={"min_epochs", "max_epochs", "patience", "learning_rate", "weight_decay", "batch"})
    about = {"released": Released(corner).checksum, "target": "privacy", "kind": "cnn3d", "seed": 0, "protocol": 1}
    assert job.folder == tmp_path / "attacks" / config_hash(about, settings, SIZES, CLIP)
    other = dataclasses.replace(job, attack=ATTACK.model_copy(update={"kinds": ("linear",), "extra": ("ensemble",)}))
    assert other.folder == job.folder


# ---------------------------------------------------------------------------------------------------- attackers that train nothing


def test_the_ensemble_is_the_mean_of_the_fresh_attackers_and_is_scored_on_val(corner, tmp_path):
    members = [run_attack(attack_job(corner, tmp_path, kind=kind)) for kind in ("cnn2d", "linear")]
    found = ensemble(members, Released(corner))
    assert found.test == pytest.approx((members[0].test + members[1].test) / 2)
    assert found.val_score == cmap(found.val, Released(corner).labels("val").present)
    assert found.fitted
    assert found.weights is None


def test_a_raw_trained_recognizer_reads_the_release_as_it_is(corner, tmp_path):
    network = build_attacker("cnn2d", "privacy", 2, SIZES, CLIP).eval()
    save_weights(tmp_path / "privacy-cnn2d.safetensors", network)
    assert raw_trained(tmp_path, NETWORKS) == {"cnn2d": tmp_path / "privacy-cnn2d.safetensors"}
    reading = Reading("privacy-raw-trained-cnn2d", "raw-trained", "cnn2d", tmp_path / "privacy-cnn2d.safetensors", 0, corner, SIZES, CLIP)
    found = reading.run()
    assert found.test == pytest.approx(predict(network, Released(corner).views("test"), "privacy"))
    assert found.curve == ()


@pytest.mark.parametrize(("share", "expected"), [(0.7, [0.4, 0.9]), (0.2, [0.4]), (1.0, [0.9]), (0.4, [0.2, 0.7])])
def test_attackers_cross_over_from_the_neighbouring_kept_shares(share, expected):
    assert neighbours(share, [1.0, 0.7, 0.4, 0.9, 0.2]) == expected


def test_one_kept_share_has_no_neighbour():
    assert neighbours(0.7, [0.7]) == []


# ---------------------------------------------------------------------------------------------------- all of them, in one judgement


EVERYTHING = ("ensemble", "raw-trained", "cross-release", "mask", "inversion", "reidentification")


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(judgement of an untrained anonymizer with every attack, params, folder) at two kept shares and two seeds."""
    folder = tmp_path_factory.mktemp("judged")
    actions, attributes = random_labels(COUNTS)
    attributes = {split: np.eye(2, dtype=int)[rows[:, 0]] for split, rows in attributes.items()}  # one identity each
    shards = write_dataset(folder, noise_clips(COUNTS), actions, attributes)
    params = tiny_params(min_epochs=1, max_epochs=1, kinds=("cnn3d", "linear"), extra=EVERYTHING)
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"seeds": (0, 1)})})
    raw = judge("raw", params, shards, folder / "none", folder / "cache", one_by_one)
    write_results(raw, params, folder / "results" / "raw", None)
    keep_recognizers(raw, folder / "recognizers")
    found = judge("stprivacy", params, shards, tiny_model(folder / "model"), folder / "cache", one_by_one, folder / "recognizers")
    return raw, found, params, folder


def test_every_attack_that_was_asked_for_counts_at_every_kept_share_and_seed(judged):
    raw, found, *_ = judged
    fresh = ["privacy-cnn3d", "privacy-linear", "privacy-ensemble"]
    assert [[result.name for result in point.privacy] for point in raw.points] == [fresh, fresh]
    for point in found.points:
        other = {SHARE: 0.25, 0.25: SHARE}[point.kept_share]
        beside = {"privacy-raw-trained-cnn3d", f"privacy-cross-release-{other:g}-cnn3d", "privacy-mask", "privacy-inversion-cnn3d"}
        assert {result.name for result in point.privacy} == {*fresh, *beside}
        assert point.strongest.val_score == max(result.val_score for result in point.privacy)
        (crossed,) = (result for result in point.privacy if result.kind == "cross-release")
        (theirs,) = (other_point for other_point in found.points if (other_point.kept_share, other_point.seed) == (other, point.seed))
        assert not np.array_equal(crossed.test, theirs.privacy[0].test)  # the same weights, other clips
    assert all(point.reidentification is not None for point in (*raw.points, *found.points))
    assert all(point.inversion is not None for point in found.points)
    assert raw.points[0].inversion is None


def test_only_networks_that_an_adversary_may_be_start_the_game(judged):
    folder = judged[3]
    names = sorted(path.name for path in (folder / "recognizers").iterdir())
    assert names == ["action.safetensors", "info.json", "privacy-cnn3d.safetensors"]


def test_metrics_json_tells_of_all_of_them(judged):
    _, found, params, folder = judged
    metrics = write_results(found, params, folder / "results" / "stprivacy", folder / "results" / "raw" / "metrics.json")
    assert json.loads((folder / "results" / "stprivacy" / "metrics.json").read_text()) == metrics
    assert metrics["attackers"].keys() == {"action", *(result.name for result in found.points[0].privacy)}
    assert metrics["strongest_attacker"] in metrics["attackers"]
    assert "epochs" not in metrics["attackers"]["privacy-ensemble"]
    assert metrics["inversion"].keys() == {"psnr", "ssim", "epochs", "action_top1", "floors", "attacker", "cmap", "identity_top1"}
    assert metrics["inversion"]["floors"].keys() == {"released", "constant"}
    assert {"rank1", "map", "chance_rank1", "chance_map"} < metrics["reidentification"].keys()
    raw = json.loads((folder / "results" / "raw" / "metrics.json").read_text())
    assert "inversion" not in raw
    assert raw["reidentification"]["num_gallery"] == COUNTS["train"]


def test_extra_attacks_that_were_done_are_not_done_again(judged, capsys):
    _, found, params, folder = judged
    shards = folder / "shards"
    capsys.readouterr()
    again = judge("stprivacy", params, shards, folder / "model", folder / "cache", one_by_one, folder / "recognizers")
    assert capsys.readouterr().out == ""
    for mine, theirs in zip(again.points, found.points, strict=True):
        assert mine.reidentification == theirs.reidentification
        assert [result.val_score for result in mine.privacy] == [result.val_score for result in theirs.privacy]


def test_a_test_split_with_other_labels_changes_nothing_that_was_chosen(judged, tmp_path):
    """Shuffled labels of test: the same epochs, weights, strongest attacker and answers, whatever the attack."""
    _, found, params, folder = judged
    actions, attributes = random_labels(COUNTS)
    attributes = {split: np.eye(2, dtype=int)[rows[:, 0]] for split, rows in attributes.items()}
    order = np.random.default_rng(8).permutation(COUNTS["test"])
    actions["test"], attributes["test"] = actions["test"][order], attributes["test"][order]
    shards = write_dataset(tmp_path, noise_clips(COUNTS), actions, attributes)
    assert not np.array_equal(ShardReader(shards, "test").attributes, ShardReader(folder / "shards", "test").attributes)
    other = judge("stprivacy", params, shards, folder / "model", tmp_path / "cache", one_by_one, folder / "recognizers")
    for mine, theirs in zip(found.points, other.points, strict=True):
        assert mine.strongest.name == theirs.strongest.name
        for one, two in zip((mine.action, *mine.privacy), (theirs.action, *theirs.privacy), strict=True):
            assert (one.name, one.best_epoch, one.val_score, one.curve) == (two.name, two.best_epoch, two.val_score, two.curve)
            assert np.array_equal(one.val, two.val)
            assert np.array_equal(one.test, two.test)  # the clips are the same: figures alone differ
            if one.weights:
                assert one.weights.read_bytes() == two.weights.read_bytes()
        assert mine.inversion.decoded == theirs.inversion.decoded
        assert mine.reidentification.val_rank1 == theirs.reidentification.val_rank1
