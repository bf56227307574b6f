"""The channel: the last step of release, the same in training and in deployment.

In this order: bound to [0, 1], grey if asked for, noise on kept tubelets, dropped tubelets filled, uint8. What comes out is what
anybody ever sees; a codec behind it is `data/codec.py`.
"""

import torch
from torch import Tensor

from stprivacy.config import Channel
from stprivacy.models.anonymizer import Painted, expand_keep

BRIGHTNESS = (0.299, 0.587, 0.114)
"""Shares of red, green and blue (ITU-R BT.601)."""


def transmit(painted: Painted, channel: Channel, tubelet: tuple[int, int, int], noise: Tensor | None) -> Tensor:
    """Released clips (B, 3, T, H, W) in fp32, every value a multiple of 1/255.

    `noise`: standard normal draws (B, 3, T, H, W), scaled by `channel.noise`; None for a channel without noise. Gradients
    pass the rounding unchanged (straight-through), and stop where noise pushed a pixel out of [0, 1]. A grey release has the noise
    of the first colour in all three, as strong as it would be in each: noise that differs would be averaged away.
    """
    pixels = painted.pixels.float().clamp(0, 1)
    if channel.grey:
        shares = torch.tensor(BRIGHTNESS, device=pixels.device).view(3, 1, 1, 1)
        pixels = (pixels * shares).sum(1, keepdim=True).expand_as(pixels)
        noise = None if noise is None else noise[:, :1]
    if noise is not None:
        pixels = (pixels + channel.noise * noise).clamp(0, 1)
    if painted.keep is not None:
        keep = expand_keep(painted.keep.float(), tubelet, (pixels.shape[-2], pixels.shape[-1]))
        pixels = pixels * keep + channel.fill * (1 - keep)
    return pixels + ((pixels * 255).round() / 255 - pixels).detach()


def to_uint8(released: Tensor) -> Tensor:
    """Float (B, 3, T, H, W) in [0, 1] → uint8 (B, T, H, W, 3)."""
    return (released * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def to_float(clips: Tensor) -> Tensor:
    """uint8 (B, T, H, W, 3) → fp32 (B, 3, T, H, W) in [0, 1]."""
    return clips.permute(0, 4, 1, 2, 3).float().div_(255)
