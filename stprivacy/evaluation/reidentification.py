"""Who is in a released clip? Each released test clip is compared with raw training clips of everybody; the most alike names somebody.

Where every clip is of one person (`Labels.one_identity_each`). The features are those of a fresh recognizer that was trained to name the
persons of raw and of released training clips alike, so that both come to lie near one another; alike is the cosine between them.

n clips, V views, F features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from stprivacy.evaluation.fitting import PREDICT_BATCH, Fit, run_to_end, save_atomically
from stprivacy.evaluation.floors import expected_ap
from stprivacy.evaluation.jobs import AttackJob, Epoch
from stprivacy.evaluation.metrics import Labels
from stprivacy.evaluation.released import Released
from stprivacy.models.channel import to_float
from stprivacy.models.recognizers import Recognizer


class RawAndReleased:
    """Training windows of raw and released clips, a clip's raw ones first; val and test released."""

    def __init__(self, raw: Released, released: Released):
        self.raw, self.released = raw, released
        self.actions, self.attributes = released.actions, released.attributes
        self.num_windows = released.num_training_rows // len(released.labels("train").actions)

    def labels(self, split: Literal["train", "val", "test"]) -> Labels:
        return self.released.labels(split)

    def training_labels(self) -> Labels:
        labels = self.released.training_labels()  # of each clip its windows, once for raw and once for released
        own = self._own(np.arange(self.num_training_rows))
        return Labels(labels.actions[own], labels.attributes[own])

    def views(self, split: Literal["val", "test"]) -> np.ndarray:
        return self.released.views(split)

    @property
    def num_training_rows(self) -> int:
        return 2 * self.released.num_training_rows

    def training_batch(self, rows: np.ndarray, seed: int, epoch: int, device: torch.device | str = "cpu") -> Tensor:
        is_raw, own = rows % (2 * self.num_windows) < self.num_windows, self._own(rows)
        batch: Tensor | None = None
        for source, mine in ((self.raw, is_raw), (self.released, ~is_raw)):
            if mine.any():
                part = source.training_batch(own[mine], seed, epoch, device)
                batch = part.new_empty((len(rows), *part.shape[1:])) if batch is None else batch
                batch[torch.from_numpy(np.flatnonzero(mine)).to(part.device)] = part
        assert batch is not None  # there is no batch without rows
        return batch

    def _own(self, rows: np.ndarray) -> np.ndarray:
        """Their numbers within the release that they are of."""
        clip, place = np.divmod(rows, 2 * self.num_windows)
        return np.asarray(clip * self.num_windows + place % self.num_windows)


@dataclass(frozen=True)
class Reidentification:
    """Shares in [0, 1], of test probes; `val_…` of val probes, by which nothing but the recognizer's epoch was chosen."""

    rank1: float
    """Share of probes whose most alike raw clip shows the same person."""
    map: float
    """Mean over probes of the AP with which raw clips of the person come before others."""
    val_rank1: float
    val_map: float
    chance_rank1: float
    chance_map: float
    """Of a random order."""
    num_probes: int
    num_gallery: int


@dataclass(frozen=True)
class ReidentificationJob:
    """All that determines it."""

    fit: AttackJob
    """Released clips, settings, network and cache."""
    raw: Path
    """The release of raw clips by the same views: the gallery."""

    @property
    def folder(self) -> Path:
        about = {"reidentification": Released(self.fit.released).checksum, "raw": Released(self.raw).checksum}
        return self.fit.cache / "attacks" / self.fit.hash(about)

    def run(self) -> Reidentification:
        """Train, going on where an earlier process was killed, and compare; a finished one is only read again."""
        finished = self.folder / "finished.pt"
        if not finished.exists():
            both = RawAndReleased(Released(self.raw), Released(self.fit.released))
            network = run_to_end(Fit(self.fit, both), self.folder, self._line)
            save_atomically(self._compared(network, both), finished)
            (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        return Reidentification(**torch.load(finished, weights_only=True))

    def _compared(self, network: Recognizer, both: RawAndReleased) -> dict[str, Any]:
        gallery, persons = gallery_features(network, both.raw, both.num_windows), _person(both.labels("train"))
        found: dict[str, Any] = {"num_gallery": len(persons)}
        splits: tuple[Literal["val", "test"], ...] = ("val", "test")
        for split in splits:
            who = _person(both.labels(split))
            rank1, mean_ap = ranking(view_features(network, both.views(split)), who, gallery, persons)
            found |= {"rank1": rank1, "map": mean_ap} if split == "test" else {"val_rank1": rank1, "val_map": mean_ap}
        same = (persons == who[:, None]).sum(1)  # raw clips of each test probe's person
        chance = float((same / len(persons)).mean()), float(expected_ap(same[same > 0], len(persons)).mean())
        return found | {"chance_rank1": chance[0], "chance_map": chance[1], "num_probes": len(who)}

    def _line(self, epoch: Epoch, seconds: float) -> str:
        return (
            f"{self.fit.label}, re-identification, seed {self.fit.seed}: epoch {epoch.epoch} of at most {self.fit.attack.max_epochs}, "
            f"train loss {epoch.train_loss:.3f}, val cMAP {epoch.val_score:.3f} ({seconds:.1f} s)"
        )


def _person(labels: Labels) -> np.ndarray:
    return labels.present.argmax(1)


@torch.no_grad()
def gallery_features(network: Recognizer, raw: Released, num_windows: int) -> np.ndarray:
    """Features (n, F) of raw training clips, the mean over a clip's windows."""
    device = next(network.parameters()).device
    network.eval()
    starts = range(0, raw.num_training_rows, PREDICT_BATCH)
    batches = (raw.training_batch(np.arange(first, min(first + PREDICT_BATCH, raw.num_training_rows)), 0, 0, device) for first in starts)
    features = torch.cat([network.features(batch).cpu() for batch in batches])
    return features.view(-1, num_windows, features.shape[1]).mean(1).double().numpy()


@torch.no_grad()
def view_features(network: Recognizer, views: np.ndarray) -> np.ndarray:
    """Features (n, F) of released `views` uint8 (n, V, T, S, S, 3), the mean over a clip's views."""
    device = next(network.parameters()).device
    network.eval()
    flat = views.reshape(-1, *views.shape[2:])
    starts = range(0, len(flat), PREDICT_BATCH)
    parts = [network.features(to_float(torch.from_numpy(flat[first : first + PREDICT_BATCH].copy()).to(device))).cpu() for first in starts]
    return torch.cat(parts).view(*views.shape[:2], -1).mean(1).double().numpy()


def ranking(probes: np.ndarray, who: np.ndarray, gallery: np.ndarray, persons: np.ndarray) -> tuple[float, float]:
    """(rank-1, mAP) of `probes` (n, F) of the persons `who` (n,) in a `gallery` (m, F) of `persons` (m,), by cosine.

    A probe of somebody whom the gallery lacks is never named, and has no AP.
    """
    norms = (np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12) for features in (probes, gallery))
    cosine = (probes / next(norms)) @ (gallery / next(norms)).T
    rank1 = float((persons[cosine.argmax(1)] == who).mean())
    precisions = [average_precision_score(persons == person, row) for person, row in zip(who, cosine, strict=True) if person in persons]
    return rank1, float(np.mean(precisions))
