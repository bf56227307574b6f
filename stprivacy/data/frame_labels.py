"""Labels that hold for some frames of a video: as spans in files, as a value a frame for who reads clips.

F frames of a video, T frames of a clip, A attributes.
"""

from collections.abc import Sequence

import numpy as np

UNLABELLED = -1

Spans = tuple[tuple[int, int, int], ...]
"""(first frame, last frame, 0 or 1) of one attribute, in order; a frame in none of them has no label."""


def spans_of(values: np.ndarray) -> Spans:
    """The spans of `values` int8 (F,)."""
    firsts = [place for place in range(len(values)) if place == 0 or values[place] != values[place - 1]]
    runs = zip(firsts, [*firsts[1:], len(values)], strict=False)
    return tuple((first, end - 1, int(values[first])) for first, end in runs if values[first] != UNLABELLED)


def every_nth(spans: Spans, step: int, num_frames: int) -> Spans:
    """The same when every `step`-th frame of the video is kept, `num_frames` in all: frames are counted anew."""
    kept = ((-(-first // step), min(last // step, num_frames - 1), value) for first, last, value in spans)
    return tuple(span for span in kept if span[0] <= span[1])


def values_of(attributes: Sequence[Spans], num_frames: int) -> np.ndarray:
    """int8 (F, A) of the spans of each attribute; −1 where a frame has no label."""
    values = np.full((num_frames, len(attributes)), UNLABELLED, np.int8)
    for column, spans in enumerate(attributes):
        for first, last, value in spans:
            values[first : last + 1, column] = value
    return values


def prevailing(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """What holds in most of the labelled frames of clips int8 (…, T, A): float32 (…, A) of 0/1; in half of them is enough for 1.

    `otherwise` (…, A): what counts where a clip has no labelled frame.
    """
    positive, negative = (values == 1).sum(-2), (values == 0).sum(-2)
    return np.where(positive + negative > 0, positive >= negative, otherwise).astype(np.float32)
