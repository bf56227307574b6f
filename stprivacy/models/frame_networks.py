"""Learned baselines that repaint a clip frame by frame: UNet (SPAct), ITNet (VITA), and one encoder-decoder against all attributes.

They stand where the STPrivacy anonymizer does: clip in, `Painted` out, nothing dropped. Where the published networks normalise by batch
statistics, these do it by each frame's own: else a release would depend on its neighbours in the batch, and on the number of workers.

B batch, T frames, W channels of the first layer (`model.base_width`).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Painted

PUBLISHED_WIDTH = {"unet": 64, "itnet": 32, "collective": 32}
NUM_RESIDUAL_BLOCKS = 5
LEAST_SIDE = 16
"""Pixels a side: a UNet halves four times, and an ITNet's borders of four pixels are mirror images of what lies within."""


class FrameAnonymizer(nn.Module):
    """A network of frames, applied to every frame of a clip, behind the interface of the STPrivacy anonymizer."""

    tubelet = (1, 1, 1)
    grid: tuple[int, int, int]
    keep_ratio = 1.0
    num_sparsifications = 0

    def __init__(self, model: Model, clip: Clip):
        super().__init__()
        if clip.size < LEAST_SIDE:
            raise UserError(f"params.yaml: clip.size = {clip.size}: model.kind {model.kind} needs at least {LEAST_SIDE} pixels a side")
        self.config, self.clip = model, clip
        self.grid = (clip.num_frames, clip.size, clip.size)
        width = model.base_width or PUBLISHED_WIDTH[model.kind]
        self.network = _NETWORKS[model.kind](width)

    def forward(self, clips: Tensor, keep_ratio: float | None = None) -> Painted:
        """`clips` (B, 3, T, H, W) in [0, 1]. Raises UserError for a keep ratio other than 1: a frame network drops nothing."""
        if keep_ratio not in (None, 1):
            raise UserError(f"keep ratio {keep_ratio:g}: {self.config.kind} drops no tubelets; leave the keep ratio out, or ask for 1")
        frames = clips.transpose(1, 2).flatten(0, 1)  # (B·T, 3, H, W)
        painted = self.network((frames - self.config.input_mean) / self.config.input_std)
        return Painted(painted.view(len(clips), -1, *painted.shape[1:]).transpose(1, 2), None)


class UNet(nn.Module):
    """SPAct's anonymizer (arXiv 2203.15205): W … 8 W channels on five scales with shortcuts between equal ones, sigmoid."""

    def __init__(self, width: int):
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.first = _double_convolution(3, width)
        self.down = nn.ModuleList(_double_convolution(fine, coarse) for fine, coarse in pairwise(sizes))
        # Upwards a level takes its own shortcut and what comes from below, and hands on half as many channels: those of the next level.
        self.up = nn.ModuleList()
        for level in (3, 2, 1, 0):
            out = sizes[max(0, level - 1)]
            self.up.append(_double_convolution(2 * sizes[level], out, between=sizes[level]))
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """(n, 3, H, W) → (n, 3, H, W) in [0, 1]."""
        maps = self.first(frames)
        shortcuts = []
        for level in self.down:
            shortcuts.append(maps)
            maps = level(F.max_pool2d(maps, 2))
        for level in self.up:
            shortcut = shortcuts.pop()
            maps = F.interpolate(maps, size=shortcut.shape[-2:], mode="bilinear", align_corners=True)
            maps = level(torch.cat([shortcut, maps], 1))
        return torch.sigmoid(self.last(maps))


class ITNet(nn.Module):
    """VITA's anonymizer (arXiv 1807.08379), an image transformation network: 9×9-W, two strides, five residual blocks, two ups, tanh."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            *_instance_normed(3, width, 9),
            *_instance_normed(width, 2 * width, 3, stride=2),
            *_instance_normed(2 * width, 4 * width, 3, stride=2),
            *(_ResidualBlock(4 * width) for _ in range(NUM_RESIDUAL_BLOCKS)),
            nn.Upsample(scale_factor=2),
            *_instance_normed(4 * width, 2 * width, 3),
            nn.Upsample(scale_factor=2),
            *_instance_normed(2 * width, width, 3),
            nn.Conv2d(width, 3, 9, padding=4, padding_mode="reflect"),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """(n, 3, H, W) → (n, 3, H, W) in [0, 1]; a side that is no multiple of 4 loses what its last ups add."""
        painted = self.layers(frames)[..., : frames.shape[-2], : frames.shape[-1]]
        return (torch.tanh(painted) + 1) / 2


class EncoderDecoder(nn.Module):
    """One encoder and decoder for all attributes together, as in collective protection (Zhang et al., ICDM 2019), no shortcuts, sigmoid.

    That work is about signals of motion sensors; the convolutions over frames are this project's form of it.
    """

    def __init__(self, width: int):
        super().__init__()
        self.encoder = nn.Sequential(
            *_group_normed(3, width),
            *_group_normed(width, 2 * width, stride=2),
            *_group_normed(2 * width, 4 * width, stride=2),
        )
        self.decoder = nn.Sequential(
            *_group_normed(4 * width, 4 * width),
            nn.Upsample(scale_factor=2),
            *_group_normed(4 * width, 2 * width),
            nn.Upsample(scale_factor=2),
            *_group_normed(2 * width, width),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """(n, 3, H, W) → (n, 3, H, W) in [0, 1]."""
        return torch.sigmoid(self.decoder(self.encoder(frames))[..., : frames.shape[-2], : frames.shape[-1]])


class _ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        first, norm, relu = _instance_normed(width, width, 3)
        second, norm_again, _ = _instance_normed(width, width, 3)
        self.layers = nn.Sequential(first, norm, relu, second, norm_again)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps)


def _double_convolution(channels: int, out: int, between: int | None = None) -> nn.Sequential:
    return nn.Sequential(*_group_normed(channels, between or out), *_group_normed(between or out, out))


def _group_normed(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    """One group: the statistics of a frame over all channels, whatever their number."""
    return [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.GroupNorm(1, out), nn.ReLU(inplace=True)]


def _instance_normed(channels: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, padding_mode="reflect")
    return [convolution, nn.InstanceNorm2d(out, affine=True), nn.ReLU(inplace=True)]


_NETWORKS = {"unet": UNet, "itnet": ITNet, "collective": EncoderDecoder}
