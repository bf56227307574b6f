"""The deployment path: what leaves is what the channel says, for every batch, keep ratio and key."""

import numpy as np
import pytest
import torch

from stprivacy.errors import UserError
from stprivacy.models.anonymizer import expand_keep
from stprivacy.models.channel import to_float, to_uint8, transmit
from stprivacy.models.checkpoints import load_anonymizer
from stprivacy.release.clips import CLIPS_AT_ONCE, keep_ratio_of, release
from stprivacy.secret_noise import SecretNoise
from tests.unit.release_files import CLIP, MODEL, small_model


def known(number: int = 0) -> SecretNoise:
    """A stream from its beginning, of a key that is no secret."""
    return SecretNoise(bytes([number]) * 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_anonymizer(small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).integers(0, 256, (3, CLIP.num_frames, CLIP.size, CLIP.size, 3), dtype=np.uint8)


def test_a_release_is_the_channel_of_training_and_evaluation(model, clips):
    anonymizer, channel = model
    batch = to_float(torch.from_numpy(clips))
    noise = known().normal(batch.shape)
    with torch.no_grad():
        expected = to_uint8(transmit(anonymizer(batch, 0.6), channel, anonymizer.tubelet, noise)).numpy()
    assert np.array_equal(release(anonymizer, channel, clips, 0.6, known()), expected)


@pytest.mark.parametrize("keep_ratio", [0.1, 0.5, 0.75, 1.0])
def test_dropped_tubelets_hold_the_constant_and_nothing_else(model, clips, keep_ratio):
    anonymizer, channel = model
    with torch.no_grad():
        keep = anonymizer(to_float(torch.from_numpy(clips)), keep_ratio).keep
    shown = expand_keep(keep, anonymizer.tubelet, (CLIP.size, CLIP.size))[:, 0, ..., None].numpy().astype(bool)  # (B, T, S, S, 1)
    fill = channel.model_copy(update={"fill": 0.2})
    released = release(anonymizer, fill, clips, keep_ratio)
    dropped = np.broadcast_to(~shown, released.shape)
    assert (released[dropped] == 51).all()
    assert dropped.any() == (keep_ratio < 1)


def test_noise_is_drawn_anew_unless_a_stream_is_given(model, clips):
    torch.manual_seed(0)
    first = release(*model, clips)
    torch.manual_seed(0)  # a program that fixes torch's own seed must not fix the noise
    assert not np.array_equal(release(*model, clips), first)
    assert np.array_equal(release(*model, clips, None, known(3)), release(*model, clips, None, known(3)))
    assert not np.array_equal(release(*model, clips, None, known(3)), release(*model, clips, None, known(4)))


def test_the_seed_of_earlier_versions_is_refused(model, clips):
    """As a version that they registered hands it over."""
    with pytest.raises(UserError, match="releases take no seed any more"):
        release(*model, clips, None, 11)


def test_two_equal_clips_of_a_batch_get_different_noise(model, clips):
    twice = release(*model, np.stack([clips[0], clips[0]]), 1.0, known())
    assert not np.array_equal(twice[0], twice[1])


def test_a_large_batch_is_released_in_parts_with_noise_of_their_own(model, clips):
    many = np.resize(clips[:1], (CLIPS_AT_ONCE + 3, *clips.shape[1:]))
    whole = release(*model, many, 0.5, known(1))
    assert whole.shape == many.shape
    assert np.array_equal(whole, release(*model, many, 0.5, known(1)))
    assert len({clip.tobytes() for clip in whole}) == len(many)


def test_the_models_own_keep_ratio_is_the_default(model, clips):
    assert np.array_equal(release(*model, clips, None, known()), release(*model, clips, MODEL.keep_ratio, known()))
    assert not np.array_equal(release(*model, clips, None, known()), release(*model, clips, 0.3, known()))


def test_no_clips_are_no_release(model, clips):
    assert release(*model, clips[:0]).shape == clips[:0].shape


@pytest.mark.parametrize("ratio", [0, -0.5, 1.1, float("nan")])
def test_a_keep_ratio_outside_its_range_is_refused(model, clips, ratio):
    with pytest.raises(UserError, match="must lie above 0"):
        release(*model, clips, ratio)


@pytest.mark.parametrize("wrong", [np.zeros((1, 4, 16, 8, 3), np.uint8), np.zeros((4, 16, 16, 3), np.uint8), np.zeros((1, 4, 16, 16, 3))])
def test_clips_of_another_shape_or_type_are_refused(model, wrong):
    with pytest.raises(UserError, match="this anonymizer takes uint8"):
        release(*model, wrong)


def test_kept_shares_become_keep_ratios():
    assert keep_ratio_of(0.343, 3) == pytest.approx(0.7)
    assert keep_ratio_of(1, 0) == 1
    for share, blocks in ((0, 2), (1.5, 2), (float("nan"), 2), (0.5, 0)):
        with pytest.raises(UserError, match="kept share"):
            keep_ratio_of(share, blocks)
