"""What does an attacker get to see? Every clip of a data set, released once by a frozen method.

Val and test clips are kept exactly as they leave the channel: uint8, one draw of its noise. Training clips are kept as the
method painted them, before the channel, so that an attacker can be given a new draw each epoch at the price of an addition.

n clips, V views, B batch, T frames, S side, L slices, N tubelets a slice, A attributes.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stprivacy.config import Attack, Channel, Clip, Dataset, config_hash
from stprivacy.data.boxes import DETECTORS, BoxViews, resolve_boxes
from stprivacy.data.clips import ClipViews, DatasetInfo, ShardReader
from stprivacy.data.codec import through_codec
from stprivacy.data.frame_labels import prevailing
from stprivacy.data.storage import alone
from stprivacy.evaluation.methods import Method, channel_of, load_method
from stprivacy.evaluation.metrics import Labels
from stprivacy.fingerprint import fingerprint
from stprivacy.models.anonymizer import Painted
from stprivacy.models.anonymizers import LEARNED, noise_shape
from stprivacy.models.baselines import BOXED
from stprivacy.models.channel import to_float, to_uint8, transmit
from stprivacy.models.checkpoints import CONFIG, WEIGHTS, load_anonymizer
from stprivacy.models.code import NATS_PER_BIT, Code, CodeAnonymizer
from stprivacy.randomness import keyed_normal

BATCH = 32
NEAR_FILL, NEAR_FILL_CODED = 0.6 / 255, 8 / 255
"""Mean distance from the channel's fill up to which a tubelet is seen to be dropped: a rounded pixel's, and what H.264 makes of it."""
FORMAT = 2
"""Raise when a release's files change in meaning: what an older version left in the cache is then not taken up."""


def device_here() -> torch.device:
    """A CUDA device where this process was given one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class ReleaseJob:
    """All that determines a release, and where to keep it."""

    method: str
    kept_share: float
    """1 for a method that drops nothing."""
    shards: Path
    model: Path
    clip: Clip
    channel: Channel
    attack: Attack
    cache: Path
    boxes: str = "motion"
    """Where people are, for methods that hide boxes: a detector or a boxes file, or, given the `dataset`, `rendered`."""
    dataset: Dataset | None = None
    """For `rendered` boxes: whichever node this comes to has or makes their file."""

    @property
    def folder(self) -> Path:
        """Named by the hash of settings, clips (their index holds checksums) and weights."""
        views = self.attack.model_dump(include={"train_windows", "num_clips", "num_crops"})
        weights = fingerprint(self.model) if self.method in LEARNED else ""
        about = {"method": self.method, "kept_share": self.kept_share, "views": views, "weights": weights, "format": FORMAT}
        if self.method in BOXED:
            boxes = self.boxes_here()
            about["boxes"] = boxes if boxes in DETECTORS else fingerprint(Path(boxes))
        channel = channel_of(self.method, self.channel)
        return self.cache / "released" / config_hash(about, self.clip, channel, fingerprint(self.shards / "index.jsonl"))

    def boxes_here(self) -> str:
        """`boxes` as `BoxViews` takes it: a detector or a file of this node."""
        return resolve_boxes(self.boxes, self.dataset, self.cache) if self.dataset else self.boxes


def release(job: ReleaseJob) -> Path:
    """Release every clip of train, val and test, unless that was done before; gives the folder that `Released` reads.

    A second process that asks for the same release waits for the first one.
    """
    folder = job.folder
    with alone(folder):
        if not (folder / "release.json").exists():
            _release(job, folder)
    return folder


def _release(job: ReleaseJob, folder: Path) -> None:
    method = load_method(job.method, job.model, job.clip, job.channel)
    method.anonymizer.to(device_here())
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    started, count = time.monotonic(), 0
    for split in ("train", "val", "test"):
        reader = ShardReader(job.shards, split)
        windows, crops = (job.attack.train_windows, 1) if split == "train" else (job.attack.num_clips, job.attack.num_crops)
        views = ClipViews(reader, job.clip, windows, crops)
        write = (_write_codes if method.is_code else _write_painted) if split == "train" else _write_released
        boxes = BoxViews(views, job.boxes_here(), job.cache) if job.method in BOXED else None
        write(part, split, method, job.kept_share, views, boxes)
        labels: dict[str, Any] = {"actions": reader.actions, "attributes": reader.attributes} | _frame_labels(views)
        np.savez(part / f"{split}-labels.npz", **labels)
        count += len(reader)
    if method.is_code:
        for name in (WEIGHTS, CONFIG):  # who reads the release paints training clips anew each time
            shutil.copy(job.model / name, part / name)
    seal(part, job.shards, method)
    part.rename(folder)
    print(f"{job.method}: {count} clips released in {time.monotonic() - started:.0f} s (kept share {job.kept_share:g})", flush=True)


def _frame_labels(views: ClipViews) -> dict[str, np.ndarray]:
    """The arrays of `FrameLabels`, where frames have labels."""
    of_videos = views.reader.frame_labels
    if of_videos is None:
        return {}
    frames = np.stack([views.frames(index) for index in range(len(views))])
    return {"frames": frames, "frame_attributes": np.stack([video[seen] for video, seen in zip(of_videos, frames, strict=True)])}


def seal(folder: Path, dataset: Path, method: Method) -> None:
    """Write `release.json`, the last file of a release, with a checksum over all others."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    info = DatasetInfo.read(dataset)
    about = {
        "checksum": digest.hexdigest(),
        "channel": method.channel.model_dump(),
        "tubelet": method.tubelet,
        "actions": info.actions,
        "attributes": info.attributes,
    }
    (folder / "release.json").write_text(json.dumps(about, indent=2))


