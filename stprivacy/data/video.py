"""Writing and reading video files with PyAV (FFmpeg's libraries in a wheel, so that no ffmpeg has to be installed)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

# The AVX-512 code of x264 gives other bytes for the same 64 × 64 frames from run to run (408 of 1,200 encodings, PyAV 18.1;
# none of 1,200 without assembly). Plain C code also makes the bytes independent of the processor, for 4 ms more a clip.
REPRODUCIBLE = {"preset": "veryfast", "threads": "1", "x264-params": "asm=0"}


def write_mp4(path: Path, frames: np.ndarray, frames_per_second: int, crf: int = 18) -> None:
    """Write uint8 (T, H, W, 3) as H.264, yuv420p; the same frames give the same bytes. H and W must be even.

    For data sets of small clips: what makes the bytes repeat makes it slow on large frames.
    """
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": str(crf)} | REPRODUCIBLE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def each_frame(path: Path) -> Iterator[np.ndarray]:
    """All frames of a file's first video, uint8 (H, W, 3). Raises ValueError with the reason when there is none or it is broken."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("no video in it")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise ValueError(f"not decodable: {' '.join(str(error).split())[:120]}") from None
