"""Can a raw clip be painted back from its release? A decoder trained on pairs that an attacker could make of own videos.

What it paints is compared with the raw clip, and recognizers that were trained on raw clips read it: what they find counts, too.

n clips, V views, B batch, T frames, S side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import AttackerKind
from stprivacy.evaluation.fitting import PREDICT_BATCH, Fit, predict, run_to_end, save_atomically
from stprivacy.evaluation.jobs import AttackJob, AttackResult, Epoch
from stprivacy.evaluation.metrics import action_score
from stprivacy.evaluation.readings import load_attacker, raw_trained, untrained
from stprivacy.evaluation.released import Released
from stprivacy.fingerprint import fingerprint
from stprivacy.models.channel import to_float, to_uint8
from stprivacy.models.recognizers import NUM_GROUPS

LEAST_DECIBELS = 0.05
"""A val PSNR that is higher by less is no improvement to wait for."""


class Decoder(nn.Module):
    """Released clip in, raw clip out: 3D convolutions at half and quarter size, with a skip between, and pixels from four channels each."""

    def __init__(self, width: int):
        super().__init__()
        self.first = _block(nn.Conv3d(3, width, (1, 5, 5), (1, 2, 2), (0, 2, 2)))
        self.down = _block(nn.Conv3d(width, 2 * width, 3, (1, 2, 2), 1))
        self.middle = nn.ModuleList(_block(nn.Conv3d(2 * width, 2 * width, 3, 1, 1)) for _ in range(2))
        self.up = _block(nn.Conv3d(3 * width, width, (1, 3, 3), 1, (0, 1, 1)))
        self.pixels = nn.Conv3d(width, 12, (1, 3, 3), 1, (0, 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, S, S) in [0, 1] → the same."""
        batch, _, frames, height, width = clips.shape
        half = self.first(4 * clips - 2)  # (B, w, T, S/2, S/2)
        quarter = self.down(half)
        for block in self.middle:
            quarter = quarter + block(quarter)
        back = F.interpolate(quarter, size=half.shape[2:])
        maps = self.pixels(self.up(torch.cat([half, back], 1)))  # (B, 12, T, S/2, S/2)
        painted = F.pixel_shuffle(maps.transpose(1, 2).flatten(0, 1), 2)[..., :height, :width]  # an odd side was rounded up
        return painted.view(batch, frames, 3, height, width).transpose(1, 2).sigmoid()


def _block(convolution: nn.Conv3d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(NUM_GROUPS, convolution.out_channels), nn.ReLU(inplace=True))


class DecoderFit(Fit):
    """A decoder in training, by the rules of every attacker's fit; its val score is PSNR in dB."""

    least_gain = LEAST_DECIBELS

    def __init__(self, job: AttackJob, raw: Released):
        self.raw = raw
        super().__init__(job)

    @property
    def fitted(self) -> bool:
        """Never: there is always another detail."""
        return False

    def _build(self, fresh: bool) -> nn.Module:
        return Decoder(self.job.recognizers.cnn_width)

    def _loss(self, rows: np.ndarray, epoch: int) -> Tensor:
        seen = self.released.training_batch(rows, self.job.seed, epoch, self.device)
        return F.mse_loss(self.network(seen), self.raw.training_batch(rows, self.job.seed, epoch, self.device))

    def _judge(self) -> tuple[float, float]:
        errors = [
            F.mse_loss(painted, truth, reduction="none").flatten(1).mean(1)
            for painted, truth in zip(decoded(self.ema, self.released.views("val")), _clips(self.raw.views("val")), strict=True)
        ]
        error = float(torch.cat(errors).mean())
        return -10 * float(np.log10(max(error, 1e-12))), error


