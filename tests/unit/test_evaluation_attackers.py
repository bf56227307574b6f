"""Attackers find what is there, find nothing where there is nothing, and are chosen without a look at test."""

import dataclasses

import numpy as np
import pytest
import torch

from stprivacy.config import Attack
from stprivacy.evaluation import fitting
from stprivacy.evaluation.attackers import run_attack
from stprivacy.evaluation.fitting import Fit, attack_loss, constant_loss, judge, predict
from stprivacy.evaluation.floors import random_ranking_cmap
from stprivacy.evaluation.jobs import AttackJob, Epoch, best_epoch
from stprivacy.evaluation.metrics import Labels, average_precisions, cmap, top1
from stprivacy.evaluation.released import Released, release
from tests.unit.evaluation_files import ACTIONS, ATTACK, attack_job, noise_clips, random_labels, release_job, write_dataset

SIZES = {"train": 96, "val": 32, "test": 64}
SEARCHING = Attack(min_epochs=8, max_epochs=12, patience=4, batch=16, learning_rate=3e-3)


def painted_clips(sizes, actions, attributes):
    """Noise, with attribute 0 as a white corner of every frame and the action as the side on which a white bar stands."""
    clips = noise_clips(sizes)
    for split, frames in clips.items():
        frames //= 2
        frames[attributes[split][:, 0] == 1, :, :4, :4] = 255
        for index, action in enumerate(actions[split]):
            frames[index, :, 6:, 5 * action : 5 * action + 4] = (255, 0, 0) if action else (0, 0, 255)
    return clips


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A release that shows the action and attribute 0, and nothing of attribute 1."""
    folder = tmp_path_factory.mktemp("painted")
    actions, attributes = random_labels(SIZES)
    return release(release_job(write_dataset(folder, painted_clips(SIZES, actions, attributes), actions, attributes), folder))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A release that shows nothing."""
    folder = tmp_path_factory.mktemp("noise")
    actions, attributes = random_labels(SIZES)
    return release(release_job(write_dataset(folder, noise_clips(SIZES), actions, attributes), folder))


def labels_on_test(release_folder) -> Labels:
    return Released(release_folder).labels("test")


# ---------------------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize("kind", ["cnn3d", "cnn2d"])
def test_an_attribute_in_a_corner_of_the_picture_is_found_and_one_that_is_not_there_is_not(painted, kind, tmp_path):
    result = run_attack(attack_job(painted, tmp_path, kind=kind, attack=SEARCHING))
    shown, hidden = average_precisions(result.test, labels_on_test(painted).present)
    assert shown > 0.95
    assert hidden < 0.75
    assert result.weights.exists()
    assert result.best_epoch == best_epoch(result.curve).epoch


def test_an_action_that_is_shown_is_found(painted, tmp_path):
    result = run_attack(attack_job(painted, tmp_path, "action", "cnn3d", SEARCHING))
    assert top1(result.test, labels_on_test(painted).actions) > 0.95
    assert result.test.sum(1) == pytest.approx(1)


@pytest.mark.parametrize("target", ["action", "privacy"])
def test_where_nothing_is_shown_an_attacker_stays_near_chance(noise, target, tmp_path):
    result = run_attack(attack_job(noise, tmp_path, target, "cnn3d", SEARCHING))
    test = labels_on_test(noise)
    if target == "action":
        assert top1(result.test, test.actions) < 1 / len(ACTIONS) + 0.17  # 64 clips: 0.06 a standard deviation
    else:
        assert cmap(result.test, test.present) < random_ranking_cmap(test) + 0.13  # 0.045 a standard deviation


# ---------------------------------------------------------------------------------------------------- honesty


def test_the_test_split_has_no_influence_on_what_is_chosen(painted, tmp_path):
    """Other test clips with other labels: the same training, the same epoch, the same weights."""
    actions, attributes = random_labels(SIZES)
    clips = painted_clips(SIZES, actions, attributes)
    draw = np.random.default_rng(9)
    order = draw.permutation(SIZES["test"])
    actions["test"], attributes["test"] = actions["test"][order], draw.integers(0, 2, attributes["test"].shape)
    other = release(release_job(write_dataset(tmp_path / "other", clips, actions, attributes), tmp_path))
    for target, kind in (("privacy", "cnn2d"), ("action", "cnn3d")):
        job = attack_job(painted, tmp_path / "one", target, kind)
        mine, theirs = run_attack(job), run_attack(dataclasses.replace(job, released=other, cache=tmp_path / "two"))
        assert mine.curve == theirs.curve
        assert (mine.best_epoch, mine.val_score, mine.fitted) == (theirs.best_epoch, theirs.val_score, theirs.fitted)
        assert mine.weights.read_bytes() == theirs.weights.read_bytes()
        assert np.array_equal(mine.val, theirs.val)
        assert np.array_equal(mine.test, theirs.test)  # the clips are the same: figures alone differ
    assert cmap(mine.test[:, :2], labels_on_test(painted).present) != cmap(theirs.test[:, :2], labels_on_test(other).present)


