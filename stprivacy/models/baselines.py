"""Classical anonymizers behind the same protocol as the learned one: clip in, `Painted` out, nothing dropped."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Painted

REFERENCE_SIDE = 48
"""Frame side in pixels for which the blur's σ is given; it grows with the frame."""


class Raw(nn.Module):
    """The clip as it is: the upper bound of action and leak."""

    def forward(self, clips: Tensor) -> Painted:
        return Painted(clips, None)


class Downsample(nn.Module):
    """Fewer pixels: mean over `factor` × `factor` squares, shown at the old size."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, clips: Tensor) -> Painted:
        """`clips` (B, 3, T, H, W); H and W that are no multiple of the factor are resized to the nearest that is."""
        batch, channels, frames, height, width = clips.shape
        flat = clips.transpose(1, 2).reshape(-1, channels, height, width)
        small = F.interpolate(flat, size=(max(1, height // self.factor), max(1, width // self.factor)), mode="area")
        back = F.interpolate(small, size=(height, width), mode="nearest")
        return Painted(back.view(batch, frames, channels, height, width).transpose(1, 2), None)


class Blur(nn.Module):
    """Gaussian blur of whole frames: σ 3 pixels at 48 pixels a side, and in proportion."""

    def __init__(self, sigma: float = 3.0):
        super().__init__()
        self.sigma = sigma

    def forward(self, clips: Tensor) -> Painted:
        batch, channels, frames, height, width = clips.shape
        sigma = self.sigma * min(height, width) / REFERENCE_SIDE
        radius = int(3 * sigma + 0.5)
        weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=clips.device) / sigma) ** 2)
        kernel = (weights / weights.sum()).to(clips.dtype)
        flat = clips.reshape(-1, 1, height, width)
        padded = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
        blurred = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
        return Painted(blurred.view(batch, channels, frames, height, width), None)


BASELINES: dict[str, Callable[[], nn.Module]] = {
    "raw": Raw,
    "downsample-2": lambda: Downsample(2),
    "downsample-4": lambda: Downsample(4),
    "blur": Blur,
    "noise": Raw,
}
"""`noise` is the raw clip through the noisy channel of the learned anonymizer: what noise alone would do."""


def build_baseline(name: str) -> nn.Module:
    """A classical anonymizer by its name. Raises UserError that lists the names."""
    if name not in BASELINES:
        raise UserError(f"evaluate.methods: {name!r} is no method; known: {', '.join(BASELINES)}, stprivacy")
    return BASELINES[name]()
