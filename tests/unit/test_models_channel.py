"""The channel: what comes out is what a file of bytes can hold, and nothing of a dropped tubelet."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stprivacy.config import Channel
from stprivacy.models.anonymizer import Painted, expand_keep
from stprivacy.models.channel import to_float, to_uint8, transmit

TUBELET = (2, 4, 4)
SHAPE = (2, 3, 4, 8, 12)  # 2 slices of 2 × 3 tubelets


def make_painted(seed: int = 0, requires_grad: bool = False) -> Painted:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(SHAPE, generator=generator).requires_grad_(requires_grad)
    keep = (torch.rand(2, 2, 6, generator=generator) < 0.5).float().requires_grad_(requires_grad)
    return Painted(pixels, keep)


def noise_like(seed: int = 1) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.booleans())
@settings(max_examples=50, deadline=None)
def test_release_values_are_bytes(seed, noise, fill, noisy):
    released = transmit(make_painted(seed), Channel(noise=noise, fill=fill), TUBELET, noise_like(seed) if noisy else None)
    assert torch.equal(released, (released * 255).round().clamp(0, 255) / 255)
    assert torch.equal(to_float(to_uint8(released)), released)


def test_noise_is_on_kept_tubelets_alone():
    painted, channel = make_painted(), Channel(noise=0.2, fill=0.25)
    quiet, noisy = transmit(painted, channel, TUBELET, None), transmit(painted, channel, TUBELET, noise_like())
    kept = expand_keep(painted.keep, TUBELET, SHAPE[-2:]).expand(SHAPE) == 1
    assert (quiet != noisy)[kept].float().mean() > 0.9
    assert torch.equal(quiet[~kept], noisy[~kept])


def test_the_order_is_bound_noise_fill_bytes():
    painted, channel, noise = make_painted(), Channel(noise=0.5, fill=0.7), noise_like()
    keep = expand_keep(painted.keep, TUBELET, SHAPE[-2:]).bool().expand(SHAPE)
    by_hand = torch.where(keep, (painted.pixels.clamp(0, 1) + 0.5 * noise).clamp(0, 1), torch.tensor(0.7))
    assert torch.equal(to_uint8(transmit(painted, channel, TUBELET, noise)), (by_hand * 255).round().byte().permute(0, 2, 3, 4, 1))


def test_gradients_pass_the_rounding_and_stop_where_noise_left_the_range():
    painted, noise = make_painted(requires_grad=True), noise_like()
    transmit(painted, Channel(noise=0.5), TUBELET, noise).sum().backward()
    moved = painted.pixels + 0.5 * noise
    inside = ((moved > 0) & (moved < 1)) & (expand_keep(painted.keep, TUBELET, SHAPE[-2:]) == 1)
    assert torch.equal(painted.pixels.grad, inside.float())


def test_a_decision_s_gradient_is_what_keeping_would_show_less_what_fills():
    painted = make_painted(requires_grad=True)
    transmit(painted, Channel(noise=0, fill=0.25), TUBELET, None).sum().backward()
    difference = painted.pixels.detach() - 0.25
    by_hand = torch.stack([part.sum((1, 2, 3, 4)) for part in _tubelets(difference)], 1).view(2, 2, 6)
    torch.testing.assert_close(painted.keep.grad, by_hand)


def test_what_drops_nothing_is_only_rounded():
    pixels = torch.rand(SHAPE)
    assert torch.equal(transmit(Painted(pixels, None), Channel(noise=0), TUBELET, None), (pixels * 255).round() / 255)


def _tubelets(pixels: torch.Tensor) -> list[torch.Tensor]:
    """The tubelets of a clip, slice by slice and row by row, by slicing alone."""
    frames, rows, columns = TUBELET
    return [
        pixels[:, :, t : t + frames, y : y + rows, x : x + columns]
        for t in range(0, SHAPE[2], frames)
        for y in range(0, SHAPE[3], rows)
        for x in range(0, SHAPE[4], columns)
    ]


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_decision_covers_its_own_tubelet(seed):
    keep = torch.rand(2, 2, 6, generator=torch.Generator().manual_seed(seed))
    for index, part in enumerate(_tubelets(expand_keep(keep, TUBELET, SHAPE[-2:]))):
        assert torch.equal(part, keep.flatten(1)[:, index].view(2, 1, 1, 1, 1).expand(2, 1, *TUBELET))


def test_bytes_and_floats_are_each_other_s_inverse():
    clips = torch.randint(0, 256, (2, 4, 6, 5, 3), dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(clips)), clips)
    assert to_float(clips).shape == (2, 3, 4, 6, 5)


def test_a_grey_release_is_brightness_with_one_noise_for_all_colours():
    painted, channel, noise = make_painted(), Channel(noise=0.1, fill=0.3, grey=True), noise_like()
    released = transmit(painted, channel, TUBELET, noise)
    assert torch.equal(released[:, 0], released[:, 1]) and torch.equal(released[:, 1], released[:, 2])
    brightness = (painted.pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(1)
    keep = expand_keep(painted.keep, TUBELET, SHAPE[-2:]).bool()[:, 0]
    by_hand = torch.where(keep, (brightness + 0.1 * noise[:, 0]).clamp(0, 1), torch.tensor(0.3))
    torch.testing.assert_close(released[:, 0], by_hand, atol=0.51 / 255, rtol=0)
