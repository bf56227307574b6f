"""What a code's painter is to paint: the same motion without the person. B clips, T frames, S side."""

from collections.abc import Callable

import torch
from torch import Tensor

from stprivacy.config import Params, SyntheticDataset
from stprivacy.data.clips import ShardReader
from stprivacy.data.synthetic import neutral_video_of
from stprivacy.models.canonical import canonical_motion
from stprivacy.training.task import Batch

Target = Callable[[Batch], Tensor]
"""target(batch) → pictures (B, 1, T, S, S) in [0, 1]."""


def build_target(params: Params, reader: ShardReader) -> Target:
    """`train.code.target`: the canonical picture of what moves, or VP-Synth's neutral figure, which only a renderer can draw."""
    return Neutral(params, reader) if params.train.code.target == "neutral" else motion


def motion(batch: Batch) -> Tensor:
    """What moves, recentred and scaled once a clip, without colour and background."""
    return canonical_motion(batch.clips).picture


class Neutral:
    """The neutral figures of VP-Synth's videos, each rendered when it is first asked for and kept."""

    def __init__(self, params: Params, reader: ShardReader):
        assert isinstance(params.dataset, SyntheticDataset), "params.yaml is refused with another data set"
        self.dataset, self.clip, self.rows = params.dataset, params.clip, reader.rows
        self.frames = range(0, self.clip.num_frames * self.clip.frame_step, self.clip.frame_step)
        self._drawn: dict[int, Tensor] = {}

    def __call__(self, batch: Batch) -> Tensor:
        return torch.stack([self._of(sample) for sample in batch.samples]).to(batch.clips.device)

    def _of(self, sample: int) -> Tensor:
        if sample not in self._drawn:
            row = self.rows[sample]
            attributes = tuple(int(value) for value in row["attributes"])
            action = str(row["file"]).split("/")[0]
            drawn = neutral_video_of(row["file"], action, attributes, self.dataset, self.frames, self.clip.size)
            self._drawn[sample] = torch.from_numpy(drawn)[None]
        return self._drawn[sample].float() / 255
