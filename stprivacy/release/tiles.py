"""From frames of any size to the square clips of an anonymizer, and back: tiles and windows.

A frame is resized so that its shorter side is S, as preprocess does. Tiles of S × S then lie in a row along the longer side,
evenly spaced, overlapping as little as covering it allows. Windows of T frames follow one another; the last is filled up by
repeating its last frame. Every pixel of a joined frame is a pixel of exactly one released tile.

n tiles, T frames of a window, S side, H × W frame.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


def fitted_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width of a frame resized so that its shorter side is `short_side`."""
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))


@dataclass(frozen=True)
class Tiling:
    """The tiles of frames `height` × `width`, of which the shorter is `size`."""

    height: int
    width: int
    size: int

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each tile begins along the longer side."""
        spare = max(self.height, self.width) - self.size
        num_tiles = 1 + -(-spare // self.size)
        return tuple(round(place) for place in np.linspace(0, spare, num_tiles))

    @cached_property
    def _shown(self) -> tuple[tuple[int, int], ...]:
        """Which stretch of the longer side each tile fills in the joined frame: an overlap is parted in its middle."""
        cuts = [(left + self.size + right) // 2 for left, right in zip(self.starts, self.starts[1:], strict=False)]
        return tuple(zip([0, *cuts], [*cuts, max(self.height, self.width)], strict=True))

    def cut(self, frames: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) → (n, T, S, S, 3)."""
        along = 1 if self.height > self.width else 2
        return np.stack([frames.take(range(start, start + self.size), along) for start in self.starts])

    def join(self, tiles: np.ndarray) -> np.ndarray:
        """(n, T, S, S, 3) → (T, H, W, 3)."""
        along = 1 if self.height > self.width else 2
        shown = [
            tile.take(range(first - start, last - start), along)
            for tile, start, (first, last) in zip(tiles, self.starts, self._shown, strict=True)
        ]
        return np.concatenate(shown, along)


def windows(frames: Iterable[np.ndarray], num_frames: int) -> Iterator[tuple[np.ndarray, int]]:
    """Frames (H, W, 3), one after another → windows (T, H, W, 3), each with the number of its frames that are the video's own."""
    waiting: list[np.ndarray] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == num_frames:
            yield np.stack(waiting), num_frames
            waiting = []
    if waiting:
        yield np.stack(waiting + [waiting[-1]] * (num_frames - len(waiting))), len(waiting)
