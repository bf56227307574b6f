"""What single frames tell, where frames have labels (PA-HMDB51's protocol): every frame that the views of test clips show is an item.

A fresh 2D CNN learns frames with the frames' own labels; attackers that take frames by themselves anyway answer them, too. The one with
the best val score counts, as everywhere. A frame that several views show is answered by the mean over them, as a clip is.

n clips, V views, B batch, T frames, S side, I items, A attributes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import AttackerKind
from stprivacy.errors import UserError
from stprivacy.evaluation.fitting import FITTED, PREDICT_BATCH, Fit, constant_loss, judge, run_to_end, save_atomically
from stprivacy.evaluation.jobs import AttackJob, Epoch
from stprivacy.evaluation.metrics import Labels
from stprivacy.evaluation.readings import load_attacker
from stprivacy.evaluation.released import FrameLabels, Released
from stprivacy.fingerprint import fingerprint
from stprivacy.models.channel import to_float

FRESH = "privacy-frame"
"""The attacker that is trained on frames."""
ONE_BY_ONE: tuple[AttackerKind, ...] = ("cnn2d", "frames")
"""Kinds of attackers that can answer a single frame."""


class Items:
    """The frames that a split's views show, each once, those that have labels of all attributes."""

    def __init__(self, labels: Labels, frames: FrameLabels):
        num_clips, num_attributes = len(labels.actions), frames.attributes.shape[-1]
        clips = np.repeat(np.arange(num_clips), frames.frames[0].size)
        places = np.stack([clips, frames.frames.ravel()], axis=1)
        shown, first, item_of = np.unique(places, axis=0, return_index=True, return_inverse=True)
        values = frames.attributes.reshape(-1, num_attributes)[first]
        self._item_of, self._labelled = item_of.ravel(), (values >= 0).all(1)
        self.clips = shown[self._labelled, 0]
        """The clip (I,) of each."""
        self.labels = Labels(labels.actions[self.clips], values[self._labelled])
        self.num_unlabelled = int((~self._labelled).sum())

    def answers(self, seen: np.ndarray) -> np.ndarray:
        """Of each item the mean (I, A) over the views that show it; `seen` (n, V, T, A): the answer to every frame of every view."""
        times = np.bincount(self._item_of)
        means = [np.bincount(self._item_of, column) / times for column in seen.reshape(len(self._item_of), -1).T]
        return np.stack(means, axis=1)[self._labelled]


def items_of(released: Released, split: Literal["train", "val", "test"]) -> Items:
    """The items of a split of a release. Raises ValueError where frames have no labels, UserError where no item has an attribute."""
    frames = released.frame_labels(split)
    if frames is None:
        raise ValueError(f"{released.folder}: labels are of whole videos")
    items = Items(released.labels(split), frames)
    if not items.labels.present.any():
        raise UserError(f"frame labels: no fully labelled {split} frame has an attribute; mend the annotations or dataset.val_share")
    return items


def single_frames(clips: Tensor) -> Tensor:
    """Clips (B, 3, T, S, S) as clips of one frame (B·T, 3, 1, S, S)."""
    return clips.transpose(1, 2).flatten(0, 1).unsqueeze(2)


@torch.no_grad()
def predict_frames(network: nn.Module, views: np.ndarray) -> np.ndarray:
    """Probabilities (n, V, T, A) of every frame by itself, from released `views` uint8 (n, V, T, S, S, 3)."""
    network.eval()
    device = next(network.parameters()).device
    flat = views.reshape(-1, *views.shape[2:])
    parts = [
        network(single_frames(to_float(torch.from_numpy(flat[first : first + PREDICT_BATCH].copy()).to(device)))).sigmoid()
        for first in range(0, len(flat), PREDICT_BATCH)
    ]
    return torch.cat(parts).view(*views.shape[:3], -1).double().cpu().numpy()


