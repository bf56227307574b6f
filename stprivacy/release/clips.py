"""The deployment path: clips in, released clips out. A video, the registered model and a test of either all pass here.

B clips, T frames, S side, M sparsification blocks.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from stprivacy.config import Channel, Clip
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Painted
from stprivacy.models.anonymizers import noise_shape
from stprivacy.models.channel import to_float, to_uint8, transmit
from stprivacy.models.code import NATS_PER_BIT, CodeAnonymizer
from stprivacy.release.noise_key import clip_noise, installation_key
from stprivacy.secret_noise import SecretNoise

Draws = Callable[[np.ndarray, Sequence[int]], torch.Tensor]
CLIPS_AT_ONCE = 16
"""Larger batches are cut, so that memory has a bound."""


class Releasing(Protocol):
    """What a release asks of an anonymizer, which a test may replace."""

    clip: Clip
    tubelet: tuple[int, int, int]
    keep_ratio: float
    num_sparsifications: int

    def __call__(self, clips: torch.Tensor, keep_ratio: float) -> Painted: ...

    def parameters(self) -> Any: ...


@dataclass(frozen=True)
class Releases:
    """Released clips, and how much each can say."""

    pixels: np.ndarray
    """uint8 (B, T, S, S, 3)."""
    bits: np.ndarray | None
    """float32 (B,): the rate of each clip; None where nothing bounds it."""


def release(
    anonymizer: Releasing,
    channel: Channel,
    clips: np.ndarray,
    keep_ratio: float | None = None,
    noise: SecretNoise | None = None,
    bits: float | None = None,
) -> np.ndarray:
    """The pixels of `release_clips`."""
    return release_clips(anonymizer, channel, clips, keep_ratio, noise, bits).pixels


@torch.inference_mode()
def release_clips(
    anonymizer: Releasing,
    channel: Channel,
    clips: np.ndarray,
    keep_ratio: float | None = None,
    noise: SecretNoise | None = None,
    bits: float | None = None,
) -> Releases:
    """Clips uint8 (B, T, S, S, 3) as they may be shown.

    `keep_ratio` r in (0, 1], None for the model's own. `noise`: None draws it under a fresh secret key, or, of a bounded release, under
    this installation's and the clip's, so that a clip released twice is one release; a stream of your own makes a release repeatable for
    whoever has its key, and lets them take the noise off. `bits`: a mean rate below the model's own, by more noise. Raises UserError for
    other shapes and ratios, for bits of a release without a bound, and for a number in the noise's place: earlier versions took a seed
    there.
    """
    shape = (anonymizer.clip.num_frames, anonymizer.clip.size, anonymizer.clip.size, 3)
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[1:] != shape:
        raise UserError(f"clips are {clips.dtype} {clips.shape}; this anonymizer takes uint8 (B, {', '.join(map(str, shape))})")
    ratio = checked_keep_ratio(anonymizer.keep_ratio if keep_ratio is None else keep_ratio)
    if not isinstance(noise, SecretNoise | None):
        raise UserError("seed: releases take no seed any more, since its noise could be taken off; leave it out")
    added = more_noise(anonymizer, bits)
    draw = _draws(anonymizer, ratio, added, noise)
    device = next((parameter.device for parameter in anonymizer.parameters()), torch.device("cpu"))
    released, rates = np.empty_like(clips), []
    for first in range(0, len(clips), CLIPS_AT_ONCE):
        some = clips[first : first + CLIPS_AT_ONCE]
        batch = to_float(torch.from_numpy(some).to(device))
        drawn = noise_shape(anonymizer, channel, batch.shape[1:])
        draws = None if drawn is None else draw(some, drawn).to(device)
        if isinstance(anonymizer, CodeAnonymizer):
            assert draws is not None
            code = anonymizer.code(batch, ratio).noisier(added)
            rates.append((code.rate() / NATS_PER_BIT).cpu().numpy())
            painted, draws = Painted(anonymizer.paint(code.sample(draws)), None), None
        else:
            painted = anonymizer(batch, ratio)
        shown = to_uint8(transmit(painted, channel, anonymizer.tubelet, draws))
        released[first : first + len(batch)] = shown.cpu().numpy()
    return Releases(released, np.concatenate(rates) if rates else None)


def more_noise(anonymizer: Releasing, bits: float | None) -> float:
    """Standard deviation of the noise that is added to a code's latents for a mean rate of `bits`.

    Raises UserError for bits of a release without a bound, and for fewer than the model reaches.
    """
    if bits is None:
        return 0.0
    if not isinstance(anonymizer, CodeAnonymizer):
        raise UserError(f"{bits:g} bits: nothing bounds what this model releases; take one with model.release: code")
    return anonymizer.noise_for(bits)


def _draws(anonymizer: Releasing, ratio: float, added: float, noise: SecretNoise | None) -> Draws:
    """draws(clips uint8 (b, …), shape of a clip's noise) → standard normal (b, *shape)."""
    if isinstance(anonymizer, CodeAnonymizer) and noise is None:
        key, settings = installation_key(), _settings(anonymizer, ratio, added)
        return lambda clips, shape: torch.stack([clip_noise(key, settings, clip).normal(shape) for clip in clips])
    stream = SecretNoise() if noise is None else noise
    return lambda clips, shape: stream.normal((len(clips), *shape))


def _settings(anonymizer: CodeAnonymizer, ratio: float, added: float) -> bytes:
    """All that a release depends on beside the clip and its noise."""
    digest = hashlib.sha256(f"{anonymizer.config!r} {anonymizer.clip!r} {ratio!r} {added!r}".encode())
    for name, value in anonymizer.state_dict().items():
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    return digest.digest()


def checked_keep_ratio(ratio: float) -> float:
    """Raises UserError unless 0 < ratio ≤ 1, NaN included."""
    if not 0 < ratio <= 1:
        raise UserError(f"keep ratio {ratio:g}: it must lie above 0 and at most at 1, which drops nothing")
    return float(ratio)


def keep_ratio_of(kept_share: float, num_sparsifications: int) -> float:
    """r = kept share^(1/M). Raises UserError outside (0, 1], and for a model without sparsification, which keeps everything."""
    if not 0 < kept_share <= 1:
        raise UserError(f"kept share {kept_share:g}: it must lie above 0 and at most at 1, which drops nothing")
    if not num_sparsifications and kept_share < 1:
        raise UserError(f"kept share {kept_share:g}: this model has no sparsification and keeps everything; leave the option out")
    return float(kept_share ** (1 / max(1, num_sparsifications)))