def test_training_reads_no_test_clip(painted, tmp_path, monkeypatch):
    asked = []
    views, labels = Released.views, Released.labels
    monkeypatch.setattr(Released, "views", lambda self, split: asked.append(split) or views(self, split))
    monkeypatch.setattr(Released, "labels", lambda self, split: asked.append(split) or labels(self, split))
    fit = Fit(attack_job(painted, tmp_path))
    fit.run_epoch()
    assert set(asked) == {"train", "val"}


def test_the_same_job_gives_the_same_result_and_another_seed_another(painted, tmp_path):
    job = attack_job(painted, tmp_path / "one")
    first = run_attack(job)
    again = run_attack(dataclasses.replace(job, cache=tmp_path / "two"))
    other = run_attack(dataclasses.replace(job, seed=1))
    assert first.curve == again.curve
    assert np.array_equal(first.test, again.test)
    assert other.curve != first.curve


# ---------------------------------------------------------------------------------------------------- killed and started again


class Killed(BaseException):
    """What nothing catches."""


def killed_after(job: AttackJob, num_epochs: int, monkeypatch) -> None:
    """Run until the checkpoint of an epoch is written, and no further."""
    saved = []
    save = fitting.save_atomically

    def save_and_die(state, path):
        save(state, path)
        saved.append(path)
        if len(saved) == num_epochs:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(fitting, "save_atomically", save_and_die)
        run_attack(job)


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_an_attacker_that_was_killed_goes_on_as_if_it_had_not_been(noise, num_epochs, tmp_path, monkeypatch, capsys):
    attack = ATTACK.model_copy(update={"min_epochs": 4, "max_epochs": 4})
    job = attack_job(noise, tmp_path / "undisturbed", attack=attack)
    undisturbed = run_attack(job)
    killed = dataclasses.replace(job, cache=tmp_path / "killed")
    killed_after(killed, num_epochs, monkeypatch)
    capsys.readouterr()
    result = run_attack(killed)
    assert [line.split(": epoch ")[1][0] for line in capsys.readouterr().out.splitlines()] == [str(n) for n in range(num_epochs + 1, 5)]
    assert result.curve == undisturbed.curve
    assert result.weights.read_bytes() == undisturbed.weights.read_bytes()
    assert np.array_equal(result.val, undisturbed.val)
    assert np.array_equal(result.test, undisturbed.test)


def test_a_finished_attacker_is_only_read_again(noise, tmp_path, capsys):
    job = attack_job(noise, tmp_path)
    first = run_attack(job)
    capsys.readouterr()
    again = run_attack(job)
    assert capsys.readouterr().out == ""
    assert again.curve == first.curve
    assert np.array_equal(again.test, first.test)
    assert sorted(path.name for path in job.folder.iterdir()) == ["best.safetensors", "finished.pt"]


def test_attackers_of_another_setting_seed_or_release_are_other_attackers(noise, painted, tmp_path):
    job = attack_job(noise, tmp_path)
    others = [
        dataclasses.replace(job, seed=1), dataclasses.replace(job, kind="cnn3d"), dataclasses.replace(job, target="action"),
        dataclasses.replace(job, released=painted), dataclasses.replace(job, attack=ATTACK.model_copy(update={"patience": 2})),
        dataclasses.replace(job, recognizers=job.recognizers.model_copy(update={"cnn_width": 8})),
    ]  # fmt: skip
    assert len({job.folder, *(other.folder for other in others)}) == 1 + len(others)
    others = [dataclasses.replace(job, label="another name"), dataclasses.replace(job, attack=ATTACK.model_copy(update={"num_clips": 9}))]
    assert {other.folder for other in others} == {job.folder}  # what is released is in the release's checksum


# ---------------------------------------------------------------------------------------------------- when to stop


RULES = Attack(min_epochs=3, max_epochs=6, patience=2)


def curve(*scores: float, train_loss: float = 0.6) -> list[Epoch]:
    return [Epoch(number, train_loss, score, 0.5) for number, score in enumerate(scores, start=1)]


