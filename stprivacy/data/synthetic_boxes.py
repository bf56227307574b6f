"""Where VP-Synth's people are: every video is rendered again without a codec, and compared with its own empty background."""

from collections.abc import Iterator

import cv2
import numpy as np

from stprivacy.config import VP_ATTRIBUTES, SyntheticDataset
from stprivacy.data.boxes import Box
from stprivacy.data.synthetic import _background, plan, render_video
from stprivacy.randomness import keyed_seed

LEAST_DIFFERENCE = 12
"""Of 255: four σ of the renderer's noise; single pixels beyond it are taken off again."""
MARGIN = 1
"""Pixels added around a box, for edges that are smoothed into the background."""


def rendered_boxes(dataset: SyntheticDataset) -> Iterator[tuple[str, int, Box]]:
    """(file, frame, box) for every frame of every video: one box around all people in it, in shares of the frame."""
    for row in plan(dataset):
        attributes = tuple(int(str(row[name])) for name in VP_ATTRIBUTES)
        key = keyed_seed("vp-synth", dataset.seed, str(row["file"]))
        frames = render_video(str(row["action"]), attributes, dataset.num_frames, dataset.size, np.random.default_rng(key))
        for frame, box in enumerate(people_in(frames, _background(dataset.size, np.random.default_rng(key)))):
            yield str(row["file"]), frame, box


def people_in(frames: np.ndarray, background: np.ndarray) -> list[Box]:
    """A box a frame around what is no background; `frames` uint8 (F, H, W, 3), `background` (H, W, 3) before the brightness is drawn.

    People cover less than half of a frame, so the median ratio of frames to background is that brightness.
    """
    height, width = frames.shape[1:3]
    brightness = np.median(frames / np.maximum(background, 1))
    differs = np.abs(frames - np.clip(background * brightness, 0, 255)).max(-1) > LEAST_DIFFERENCE
    boxes = []
    for frame in differs:
        left, top, across, down = cv2.boundingRect(cv2.medianBlur(frame.astype(np.uint8), 3))
        x, y = max(0, left - MARGIN), max(0, top - MARGIN)
        right, bottom = min(width, left + across + MARGIN), min(height, top + down + MARGIN)
        boxes.append((x / width, y / height, (right - x) / width, (bottom - y) / height))
    return boxes
