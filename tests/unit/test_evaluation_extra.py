"""Attacks beside the fresh ones: those that train nothing, painting raw clips back, and recognizing persons again."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from stprivacy.config import Attack
from stprivacy.data.clips import ShardReader
from stprivacy.evaluation.attack_networks import DifferenceCNN, FrameVotes, build_attacker
from stprivacy.evaluation.attackers import run_attack
from stprivacy.evaluation.fitting import judge as score
from stprivacy.evaluation.fitting import predict
from stprivacy.evaluation.floors import expected_ap
from stprivacy.evaluation.inversion import Decoder, InversionJob, likeness_of, mean_clip
from stprivacy.evaluation.judge import NETWORKS, judge, run_job
from stprivacy.evaluation.linear import GRID, clip_statistics
from stprivacy.evaluation.metrics import average_precisions, cmap
from stprivacy.evaluation.readings import Reading, ensemble, neighbours, raw_trained
from stprivacy.evaluation.reidentification import RawAndReleased, ReidentificationJob, ranking
from stprivacy.evaluation.released import Released, release
from stprivacy.evaluation.results import keep_recognizers, write_results
from stprivacy.models.channel import to_float
from stprivacy.models.checkpoints import save_weights
from stprivacy.models.recognizers import FrameCNN
from stprivacy.training.distributed import CACHE, _single_threaded
from tests.unit.evaluation_files import (
    ACTIONS,
    ATTACK,
    CLIP,
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

COUNTS = {"train": 48, "val": 24, "test": 48}
QUICK = Attack(min_epochs=8, max_epochs=12, patience=4, batch=16, learning_rate=3e-3)


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


# ---------------------------------------------------------------------------------------------------- inversion


def test_a_decoder_paints_clips_of_the_size_it_is_shown():
    for shape in ((2, 3, 4, 16, 16), (1, 3, 8, 15, 17), (1, 3, 1, 16, 16)):
        painted_clips = Decoder(4)(torch.rand(shape))
        assert painted_clips.shape == shape
        assert 0 <= painted_clips.min() <= painted_clips.max() <= 1


def test_likeness_is_what_its_definitions_say():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 256, (3, 2, 4, 16, 16, 3), dtype=np.uint8)
    other = draw.integers(0, 256, truth.shape, dtype=np.uint8)
    errors = (((truth.astype(float) - other) / 255) ** 2).mean((2, 3, 4, 5))
    assert likeness_of(other, truth)["psnr"] == pytest.approx((-10 * np.log10(errors)).mean(), abs=1e-4)
    same = likeness_of(truth, truth)
    assert same == {"psnr": 100, "ssim": pytest.approx(1)}
    assert likeness_of(other, truth)["ssim"] < 0.2


def test_the_mean_clip_is_the_mean_of_the_training_clips(corner):
    raw = Released(corner)
    mean = raw.training_batch(np.arange(COUNTS["train"]), 0, 0).mean(0)
    assert to_float(torch.from_numpy(mean_clip(raw)[0]))[0].numpy() == pytest.approx(mean.numpy(), abs=1 / 255)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """(shards, folder) of clips of one colour each, which say attribute 0 by red and attribute 1 by green."""
    folder = tmp_path_factory.mktemp("pictured")
    actions, attributes = random_labels(COUNTS)
    shown = {}
    for split, frames in noise_clips(COUNTS).items():
        colours = 60 + 140 * np.concatenate([attributes[split], actions[split][:, None] % 2], axis=1)
        shown[split] = (colours[:, None, None, None] + frames // 16).astype(np.uint8)
    return write_dataset(folder, shown, actions, attributes), folder


def inversion_job(pictured, tmp_path, method, attack=QUICK):
    """Of a release by `method`, read by a recognizer of raw clips."""
    shards, folder = pictured
    raw, released = (release(release_job(shards, folder / "cache", name)) for name in ("raw", method))
    recognizers = tmp_path / "recognizers"
    for kind in ("cnn2d",):
        job = attack_job(raw, folder / "cache", kind=kind, attack=QUICK)
        recognizers.mkdir(exist_ok=True)
        run_attack(job)
        (recognizers / f"privacy-{kind}.safetensors").write_bytes((job.folder / "best.safetensors").read_bytes())
    fit = attack_job(released, tmp_path / "cache", kind="cnn3d", attack=attack)
    return InversionJob(fit, raw, recognizers, NETWORKS, "cnn3d")


def test_a_blur_of_plain_clips_is_painted_back_and_read(pictured, tmp_path):
    found = inversion_job(pictured, tmp_path, "blur", Attack(min_epochs=25, max_epochs=30, batch=8, learning_rate=1e-2)).run()
    assert found.decoded.psnr > found.constant.psnr + 3
    assert [reading.name for reading in found.readings] == ["privacy-inversion-cnn2d"]
    present = Released(release(release_job(pictured[0], pictured[1] / "cache"))).labels("test").present
    assert cmap(found.readings[0].test, present) > 0.8  # 0.5 is chance
    assert found.action_top1 is None  # no action recognizer was kept


def test_a_finished_inversion_is_only_read_again_and_a_killed_one_goes_on(pictured, tmp_path, capsys):
    job = inversion_job(pictured, tmp_path, "blur", Attack(min_epochs=2, max_epochs=2, batch=16))
    first = job.run()
    assert "PSNR" in capsys.readouterr().out
    again = job.run()
    assert capsys.readouterr().out == ""
    assert again.decoded == first.decoded
    assert np.array_equal(again.readings[0].test, first.readings[0].test)
    assert sorted(path.name for path in job.folder.iterdir()) == ["best.safetensors", "finished.pt"]


# ---------------------------------------------------------------------------------------------------- re-identification


def test_rank_1_and_map_are_those_of_cosines_sorted_by_hand():
    draw = np.random.default_rng(3)
    probes, gallery = draw.standard_normal((6, 4)), draw.standard_normal((20, 4))
    who, persons = draw.integers(0, 3, 6), draw.integers(0, 3, 20)
    hits, precisions = [], []
    for probe, person in zip(probes, who, strict=True):
        likeness = [probe @ entry / np.linalg.norm(probe) / np.linalg.norm(entry) for entry in gallery]
        order = np.argsort(likeness)[::-1]
        right = persons[order] == person
        hits.append(right[0])
        precisions.append(np.mean([right[: place + 1].mean() for place in np.flatnonzero(right)]))
    assert ranking(probes, who, gallery, persons) == pytest.approx((np.mean(hits), np.mean(precisions)))


def test_a_person_whom_the_gallery_lacks_is_never_named_and_has_no_ap():
    gallery = np.eye(3)
    assert ranking(np.eye(3), np.array([0, 1, 9]), gallery, np.array([0, 1, 2])) == pytest.approx((2 / 3, 1.0))


def test_the_expected_ap_of_a_random_order_is_what_random_orders_give():
    draw, truth = np.random.default_rng(0), np.arange(30) < 6
    measured = np.mean([average_precision_score(truth, draw.random(30)) for _ in range(300)])
    assert expected_ap(np.array([6]), 30)[0] == pytest.approx(measured, abs=0.02)


@pytest.fixture(scope="module")
def persons(tmp_path_factory):
    """(raw release, release that shows nothing) of clips of one of two persons each, told by colour."""
    folder = tmp_path_factory.mktemp("persons")
    actions, _ = random_labels(COUNTS)
    draw = np.random.default_rng(5)
    who = {split: draw.integers(0, 2, count) for split, count in COUNTS.items()}
    attributes = {split: np.eye(2, dtype=int)[person] for split, person in who.items()}
    found = []
    for name, shown in (("shown", 120), ("hidden", 0)):
        clips_of = noise_clips(COUNTS, seed=7)
        for split, frames in clips_of.items():
            frames //= 2
            frames[..., 0] += (shown * who[split])[:, None, None, None].astype(np.uint8)
        shards = write_dataset(folder / name, clips_of, actions, attributes)
        found.append(release(release_job(shards, folder / name / "cache")))
    return tuple(found)


def test_training_windows_of_raw_and_released_clips_are_put_together_clip_by_clip(persons):
    raw, hidden = (Released(folder) for folder in persons)
    both = RawAndReleased(raw, hidden)
    assert both.num_training_rows == 2 * COUNTS["train"]
    rows = np.array([0, 1, 4, 7])  # clip 0 raw and released, clip 2 raw, clip 3 released
    batch = both.training_batch(rows, 0, 0)
    for place, (source, row) in enumerate(((raw, 0), (hidden, 0), (raw, 2), (hidden, 3))):
        assert torch.equal(batch[place], source.training_batch(np.array([row]), 0, 0)[0])
    assert np.array_equal(both.views("val"), hidden.views("val"))


def test_persons_are_recognized_again_where_they_are_shown_and_not_where_they_are_hidden(persons, tmp_path):
    raw, hidden = persons
    shown = ReidentificationJob(attack_job(raw, tmp_path, attack=QUICK), raw).run()
    assert shown.rank1 > 0.95
    assert shown.map > 0.9
    assert (shown.num_probes, shown.num_gallery) == (COUNTS["test"], COUNTS["train"])
    unseen = ReidentificationJob(attack_job(hidden, tmp_path, attack=QUICK), raw).run()
    assert unseen.rank1 < 0.5 + 3 * (0.25 / COUNTS["test"]) ** 0.5
    assert unseen.map < unseen.chance_map + 0.1
    assert 0.4 < unseen.chance_rank1 < 0.6


# ---------------------------------------------------------------------------------------------------- on nodes that share no disk


@pytest.mark.parametrize("attack", ["inversion", "reidentification"])
def test_what_one_node_of_a_job_has_found_is_only_read_by_another(attack, pictured, persons, tmp_path, monkeypatch, capsys):
    """Their results name no path, unlike those of fresh attackers: it is their jobs that say what to keep."""
    monkeypatch.setenv("STPRIVACY_STORAGE", str(tmp_path / "storage"))
    brief = Attack(min_epochs=1, max_epochs=1, batch=16)
    if attack == "inversion":
        job = inversion_job(pictured, tmp_path, "blur", brief)
    else:
        job = ReidentificationJob(attack_job(persons[1], tmp_path, attack=brief), persons[0])
    monkeypatch.setenv("STPRIVACY_JOB", "raysubmit_1")

    def run_on(node):
        here = dataclasses.replace(job, fit=dataclasses.replace(job.fit, cache=tmp_path / node / CACHE / "evaluate"))
        capsys.readouterr()
        return _single_threaded(run_job, (here,)), capsys.readouterr().out

    (first, said), (again, said_again) = run_on("one"), run_on("other")
    assert "epoch 1 of at most 1" in said
    assert said_again == ""
    if attack == "inversion":
        assert again.decoded == first.decoded
    else:
        assert again == first


# ---------------------------------------------------------------------------------------------------- all of them, in one judgement


EVERYTHING = ("ensemble", "raw-trained", "cross-release", "inversion", "reidentification")


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
        beside = {"privacy-raw-trained-cnn3d", f"privacy-cross-release-{other:g}-cnn3d", "privacy-inversion-cnn3d"}
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
