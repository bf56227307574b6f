"""From latents to pictures: a decoder that sees the latents of every slice and where they stand, and nothing of the clip.

B batch, T frames, L slices, K latents a slice, S side.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from stprivacy.config import Clip, Model

THINKING, MAPS = 128, 32
"""Width of the transformer layer over slices, and channels of the first, smallest maps."""
CHANNELS = (24, 16)
"""Channels after each doubling of the maps; the last of these for all further ones, and one, brightness, at the end."""
LARGEST_FIRST_MAP = 8


class Painter(nn.Module):
    """Latents (B, L·K) → brightness (B, 1, T, S, S) in [0, 1]: one transformer layer over slices, then maps that double in size."""

    def __init__(self, model: Model, clip: Clip):
        super().__init__()
        self.num_slices, self.frames, self.size = clip.num_frames // model.tubelet[0], model.tubelet[0], clip.size
        num_doublings = max(1, math.ceil(math.log2(clip.size / LARGEST_FIRST_MAP)))
        self.side = math.ceil(clip.size / 2**num_doublings)  # of the first maps
        self.enter = nn.Linear(model.latents, THINKING)
        self.order = nn.Parameter(torch.randn(1, self.num_slices, THINKING) * 0.1)
        self.think = nn.TransformerEncoderLayer(THINKING, 4, 2 * THINKING, dropout=0.0, batch_first=True, norm_first=True)
        self.spread = nn.Linear(THINKING, self.frames * MAPS * self.side**2)
        self.place = nn.Parameter(torch.randn(1, 1, MAPS, self.side, self.side) / 2)
        channels = [MAPS, *(CHANNELS[min(step, len(CHANNELS) - 1)] for step in range(num_doublings - 1)), 1]
        steps: list[nn.Module] = []
        for before, after in pairwise(channels):
            steps += [
                *([nn.GroupNorm(4, before)] if steps else []),
                nn.ReLU(),
                nn.Conv2d(before, 4 * after, 3, padding=1),
                nn.PixelShuffle(2),
            ]
        self.enlarge = nn.Sequential(*steps)

    def forward(self, latents: Tensor) -> Tensor:
        thoughts = self.think(self.enter(latents.view(len(latents), self.num_slices, -1)) + self.order)
        maps = self.spread(thoughts).view(len(latents), -1, MAPS, self.side, self.side) + self.place  # (B, T, MAPS, side, side)
        painted = self.enlarge(maps.flatten(0, 1))[..., : self.size, : self.size]
        return torch.sigmoid(2 * painted - 1).view(len(latents), 1, -1, self.size, self.size)
