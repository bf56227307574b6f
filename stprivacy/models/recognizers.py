"""Networks that predict the action or the attributes from a clip: recognizers, adversaries and attackers are all of these.

Each is features (B, F) and a linear head, so that a closed-form adversary can read the features of any of them. `clip_statistics` are
features that need no network. B batch, T frames, C channels, G side of the small picture, F features.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import Clip, NetworkKind, Recognizers
from stprivacy.errors import UserError
from stprivacy.models.vit import EPSILON, Block, TubeletEmbedding, fold, init_transformer

CONTRAST = 4.0
"""The CNNs see (clip − 0.5) · 4: about unit variance."""
NUM_GROUPS = 4
GRID = 12
"""Rows and columns of the small picture of `clip_statistics`."""
NUM_STATISTICS = 3 * 3 * GRID * GRID


class Recognizer(nn.Module):
    """`features` (B, 3, T, H, W) in [0, 1] → (B, F), then `head`: a linear layer to logits."""

    head: nn.Linear

    def features(self, clips: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, clips: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(clips)))


class VideoCNN(Recognizer):
    """A 3D CNN of four blocks with frame differences: 100 % action on VP-Synth in 6 epochs, where a ViT from nothing reaches 25 %."""

    def __init__(self, num_outputs: int, width: int):
        super().__init__()
        self.blocks = nn.Sequential(
            *_normed(FrameAndDifference(width)),
            *_normed(nn.Conv3d(width, 2 * width, 3, (1, 2, 2), 1)),
            *_normed(nn.Conv3d(2 * width, 4 * width, 3, 2, 1)),
            *_normed(nn.Conv3d(4 * width, 4 * width, 3, 2, 1)),
        )
        self.head = nn.Linear(8 * width, num_outputs)

    def features(self, clips: Tensor) -> Tensor:
        maps = self.blocks(clips)  # (B, C, T/4, H/16, W/16)
        return torch.cat([maps.mean((2, 3, 4)), maps.amax((2, 3, 4))], 1)


class FrameAndDifference(nn.Conv3d):
    """A convolution within frames, over six channels: the frame's, centred, and what they change by to the next frame (0 after the last).

    a * x + d * (next - x) = (a - d) * x + d * next: computed as one convolution over pairs of frames, which spares the six-channel
    clip and its gradient (54 -> 46 ms for the whole network forward and backward).
    """

    def __init__(self, out_channels: int):
        super().__init__(6, out_channels, (1, 5, 5), (1, 2, 2), (0, 2, 2))

    def forward(self, clips: Tensor) -> Tensor:
        """`clips` (B, 3, T, H, W) in [0, 1] → (B, C, T, H/2, W/2)."""
        still, change = (CONTRAST * self.weight).chunk(2, dim=1)  # each (C, 3, 1, 5, 5)
        pairs = torch.cat([still - change, change], dim=2)
        # Centred before the convolution pads with zeros, so that its border is grey. The last frame is its own successor.
        centred = torch.cat([clips, clips[:, :, -1:]], dim=2).sub_(0.5)
        # The layout of this weight becomes the layout of all maps that follow: 47 → 44 ms. (DeepSpeed wants parameters contiguous.)
        return F.conv3d(centred, pairs.contiguous(memory_format=torch.channels_last_3d), self.bias, self.stride, self.padding)


class FirstOfFrames(nn.Conv2d):
    """The convolution that frames go through first: centred, and with maps in the layout in which those that follow are fastest."""

    def __init__(self, out_channels: int):
        super().__init__(3, out_channels, 5, 2, 2)

    def forward(self, frames: Tensor) -> Tensor:
        """`frames` (B·T, 3, H, W) in [0, 1] → (B·T, C, H/2, W/2)."""
        centred = (frames * CONTRAST).sub_(CONTRAST / 2)
        return F.conv2d(centred, self.weight.contiguous(memory_format=torch.channels_last), self.bias, self.stride, self.padding)


class FrameCNN(Recognizer):
    """The same in 2D on every frame, features averaged over frames: what somebody with single pictures learns."""

    def __init__(self, num_outputs: int, width: int):
        super().__init__()
        self.blocks = nn.Sequential(
            *_normed(FirstOfFrames(width)),
            *_normed(nn.Conv2d(width, 2 * width, 3, 2, 1)),
            *_normed(nn.Conv2d(2 * width, 4 * width, 3, 2, 1)),
            *_normed(nn.Conv2d(4 * width, 4 * width, 3, 2, 1)),
        )
        self.head = nn.Linear(8 * width, num_outputs)

    def features(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)  # (B·T, 3, H, W)
        maps = self.blocks(frames)
        per_frame = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)
        return per_frame.view(len(clips), -1, per_frame.shape[1]).mean(1)


class VideoTransformer(Recognizer):
    """ViT over tubelets with mean pooling, as the paper's recognizers. Parameter names are the authors', but for their `head_new`.

    Dropped tubelets are black (`channel.fill` 0), and tubelets that are all black aren't looked at, as in the authors' recognizers,
    which are told which were dropped: at a kept share of a third a third of the work is left. A clip that is black all over is
    looked at whole; with another fill everything is.
    """

    def __init__(self, num_outputs: int, sizes: Recognizers, clip: Clip):
        super().__init__()
        frames, rows, columns = sizes.vit_tubelet
        self.grid = (clip.num_frames // frames, clip.size // rows, clip.size // columns)  # slices, rows and columns of tubelets
        self.patch_embed = TubeletEmbedding(sizes.vit_width, sizes.vit_tubelet)
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid), sizes.vit_width))
        self.blocks = nn.ModuleList(Block(sizes.vit_width, sizes.vit_num_heads, 4.0) for _ in range(sizes.vit_depth))
        self.fc_norm = nn.LayerNorm(sizes.vit_width, eps=EPSILON)
        self.head = nn.Linear(sizes.vit_width, num_outputs)
        init_transformer(self)

    def features(self, clips: Tensor) -> Tensor:
        tokens, seen = self.patch_embed(clips) + self.pos_embed, self._seen(clips.detach())
        num_seen = seen.sum(1)
        if num_seen.min() == seen.shape[1]:
            return self._pooled(tokens, None)
        first = seen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(num_seen.max())]
        tokens = tokens.gather(1, first[..., None].expand(-1, -1, tokens.shape[-1]))
        return self._pooled(tokens, None if num_seen.min() == num_seen.max() else seen.gather(1, first).to(tokens.dtype))

    def _seen(self, clips: Tensor) -> Tensor:
        """Which tubelets hold anything but 0, bool (B, L·N); all of them where none does."""
        seen = fold(clips, self.patch_embed.tubelet).amax(-1) > 0
        return seen | ~seen.any(1, keepdim=True)

    def _pooled(self, tokens: Tensor, keep: Tensor | None) -> Tensor:
        """Tokens (B, N, D) → (B, D): the mean over those with `keep` (B, N) 1, which see no others; None for all."""
        for block in self.blocks:
            tokens = block(tokens, keep)
        mean = tokens.mean(1) if keep is None else (tokens * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        return cast(Tensor, self.fc_norm(mean))


def clip_statistics(clips: Tensor) -> Tensor:
    """Features (B, 3·3·G·G) of `clips` (B, 3, T, H, W) in [0, 1]: mean, standard deviation and mean change over time of every small pixel.

    Differentiable everywhere: torch takes 0 for the slopes of |x| and of a standard deviation at 0, where a place never changes.
    """
    small = F.adaptive_avg_pool3d(clips, (clips.shape[2], GRID, GRID))  # (B, 3, T, G, G)
    change = (small[:, :, 1:] - small[:, :, :-1]).abs()
    parts = (small.mean(2), small.std(2, correction=0), change.mean(2) if clips.shape[2] > 1 else torch.zeros_like(small[:, :, 0]))
    return torch.cat([part.flatten(1) for part in parts], 1)


def _normed(convolution: nn.Conv2d | nn.Conv3d) -> list[nn.Module]:
    return [convolution, nn.GroupNorm(NUM_GROUPS, convolution.out_channels), nn.ReLU(inplace=True)]


def build_recognizer(kind: NetworkKind, num_outputs: int, sizes: Recognizers, clip: Clip) -> Recognizer:
    """A fresh recognizer: `cnn3d` and `cnn2d` for clips of any size, `vit` for clips of `clip`'s shape.

    Raises UserError for sizes that such a network cannot have.
    """
    if kind == "vit":
        _refuse_remainder("clip.num_frames", clip.num_frames, sizes.vit_tubelet[0], "recognizers.vit_tubelet")
        for step in sizes.vit_tubelet[1:]:
            _refuse_remainder("clip.size", clip.size, step, "recognizers.vit_tubelet")
        _refuse_remainder("recognizers.vit_width", sizes.vit_width, sizes.vit_num_heads, "recognizers.vit_num_heads")
        return VideoTransformer(num_outputs, sizes, clip)
    _refuse_remainder("recognizers.cnn_width", sizes.cnn_width, NUM_GROUPS, "the groups of its normalisation")
    return VideoCNN(num_outputs, sizes.cnn_width) if kind == "cnn3d" else FrameCNN(num_outputs, sizes.cnn_width)


def _refuse_remainder(key: str, size: int, step: int, of: str) -> None:
    if size % step:
        raise UserError(f"params.yaml: {key} = {size}: not a multiple of {step} ({of}); take {step * (size // step + 1)}")
