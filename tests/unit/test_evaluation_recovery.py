"""Attacks that give back what was hidden: painting raw clips from released ones, and recognizing persons again."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from stprivacy.config import Attack
from stprivacy.evaluation.attackers import run_attack
from stprivacy.evaluation.floors import expected_ap
from stprivacy.evaluation.inversion import Decoder, InversionJob, likeness_of, mean_clip
from stprivacy.evaluation.judge import NETWORKS, run_job
from stprivacy.evaluation.metrics import cmap
from stprivacy.evaluation.reidentification import RawAndReleased, ReidentificationJob, ranking
from stprivacy.evaluation.released import Released, release
from stprivacy.models.channel import to_float
from stprivacy.training.distributed import CACHE, _single_threaded
from tests.unit.evaluation_files import (
    COUNTS,
    QUICK,
    attack_job,
    noise_clips,
    random_labels,
    release_job,
    write_dataset,
)

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


def test_the_mean_clip_is_the_mean_of_the_training_clips(pictured):
    raw = Released(release(release_job(pictured[0], pictured[1] / "cache")))
    mean = raw.training_batch(np.arange(COUNTS["train"]), 0, 0).mean(0)
    assert to_float(torch.from_numpy(mean_clip(raw)[0]))[0].numpy() == pytest.approx(mean.numpy(), abs=1 / 255)


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
    assert found.action is None  # no action recognizer was kept


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