class FrameFit(Fit):
    """A 2D CNN in training on single frames, by the rules of every attacker's fit; its val score is cMAP over val's frames."""

    def __init__(self, job: AttackJob, released: Released):
        super().__init__(job, released)
        frames = released.frame_labels("train")
        assert frames is not None  # there would be no such job
        self.of_rows = torch.from_numpy(frames.attributes.reshape(-1, *frames.attributes.shape[2:]))  # (n·V, T, A)
        self.train_frames, self.val_frames = items_of(released, "train"), items_of(released, "val")

    @property
    def fitted(self) -> bool:
        return self.curve[-1].train_loss <= FITTED * constant_loss(self.train_frames.labels, "privacy")

    def _loss(self, rows: np.ndarray, epoch: int) -> Tensor:
        clips = self.released.training_batch(rows, self.job.seed, epoch, self.device)
        logits, labels = self.network(single_frames(clips)), self.of_rows[rows].flatten(0, 1).to(self.device)
        known = (labels >= 0).all(1)
        summed = F.binary_cross_entropy_with_logits(logits[known], labels[known].float(), reduction="sum")
        return summed / max(1, int(known.sum()) * labels.shape[1])

    def _judge(self) -> tuple[float, float]:
        seen = predict_frames(self.ema, self.released.views("val"))
        return judge(self.val_frames.answers(seen), self.val_frames.labels, "privacy")


@dataclass(frozen=True)
class FrameReading:
    """What an attacker finds in single frames."""

    name: str
    val_score: float
    """cMAP over val's frames."""
    test: np.ndarray
    """Probabilities (I, A) of the test split's items."""


@dataclass(frozen=True)
class FrameLevel:
    """All attackers of single frames of one release and seed, the fresh one first."""

    readings: tuple[FrameReading, ...]
    epochs: int
    """Of the fresh one's training."""
    fitted: bool

    @property
    def strongest(self) -> FrameReading:
        """The one with the best val score."""
        return max(self.readings, key=lambda reading: reading.val_score)


@dataclass(frozen=True)
class FrameLevelJob:
    """All that determines a fit on frames and who else answers frames."""

    fit: AttackJob
    """Released clips, settings, network and cache."""
    others: tuple[tuple[str, AttackerKind, Path], ...]
    """Name, kind (of `ONE_BY_ONE`) and weights of attackers that were trained on clips."""

    @property
    def folder(self) -> Path:
        others = {f"read_by_{name}": fingerprint(weights) for name, _, weights in self.others}
        return self.fit.cache / "attacks" / self.fit.hash({"frame_level": Released(self.fit.released).checksum} | others)

    def run(self) -> FrameLevel:
        """Train, going on where an earlier process was killed, and read the frames; a finished one is only read again."""
        finished = self.folder / "finished.pt"
        if not finished.exists():
            save_atomically(self._outcome(), finished)
            (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        outcome = torch.load(finished, weights_only=True)
        readings = (FrameReading(name, score, test.numpy()) for name, score, test in outcome["readings"])
        return FrameLevel(tuple(readings), outcome["epochs"], outcome["fitted"])

    def _outcome(self) -> dict[str, Any]:
        released, job = Released(self.fit.released), self.fit
        fit = FrameFit(job, released)
        networks = {FRESH: run_to_end(fit, self.folder, self._line)}
        for name, kind, weights in self.others:
            networks[name] = load_attacker(weights, kind, "privacy", len(released.attributes), job.recognizers, job.clip)
        val, test = fit.val_frames, items_of(released, "test")
        readings = []
        for name, network in networks.items():
            on_val = val.answers(predict_frames(network, released.views("val")))
            on_test = test.answers(predict_frames(network, released.views("test")))
            readings.append((name, judge(on_val, val.labels, "privacy")[0], torch.from_numpy(on_test)))
        return {"readings": readings, "epochs": len(fit.curve), "fitted": fit.fitted}

    def _line(self, epoch: Epoch, seconds: float) -> str:
        return (
            f"{self.fit.label}, {FRESH}, seed {self.fit.seed}: epoch {epoch.epoch} of at most {self.fit.attack.max_epochs}, "
            f"train loss {epoch.train_loss:.3f}, val cMAP of frames {epoch.val_score:.3f} ({seconds:.1f} s)"
        )
