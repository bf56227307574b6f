"""Where are people in a clip? Boxes from a file, from OpenCV's detector, from motion, or from VP-Synth's renderer, as masks of clips.

A boxes file is a CSV with the columns file, frame, x, y, w, h: the video below `dataset.source`, the number of its frame from 0, and the
box's left, top, width and height as shares of the frame's width and height. A frame without a line has nobody in it.

V views, T frames of a clip, S its side.
"""

import csv
import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from stprivacy.config import Dataset, SyntheticDataset, config_hash
from stprivacy.data.clips import ClipViews
from stprivacy.errors import UserError
from stprivacy.fingerprint import code_fingerprint

COLUMNS = ("file", "frame", "x", "y", "w", "h")
DETECTION_SIDE = 256
"""The detector's person is 64 × 128 pixels; clips are enlarged to this side, so that one who fills half a frame is found."""
LEAST_CHANGE = 24
"""Of 255: what a pixel must differ by from its median over the clip to count as moving. Above noise and below any contour."""
ROUNDING = 0.01
"""Pixels: shares of a frame are written with six digits, and a third of 30 is no whole number in binary."""
LEAST_MOVING = 1 / 400
"""Share of the frame that moving pixels must be, or nothing moves."""

Box = tuple[float, float, float, float]
"""Left, top, width, height."""


def find_people(clip: np.ndarray) -> np.ndarray:
    """What OpenCV's people detector (HOG) boxes in each frame of a clip uint8 (T, S, S, 3): bool (T, S, S).

    Raises UserError where OpenCV comes without it: from 5 on it is one of the contributed modules, which the lock has.
    """
    make, people = getattr(cv2, "HOGDescriptor", None), getattr(cv2, "HOGDescriptor_getDefaultPeopleDetector", None)
    if make is None or people is None:
        instead = f"opencv-contrib-python-headless=={cv2.__version__}.* in place of opencv-python-headless"
        raise UserError(f"evaluate.boxes = 'hog': this OpenCV has no people detector; install {instead}, or take motion or a boxes file")
    detector = make()
    detector.setSVMDetector(people())
    scale = max(1.0, DETECTION_SIDE / min(clip.shape[1:3]))
    mask = np.zeros(clip.shape[:3], bool)
    for frame, seen in zip(clip, mask, strict=True):
        large = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        boxes, _ = detector.detectMultiScale(large, winStride=(8, 8), padding=(16, 16), scale=1.05)
        for left, top, width, height in boxes:
            _cover(seen, (left / scale, top / scale, width / scale, height / scale))
    return mask


def find_motion(clip: np.ndarray) -> np.ndarray:
    """One box a frame around all that differs from the clip's median picture, bool (T, S, S): for a still camera.

    Whoever stands still is not found, and of one who moves an arm the arm alone may be.
    """
    still = np.median(clip, axis=0)
    moving = (np.abs(clip - still).max(-1) > LEAST_CHANGE).astype(np.uint8)  # (T, S, S)
    mask = np.zeros(clip.shape[:3], bool)
    for frame, seen in zip(moving, mask, strict=True):
        frame = cv2.medianBlur(frame, 3)  # no single pixels
        if frame.mean() >= LEAST_MOVING:
            _cover(seen, cv2.boundingRect(frame))
    return mask


DETECTORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"hog": find_people, "motion": find_motion}


def resolve_boxes(source: str, dataset: Dataset, cache: Path) -> str:
    """`evaluate.boxes` as `BoxViews` takes it: a detector's name, or a boxes file; VP-Synth's own (`rendered`) is written to `cache`.

    Raises UserError for a missing file, and for `rendered` on videos that were not.
    """
    if source in DETECTORS:
        return source
    if source != "rendered":
        if not Path(source).exists():
            raise UserError(f"params.yaml: evaluate.boxes = {source!r}: no such file; name a CSV, or take {', '.join(DETECTORS)}")
        return source
    if not isinstance(dataset, SyntheticDataset):
        raise UserError(f"params.yaml: evaluate.boxes = 'rendered': {dataset.name} was not; take hog, motion or a boxes file")
    from stprivacy.data.synthetic_boxes import rendered_boxes

    path = cache / "boxes" / f"{config_hash(dataset, code_fingerprint('data/synthetic.py', 'data/synthetic_boxes.py'))}.csv"
    if not path.exists():
        write_boxes(path, rendered_boxes(dataset))
    return str(path)


