"""The bounded release: nothing passes but latents, their rate bounds what they say, more noise never says more."""

import math

import numpy as np
import pytest
import torch

from stprivacy.config import Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.code import NATS_PER_BIT, Code, CodeAnonymizer
from stprivacy.models.encoder import Encoded

CLIP = Clip(num_frames=4, size=16)
MODEL = Model(release="code", latents=3, tubelet=(2, 8, 8), width=16, depth=3, num_heads=2, keep_ratio=0.8)


def make(clip: Clip = CLIP, **changes) -> CodeAnonymizer:
    torch.manual_seed(0)
    return CodeAnonymizer(MODEL.model_copy(update=changes), clip).eval()


def moving(num: int = 4, clip: Clip = CLIP, seed: int = 0) -> torch.Tensor:
    """Clips in which a bright square moves to the right, on noise that stays."""
    draw = torch.Generator().manual_seed(seed)
    clips = torch.rand(num, 3, 1, clip.size, clip.size, generator=draw).mul(0.2).repeat(1, 1, clip.num_frames, 1, 1)
    for row in range(num):
        for frame in range(clip.num_frames):
            clips[row, :, frame, 4 + row : 9 + row, 2 * frame : 2 * frame + 5] = 0.9
    return clips


def test_two_clips_with_the_same_latents_are_released_alike():
    """Whatever is painted depends on z alone: the code of another clip, moved to the same z, paints the same pixels."""
    anonymizer, clips = make(), moving(2)
    code, noise = anonymizer.code(clips), torch.randn(1, anonymizer.num_latents)
    first = code.sample(noise)[:1]
    needed = (first - code.mean[1:]) / code.log_std[1:].exp()
    shown = anonymizer(clips[1:], noise=needed).pixels
    torch.testing.assert_close(shown, anonymizer(clips[:1], noise=noise).pixels)
    assert not torch.equal(code.mean[0], code.mean[1])


@pytest.mark.parametrize(
    ("clip", "tubelet"), [(CLIP, (2, 8, 8)), (Clip(num_frames=6, size=48), (3, 8, 8)), (Clip(num_frames=2, size=112), (2, 16, 16))]
)
def test_a_release_has_the_shape_of_its_clip_and_no_colour(clip, tubelet):
    anonymizer = make(clip, tubelet=tubelet, width=32)
    shown = anonymizer(moving(2, clip), noise=torch.zeros(2, anonymizer.num_latents)).pixels
    assert shown.shape == (2, 3, clip.num_frames, clip.size, clip.size)
    assert shown.min() >= 0 and shown.max() <= 1
    assert torch.equal(shown[:, 0], shown[:, 1])


def test_where_nothing_moves_the_prior_is_released():
    still = moving(1)[:, :, :1].repeat(1, 1, CLIP.num_frames, 1, 1)
    code = make().code(still)
    assert code.rate().item() == 0
    assert not code.mean.any()


def test_the_rate_is_the_divergence_from_the_prior():
    code = Code(torch.tensor([[0.0, 0.0], [1.0, -2.0]]), torch.tensor([[0.0, 0.0], [0.0, -1.0]]))
    prior = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    own = torch.distributions.Normal(code.mean[1], code.log_std[1].exp())
    expected = torch.distributions.kl_divergence(own, prior).sum()
    torch.testing.assert_close(code.rate(), torch.stack([torch.zeros(()), expected]))


def test_more_noise_never_says_more_clip_by_clip():
    draw = torch.Generator().manual_seed(0)
    code = Code(torch.randn(64, 8, generator=draw) * 2, torch.randn(64, 8, generator=draw))
    rates = torch.stack([code.noisier(std).rate() for std in (0.0, 0.1, 0.3, 1.0, 3.0, 100.0)])
    torch.testing.assert_close(rates[0], code.rate())
    assert (rates[1:] <= rates[:-1]).all()
    assert rates[-1].max() < 0.1


