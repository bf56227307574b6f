"""What moves in a clip, recentred and scaled: the same picture for the same motion, wherever and in whatever colours it was performed.

Nothing of it is learned and nothing has gradients. Where and how large a person is, their colours and the background leave no trace;
what stays are the outlines of what moved, frame by frame.

B batch, T frames, H height, W width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FULL_CHANGE = 0.15
"""A change of brightness, of 1, from which a pixel counts as changed in full, so that weak and strong contrasts look alike."""
LEAST_CHANGE = 0.3
"""Share of a full change above which a pixel has moved: 11 of 255."""
LEAST_CHANGE_AROUND = 0.25
"""Share of a full change that some 3 × 3 pixels near a moved one have in some one frame, averaged with their signs. Noise of σ 3/255 alone
exceeds `LEAST_CHANGE` in an eighth of all pixels of a clip of 8 frames, and so in some blocks of 2 × 2; but this one is 7 σ of its mean."""
NEAR = 7
"""Side of the square, in pixels, in which those 3 × 3 lie: thin outlines beside a clear change count, specks far from any do not."""
LEAST_PIXELS = 4
"""Fewer moved pixels than one block of 2 × 2 say nothing of a place and a size."""
OUTERMOST = 0.01
"""Share of the moved pixels that may lie beyond each side of the extent: a few specks far off do not stretch it."""
MARGIN, MARGIN_PIXELS = 1.25, 2
"""The extent is this many times the longer side of what moved, and so many pixels more, so that ends of limbs are not cut off."""


@dataclass(frozen=True)
class Motion:
    """What `canonical_motion` gives."""

    picture: Tensor
    """Float (B, 1, T, H, W) in [0, 1]: how much each pixel changes towards the next frame; zeros where nothing was found."""
    found: Tensor
    """Bool (B,): does anything move in the clip?"""


@torch.no_grad()
def canonical_motion(clips: Tensor) -> Motion:
    """What moves in float clips (B, 3, T, H, W) in [0, 1], each clip for itself.

    One square extent a clip, around all that moved in any of its frames, is stretched to the whole frame. The last frame repeats the
    change before it. A clip of one frame, one that stands still, and one with sensor noise alone (σ up to about 3/255) have no motion.
    """
    change = _change(clips)  # (B, 3, T, H, W)
    moved = _moved(change)  # (B, H, W)
    found = moved.sum((1, 2)) >= LEAST_PIXELS
    top, bottom = _outermost(moved.sum(2))
    left, right = _outermost(moved.sum(1))
    scale = torch.maximum(bottom - top, right - left) * MARGIN + MARGIN_PIXELS
    across = _sampled_places((left + right - scale) / 2, scale, clips.shape[4])  # (B, W)
    down = _sampled_places((top + bottom - scale) / 2, scale, clips.shape[3])  # (B, H)
    shape = (len(clips), clips.shape[3], clips.shape[4])
    places = torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], dim=3)
    picture = F.grid_sample(change.abs().amax(1).clamp_max(1), places, mode="bilinear", padding_mode="zeros", align_corners=False)
    picture = F.avg_pool2d(picture, 3, stride=1, padding=1).clamp(0, 1)
    return Motion(torch.where(found[:, None, None, None], picture, 0)[:, None], found)


def _change(clips: Tensor) -> Tensor:
    """How much each colour of each pixel changes towards the next frame, with its sign: (B, 3, T, H, W)."""
    clips = clips.float()
    if clips.shape[2] == 1:
        return torch.zeros_like(clips)
    change = clips.diff(dim=2)
    return torch.cat([change, change[:, :, -1:]], dim=2) / FULL_CHANGE


def _moved(change: Tensor) -> Tensor:
    """Bool (B, H, W): what moved in any frame, in blocks of 2 × 2 at least, and not by noise."""
    strong = (change.abs().amax((1, 2)) > LEAST_CHANGE).float()[:, None]  # (B, 1, H, W)
    blocks = -F.max_pool2d(-strong, 2, stride=1)  # (B, 1, H - 1, W - 1): 1 where all four pixels moved
    opened = F.max_pool2d(blocks, 2, stride=1, padding=1)  # (B, 1, H, W)
    around = F.avg_pool2d(change.flatten(1, 2), 3, stride=1, padding=1, count_include_pad=False).abs().amax(1, keepdim=True)
    clear = F.max_pool2d(around, NEAR, stride=1, padding=NEAR // 2) > LEAST_CHANGE_AROUND
    return ((opened > 0) & clear)[:, 0]


def _outermost(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The 1st and the 99th percentile, each (B,), of places 0 … N - 1 that occur `counts` (B, N) times, interpolated linearly."""
    sums = counts.cumsum(1)
    last = (sums[:, -1:] - 1).clamp_min(0)

    def place(share: float) -> Tensor:
        rank = last * share
        around = torch.cat([rank.floor(), rank.ceil()], dim=1).to(sums.dtype)
        low, high = torch.searchsorted(sums, around, right=True).float().unbind(1)  # the places that have these ranks
        return low + (high - low) * (rank - rank.floor())[:, 0]

    return place(OUTERMOST), place(1 - OUTERMOST)


def _sampled_places(start: Tensor, scale: Tensor, side: int) -> Tensor:
    """(B, side): where each pixel of the picture comes from along one side, as `grid_sample` counts: -1 … 1 from edge to edge."""
    pixels = start[:, None] + scale[:, None] / side * torch.arange(side, device=start.device)
    return (2 * pixels + 1) / side - 1
