"""The classical anonymizers do what OpenCV does under the same names."""

import cv2
import numpy as np
import pytest
import torch

from stprivacy.errors import UserError
from stprivacy.models.baselines import BASELINES, BOXED, build_baseline


def make_clips(size: int = 48) -> torch.Tensor:
    return torch.rand(2, 3, 4, size, size, generator=torch.Generator().manual_seed(0))


def frame_by_frame(clips: torch.Tensor, change) -> torch.Tensor:
    """Apply a function of an (H, W, 3) picture to every frame."""
    pictures = clips.permute(0, 2, 3, 4, 1).numpy()
    changed = np.stack([[change(np.ascontiguousarray(frame)) for frame in clip] for clip in pictures])
    return torch.from_numpy(changed).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("factor", [2, 4])
def test_downsampling_is_the_mean_of_squares_shown_at_the_old_size(factor):
    def change(frame):
        small = cv2.resize(frame, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)

    painted = build_baseline(f"downsample-{factor}")(make_clips())
    torch.testing.assert_close(painted.pixels, frame_by_frame(make_clips(), change))


@pytest.mark.parametrize(("size", "sigma"), [(48, 3.0), (96, 6.0), (30, 30 / 16)])
def test_blur_is_opencv_s_gaussian_of_three_pixels_in_48(size, sigma):
    side = 2 * int(3 * sigma + 0.5) + 1
    expected = frame_by_frame(make_clips(size), lambda frame: cv2.GaussianBlur(frame, (side, side), sigma, borderType=cv2.BORDER_REPLICATE))
    torch.testing.assert_close(build_baseline("blur")(make_clips(size)).pixels, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["raw", "noise"])
def test_raw_is_the_clip_and_noise_is_left_to_the_channel(name):
    assert torch.equal(build_baseline(name)(make_clips()).pixels, make_clips())


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", [17, 48])
def test_every_baseline_drops_nothing_and_keeps_shape_and_range(name, size):
    told = [torch.rand(2, 4, size, size) < 0.5] if name in BOXED else []
    painted = build_baseline(name)(make_clips(size), *told)
    assert painted.keep is None
    assert painted.pixels.shape == make_clips(size).shape
    assert 0 <= painted.pixels.min() <= painted.pixels.max() <= 1


def one_box(size: int) -> torch.Tensor:
    boxes = torch.zeros(2, 4, size, size)
    boxes[:, :, size // 4 : size // 2, size // 3 : size] = 1
    return boxes


@pytest.mark.parametrize("name", BOXED)
def test_nothing_outside_a_person_s_box_changes(name):
    boxes = one_box(48)
    pixels = build_baseline(name)(make_clips(), boxes).pixels
    outside = (boxes == 0)[:, None].expand_as(pixels)
    assert torch.equal(pixels[outside], make_clips()[outside])
    assert not torch.allclose(pixels[~outside], make_clips()[~outside], atol=0.05)


def test_a_blackened_box_is_black():
    boxes = one_box(48)
    pixels = build_baseline("blackening")(make_clips(), boxes).pixels
    assert (pixels[boxes[:, None].expand_as(pixels) == 1] == 0).all()


@pytest.mark.parametrize(("name", "kernel"), [("strong-blur", 21), ("weak-blur", 13)])
def test_box_blurs_are_opencv_s_gaussian_with_the_field_s_kernels_at_112_pixels(name, kernel):
    clips = torch.rand(1, 3, 2, 112, 112, generator=torch.Generator().manual_seed(0))
    blurred = frame_by_frame(clips, lambda frame: cv2.GaussianBlur(frame, (kernel, kernel), 10, borderType=cv2.BORDER_REPLICATE))
    painted = build_baseline(name)(clips, torch.ones(1, 2, 112, 112))
    torch.testing.assert_close(painted.pixels, blurred, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "radius"), [(56, 5), (48, 4)])
def test_box_blurs_grow_with_the_frame(size, radius):
    sigma, side = 10 * size / 112, 2 * radius + 1
    expected = frame_by_frame(make_clips(size), lambda frame: cv2.GaussianBlur(frame, (side, side), sigma, borderType=cv2.BORDER_REPLICATE))
    painted = build_baseline("strong-blur")(make_clips(size), torch.ones(2, 4, size, size))
    torch.testing.assert_close(painted.pixels, expected, atol=1e-5, rtol=0)


def test_an_unknown_baseline_is_refused_with_the_list():
    with pytest.raises(UserError, match="downsample-3.*downsample-2"):
        build_baseline("downsample-3")