@dataclass(frozen=True)
class Likeness:
    """How like the raw test clips are these? Means over clips (PSNR, in dB) and frames (SSIM)."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Inversion:
    """What a decoder of one release painted from the test clips."""

    decoded: Likeness
    released: Likeness
    """Of the release as it is."""
    constant: Likeness
    """Of the mean raw training clip, which needs no picture."""
    epochs: int
    action: float | None
    """Top-1, or mAP of several actions, of the raw-trained action recognizer on what was painted."""
    readings: tuple[AttackResult, ...]
    """Raw-trained privacy recognizers on what was painted, one of each kind."""


@dataclass(frozen=True)
class InversionJob:
    """All that determines a decoder and what is read from its pictures."""

    fit: AttackJob
    """Released clips, settings and cache; its kind and target say nothing here."""
    raw: Path
    """The release of raw clips by the same views."""
    recognizers: Path
    """models/recognizers: trained on raw clips."""
    kinds: tuple[AttackerKind, ...]
    action_kind: AttackerKind

    @property
    def folder(self) -> Path:
        about = {"inversion": Released(self.fit.released).checksum, "raw": Released(self.raw).checksum}
        return self.fit.cache / "attacks" / self.fit.hash(about | {"read_by": fingerprint(self.recognizers)})

    def run(self) -> Inversion:
        """Train the decoder, going on where an earlier process was killed, and read what it paints; a finished one is only read again."""
        finished = self.folder / "finished.pt"
        if not finished.exists():
            save_atomically(self._outcome(), finished)
            (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        outcome = torch.load(finished, weights_only=True)
        released = Released(self.fit.released)
        readings = tuple(
            untrained(f"privacy-inversion-{kind}", "inversion", self.fit.seed, val.numpy(), test.numpy(), released)
            for kind, (val, test) in outcome["answers"].items()
        )
        likeness = {name: Likeness(**outcome[name]) for name in ("decoded", "released", "constant")}
        return Inversion(**likeness, epochs=outcome["epochs"], action=outcome["action_top1"], readings=readings)

    def _outcome(self) -> dict[str, Any]:
        raw, released = Released(self.raw), Released(self.fit.released)
        fit = DecoderFit(self.fit, raw)
        network = run_to_end(fit, self.folder, self._line)
        painted = {split: _as_views(decoded(network, released.views(split)), released.views(split)) for split in ("val", "test")}
        answers = {}
        for kind, weights in raw_trained(self.recognizers, self.kinds).items():
            reader = load_attacker(weights, kind, "privacy", len(raw.attributes), self.fit.recognizers, self.fit.clip)
            answers[kind] = tuple(torch.from_numpy(predict(reader, painted[split], "privacy")) for split in ("val", "test"))
        return {
            "decoded": likeness_of(painted["test"], raw.views("test")),
            "released": likeness_of(released.views("test"), raw.views("test")),
            "constant": likeness_of(mean_clip(raw), raw.views("test")),
            "epochs": len(fit.curve),
            "action_top1": self._action(painted["test"], raw),  # so called in caches, whatever the figure is
            "answers": answers,
        }

    def _action(self, painted: np.ndarray, raw: Released) -> float | None:
        weights = self.recognizers / "action.safetensors"
        if not weights.exists():
            return None
        labels = raw.labels("test")
        target = labels.action_task.target
        reader = load_attacker(weights, self.action_kind, target, len(raw.actions), self.fit.recognizers, self.fit.clip)
        return action_score(predict(reader, painted, target), labels)

    def _line(self, epoch: Epoch, seconds: float) -> str:
        return (
            f"{self.fit.label}, inversion, seed {self.fit.seed}: epoch {epoch.epoch} of at most {self.fit.attack.max_epochs}, "
            f"train error {epoch.train_loss:.4f}, val PSNR {epoch.val_score:.2f} dB ({seconds:.1f} s)"
        )


def _clips(views: np.ndarray) -> Iterator[Tensor]:
    """Batches (B, 3, T, S, S) in [0, 1] of `views` uint8 (n, V, T, S, S, 3)."""
    flat = views.reshape(-1, *views.shape[2:])
    for first in range(0, len(flat), PREDICT_BATCH):
        yield to_float(torch.from_numpy(flat[first : first + PREDICT_BATCH].copy()))


@torch.no_grad()
def decoded(network: nn.Module, views: np.ndarray) -> Iterator[Tensor]:
    """What the decoder paints from released `views`, batch by batch, (B, 3, T, S, S) on the CPU."""
    device = next(network.parameters()).device
    network.eval()
    for clips in _clips(views):
        yield cast(Tensor, network(clips.to(device)).cpu())


def _as_views(batches: Iterator[Tensor], like: np.ndarray) -> np.ndarray:
    """Batches put together as uint8 (n, V, T, S, S, 3), the shape of `like`."""
    return np.concatenate([to_uint8(batch).numpy() for batch in batches]).reshape(like.shape)


def mean_clip(raw: Released) -> np.ndarray:
    """The mean training clip, uint8 (1, 1, T, S, S, 3)."""
    starts = range(0, raw.num_training_rows, PREDICT_BATCH)
    batches = (raw.training_batch(np.arange(first, min(first + PREDICT_BATCH, raw.num_training_rows)), 0, 0) for first in starts)
    mean = sum(batch.double().sum(0) for batch in batches) / raw.num_training_rows
    return to_uint8(cast(Tensor, mean)[None]).numpy()[None]


def likeness_of(painted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """`psnr` (dB, mean over clips) and `ssim` (mean over frames) of uint8 clips (n, V, T, S, S, 3); one clip stands for all.

    PSNR of equal clips is taken as 100 dB.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure  # seconds to import

    psnr, ssim = [], []
    for one, other in zip(_clips(np.broadcast_to(painted, truth.shape)), _clips(truth), strict=True):
        psnr.append(peak_signal_noise_ratio(one, other, data_range=1.0, dim=(1, 2, 3, 4), reduction="none").clamp(max=100.0))
        frames, true_frames = one.transpose(1, 2).flatten(0, 1), other.transpose(1, 2).flatten(0, 1)
        ssim.append(cast(Tensor, structural_similarity_index_measure(frames, true_frames, data_range=1.0, reduction="none")))
    return {"psnr": float(torch.cat(psnr).mean()), "ssim": float(torch.cat(ssim).mean())}
