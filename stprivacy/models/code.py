"""The bounded release: clip → latents of each slice, with noise → painted clip. Nothing passes but the latents.

The latents of a clip are drawn from N(μ, σ²), and the prior is N(0, 1). What anybody can learn from a release, whoever looks and however
long, is at most the mean of KL(N(μ, σ²) ‖ N(0, 1)) over clips (the rate; Alemi et al., arXiv 1612.00410).

B batch, T frames, S side, L slices, N tokens a slice, D width, K latents a slice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from stprivacy.config import Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Painted
from stprivacy.models.canonical import Motion, canonical_motion
from stprivacy.models.encoder import Encoded, TubeletEncoder
from stprivacy.models.painter import Painter

QUERIES = 4
"""Each slice is read this many times, every time with other weights over its tokens."""
LEAST_LOG_STD, LARGEST_LOG_STD = -5.0, 2.0
NATS_PER_BIT = math.log(2)
DIAL = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0)
"""Standard deviations of additional noise at which the mean rate is known; between two of them it is interpolated."""


@dataclass(frozen=True)
class Code:
    """What is known of a clip's latents before the noise."""

    mean: Tensor
    """(B, L·K)."""
    log_std: Tensor
    """(B, L·K): natural logarithm of the standard deviation."""
    encoded: Encoded | None = None
    """What the transformer kept on the way; None where nobody asks any more."""

    def sample(self, noise: Tensor) -> Tensor:
        """The latents under standard normal `noise` (B, L·K)."""
        return self.mean + self.log_std.exp() * noise

    def rate(self) -> Tensor:
        """KL(N(μ, σ²) ‖ N(0, 1)) of each clip in nats, (B,)."""
        return (0.5 * (self.mean.square() + (2 * self.log_std).exp() - 1) - self.log_std).sum(1)

    def noisier(self, std: float) -> "Code":
        """The same latents with more noise, N(0, `std`²), added to every clip's alike, and scaled back to a prior N(0, 1).

        Noise that depends on nothing makes a degraded channel: no reader can learn more than before, and the rate of each clip falls as
        `std` rises. (A factor on σ would not do: where σ differs from clip to clip, a larger one can say more.)
        """
        scale = math.sqrt(1 + std**2)
        log_std = 0.5 * torch.log((2 * self.log_std).exp() + std**2) - math.log(scale)
        return replace(self, mean=self.mean / scale, log_std=log_std)


