"""Every video decoded once, in worker processes under a time limit: frames, or a line in the quarantine. Only this file imports decord.

decord may hang on a broken file, crash, or deadlock after a fork: so each video is opened in a spawned process that can be
killed, and pebble's pool does the killing and starting anew.
"""

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from pebble import ProcessExpired, ProcessFuture, ProcessPool
from tqdm import tqdm

from stprivacy.config import Preprocess
from stprivacy.data.annotations import Video
from stprivacy.data.processes import end_with_parent
from stprivacy.data.video import each_frame
from stprivacy.errors import RunError

FRAMES_AT_ONCE = 16
NARROW = "from_size == to_size"
"""decord 0.6.0 counts four channels where rows are padded to four bytes a pixel, and refuses the first frame: of the even widths
from 16 to 720 it does so at 16, 24, 48 and 72. PyAV reads those."""


@dataclass(frozen=True)
class Decoded:
    """What became of a video: the file and shape of its frames, or the reason why there are none."""

    video: Video
    frames: Path
    """The .npy file, uint8 (F, H, W, 3)."""
    shape: tuple[int, int, int] | None
    """Frames, height, width."""
    reason: str = ""


def read_frames(path: Path, frame_step: int, short_side: int) -> np.ndarray:
    """Every `frame_step`-th frame, short side resized to `short_side` pixels: uint8 (F, H, W, 3). Raises ValueError with the reason."""
    if not path.exists():
        raise ValueError("no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError("the file is empty")
    try:
        frames = [_resized(frame, short_side) for frame in _every_nth(path, frame_step)]
    except (MemoryError, cv2.error):
        raise ValueError("not decodable: its frames are of an impossible size") from None
    if not frames:
        raise ValueError("no video frames in it")
    return np.stack(frames)


def _every_nth(path: Path, frame_step: int) -> Iterator[np.ndarray]:
    import decord

    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        wanted = range(0, len(reader), frame_step)
        for first in range(0, len(wanted), FRAMES_AT_ONCE):
            yield from reader.get_batch(wanted[first : first + FRAMES_AT_ONCE]).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        if NARROW not in str(error):
            raise ValueError(f"not decodable: {' '.join(str(error).split())[:120]}") from None
        yield from islice(each_frame(path), 0, None, frame_step)


def _resized(frame: np.ndarray, short_side: int) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return frame if scale == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def frames_file(folder: Path, video: Video) -> Path:
    """Where a video's frames are kept. Its size and time are in the name, so that an exchanged video is decoded again."""
    try:
        state = video.path.stat()
        seen = f"{video.path} {state.st_size} {state.st_mtime_ns}"
    except OSError:
        seen = f"{video.path} missing"
    return folder / f"{video.key}.{hashlib.sha256(seen.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}.npy"


def decode_all(videos: Sequence[Video], folder: Path, frame_step: int, preprocess: Preprocess) -> Generator[Decoded]:
    """Decode what `folder` lacks; yields what became of every video, in order, with a progress bar.

    A file stands under its final name only when it is whole, so a killed run goes on where it was. Closing the iterator ends
    the workers at once. Raises RunError when frames can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pool = ProcessPool(preprocess.num_processes, initializer=end_with_parent, context=get_context("spawn"))
    try:
        work = [(video, frames_file(folder, video)) for video in videos]
        futures = {
            target: pool.schedule(_decode_one, args=(video.path, target, frame_step, preprocess.short_side), timeout=preprocess.timeout_s)
            for video, target in work
            if not target.exists()
        }
        for video, target in tqdm(work, desc="decode", mininterval=5):
            reason = _outcome(futures[target], preprocess.timeout_s) if target in futures else ""
            if reason:
                yield Decoded(video, target, None, reason)
            else:
                frames, height, width, _ = np.load(target, mmap_mode="r").shape
                yield Decoded(video, target, (frames, height, width))
    finally:
        # A pool's own end would first do all the work that is left.
        pool.stop()
        pool.join()


def _outcome(future: ProcessFuture, timeout_s: float) -> str:
    """Why a video could not be decoded, or nothing."""
    try:
        future.result()
    except FutureTimeout:
        return f"decoding took longer than preprocess.timeout_s = {timeout_s:g} s"
    except BrokenProcessPool:
        raise RunError("no worker process could start; the lines above say why") from None
    except ProcessExpired as error:
        return f"the decoder crashed (exit code {error.exitcode})"
    except ValueError as error:
        return str(error)
    except OSError as error:
        raise RunError(f"frames cannot be written: {error}; mend the disk and run the stage again, it goes on from here") from None
    return ""


def _decode_one(path: Path, target: Path, frame_step: int, short_side: int) -> None:
    cv2.setNumThreads(1)
    frames = read_frames(path, frame_step, short_side)
    temporary = target.with_suffix(f".{os.getpid()}.part")
    with open(temporary, "wb") as file:
        np.save(file, frames)
    os.replace(temporary, target)


def write_quarantine(path: Path, decoded: Sequence[Decoded]) -> list[Decoded]:
    """Write the videos without frames, a JSON line each with key, file and reason; gives them."""
    bad = [one for one in decoded if one.shape is None]
    lines = [json.dumps({"key": one.video.key, "file": str(one.video.path), "reason": one.reason}) for one in bad]
    path.write_text("".join(line + "\n" for line in lines))
    return bad
