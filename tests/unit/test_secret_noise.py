"""Noise of releases: a cipher's stream under a secret key, normally distributed, and nothing else random in a release."""

import numpy as np
import pytest
import torch
from scipy import stats

from stprivacy.config import load_params
from stprivacy.evaluation.gallery import pick_clips, releasers
from stprivacy.models.checkpoints import load_anonymizer
from stprivacy.release.clips import release
from stprivacy.release.model import load_folder
from stprivacy.release.video import Settings, anonymize_video
from stprivacy.secret_noise import KEY_BYTES, SecretNoise
from tests.unit.gallery_files import make_project
from tests.unit.release_files import CLIP, make_video, noisy_frames, small_model

RFC_8439_KEYSTREAM = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
"""Appendix A.1, test vector 1: the first 32 bytes for a key, nonce and counter of zeros."""


def test_the_stream_is_chacha20_through_box_and_muller():
    first, second, third, fourth = (int.from_bytes(RFC_8439_KEYSTREAM[place : place + 8], "little") >> 11 for place in (0, 8, 16, 24))
    expected = [
        radius * turn(angle)
        for turn in (np.cos, np.sin)
        for radius, angle in (
            (np.sqrt(-2 * np.log((first + 1) / 2**53)), 2 * np.pi * third / 2**53),
            (np.sqrt(-2 * np.log((second + 1) / 2**53)), 2 * np.pi * fourth / 2**53),
        )
    ]
    assert SecretNoise(bytes(KEY_BYTES)).normal((2, 2)).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_draws_are_normal_and_neighbours_know_nothing_of_each_other():
    draws = SecretNoise(bytes(range(32))).normal((200_001,)).numpy()
    assert stats.kstest(draws, "norm").pvalue > 0.01
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(draws[:100_000], draws[100_001:])[0, 1]) < 0.02, "cosine and sine of one pair"
    assert np.isfinite(draws).all() and np.abs(draws).max() > 4


def test_a_key_is_a_stream_and_no_key_is_a_new_one():
    key = bytes(range(32))
    assert torch.equal(SecretNoise(key).normal((7,)), SecretNoise(key).normal((7,)))
    stream = SecretNoise(key)
    assert not torch.equal(stream.normal((7,)), stream.normal((7,)))
    assert not torch.equal(SecretNoise().normal((7,)), SecretNoise().normal((7,)))
    with pytest.raises(ValueError, match="a key has 32 bytes, this one has 8"):
        SecretNoise(b"a" * 8)


@pytest.fixture
def simulation(monkeypatch):
    """No generator of torch's, numpy's or Python's may be reached; what was drawn before stays."""

    def reached(*_, **__):
        raise AssertionError("a release reached a generator that is made for simulation")

    def close():
        for place, names in {
            torch: ("randn", "rand", "randint", "randperm", "normal", "Generator", "manual_seed", "randn_like", "rand_like"),
            torch.Tensor: ("normal_", "uniform_", "exponential_", "random_"),
            np.random: ("default_rng", "normal", "rand", "randn", "seed", "RandomState"),
        }.items():
            for name in names:
                monkeypatch.setattr(place, name, reached)

    return close


def test_a_release_reaches_no_generator_that_is_made_for_simulation(tmp_path, simulation):
    anonymizer, channel = load_anonymizer(small_model(tmp_path / "model"))
    clips = np.random.default_rng(0).integers(0, 256, (3, CLIP.num_frames, CLIP.size, CLIP.size, 3), dtype=np.uint8)
    simulation()
    assert channel.noise
    assert not np.array_equal(release(anonymizer, channel, clips, 1.0), release(anonymizer, channel, clips, 1.0))


def test_a_released_video_reaches_none_either(tmp_path, simulation):
    model, video = load_folder(small_model(tmp_path / "model"), "small"), make_video(tmp_path / "in.mp4", noisy_frames(20, 32, 80))
    simulation()
    for name in ("a", "b"):
        anonymize_video(video, tmp_path / f"{name}.mp4", model, Settings(0.75))
    assert (tmp_path / "a.mp4").read_bytes() != (tmp_path / "b.mp4").read_bytes()


def test_what_is_shown_reaches_none_either(tmp_path, simulation, monkeypatch):
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    params = load_params(folder / "params.yaml")
    clips = pick_clips(params, folder / "data/shards/tiny", count=2)
    (noisy,) = releasers(params, folder / "models/anonymizer", ["noise"], [1.0])
    simulation()
    assert not np.array_equal(noisy.show(clips.pixels).pixels, noisy.show(clips.pixels).pixels)
