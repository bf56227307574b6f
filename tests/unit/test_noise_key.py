"""One clip, one release: the installation's secret, and noise that follows from it and from the clip."""

import os
import stat

import numpy as np
import pytest
import torch

from stprivacy.config import Channel
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.release.clips import release, release_clips
from stprivacy.release.noise_key import VARIABLE, clip_noise, installation_key
from stprivacy.secret_noise import SecretNoise
from tests.unit.test_models_code import CLIP, MODEL, make, moving

CHANNEL = Channel(noise=0.0)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """A home of its own, without a key in the environment."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "stprivacy/noise.key"


def clips(seed: int = 0) -> np.ndarray:
    return (moving(3, CLIP, seed) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().numpy()


def test_a_key_is_made_once_and_nobody_else_can_read_it(at_home):
    before = os.umask(0)
    try:
        key = installation_key()
    finally:
        os.umask(before)
    assert stat.S_IMODE(at_home.stat().st_mode) == 0o600
    assert list(at_home.parent.iterdir()) == [at_home]
    assert installation_key() == key == at_home.read_bytes()


def test_the_environment_s_key_comes_first_and_a_bad_one_is_refused(at_home, monkeypatch):
    monkeypatch.setenv(VARIABLE, "ab" * 32)
    assert installation_key() == bytes([0xAB]) * 32
    assert not at_home.exists()
    for bad in ("ab", "x" * 64, ""):
        monkeypatch.setenv(VARIABLE, bad)
        with pytest.raises(UserError, match=f"{VARIABLE}: expected 64 hexadecimal digits"):
            installation_key()


def test_a_key_that_others_can_read_is_refused(at_home):
    installation_key()
    at_home.chmod(0o640)
    with pytest.raises(UserError, match=r"noise\.key: others can read it"):
        installation_key()


def test_a_clip_released_twice_is_one_release_and_another_key_gives_another():
    anonymizer = make()
    first = release(anonymizer, CHANNEL, clips())
    assert np.array_equal(first, release(anonymizer, CHANNEL, clips()))
    assert np.array_equal(first[1:2], release(anonymizer, CHANNEL, clips()[1:2]))  # whoever is released beside it
    os.environ[VARIABLE] = "01" * 32  # monkeypatch takes it away again
    assert not np.array_equal(first, release(anonymizer, CHANNEL, clips()))


@pytest.mark.parametrize("what", ["clip", "ratio", "weights"])
def test_whatever_changes_a_release_changes_its_noise(what, monkeypatch):
    """With the same noise under two settings, the noise could be computed from both releases."""
    seen: list[torch.Tensor] = []
    normal = SecretNoise.normal
    monkeypatch.setattr(SecretNoise, "normal", lambda self, shape: seen.append(normal(self, shape)) or seen[-1])
    anonymizer, some = make(), clips()[:1]
    release(anonymizer, CHANNEL, some, 0.8)
    if what == "clip":
        some[0, 0, 0, 0, 0] ^= 1
    if what == "weights":
        with torch.no_grad():
            anonymizer.painter.enter.bias.add_(1e-3)
    release(anonymizer, CHANNEL, some, 0.9 if what == "ratio" else 0.8)
    assert len(seen) == 2 and torch.corrcoef(torch.stack(seen).flatten(1))[0, 1].abs() < 0.9
    assert not torch.equal(*seen)


def test_the_noise_of_a_clip_is_normal_and_depends_on_key_settings_and_clip():
    clip = clips()[0]
    draws = clip_noise(bytes(32), b"a", clip).normal((20_000,))
    assert draws.mean().abs() < 0.03 and abs(draws.std() - 1) < 0.03
    for other in (clip_noise(bytes([1] * 32), b"a", clip), clip_noise(bytes(32), b"b", clip), clip_noise(bytes(32), b"a", clip + 1)):
        assert torch.corrcoef(torch.stack([draws, other.normal((20_000,))]))[0, 1].abs() < 0.05


def test_a_bounded_release_says_its_bits_and_another_has_none(at_home):
    found = release_clips(make(), CHANNEL, clips())
    assert found.bits is not None and found.bits.shape == (3,) and (found.bits > 0).all()
    tubelets = Anonymizer(MODEL.model_copy(update={"release": "tubelets"}), CLIP).eval()
    at_home.unlink()
    assert release_clips(tubelets, CHANNEL, clips()).bits is None
    assert not at_home.exists()  # its noise is new each time


def test_fewer_bits_are_a_noisier_release_of_the_same_model():
    anonymizer = make()
    anonymizer.calibrate_dial(moving(8, CLIP))
    full = release_clips(anonymizer, CHANNEL, clips())
    fewer = release_clips(anonymizer, CHANNEL, clips(), bits=0.5 * float(full.bits.mean()))
    assert (fewer.bits < full.bits).all()
    assert not np.array_equal(fewer.pixels, full.pixels)
    tubelets = Anonymizer(MODEL.model_copy(update={"release": "tubelets"}), CLIP).eval()
    with pytest.raises(UserError, match="4 bits: nothing bounds what this model releases"):
        release(tubelets, CHANNEL, clips(), bits=4.0)
