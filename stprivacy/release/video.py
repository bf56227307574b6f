"""Any video file in, any video file out, every shown pixel released. Nothing else of the input passes: no sound, no metadata.

Frames are taken at the model's frame step and stream through in windows, so that memory does not grow with the video. The output
has the size of the joined tiles (`tiles.py`), and frame_step times fewer frames a second.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import av
import cv2
import numpy as np
from tqdm import tqdm

from stprivacy.errors import RunError, UserError
from stprivacy.files import atomic_write, same_file
from stprivacy.models.code import CodeAnonymizer
from stprivacy.release.clips import release_clips
from stprivacy.release.model import ReleaseModel
from stprivacy.release.tiles import Tiling, fitted_size, windows
from stprivacy.secret_noise import SecretNoise

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

FORMATS = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("ipod", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".avi": ("avi", "libx264"),
    ".ts": ("mpegts", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
    ".gif": ("gif", "gif"),
}
"""Suffixes that can be written: FFmpeg's names of container and encoder."""


@dataclass(frozen=True)
class Settings:
    """How a video is released."""

    keep_ratio: float
    crf: int = 23
    """Quality of H.264 and VP9; smaller is better and larger."""
    height: int | None = None
    """Height of the output, for eyes: enlarged by nearest neighbour. None leaves it at the released size."""
    bits: float | None = None
    """Mean rate of a clip, of a bounded release; None for the model's own."""


@dataclass(frozen=True)
class Report:
    """What became of a video."""

    frames_in: int
    frames_out: int
    size: tuple[int, int]
    """Width and height of the output."""
    rate: Fraction
    """Frames a second of the output."""
    num_tiles: int
    left_out: tuple[str, ...]
    """Kinds of streams that were not taken over, such as audio."""
    bits: np.ndarray | None = None
    """The rate of every clip that it was released in; None where nothing bounds what a release says."""


def anonymize_video(
    source: Path, target: Path, model: ReleaseModel, settings: Settings, before: Callable[[Path], None] = lambda part: None
) -> Report:
    """Write the release of `source` to `target`, which appears when all of it is written; nothing else is written to.

    `before`: called with the finished file before it takes its name. Raises UserError for a file that cannot be read, a suffix that
    cannot be written, and a target that is the source; RunError when writing fails.
    """
    kind = format_of(target)
    if same_file(source, target):
        raise UserError(f"{target}: is the original itself; take another name")
    try:
        with opened(source) as video, atomic_write(target, before) as file:
            return _stream(video, file, kind, model, settings)
    except (OSError, av.FFmpegError) as error:
        raise RunError(f"{target}: cannot be written ({_one_line(error)})") from error


def format_of(target: Path) -> tuple[str, str]:
    """Container and encoder for a file's suffix. Raises UserError that lists the known ones."""
    kind = FORMATS.get(target.suffix.lower())
    if kind is None:
        raise UserError(f"{target}: cannot write files named *{target.suffix}; take one of {', '.join(FORMATS)}")
    return kind


# ---------------------------------------------------------------------------------------------------- reading


@dataclass
class Video:
    """An open video file."""

    path: Path
    container: "InputContainer"
    stream: "VideoStream"
    rate: Fraction
    left_out: tuple[str, ...]
    num_decoded: int = field(default=0, init=False)

    @property
    def num_frames(self) -> int | None:
        """How many frames it says it has; a file may not say, or be wrong."""
        if self.stream.frames:
            return self.stream.frames
        seconds = self.container.duration / av.time_base if self.container.duration else 0
        return round(seconds * self.rate) or None

    def frames(self, step: int, short_side: int) -> Iterator[np.ndarray]:
        """Every `step`-th frame upright, shorter side resized to `short_side`: uint8 (H, W, 3), all of one size.

        Raises UserError with the reason when the file is broken.
        """
        size: tuple[int, int] | None = None  # of the first frame; a stream may change its size, and is fitted to that
        for frame in islice(self._counted(), 0, None, step):
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
            size = size or fitted_size(pixels.shape[0], pixels.shape[1], short_side)
            yield _resized(pixels, size)
        if size is None:
            raise UserError(f"{self.path}: no video frames in it; mend the file or leave it out")

    def _counted(self) -> Iterator[av.VideoFrame]:
        try:
            for frame in self.container.decode(self.stream):
                self.num_decoded += 1
                yield frame
        except av.FFmpegError as error:
            reason = f"broken after {self.num_decoded} frames ({_one_line(error)})"
            raise UserError(f"{self.path}: {reason}; mend the file or leave it out") from None


