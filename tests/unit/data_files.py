"""Small data sets on disk, for the tests of the data part."""

import os
from pathlib import Path

import numpy as np
import pytest

from stprivacy.data.annotations import Video
from stprivacy.data.video import write_mp4


def grey_video(path: Path, num_frames: int = 12, height: int = 32, width: int = 64) -> Path:
    """A video whose frame i is grey of level 20·i: which frame was read can be told from any pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.arange(num_frames, dtype=np.uint8) * 20
    write_mp4(path, np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy(), 16, crf=1)
    return path


def video_at(path: Path, split: str = "train", action: str = "walk", group: str = "") -> Video:
    return Video(path.stem, path, action, split, group or path.stem, (1.0, 0.0))  # type: ignore[arg-type]


def real_data() -> Path:
    """The folder of real data sets; skips the test where there is none."""
    folder = os.environ.get("STPRIVACY_TEST_DATA")
    if not folder:
        pytest.skip("STPRIVACY_TEST_DATA is not set: no real data here")
    return Path(folder)
