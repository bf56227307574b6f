"""Reading clips out of shards: random windows for training, fixed views for evaluation, only the bytes of the window.

F frames of a video, T frames of a clip, V views, S side of a clip, A attributes, C actions.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from stprivacy.config import Clip
from stprivacy.data.fetched import FetchedShards
from stprivacy.data.frame_labels import prevailing, values_of
from stprivacy.data.shards import read_index
from stprivacy.data.storage import left_out
from stprivacy.errors import UserError
from stprivacy.randomness import keyed_seed


@dataclass(frozen=True)
class DatasetInfo:
    """What the numbers of a data set mean."""

    name: str
    actions: tuple[str, ...]
    attributes: tuple[str, ...]
    several_actions: bool = False
    """Does a video have any number of actions, and not one?"""

    @classmethod
    def read(cls, folder: Path) -> "DatasetInfo":
        """Read `dataset.json`. Raises UserError when there is none."""
        path = folder / "dataset.json"
        if not path.exists():
            raise UserError(f"{path}: no such file; run `dvc repro shard`")
        plain = json.loads(path.read_text())
        return cls(plain["name"], tuple(plain["actions"]), tuple(plain["attributes"]), plain.get("several_actions", False))


class ShardReader:
    """One split of a data set: labels in memory, frames read from tar shards at an offset, without unpacking.

    Shards that were left in the storage come to this node's cache, each once and ahead of use, in the order that `fetch_ahead` names.
    """

    def __init__(self, folder: Path, split: str):
        self.folder, self.info = folder, DatasetInfo.read(folder)
        self.rows = [row for row in read_index(folder) if row["split"] == split]
        if not self.rows:
            raise UserError(f"{folder}: no {split} clips; see the report of the preprocess stage")
        self.keys = [row["key"] for row in self.rows]
        self.actions = np.array([row["action"] for row in self.rows], dtype=np.float32 if self.info.several_actions else np.int64)
        """int64 (n,), the number of each video's action; float32 (n, C) of 0/1 where videos have several."""
        self.attributes = np.array([row["attributes"] for row in self.rows], dtype=np.float32)
        self.num_frames = np.array([row["num_frames"] for row in self.rows], dtype=np.int64)
        with_frames = all("frame_labels" in row for row in self.rows)
        self.frame_labels = [values_of(row["frame_labels"], row["num_frames"]) for row in self.rows] if with_frames else None
        """Of each video int8 (F, A), −1 where a frame has no label; None where labels are whole videos'."""
        elsewhere = left_out(folder)
        self.fetched = FetchedShards(elsewhere) if elsewhere else None
        self.fetch_ahead(range(len(self)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def foremost(self) -> np.ndarray:
        """One action a video, int64 (n,), to spread examples over: its own, or the first of its several."""
        return self.actions.argmax(1) if self.info.several_actions else self.actions

    def action_name(self, index: int) -> str:
        """The name of a video's action, or of all of them."""
        if not self.info.several_actions:
            return self.info.actions[self.actions[index]]
        return ", ".join(self.info.actions[place] for place in np.flatnonzero(self.actions[index]))

    def fetch_ahead(self, indices: Iterable[int]) -> None:
        """Videos `indices` will be read, in this order: bring their shards here meanwhile, where they aren't."""
        if self.fetched:
            self.fetched.fetch_ahead(self.rows[index]["shard"] for index in indices)

    def read(self, index: int, start: int, num_frames: int) -> np.ndarray:
        """Frames `start` … `start + num_frames` − 1 of video `index`, uint8 (T, H, W, 3); a shorter video is looped.

        Only the window's bytes are read. Raises UserError when the shard is cut short.
        """
        row = self.rows[index]
        height, width = row["height"], row["width"]
        frame_bytes = height * width * 3
        first = row["offset"] + row["length"] - row["num_frames"] * frame_bytes  # behind the .npy header
        whole = start + num_frames > row["num_frames"]
        begin, count = (0, row["num_frames"]) if whole else (start, num_frames)
        with self.fetched.open(row["shard"]) if self.fetched else open(self.folder / row["shard"], "rb") as shard:
            shard.seek(first + begin * frame_bytes)
            pixels = np.fromfile(shard, np.uint8, count * frame_bytes)
        if len(pixels) < count * frame_bytes:
            raise UserError(f"{self.folder / row['shard']}: ends within {row['member']}; the shard is cut short: run `dvc repro -f shard`")
        frames = pixels.reshape(count, height, width, 3)
        return frames[np.arange(start, start + num_frames) % count] if whole else frames

    def frames_of(self, index: int, start: int, num_frames: int) -> np.ndarray:
        """The numbers (T,) of the frames that `read` gives."""
        return np.arange(start, start + num_frames) % self.num_frames[index]

    def attributes_of(self, index: int, start: int, num_frames: int) -> np.ndarray:
        """Attributes float32 (A,) of these frames: what holds in most of them where frames have labels, else the video's."""
        whole = self.attributes[index]
        if self.frame_labels is None:
            return np.asarray(whole)
        return prevailing(self.frame_labels[index][self.frames_of(index, start, num_frames)], whole)

    def prevailing_attributes(self) -> np.ndarray:
        """Attributes float32 (n, A) of the videos as `attributes_of` gives them for all of their frames."""
        return np.stack([self.attributes_of(index, 0, int(count)) for index, count in enumerate(self.num_frames)])


class TrainingClips(Dataset):
    """Random window, crop and flip of a training video, the same for all frames, drawn from (seed, epoch, index) alone."""

    def __init__(self, reader: ShardReader, clip: Clip, seed: int):
        self.reader, self.clip, self.seed = reader, clip, seed

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """`key`: (epoch, index) → clip uint8 (T, S, S, 3), action (its number, or float32 (C,) of all), attributes float32 (A,), index."""
        epoch, index = key
        draw = np.random.default_rng(keyed_seed("augment", self.seed, epoch, index))
        spare = max(0, int(self.reader.num_frames[index]) - self.clip.num_frames)
        start = int(draw.integers(spare + 1))
        frames = self.reader.read(index, start, self.clip.num_frames)
        size = self.clip.size
        top, left = (int(draw.integers(length - size + 1)) for length in frames.shape[1:3])
        frames = frames[:, top : top + size, left : left + size]
        if self.clip.flip and draw.random() < 0.5:
            frames = frames[:, :, ::-1]
        return {
            "clip": np.ascontiguousarray(frames),
            "action": self.reader.actions[index] if self.reader.info.several_actions else int(self.reader.actions[index]),
            "attributes": self.reader.attributes_of(index, start, self.clip.num_frames),
            "index": index,
        }


class ClipViews(Dataset):
    """The fixed views of a video: `num_clips` evenly spaced windows × `num_crops` crops (1 the centre, else along the longer side)."""

    def __init__(self, reader: ShardReader, clip: Clip, num_clips: int, num_crops: int):
        self.reader, self.clip, self.num_clips, self.num_crops = reader, clip, num_clips, num_crops

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> np.ndarray:
        """uint8 (V, T, S, S, 3) with V = num_clips · num_crops."""
        size, views, read_from = self.clip.size, [], -1
        for start, top, left in self.places(index):
            if start != read_from:  # the crops of a window follow one another
                frames, read_from = self.reader.read(index, start, self.clip.num_frames), start
            views.append(frames[:, top : top + size, left : left + size])
        return np.stack(views)

    def frames(self, index: int) -> np.ndarray:
        """The numbers (V, T) of the video's frames that each view shows."""
        return np.stack([self.reader.frames_of(index, start, self.clip.num_frames) for start, *_ in self.places(index)])

    def places(self, index: int) -> list[tuple[int, int, int]]:
        """First frame, top row and left column of each view."""
        row, size = self.reader.rows[index], self.clip.size
        height, width = row["height"], row["width"]
        spare = max(0, int(self.reader.num_frames[index]) - self.clip.num_frames)
        centres = (np.arange(self.num_clips) + 0.5) / self.num_clips
        along = [0.5] if self.num_crops == 1 else np.linspace(0, 1, self.num_crops)
        corners = [
            (int((height - size) * (place if height > width else 0.5)), int((width - size) * (place if width >= height else 0.5)))
            for place in along
        ]
        return [(int(start), top, left) for start in np.round(centres * spare).astype(int) for top, left in corners]


def epoch_order(num_clips: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of 0 … num_clips − 1, int64."""
    return np.random.default_rng(keyed_seed("order", seed, epoch)).permutation(num_clips)
