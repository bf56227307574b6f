"""Classical anonymizers behind the same protocol as the learned one: clip in, `Painted` out, nothing dropped."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Painted
from stprivacy.models.canonical import canonical_motion

REFERENCE_SIDE = 48
"""Frame side in pixels for which the blur's σ is given; it grows with the frame."""
BOX_REFERENCE_SIDE = 112
"""Likewise for the blurs of person boxes, whose kernels of 21 and 13 pixels at σ 10 are those of clips of 112 pixels (SPAct)."""


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
        sigma = self.sigma * min(clips.shape[-2:]) / REFERENCE_SIDE
        return Painted(blurred(clips, sigma, int(3 * sigma + 0.5)), None)


def blurred(clips: Tensor, sigma: float, radius: int) -> Tensor:
    """Gaussian blur of frames (…, H, W) with a kernel of 2 `radius` + 1 pixels, borders repeated."""
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=clips.device) / sigma) ** 2)
    kernel = (weights / weights.sum()).to(clips.dtype)
    flat = clips.reshape(-1, 1, *clips.shape[-2:])
    padded = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1)).view(clips.shape)


class PersonBoxes(nn.Module):
    """What is within boxes around people is hidden, everything else stays as it is."""

    def __init__(self, hide: Callable[[Tensor], Tensor]):
        """`hide`: clips (B, 3, T, H, W) → what the boxes show in their place, of the same shape."""
        super().__init__()
        self.hide = hide

    def forward(self, clips: Tensor, boxes: Tensor) -> Painted:
        """`boxes` (B, T, H, W) of 0/1: which pixels lie in a person's box (`data/boxes.py` finds them)."""
        return Painted(torch.where(boxes[:, None].bool(), self.hide(clips), clips), None)


class CanonicalMotion(nn.Module):
    """What moves, recentred and scaled, without colour and background: what a bounded release is made from, without any bound."""

    def forward(self, clips: Tensor) -> Painted:
        return Painted(canonical_motion(clips).picture.expand(-1, 3, -1, -1, -1), None)


def box_blur(clips: Tensor, radius: int) -> Tensor:
    """The field's blur of person boxes: σ 10 and a kernel of 2 `radius` + 1 pixels where a frame has 112 a side, and in proportion."""
    scale = min(clips.shape[-2:]) / BOX_REFERENCE_SIDE
    return blurred(clips, 10 * scale, max(1, round(radius * scale)))


BASELINES: dict[str, Callable[[], nn.Module]] = {
    "raw": Raw,
    "downsample-2": lambda: Downsample(2),
    "downsample-4": lambda: Downsample(4),
    "blur": Blur,
    "blackening": lambda: PersonBoxes(torch.zeros_like),
    "strong-blur": lambda: PersonBoxes(partial(box_blur, radius=10)),
    "weak-blur": lambda: PersonBoxes(partial(box_blur, radius=6)),
    "canonical": CanonicalMotion,
    "noise": Raw,
}
"""`blackening`, `strong-blur` and `weak-blur` are of person boxes, `blur` of whole frames. `noise` is the raw clip
through the noisy channel of the learned anonymizer: what noise alone would do."""


BOXED = ("blackening", "strong-blur", "weak-blur")
"""Those that are told where people are."""


def build_baseline(name: str) -> nn.Module:
    """A classical anonymizer by its name. Raises UserError that lists the names."""
    if name not in BASELINES:
        raise UserError(f"evaluate.methods: {name!r} is no method; known: {', '.join(BASELINES)}, stprivacy")
    return BASELINES[name]()
