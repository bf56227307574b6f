"""Anonymizers and videos for the tests of release."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor, nn

from stprivacy.config import Channel, Clip, Model
from stprivacy.models.anonymizer import Anonymizer, Painted
from stprivacy.models.checkpoints import save_model
from stprivacy.release.model import ReleaseModel

CLIP = Clip(num_frames=4, size=16, frame_step=2)
MODEL = Model(tubelet=(2, 8, 8), width=24, depth=3, num_heads=2, sparsify_before=(1, 2), keep_ratio=0.75, keep_bias=0.0)
SECRET = "Berlin Alexanderplatz"
"""Stands in the metadata of made videos; must not be in any release."""


def small_model(folder: Path, seed: int = 0, noise: float = 0.2, model: Model = MODEL, clip: Clip = CLIP) -> Path:
    """A model's folder with weights drawn from `seed`."""
    torch.manual_seed(seed)
    channel = Channel(noise=noise)
    config = {"model": model.model_dump(mode="json"), "channel": channel.model_dump(mode="json"), "clip": clip.model_dump(mode="json")}
    save_model(folder, Anonymizer(model, clip), config | {"dataset": "vp-synth", "seed": seed})
    return folder


class Marker(nn.Module):
    """An anonymizer that paints one value, or, asked to, the input itself; it keeps the clips that it saw."""

    tubelet, num_sparsifications, keep_ratio = (2, 8, 8), 1, 1.0

    def __init__(self, value: float | None, clip: Clip = CLIP):
        super().__init__()
        self.value, self.clip = value, clip
        self.seen: list[np.ndarray] = []
        """Batches (B, T, S, S, 3), 0 to 255."""

    def forward(self, clips: Tensor, keep_ratio: float) -> Painted:
        self.seen.append(255 * clips.permute(0, 2, 3, 4, 1).numpy())
        return Painted(clips if self.value is None else torch.full_like(clips, self.value), None)


def marker_model(value: float | None, clip: Clip = CLIP) -> ReleaseModel:
    return ReleaseModel(Marker(value, clip), Channel(noise=0.0), "marker", "marker", "tiny")


def noisy_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 256, (num_frames, height, width, 3), dtype=np.uint8)


def numbered_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    """Frame i is grey of level 4·i."""
    return np.broadcast_to((np.arange(num_frames, dtype=np.uint8) * 4)[:, None, None, None], (num_frames, height, width, 3)).copy()


def make_video(path: Path, frames: np.ndarray, rate: Fraction | int = 24, sound: bool = False, rotation: int = 0) -> Path:
    """A video file with metadata and, if asked for, a sound track and a rotation mark as telephones write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata["title"] = container.metadata["location"] = SECRET
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.metadata["handler_name"] = SECRET
        if rotation:
            stream.set_display_rotation(rotation)
        voice = container.add_stream("aac", rate=16000) if sound else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        if voice:
            samples = (np.random.default_rng(0).standard_normal((1, 8192)) * 3000).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            heard.sample_rate = 16000
            container.mux(voice.encode(heard))
            container.mux(voice.encode())
    return path


def read_video(path: Path) -> np.ndarray:
    """All frames, uint8 (F, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
