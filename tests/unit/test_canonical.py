"""Canonical motion: the same picture for the same motion, wherever and in whatever colours it was performed."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from stprivacy.data.synthetic import ACTIONS, render_video
from stprivacy.models.canonical import LEAST_CHANGE, _outermost, canonical_motion
from stprivacy.models.channel import to_float

NUM_FRAMES = 6
DARK, LIGHT = (0.2, 0.2, 0.2), (0.8, 0.8, 0.8)


def film(top: int, left: int, side: int, size: tuple[int, int] = (64, 64), colour=LIGHT, background: Tensor | None = None) -> Tensor:
    """A clip (1, 3, T, H, W) of a square that walks a third of its side to the right in every frame."""
    scene = torch.tensor(DARK).view(3, 1, 1).expand(3, *size) if background is None else background
    clip = scene[:, None].repeat(1, NUM_FRAMES, 1, 1)
    for frame in range(NUM_FRAMES):
        start = left + frame * (side // 3)
        clip[:, frame, top : top + side, start : start + side] = torch.tensor(colour).view(3, 1, 1)
    return clip[None]


def noise(shape: tuple[int, ...], seed: int = 0, sigma: float = 3 / 255) -> Tensor:
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(clip: Tensor) -> Tensor:
    motion = canonical_motion(clip)
    assert motion.found.all()
    return motion.picture


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())


@pytest.mark.parametrize("place", [(2, 20), (40, 3), (46, 14)])
def test_where_something_moves_does_not_matter(place: tuple[int, int]) -> None:
    torch.testing.assert_close(picture(film(*place, side=12)), picture(film(10, 5, side=12)), atol=1e-4, rtol=0)


def test_how_large_it_is_hardly_matters() -> None:
    large, small, other = film(20, 4, side=21), film(10, 5, side=12), film(10, 5, side=12).flip(2)
    assert difference(picture(large), picture(small)) < 0.02
    assert difference(picture(large), picture(other)) > 0.08


def test_colour_and_background_do_not_matter() -> None:
    plain = picture(film(10, 5, side=12))
    for colour, shade in ((DARK, LIGHT), ((0.9, 0.2, 0.2), DARK), ((0.1, 0.5, 0.9), (0.6, 0.5, 0.1))):
        background = torch.tensor(shade).view(3, 1, 1).expand(3, 64, 64)
        torch.testing.assert_close(picture(film(10, 5, 12, colour=colour, background=background)), plain)
    boxes = torch.tensor(DARK).view(3, 1, 1).repeat(1, 64, 64)
    boxes[0, 30:50, 20:40], boxes[:, 5:15, 15:30] = 0.5, 0.4
    torch.testing.assert_close(picture(film(10, 5, 12, background=boxes)), plain)


def test_what_moves_is_in_the_middle_and_whole() -> None:
    shown = picture(film(40, 3, side=12))[0, 0].amax(0)
    rows, columns = shown.sum(1).nonzero()[:, 0], shown.sum(0).nonzero()[:, 0]
    for places in (rows, columns):
        assert abs(float(places[0] + places[-1]) / 2 - 31.5) < 4
        assert places[0] > 0 and places[-1] < 63


@given(st.integers(0, 10**6), st.sampled_from([(8, 48, 48), (16, 64, 40)]))
@settings(max_examples=20)
def test_nothing_is_found_in_a_still_clip_with_or_without_noise(seed: int, shape: tuple[int, int, int]) -> None:
    scene = torch.rand((2, 3, 1, *shape[1:]), generator=torch.Generator().manual_seed(seed)).expand(2, 3, *shape)
    noisy = ((scene + noise(scene.shape, seed)).clamp(0, 1) * 255).round() / 255
    for clips in (scene, noisy):
        motion = canonical_motion(clips)
        assert not motion.found.any() and not motion.picture.any()


def test_specks_and_a_single_frame_are_no_motion() -> None:
    specks = torch.zeros(1, 3, 4, 32, 32)
    specks[..., 2, ::5, ::5] = 1
    for clips in (specks, film(10, 5, 12)[:, :, :1]):
        motion = canonical_motion(clips)
        assert motion.picture.shape == (1, 1, *clips.shape[2:])
        assert not motion.found.any() and not motion.picture.any()


def test_noise_beside_a_motion_does_not_move_the_extent() -> None:
    quiet = film(40, 3, side=12)
    noisy = (quiet + noise(quiet.shape)).clamp(0, 1)
    outlines = picture(quiet) > 0.9
    assert difference(picture(noisy)[outlines], picture(quiet)[outlines]) < 0.05


def test_a_clip_does_not_depend_on_its_neighbours() -> None:
    still = film(0, 0, 12)[:, :, :1].expand(1, 3, NUM_FRAMES, 64, 64)
    clips = torch.cat([film(10, 5, 12), still, film(20, 4, 21), film(40, 3, 12) + noise((1, 3, NUM_FRAMES, 64, 64))])
    together = canonical_motion(clips)
    assert together.found.tolist() == [True, False, True, True]
    for row in range(len(clips)):
        torch.testing.assert_close(canonical_motion(clips[row : row + 1]).picture[0], together.picture[row], atol=1e-6, rtol=0)
    assert torch.equal(canonical_motion(clips.flip(0)).found, together.found.flip(0))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(8, 40), st.integers(8, 40))
@settings(max_examples=30)
def test_pictures_of_any_shape_are_in_range_and_have_no_gradients(seed: int, frames: int, height: int, width: int) -> None:
    clips = torch.rand((2, 3, frames, height, width), generator=torch.Generator().manual_seed(seed), requires_grad=True)
    motion = canonical_motion(clips)
    assert motion.picture.shape == (2, 1, frames, height, width) and motion.found.shape == (2,)
    assert motion.found.dtype == torch.bool and motion.picture.dtype == torch.float32
    assert motion.picture.isfinite().all() and motion.picture.min() >= 0 and motion.picture.max() <= 1
    assert not motion.picture.requires_grad
    assert torch.equal(motion.picture[:, :, -1], motion.picture[:, :, max(frames - 2, 0)])


def test_frames_need_not_be_square() -> None:
    """The square extent is stretched to the frame, so places in a wide frame matter as little as in a square one."""
    one, other = (picture(film(*place, side=12, size=(32, 64))) for place in ((4, 4), (15, 30)))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40).filter(any))
def test_the_percentiles_are_numpy_s(counts: list[int]) -> None:
    places = np.repeat(np.arange(len(counts)), counts)
    low, high = _outermost(torch.tensor([counts, counts]))
    np.testing.assert_allclose(torch.stack([low, high], 1), [np.percentile(places, (1, 99))] * 2, atol=1e-4)


def by_opencv(clip: Tensor) -> Tensor:
    """One clip (3, T, H, W), square → (T, H, W), with OpenCV's opening and warp, and without regard for noise."""
    change = clip.diff(dim=1).abs().amax(0)
    change = (torch.cat([change, change[-1:]]) / 0.15).clamp(0, 1).numpy()
    strong = np.pad((change.max(0) > LEAST_CHANGE).astype(np.uint8), 2)
    moved = cv2.morphologyEx(strong, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))  # one pixel further right and down than `strong`
    (top, bottom), (left, right) = (np.percentile(places, (1, 99)) - 3 for places in np.nonzero(moved))
    scale, side = max(bottom - top, right - left) * 1.25 + 2, change.shape[-1]
    warp = np.array([[scale / side, 0, (left + right - scale) / 2], [0, scale / side, (top + bottom - scale) / 2]])
    warped = [cv2.warpAffine(frame, warp, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) for frame in change]
    return F.avg_pool2d(torch.from_numpy(np.stack(warped)), 3, 1, 1)


@pytest.mark.parametrize("action", ACTIONS)
def test_rendered_people_move_as_opencv_has_it(action: str) -> None:
    video = render_video(action, (0, 1, 0, 1, 0), 16, 96, np.random.default_rng(0))
    frames = np.stack([cv2.resize(frame, (48, 48), interpolation=cv2.INTER_AREA) for frame in video[::2]])
    clips = to_float(torch.from_numpy(frames)[None])
    assert difference(picture(clips)[0, 0], by_opencv(clips[0])) < 0.002