@torch.no_grad()
def _write_painted(folder: Path, split: str, method: Method, kept_share: float, views: ClipViews, boxes: BoxViews | None) -> None:
    """`<split>-painted.npy` float16 (n·V, 3, T, S, S) and, where tubelets are dropped, `<split>-keep.npy` uint8 (n·V, L, N)."""
    num_rows = len(views) * views.num_clips * views.num_crops
    pixels = keep = None
    for first, clips, masks in _batches(views, boxes):
        painted = method.paint(clips, kept_share, masks)
        if pixels is None:
            pixels = _array(folder / f"{split}-painted.npy", np.float16, (num_rows, *painted.pixels.shape[1:]))
            if painted.keep is not None:
                keep = _array(folder / f"{split}-keep.npy", np.uint8, (num_rows, *painted.keep.shape[1:]))
        rows = slice(first, first + len(clips))
        pixels[rows] = painted.pixels.numpy()
        if keep is not None and painted.keep is not None:
            keep[rows] = painted.keep.numpy()


@torch.no_grad()
def _write_codes(folder: Path, split: str, method: Method, kept_share: float, views: ClipViews, boxes: BoxViews | None) -> None:
    """`<split>-code.npy` float32 (n·V, 2, Z): mean and log of the spread of every latent, from which any number of draws can be had."""
    codes = [method.code(clips, kept_share) for _, clips, _ in _batches(views, boxes)]
    np.save(folder / f"{split}-code.npy", torch.cat([torch.stack([code.mean, code.log_std], 1) for code in codes]).numpy())


@torch.no_grad()
def _write_released(folder: Path, split: str, method: Method, kept_share: float, views: ClipViews, boxes: BoxViews | None) -> None:
    """`<split>-released.npy` uint8 (n, V, T, S, S, 3): what leaves the channel, its noise drawn once from a fixed key.

    So figures repeat, and so anybody can take the noise off: these files are for attackers, and never shown or handed out.
    """
    num_views = views.num_clips * views.num_crops
    released, codes, rates = None, [], []
    for first, clips, masks in _batches(views, boxes):
        rows = range(first, first + len(clips))
        shape = noise_shape(method.anonymizer, method.channel, clips.shape[1:])
        noise = None if shape is None else keyed_normal(shape, ("release", split), rows)
        pixels = to_uint8(method.release(clips, kept_share, noise, masks)[1]).numpy()
        if method.is_code and noise is not None:
            code = method.code(clips, kept_share)
            codes.append(code.sample(noise))
            rates.append(code.rate() / NATS_PER_BIT)
        if method.channel.codec_crf is not None:
            pixels = through_codec(pixels, method.channel.codec_crf)
        if released is None:
            released = _array(folder / f"{split}-released.npy", np.uint8, (len(views), num_views, *pixels.shape[1:]))
        released.reshape(-1, *pixels.shape[1:])[rows.start : rows.stop] = pixels
    if codes:
        np.save(folder / f"{split}-codes.npy", torch.cat(codes).unflatten(0, (-1, num_views)).numpy())
        np.save(folder / f"{split}-bits.npy", torch.cat(rates).unflatten(0, (-1, num_views)).numpy())


def _batches(views: ClipViews, boxes: BoxViews | None) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """The first row's number, clips (B, 3, T, S, S) and, where boxes are asked for, their masks (B, T, S, S)."""
    waiting: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    first = 0
    for index in range(len(views)):
        waiting.extend(views[index])
        masks.extend(boxes[index] if boxes else ())
        while len(waiting) >= BATCH or (waiting and index == len(views) - 1):
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            seen, masks = masks[:BATCH], masks[BATCH:]
            yield first, to_float(torch.from_numpy(np.stack(batch))), torch.from_numpy(np.stack(seen)) if boxes else None
            first += len(batch)


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


@dataclass(frozen=True)
class FrameLabels:
    """What is true of every frame that the views of a split's clips show."""

    frames: np.ndarray
    """int64 (n, V, T): their numbers within the video."""
    attributes: np.ndarray
    """int8 (n, V, T, A) of 0/1; −1 for a frame without a label."""