class Stem(nn.Sequential):
    """Input pictures (B, 3, T, S, S) → tokens (B, L·N, D): convolutions that halve frames until a token stands where a tubelet was.

    A few small convolutions in place of one large one (Xiao et al., arXiv 2106.14881): tokens know edges at once.
    """

    def __init__(self, width: int, tubelet: tuple[int, int, int]):
        halvings = int(math.log2(tubelet[1]))
        layers: list[nn.Module] = []
        before = 3
        for left in reversed(range(halvings)):
            after = width >> left
            if left == halvings - 1 and halvings > 1:
                layers += [nn.Conv3d(before, after, (1, 5, 5), (1, 2, 2), (0, 2, 2)), nn.GroupNorm(4, after), nn.ReLU()]
            elif left:
                layers += [nn.Conv3d(before, after, 3, (1, 2, 2), 1), nn.GroupNorm(4, after), nn.ReLU()]
            else:
                layers += [nn.Conv3d(before, after, (tubelet[0], 3, 3), (tubelet[0], 2, 2), (0, 1, 1))]
            before = after
        super().__init__(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        tokens: Tensor = super().forward(pictures)
        return tokens.flatten(2).transpose(1, 2)


class CodeAnonymizer(TubeletEncoder):
    """The transformer with sparsification, a mean and a spread for the latents of each slice, and the painter."""

    dial_bits: Tensor
    """(settings of DIAL,): mean rate of training clips at each, falling; NaN until `calibrate_dial` has found it."""

    def __init__(self, model: Model, clip: Clip):
        super().__init__(model, clip, Stem(model.width, model.tubelet))
        self.num_latents = self.num_slices * model.latents
        self.norm_pool = nn.LayerNorm(model.width)
        self.initialise()
        nn.init.normal_(self.pos_embed, std=0.1)
        self.queries = nn.Parameter(torch.randn(QUERIES, model.width) * 0.1)
        self.head_code = nn.Linear(QUERIES * model.width, 2 * model.latents)
        nn.init.normal_(self.head_code.weight, std=0.02)
        self.painter = Painter(model, clip)
        self.register_buffer("dial_bits", torch.full((len(DIAL),), torch.nan))

    def forward(self, clips: Tensor, keep_ratio: float | None = None, *, noise: Tensor) -> Painted:
        """Clips (B, 3, T, S, S) in [0, 1] and standard normal `noise` (B, L·K) → what is released, before rounding.

        `keep_ratio` as in `TubeletEncoder.encode`: it sets the cost. What is dropped isn't seen in the picture, which is painted whole.
        """
        return Painted(self.paint(self.code(clips, keep_ratio).sample(noise)), None)

    def code(
        self,
        clips: Tensor,
        keep_ratio: float | None = None,
        gumbel: Tensor | None = None,
        decisions: Sequence[Tensor] | None = None,
        brightness: Tensor | None = None,
    ) -> Code:
        """The latents of clips (B, 3, T, S, S) in [0, 1]; all else as in `TubeletEncoder.encode`.

        `brightness` (B, 1, T, S, S): what the encoder sees in place of the clips' own, for training under other colours. A clip in which
        nothing moves gets the prior: its release says nothing of it, and shows whatever the noise says.
        """
        motion = canonical_motion(clips)
        tokens = self._embed(clips, motion, brightness)
        encoded = self.encode(tokens, keep_ratio, gumbel, decisions)
        mean, log_std = self.head_code(self._pooled(encoded)).float().chunk(2, -1)  # (B, L, K) each
        found = motion.found[:, None]
        return Code(mean.flatten(1) * found, log_std.flatten(1).clamp(LEAST_LOG_STD, LARGEST_LOG_STD) * found, encoded)

    def calibrate_dial(self, clips: Tensor) -> None:
        """Find the mean rate of `clips` (B, 3, T, S, S), a sample of training clips, at each setting of the dial."""
        with torch.no_grad():
            code = self.code(clips)
            self.dial_bits.copy_(torch.stack([code.noisier(std).rate().mean() for std in DIAL]) / NATS_PER_BIT)

    def noise_for(self, bits: float) -> float:
        """The additional noise's standard deviation at which training clips have a mean rate of `bits`; 0 from the full rate on.

        Raises UserError where the dial isn't known, and for fewer bits than it reaches.
        """
        known = self.dial_bits.tolist()
        if math.isnan(known[0]):
            raise UserError("this model doesn't know its rates at other settings; run train again, or leave the bits out")
        if bits < known[-1]:
            raise UserError(f"{bits:g} bits a clip: this model goes down to {known[-1]:.2g}; take more")
        return float(np.interp(-bits, [-value for value in known], DIAL))

    def paint(self, latents: Tensor) -> Tensor:
        """Latents (B, L·K) → pixels (B, 3, T, S, S) in [0, 1], all colours alike."""
        painted: Tensor = self.painter(latents.to(self.pos_embed.dtype)).float()
        return painted.expand(-1, 3, -1, -1, -1)

    def embed(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, S, S) in [0, 1] → tokens (B, L·N, D), without their positions."""
        return self._embed(clips, canonical_motion(clips), None)

    def _embed(self, clips: Tensor, motion: Motion, brightness: Tensor | None) -> Tensor:
        grey = clips.mean(1, keepdim=True) if brightness is None else brightness
        change = (clips[:, :, 1:] - clips[:, :, :-1]).abs().amax(1, keepdim=True)
        change = torch.cat([change, change[:, :, -1:]], 2) if change.shape[2] else torch.zeros_like(grey)
        pictures = torch.cat([4 * (grey - 0.5), 6 * change, 2 * motion.picture - 0.5], 1)
        tokens: Tensor = self.patch_embed(pictures.to(self.pos_embed.dtype))
        return tokens

    def _pooled(self, encoded: Encoded) -> Tensor:
        """Kept tokens of each slice, averaged by how well they answer each query: (B, L, QUERIES · D)."""
        tokens = self.norm_pool(encoded.tokens).unflatten(1, (self.num_slices, -1))  # (B, L, N or what is left, D)
        weights = torch.einsum("blnd,qd->blqn", tokens, self.queries).softmax(-1)
        if encoded.places is None:
            weights = weights * encoded.keep[:, :, None]
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return torch.einsum("blqn,blnd->blqd", weights, tokens).flatten(2)
