"""What a video file leaves of a release: H.264 there and back, for those who get the file and not the pixels."""

import tempfile
from pathlib import Path

import numpy as np

from stprivacy.data.video import each_frame, write_mp4
from stprivacy.errors import RunError, UserError

FRAMES_PER_SECOND = 16
"""Of the file; no effect on its pixels at a fixed quality."""


def through_codec(clips: np.ndarray, crf: int) -> np.ndarray:
    """Clips uint8 (B, T, H, W, 3) as H.264 (yuv420p, `crf` 0 … 51, larger is coarser) leaves them; the same clips give the same bytes.

    Each is a file of its own, in memory's file system where there is one. Raises UserError for odd sides, which yuv420p cannot have.
    """
    height, width = clips.shape[2:4]
    if height % 2 or width % 2:
        raise UserError(
            f"params.yaml: channel.codec_crf = {crf}: H.264 needs even sides, and clips are {height} × {width}; change clip.size"
        )
    memory = Path("/dev/shm")
    seen = np.empty_like(clips)
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        file = Path(folder) / "clip.mp4"
        for index, clip in enumerate(clips):
            write_mp4(file, clip, FRAMES_PER_SECOND, crf)
            frames = list(each_frame(file))
            if len(frames) != len(clip):
                raise RunError(f"H.264 gave {len(frames)} frames back for {len(clip)}")
            seen[index] = frames
    return seen
