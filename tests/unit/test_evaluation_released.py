"""What attackers are shown: the channel's output and nothing else, noise that they cannot learn by heart, nothing stale."""

import json
import shutil

import numpy as np
import pytest
import torch

from stprivacy.config import Channel, Clip
from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.errors import UserError
from stprivacy.evaluation import released as module
from stprivacy.evaluation.methods import load_method
from stprivacy.evaluation.released import BATCH, Released, release
from stprivacy.models.channel import to_uint8
from tests.unit.evaluation_files import ATTACK, CLIP, SHARE, noise_clips, random_labels, release_job, tiny_model, write_dataset

SIZES = {"train": 2 * BATCH + 3, "val": 5, "test": BATCH + 1}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Clips of noise, longer and wider than a clip, so that there is more than one window and crop of each."""
    actions, attributes = random_labels(SIZES)
    return write_dataset(tmp_path_factory.mktemp("data"), noise_clips(SIZES, (7, 16, 22)), actions, attributes)


# ---------------------------------------------------------------------------------------------------- pixels and labels


def test_raw_is_released_as_it_is_with_its_labels(shards, tmp_path):
    raw = Released(release(release_job(shards, tmp_path)))
    for split in ("val", "test"):
        reader = ShardReader(shards, split)
        views = ClipViews(reader, CLIP, 1, 1)
        assert np.array_equal(raw.views(split), np.stack([views[index] for index in range(len(views))]))
        assert np.array_equal(raw.labels(split).actions, reader.actions)
        assert np.array_equal(raw.labels(split).attributes, reader.attributes)
    views = ClipViews(ShardReader(shards, "train"), CLIP, 1, 1)
    rows = np.array([0, 40, SIZES["train"] - 1])
    assert np.array_equal(to_uint8(raw.training_batch(rows, seed=0, epoch=0)), np.stack([views[index][0] for index in rows]))
    assert raw.actions == ("run", "walk", "wave")
    assert raw.attributes == ("hat", "glasses")


def test_raw_clips_stay_what_they_are_whatever_the_channel_does_to_releases(shards, tmp_path):
    plain = release_job(shards, tmp_path)
    other = release_job(shards, tmp_path / "other", channel=Channel(grey=True, codec_crf=40))
    assert np.array_equal(Released(release(other)).views("test"), Released(release(plain)).views("test"))
    assert other.folder.name == plain.folder.name, "evaluate-raw need not run again"


def test_all_views_of_a_video_are_released_and_stay_together(shards, tmp_path):
    attack = ATTACK.model_copy(update={"num_clips": 2, "num_crops": 3, "train_windows": 2})
    raw = Released(release(release_job(shards, tmp_path, attack=attack)))
    views = ClipViews(ShardReader(shards, "test"), CLIP, 2, 3)
    assert raw.views("test").shape == (SIZES["test"], 6, CLIP.num_frames, CLIP.size, CLIP.size, 3)
    assert np.array_equal(raw.views("test"), np.stack([views[index] for index in range(len(views))]))
    assert len(np.unique(raw.views("test")[0].reshape(6, -1), axis=0)) == 6
    windows = ClipViews(ShardReader(shards, "train"), CLIP, 2, 1)
    assert raw.num_training_rows == 2 * SIZES["train"]
    assert np.array_equal(to_uint8(raw.training_batch(np.array([6, 7]), 0, 0)), windows[3])


def test_an_attacker_is_given_new_noise_every_epoch_and_the_same_when_it_starts_again(shards, tmp_path):
    noisy = Released(release(release_job(shards, tmp_path, "noise")))
    rows = np.array([3, 4, 9])
    first = noisy.training_batch(rows, seed=0, epoch=0)
    assert torch.equal(first, noisy.training_batch(rows, seed=0, epoch=0))
    for seed, epoch in ((0, 1), (1, 0)):
        changed = noisy.training_batch(rows, seed, epoch) != first
        assert changed.float().mean() > 0.5
    # A row's noise does not depend on the clips beside it.
    assert torch.equal(first[1:2], noisy.training_batch(np.array([4]), seed=0, epoch=0))


def test_the_noise_is_the_channel_s(shards, tmp_path):
    raw, noisy = (Released(release(release_job(shards, tmp_path, method))) for method in ("raw", "noise"))
    rows = np.arange(SIZES["train"])
    clean = raw.training_batch(rows, 0, 0)
    inside = (clean > 0.45) & (clean < 0.55)  # where the bounds are 2 σ and more away
    difference = (noisy.training_batch(rows, 0, 0) - clean)[inside]
    assert difference.std().item() == pytest.approx(0.2, abs=0.01)
    assert difference.mean().item() == pytest.approx(0, abs=0.01)


def test_val_and_test_clips_are_released_once_for_all_attackers(shards, tmp_path):
    once, again = (Released(release(release_job(shards, tmp_path / name, "noise"))) for name in ("one", "two"))
    for split in ("val", "test"):
        assert np.array_equal(once.views(split), again.views(split))
    assert once.checksum == again.checksum


def test_dropped_tubelets_hold_the_fill_and_nothing_of_the_clip(shards, tmp_path):
    model = tiny_model(tmp_path / "model", Channel(noise=0.2, fill=0.25))
    learned = Released(release(release_job(shards, tmp_path, "stprivacy", model=model, kept_share=SHARE)))
    level = round(0.25 * 255)
    training = to_uint8(learned.training_batch(np.arange(SIZES["train"]), 0, 0)).numpy()
    for clips in (training, learned.views("val")[:, 0], learned.views("test")[:, 0]):
        tubelets = clips.reshape(len(clips), 2, 2, 2, 8, 2, 8, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(len(clips), 2, 4, -1)
        constant = (tubelets == level).all(-1)  # (clips, slices, tubelets)
        assert (constant.sum(-1) == 2).all()  # of 4 in each slice, at kept share 0.5
        assert (tubelets[~constant] != level).mean() > 0.9
    keep = np.load(learned.folder / "train-keep.npy")
    assert (keep.sum(-1) == 2).all()


# ---------------------------------------------------------------------------------------------------- the cache


def test_what_was_released_before_is_not_released_again(shards, tmp_path, monkeypatch):
    job = release_job(shards, tmp_path, "blur")
    folder = release(job)
    monkeypatch.setattr(module, "load_method", lambda *_: pytest.fail("released a second time"))
    assert release(job) == folder


def test_a_release_that_was_cut_short_is_made_anew(shards, tmp_path, monkeypatch):
    job = release_job(shards, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(module, "seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            release(job)
    assert not job.folder.exists()
    assert Released(release(job)).checksum == Released(release(release_job(shards, tmp_path / "whole"))).checksum
    assert [path.name for path in job.folder.parent.iterdir()] == [job.folder.name]


def test_other_weights_settings_or_clips_are_another_release(shards, tmp_path):
    model = tiny_model(tmp_path / "model")
    job = {"method": "stprivacy", "model": model, "kept_share": SHARE}
    folder = release_job(shards, tmp_path, **job).folder
    assert release_job(shards, tmp_path, **job).folder == folder
    others = [
        release_job(shards, tmp_path, **job | change).folder
        for change in (
            {"kept_share": 0.25}, {"method": "blur"}, {"channel": Channel(noise=0.1)}, {"clip": Clip(num_frames=2, size=16)},
            {"attack": ATTACK.model_copy(update={"num_clips": 2})},
        )
    ]  # fmt: skip
    shutil.copytree(shards, tmp_path / "shards")
    index = tmp_path / "shards" / "index.jsonl"
    index.write_text(index.read_text().replace('"sha256": "', '"sha256": "0', 1))
    others.append(release_job(tmp_path / "shards", tmp_path, **job).folder)
    tiny_model(model, seed=1)
    others.append(release_job(shards, tmp_path, **job).folder)
    assert len({folder, *others}) == 1 + len(others)


def test_how_attackers_are_trained_changes_no_release(shards, tmp_path):
    changed = ATTACK.model_copy(update={"max_epochs": 9, "batch": 7, "learning_rate": 1.0})
    assert release_job(shards, tmp_path).folder == release_job(shards, tmp_path, attack=changed).folder


# ---------------------------------------------------------------------------------------------------- methods


def test_a_learned_method_keeps_the_channel_that_it_was_trained_with(tmp_path):
    model = tiny_model(tmp_path, Channel(noise=0.3, fill=0.5))
    assert load_method("stprivacy", model, CLIP, Channel(noise=0.1)).channel == Channel(noise=0.3, fill=0.5)
    assert load_method("blur", model, CLIP, Channel(noise=0.1)).channel.noise == 0
    assert load_method("noise", model, CLIP, Channel(noise=0.1)).channel.noise == 0.1


def test_an_unknown_method_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(UserError, match="evaluate.methods: 'pixelate' is unknown; known are stprivacy, .*raw, .*blur"):
        load_method("pixelate", tmp_path, CLIP, Channel())


def test_a_model_of_other_clips_is_refused(tmp_path):
    with pytest.raises(UserError, match="made for clips of 4 frames at 16 px"):
        load_method("stprivacy", tiny_model(tmp_path), Clip(num_frames=8, size=16), Channel())


def test_a_kept_share_that_cannot_be_had_is_refused(tmp_path):
    method = load_method("blur", tmp_path, CLIP, Channel())
    with pytest.raises(UserError, match=r"evaluate\.kept_shares = 0\.5: blur drops no tubelets"):
        method.paint(torch.zeros(1, 3, 4, 16, 16), 0.5)


def test_the_checksum_covers_labels_and_pixels(shards, tmp_path):
    folder = release(release_job(shards, tmp_path))
    before = json.loads((folder / "release.json").read_text())["checksum"]
    method = load_method("raw", tmp_path, CLIP, Channel())
    for name in ("test-labels.npz", "val-released.npy"):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(bytes(content))
        (folder / "release.json").unlink()
        module.seal(folder, shards, method)
        after = json.loads((folder / "release.json").read_text())["checksum"]
        assert after != before
        before = after