@pytest.mark.parametrize(
    ("rows", "done", "why"),
    [
        (curve(), False, "nothing was tried"),
        (curve(0.5, 0.5), False, "never before min_epochs"),
        (curve(0.5, 0.6, 0.7), False, "val is improving"),
        (curve(0.5, 0.7, 0.6), False, "one epoch without a gain is not patience"),
        (curve(0.5, 0.7, 0.6, 0.6), True, "patience is at its end"),
        (curve(0.7, 0.5, 0.6), True, "min_epochs reached, patience at its end"),
        (curve(0.5, 0.7, 0.7005, 0.7009), True, "a gain below 0.001 is none"),
        (curve(0.5, 0.6, 0.7, 0.71, 0.72), False, "five of six"),
        (curve(0.5, 0.6, 0.7, 0.71, 0.72, 0.73), True, "max_epochs"),
        (curve(1.0, 1.0, train_loss=0.01), True, "perfect twice and fitted: nothing left to find"),
        (curve(1.0, 1.0), False, "perfect twice and not fitted: luck on a small val split"),
        (curve(0.9, 1.0, train_loss=0.01), False, "perfect once"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_attacker_stops_when_val_stops_improving(painted, tmp_path, rows, done, why):
    fit = Fit(attack_job(painted, tmp_path, attack=RULES))
    fit.curve = rows
    assert fit.done is done


def test_the_best_epoch_has_the_highest_val_score_and_among_equals_the_lowest_val_loss():
    rows = [Epoch(1, 0.1, 0.8, 0.2), Epoch(2, 0.1, 0.9, 0.4), Epoch(3, 0.1, 0.9, 0.3), Epoch(4, 0.1, 0.9, 0.3)]
    assert best_epoch(rows).epoch == 3


def test_weights_are_those_of_the_best_epoch(noise, tmp_path):
    fit = Fit(attack_job(noise, tmp_path))
    kept = {}
    for _ in range(4):
        fit.run_epoch()
        kept[len(fit.curve)] = {name: tensor.clone() for name, tensor in fit.ema.state_dict().items()}
    expected = kept[best_epoch(fit.curve).epoch]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fit.best_network().state_dict().items())


def test_an_attacker_counts_as_fitted_below_a_fifth_of_a_constant_answer_s_loss(painted, tmp_path):
    fit = Fit(attack_job(painted, tmp_path, "action"))
    constant = float(np.log(len(ACTIONS)))
    for loss, fitted in ((0.21 * constant, False), (0.19 * constant, True)):
        fit.curve = curve(0.5, train_loss=loss)
        assert fit.fitted is fitted


# ---------------------------------------------------------------------------------------------------- figures


def test_a_constant_answer_costs_the_entropy_of_the_labels():
    labels = Labels(np.array([0, 0, 1, 2]), np.array([[1, 0], [1, 1], [0, 1], [0, 1]]))
    shares = torch.tensor([0.5, 0.25, 0.25])
    assert constant_loss(labels, "action") == pytest.approx(attack_loss(shares.log().expand(4, 3), labels, np.arange(4), "action").item())
    logits = torch.logit(torch.tensor([0.5, 0.75])).expand(4, 2)
    assert constant_loss(labels, "privacy") == pytest.approx(attack_loss(logits, labels, np.arange(4), "privacy").item())


def test_predictions_are_means_over_a_video_s_views():
    class Brightness(torch.nn.Module):
        def forward(self, clips):
            return torch.logit(clips.mean((1, 2, 3, 4)).clamp(0.01, 0.99))[:, None]

    views = np.zeros((70, 2, 2, 4, 4, 3), np.uint8)  # more rows than a batch
    views[:, 1] = np.arange(70)[:, None, None, None, None] * 3
    expected = (0.01 + (np.arange(70) * 3 / 255).clip(0.01, 0.99)) / 2
    assert predict(Brightness(), views, "privacy")[:, 0] == pytest.approx(expected, abs=1e-5)


def test_scores_and_losses_are_read_from_probabilities():
    labels = Labels(np.array([1, 0]), np.array([[1, 0], [0, 1]]))
    probabilities = np.array([[0.2, 0.8], [0.4, 0.6]])
    assert judge(probabilities, labels, "action") == pytest.approx((0.5, -(np.log(0.8) + np.log(0.4)) / 2))
    likelihood = [0.2, 1 - 0.8, 1 - 0.4, 0.6]
    assert judge(probabilities, labels, "privacy") == pytest.approx((cmap(probabilities, labels.present), -np.mean(np.log(likelihood))))