def test_more_noise_is_the_same_latents_with_noise_added():
    """z' = (z + t ε') / √(1 + t²) has the mean and spread that `noisier` says."""
    code, std = Code(torch.tensor([[1.5]]), torch.tensor([[-1.0]])), 0.7
    noisy, draw = code.noisier(std), torch.Generator().manual_seed(0)
    z = code.sample(torch.randn(200_000, 1, generator=draw))
    z = (z + std * torch.randn(200_000, 1, generator=draw)) / math.sqrt(1 + std**2)
    assert z.mean().item() == pytest.approx(noisy.mean.item(), abs=0.01)
    assert z.std().item() == pytest.approx(noisy.log_std.exp().item(), abs=0.01)


def test_a_planted_leak_raises_the_rate_by_what_it_tells():
    """A latent whose mean is ± m tells at most a bit of the sign; its rate is at least the information, at every m."""
    draw = np.random.default_rng(0)
    for strength in (0.3, 1.0, 2.0):
        sign = draw.choice([-1.0, 1.0], 50_000)
        z = strength * sign + draw.normal(size=50_000)
        likely = 1 / (1 + np.exp(-2 * strength * z * sign))  # of the true sign, given z
        information = 1 + np.log2(likely).mean()
        rate = Code(torch.tensor([[strength]]), torch.zeros(1, 1)).rate().item() / NATS_PER_BIT
        assert information <= rate + 0.01
        assert rate == pytest.approx(strength**2 / 2 / NATS_PER_BIT)


def test_training_and_evaluation_agree_on_the_same_decisions():
    anonymizer, clips = make(), moving(3)
    kept = torch.tensor([1.0, 1, 1, 0]).repeat(3, anonymizer.num_slices)
    decisions = [kept, kept]
    masked, gathered = anonymizer.train().code(clips, decisions=decisions), anonymizer.eval().code(clips, decisions=decisions)
    torch.testing.assert_close(masked.mean, gathered.mean)
    torch.testing.assert_close(masked.log_std, gathered.log_std)


def test_a_dropped_token_is_not_read():
    anonymizer = make()
    tokens, keep = torch.randn(1, 8, 16), torch.ones(1, 2, 4)
    keep[:, :, 0] = 0
    changed = tokens.clone()
    changed[:, [0, 4]] += 5
    torch.testing.assert_close(anonymizer._pooled(Encoded(tokens, None, keep)), anonymizer._pooled(Encoded(changed, None, keep)))


def test_cost_falls_with_the_keep_ratio_and_the_whole_frame_is_painted():
    anonymizer, clips = make(), moving(2)
    encoded = anonymizer.code(clips, 0.5).encoded
    assert encoded is not None and encoded.tokens.shape[1] == anonymizer.num_slices  # int(0.5² · 4) = 1 of each slice
    assert anonymizer(clips, 0.5, noise=torch.zeros(2, anonymizer.num_latents)).keep is None


@pytest.mark.parametrize("tubelet", [(2, 8, 16), (2, 12, 12)])
def test_tubelets_that_halving_does_not_reach_are_refused(tubelet):
    with pytest.raises(ValueError, match="no square of 2, 4, 8"):
        Model(release="code", tubelet=tubelet)


def test_colours_of_training_change_what_is_seen_and_not_what_moves():
    anonymizer, clips = make(), moving(2)
    plain, other = anonymizer.code(clips), anonymizer.code(clips, brightness=1 - clips.mean(1, keepdim=True))
    assert not torch.allclose(plain.mean, other.mean)


def test_the_dial_gives_training_clips_the_bits_that_are_asked_for():
    anonymizer, clips = make(), moving(8)
    torch.nn.init.normal_(anonymizer.head_code.weight, std=0.3)
    anonymizer.calibrate_dial(clips)
    code = anonymizer.code(clips)
    full = code.rate().mean().item() / NATS_PER_BIT
    for asked in (0.2 * full, 0.5 * full, 0.9 * full):
        got = code.noisier(anonymizer.noise_for(asked)).rate().mean().item() / NATS_PER_BIT
        assert got == pytest.approx(asked, rel=0.1)
    assert anonymizer.noise_for(2 * full) == 0  # there are no more


def test_a_dial_that_is_not_known_or_does_not_reach_so_far_is_a_line():
    anonymizer = make()
    with pytest.raises(UserError, match="doesn't know its rates"):
        anonymizer.noise_for(3.0)
    anonymizer.calibrate_dial(moving(8))
    with pytest.raises(UserError, match="1e-09 bits a clip: this model goes down to"):
        anonymizer.noise_for(1e-9)