class BoxViews:
    """For every view that `ClipViews` gives, which pixels lie in a person's box."""

    def __init__(self, views: ClipViews, source: str, cache: Path):
        """`source`: as `resolve_boxes` gives it. `cache`: where what a detector found is kept, by the clip's bytes."""
        self.views, self.source, self.cache = views, source, cache / "boxes"
        self.boxes = None if source in DETECTORS else read_boxes(Path(source))

    def __getitem__(self, index: int) -> np.ndarray:
        """bool (V, T, S, S)."""
        if self.boxes is None:
            return np.stack([self._detected(clip) for clip in self.views[index]])
        return self._from_file(index, self.boxes)

    def _detected(self, clip: np.ndarray) -> np.ndarray:
        file = self.cache / self.source / f"{hashlib.sha256(np.ascontiguousarray(clip).data).hexdigest()[:24]}.npy"
        if file.exists():
            return np.unpackbits(np.load(file), count=clip[..., 0].size).reshape(clip.shape[:3]).astype(bool)
        mask = DETECTORS[self.source](clip)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.part")
        with open(temporary, "wb") as part:
            np.save(part, np.packbits(mask))
        os.replace(temporary, file)
        return mask

    def _from_file(self, index: int, boxes: dict[tuple[str, int], list[Box]]) -> np.ndarray:
        clip, row = self.views.clip, self.views.reader.rows[index]
        places = self.views.places(index)
        masks = np.zeros((len(places), clip.num_frames, clip.size, clip.size), bool)
        for mask, (start, top, left) in zip(masks, places, strict=True):
            for time, seen in enumerate(mask):
                frame = (start + time) % row["num_frames"] * clip.frame_step  # a shorter video is looped, as its pixels are
                for x, y, w, h in boxes.get((row["file"], frame), ()):
                    _cover(seen, (x * row["width"] - left, y * row["height"] - top, w * row["width"], h * row["height"]))
        return masks


def _cover(mask: np.ndarray, box: Iterable[float]) -> None:
    """Set every pixel of `mask` (H, W) that the box touches; what of it lies outside is left out."""
    left, top, width, height = box
    rows = slice(max(0, math.floor(top + ROUNDING)), max(0, math.ceil(top + height - ROUNDING)))
    columns = slice(max(0, math.floor(left + ROUNDING)), max(0, math.ceil(left + width - ROUNDING)))
    mask[rows, columns] = True


def read_boxes(path: Path) -> dict[tuple[str, int], list[Box]]:
    """The boxes of each (file, frame). Raises UserError with the line of the first mistake."""
    found: dict[tuple[str, int], list[Box]] = defaultdict(list)
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: no column {missing[0]}; the first line must name {', '.join(COLUMNS)}")
        for row in rows:
            try:
                frame, (x, y, w, h) = int(row["frame"]), (float(row[name]) for name in COLUMNS[2:])
            except (TypeError, ValueError):
                raise UserError(f"{path}, line {rows.line_num}: frame must be a whole number, x, y, w and h numbers") from None
            if not (frame >= 0 and -1 <= x <= 1 and -1 <= y <= 1 and 0 <= w <= 2 and 0 <= h <= 2):
                raise UserError(
                    f"{path}, line {rows.line_num}: x, y, w and h are shares of the frame; divide pixels by its width and height"
                )
            found[row["file"], frame].append((x, y, w, h))
    return dict(found)


def write_boxes(path: Path, rows: Iterable[tuple[str, int, Box]]) -> None:
    """Write a boxes file of (file, frame, box); whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([name, frame, *(f"{value:.6g}" for value in box)] for name, frame, box in rows)
    os.replace(temporary, path)
