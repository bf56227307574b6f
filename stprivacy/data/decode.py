"""Every video decoded once, in worker processes under a time limit: frames in, or a line in the quarantine. The only file that imports decord.

decord may hang on a broken file, crash, or deadlock after a fork: so each video is opened in a spawned process that can be
killed, and pebble's pool does the killing and starting anew.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from stprivacy.config import Preprocess
from stprivacy.data.annotations import Video

FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class Decoded:
    """What became of a video: the shape of its frames, or the reason why there are none."""

    video: Video
    shape: tuple[int, int, int] | None
    """Frames, height, width."""
    reason: str = ""


def read_frames(path: Path, frame_step: int, short_side: int) -> np.ndarray:
    """Every `frame_step`-th frame, short side resized to `short_side` pixels: uint8 (F, H, W, 3). Raises ValueError with the reason."""
    import decord

    if not path.exists():
        raise ValueError("no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError("the file is empty")
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        wanted = range(0, len(reader), frame_step)
        parts = [
            [_resized(frame, short_side) for frame in reader.get_batch(wanted[first : first + FRAMES_AT_ONCE]).asnumpy()]
            for first in range(0, len(wanted), FRAMES_AT_ONCE)
        ]
    except (decord.DECORDError, RuntimeError) as error:
        raise ValueError(f"not decodable: {' '.join(str(error).split())[:120]}") from None
    if not parts:
        raise ValueError("no video frames in it")
    return np.stack([frame for part in parts for frame in part])


def _resized(frame: np.ndarray, short_side: int) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return frame if scale == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def decode_all(videos: Sequence[Video], folder: Path, frame_step: int, preprocess: Preprocess) -> Iterator[Decoded]:
    """Decode what `folder` lacks to `<folder>/<key>.npy`; yields what became of every video, in order, with a progress bar.

    A file stands under its final name only when it is whole, so a killed run goes on where it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [video for video in videos if not (folder / f"{video.key}.npy").exists()]
    failed = dict(_decode_missing(missing, folder, frame_step, preprocess))
    for video in videos:
        if video.key in failed:
            yield Decoded(video, None, failed[video.key])
        else:
            frames, height, width, _ = np.load(folder / f"{video.key}.npy", mmap_mode="r").shape
            yield Decoded(video, (frames, height, width))


def _decode_missing(videos: Sequence[Video], folder: Path, frame_step: int, preprocess: Preprocess) -> Iterator[tuple[str, str]]:
    """(key, reason) of each video that could not be decoded."""
    if not videos:
        return
    with ProcessPool(preprocess.num_processes, context=get_context("spawn")) as pool:
        futures = [
            pool.schedule(_decode_one, args=(video.path, folder / f"{video.key}.npy", frame_step, preprocess.short_side), timeout=preprocess.timeout_s)
            for video in videos
        ]
        for video, future in tqdm(zip(videos, futures, strict=True), total=len(videos), desc="decode", mininterval=5):
            try:
                future.result()
            except FutureTimeout:
                yield video.key, f"decoding took longer than preprocess.timeout_s = {preprocess.timeout_s:g} s"
            except ProcessExpired as error:
                yield video.key, f"the decoder crashed (exit code {error.exitcode})"
            except ValueError as error:
                yield video.key, str(error)


def _decode_one(path: Path, target: Path, frame_step: int, short_side: int) -> None:
    cv2.setNumThreads(1)
    frames = read_frames(path, frame_step, short_side)
    temporary = target.with_name(f"{target.stem}.{os.getpid()}.part")
    with open(temporary, "wb") as file:
        np.save(file, frames)
    os.replace(temporary, target)


def write_quarantine(path: Path, decoded: Sequence[Decoded]) -> list[Decoded]:
    """Write the videos without frames, a JSON line each with key, file and reason; gives them."""
    bad = [one for one in decoded if one.shape is None]
    lines = [json.dumps({"key": one.video.key, "file": str(one.video.path), "reason": one.reason}) for one in bad]
    path.write_text("".join(line + "\n" for line in lines))
    return bad