@contextmanager
def opened(path: Path) -> Iterator[Video]:
    """Open a video file. Raises UserError when it is missing or no video."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; mend the path")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as a video ({_one_line(error)}); mend the file or leave it out") from None
    with closing(container):
        pictures = [stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic]
        if not pictures:
            raise UserError(f"{path}: no video stream in it; mend the file or leave it out")
        stream = pictures[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise UserError(f"{path}: it does not say how many frames a second it has; convert it first")
        others = tuple(sorted({other.type for other in container.streams if other is not stream}))
        yield Video(path, container, stream, Fraction(rate), others)


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As preprocess resizes (data/decode.py)."""
    if frame.shape[:2] == size:
        return np.ascontiguousarray(frame)
    shrinks = size[0] <= frame.shape[0] and size[1] <= frame.shape[1]
    return cv2.resize(np.ascontiguousarray(frame), size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


# ---------------------------------------------------------------------------------------------------- releasing, writing


def _stream(video: Video, file: BinaryIO, kind: tuple[str, str], model: ReleaseModel, settings: Settings) -> Report:
    clip = model.anonymizer.clip
    rate = video.rate / clip.frame_step
    expected = -(-video.num_frames // clip.frame_step) if video.num_frames else None
    num_written, shown, num_tiles = 0, (0, 0), 0
    noise = None if isinstance(model.anonymizer, CodeAnonymizer) else SecretNoise()
    bits: list[np.ndarray] = []
    frames = video.frames(clip.frame_step, clip.size)
    with _Writer(file, kind, rate, settings) as writer, tqdm(desc=video.path.name, total=expected, unit=" frames", disable=None) as bar:
        for window, count in windows(frames, clip.num_frames):
            tiling = Tiling(window.shape[1], window.shape[2], clip.size)
            num_tiles = len(tiling.starts)
            released = release_clips(model.anonymizer, model.channel, tiling.cut(window), settings.keep_ratio, noise, settings.bits)
            bits += [] if released.bits is None else [released.bits]
            shown = writer.write(tiling.join(released.pixels)[:count], settings.height)
            num_written += count
            bar.update(count)
    return Report(video.num_decoded, num_written, shown, rate, num_tiles, video.left_out, np.concatenate(bits) if bits else None)


class _Writer:
    """A video file under construction; its size is that of the first frames."""

    def __init__(self, file: BinaryIO, kind: tuple[str, str], rate: Fraction, settings: Settings):
        container, codec = kind
        self.container = av.open(file, "w", format=container, options={"fflags": "+bitexact"})  # no random ids, no muxer's name
        options = {"crf": str(settings.crf)} if codec != "gif" else {}
        if codec == "libx264":
            options["preset"] = "veryfast"
        self.stream = cast("VideoStream", self.container.add_stream(codec, rate=rate.limit_denominator(60000), options=options))
        self.stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        if codec == "libvpx-vp9":
            self.stream.bit_rate = 0  # quality by crf alone

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with closing(self.container):
            if failed is None:
                self.container.mux(self.stream.encode())

    def write(self, frames: np.ndarray, height: int | None) -> tuple[int, int]:
        """Append frames uint8 (T, H, W, 3); gives the width and height at which they are shown."""
        size = shown_size(frames.shape[1], frames.shape[2], height)
        if not self.stream.codec_context.is_open:  # it opens with the first frame
            self.stream.height, self.stream.width = size
        for frame in frames:
            shown = frame if frame.shape[:2] == size else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_NEAREST)
            self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")))
        return size[::-1]


def shown_size(height: int, width: int, wanted: int | None) -> tuple[int, int]:
    """Even height and width, which encoders ask for, of released frames shown at the height `wanted`, or as they are.

    Raises UserError for a height below the released one: it would only lose pixels.
    """
    if wanted is not None and wanted < height:
        raise UserError(f"--height {wanted}: the release is {height} pixels high and can only be enlarged; take at least {height}")
    shown = height if wanted is None else wanted
    return 2 * -(-shown // 2), 2 * -(-round(width * shown / height) // 2)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