class Released:
    """A release as attackers read it. Nothing of a split is opened before it is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        about = json.loads((folder / "release.json").read_text())
        self.checksum: str = about["checksum"]
        self.actions, self.attributes = tuple(about["actions"]), tuple(about["attributes"])
        self._channel, self._tubelet = Channel(**about["channel"]), tuple(about["tubelet"])

    def labels(self, split: Literal["train", "val", "test"]) -> Labels:
        """The labels of the clips of a split."""
        with np.load(self.folder / f"{split}-labels.npz") as file:
            return Labels(file["actions"], file["attributes"])

    def frame_labels(self, split: Literal["train", "val", "test"]) -> FrameLabels | None:
        """The labels of the frames; None where labels are whole videos'."""
        with np.load(self.folder / f"{split}-labels.npz") as file:
            return FrameLabels(file["frames"], file["frame_attributes"]) if "frames" in file else None

    def training_labels(self) -> Labels:
        """The labels of every training window; where frames have labels, what holds in most of its own."""
        labels, of_frames = self.labels("train"), self.frame_labels("train")
        windows = self.num_training_rows // len(labels.actions)
        attributes = labels.attributes.repeat(windows, axis=0)
        if of_frames is not None:
            attributes = prevailing(of_frames.attributes.reshape(-1, *of_frames.attributes.shape[2:]), attributes)
        return Labels(labels.actions.repeat(windows, axis=0), attributes)

    def views(self, split: Literal["val", "test"]) -> np.ndarray:
        """Released views of the clips of a split, uint8 (n, V, T, S, S, 3), not yet read into memory."""
        return np.load(self.folder / f"{split}-released.npy", mmap_mode="r")

    @property
    def drops_tubelets(self) -> bool:
        """Are any dropped in this release?"""
        keep = None if self.has_code else self._painted[1]
        return keep is not None and not keep.all()

    def dropped(self, clips: Tensor) -> Tensor:
        """Which tubelets of released `clips` (B, 3, T, S, S) hold nothing but the channel's fill: 1 for those, (B, L, N).

        Told from the pixels, as anybody can who has the release.
        """
        away = F.avg_pool3d((clips - self._channel.fill).abs().mean(1), self._tubelet)  # (B, L, rows, columns)
        return (away <= (NEAR_FILL if self._channel.codec_crf is None else NEAR_FILL_CODED)).float().flatten(2)

    @cached_property
    def has_code(self) -> bool:
        """Were these clips painted from latents?"""
        return (self.folder / "train-code.npy").exists()

    def codes(self, split: Literal["val", "test"]) -> np.ndarray:
        """The latents float32 (n, V, Z) that the released views of a split were painted from."""
        found: np.ndarray = np.load(self.folder / f"{split}-codes.npy")
        return found

    def bits(self, split: Literal["val", "test"]) -> np.ndarray | None:
        """The rate of each view of a split in bits, float32 (n, V): what it can say at most, on average; None where nothing bounds it."""
        return np.load(self.folder / f"{split}-bits.npy") if self.has_code else None

    def training_code(self, rows: np.ndarray, seed: int, epoch: int) -> Tensor:
        """Latents (B, Z) of training windows, drawn from (seed, epoch, row)."""
        mean, log_std = torch.from_numpy(self._code[rows]).unbind(1)
        return Code(mean, log_std).sample(keyed_normal(mean.shape[1:], ("attack", seed, epoch), rows.tolist()))

    @cached_property
    def _code(self) -> np.ndarray:
        found: np.ndarray = np.load(self.folder / "train-code.npy")
        return found

    @cached_property
    def _painter(self) -> CodeAnonymizer:
        anonymizer = load_anonymizer(self.folder)[0]
        assert isinstance(anonymizer, CodeAnonymizer)
        return anonymizer.requires_grad_(False)

    @cached_property
    def _painted(self) -> tuple[np.ndarray, np.ndarray | None]:
        keep = self.folder / "train-keep.npy"
        return np.load(self.folder / "train-painted.npy", mmap_mode="r"), np.load(keep, mmap_mode="r") if keep.exists() else None

    @property
    def num_training_rows(self) -> int:
        """Windows of training clips, a clip's own next to one another."""
        return len(self._code if self.has_code else self._painted[0])

    def training_batch(self, rows: np.ndarray, seed: int, epoch: int, device: torch.device | str = "cpu") -> Tensor:
        """Released training windows (B, 3, T, S, S) in [0, 1] on `device`, their noise drawn from (seed, epoch, row)."""
        if self.has_code:
            painted, noise = Painted(self._painter.to(device).paint(self.training_code(rows, seed, epoch).to(device)), None), None
        else:
            pixels, keep = self._painted
            kept = None if keep is None else torch.from_numpy(keep[rows]).to(device)
            painted = Painted(torch.from_numpy(pixels[rows]).to(device).float(), kept)
            # Drawn on the CPU, wherever it is used: a device's own generator gives other draws.
            noise = keyed_normal(pixels.shape[1:], ("attack", seed, epoch), rows.tolist()).to(device) if self._channel.noise else None
        released = transmit(painted, self._channel, self._tubelet, noise)
        if self._channel.codec_crf is None:
            return released
        return to_float(torch.from_numpy(through_codec(to_uint8(released).cpu().numpy(), self._channel.codec_crf))).to(device)
