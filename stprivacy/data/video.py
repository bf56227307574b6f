"""Writing video files (PyAV: FFmpeg's libraries in a wheel, so that no ffmpeg has to be installed)."""

from pathlib import Path

import numpy as np


def write_mp4(path: Path, frames: np.ndarray, frames_per_second: int, crf: int = 18) -> None:
    """Write uint8 (T, H, W, 3) as H.264, yuv420p, one thread, so that the same frames give the same bytes. H and W must be even."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": str(crf), "preset": "veryfast", "threads": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
