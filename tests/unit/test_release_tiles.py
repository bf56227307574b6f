"""Tiles cover every pixel once; windows cover every frame once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprivacy.data.decode import read_frames
from stprivacy.release.tiles import Tiling, fitted_size, windows
from tests.unit.release_files import make_video, noisy_frames

SIZES = st.tuples(st.integers(4, 24), st.integers(0, 100), st.booleans())


def tiling_of(sizes):
    size, more, upright = sizes
    return Tiling(size + more, size, size) if upright else Tiling(size, size + more, size)


@given(SIZES)
def test_cutting_and_joining_gives_the_frame_back(sizes):
    tiling = tiling_of(sizes)
    frames = np.random.default_rng(0).integers(0, 256, (2, tiling.height, tiling.width, 3), dtype=np.uint8)
    tiles = tiling.cut(frames)
    assert tiles.shape == (len(tiling.starts), 2, tiling.size, tiling.size, 3)
    assert np.array_equal(tiling.join(tiles), frames)


@given(SIZES)
def test_every_pixel_of_a_joined_frame_comes_from_a_tile(sizes):
    tiling = tiling_of(sizes)
    num_tiles = len(tiling.starts)
    tiles = np.stack([np.full((1, tiling.size, tiling.size, 3), number + 1, np.uint8) for number in range(num_tiles)])
    joined = tiling.join(tiles)
    assert joined.shape == (1, tiling.height, tiling.width, 3)
    assert set(np.unique(joined)) == set(range(1, num_tiles + 1))  # every tile is shown, and nothing else


@given(SIZES)
def test_no_more_tiles_are_computed_than_cover_the_frame(sizes):
    tiling = tiling_of(sizes)
    assert len(tiling.starts) == -(-max(tiling.height, tiling.width) // tiling.size)
    assert tiling.starts[0] == 0
    assert tiling.starts[-1] + tiling.size == max(tiling.height, tiling.width)


@given(num_frames=st.integers(0, 40), window=st.integers(1, 9))
def test_windows_hold_every_frame_once_and_the_last_repeats_its_last(num_frames, window):
    frames = [np.full((1, 1, 3), number, np.uint8) for number in range(num_frames)]
    found = list(windows(iter(frames), window))
    assert all(len(held) == window for held, _ in found)
    own = [int(level) for held, count in found for level in held[:count, 0, 0, 0]]
    assert own == list(range(num_frames))
    for held, count in found:
        assert (held[count:] == held[count - 1]).all()


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (40, 40), (200, 36), (16, 17)])
def test_frames_are_fitted_as_preprocess_does(tmp_path, height, width):
    video = make_video(tmp_path / "a.mp4", noisy_frames(2, height - height % 2, width - width % 2))
    assert read_frames(video, 1, 16).shape[1:3] == fitted_size(height - height % 2, width - width % 2, 16)
