"""The STPrivacy anonymizer of the paper: drop action-irrelevant tubelets, repaint the others (paper §3.2-3.3).

B batch, T frames, L slices, N tokens a slice, D width, M sparsification blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stprivacy.config import Clip, Model
from stprivacy.models.encoder import TubeletEncoder
from stprivacy.models.vit import EPSILON, TubeletEmbedding, fold


@dataclass(frozen=True)
class Painted:
    """What an anonymizer hands to the channel. Not a release yet: what dropped tubelets hold is anything."""

    pixels: Tensor
    """(B, 3, T, H, W) in [0, 1]."""
    keep: Tensor | None
    """(B, L, N) of 0/1, in training with a straight-through gradient; None for a method that drops nothing."""
    decisions: tuple[Tensor, ...] = ()
    """(B, L, N) of 0/1 after each sparsification block."""
    probabilities: tuple[Tensor, ...] = ()
    """(B, L, N) keep probabilities of each block, in training mode."""


Unbound = tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]
"""The fields of a `Painted`, with pixels that are not bound to [0, 1] yet."""


class Anonymizer(TubeletEncoder):
    """The transformer with sparsification, and a linear head to pixels."""

    patch_embed: TubeletEmbedding

    def __init__(self, model: Model, clip: Clip):
        super().__init__(model, clip, TubeletEmbedding(model.width, model.tubelet))
        self.norm_recon = nn.LayerNorm(model.width, eps=EPSILON) if model.final_norm else nn.Identity()
        self.head_recon = nn.Linear(model.width, 3 * math.prod(model.tubelet))
        self.initialise()

    def embed(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) in [0, 1] → tokens (B, L·N, D), without their positions."""
        tokens: Tensor = self.patch_embed((clips - self.config.input_mean) / self.config.input_std)
        return tokens

    def forward(
        self,
        clips: Tensor,
        keep_ratio: float | None = None,
        gumbel: Tensor | None = None,
        decisions: Sequence[Tensor] | None = None,
        exact: bool = False,
    ) -> Painted:
        """`clips` (B, 3, T, H, W) in [0, 1]; all else as in `TubeletEncoder.encode`, with what it raises."""
        logits, keep, taken, probabilities = self.paint(clips, keep_ratio, gumbel, decisions, exact)
        pixels = torch.sigmoid(logits * self.contrast) if self.config.repaint else clips
        return Painted(pixels, keep, taken, probabilities)

    def paint(
        self,
        clips: Tensor,
        keep_ratio: float | None = None,
        gumbel: Tensor | None = None,
        decisions: Sequence[Tensor] | None = None,
        exact: bool = False,
    ) -> Unbound:
        """`forward` before the bound: pixels (B, 3, T, H, W) of any value, keep, decisions, probabilities as in `Painted`."""
        encoded = self.encode(self.embed(clips), keep_ratio, gumbel, decisions, exact)
        values = self.head_recon(self.norm_recon(encoded.tokens))
        if encoded.places is not None:
            everywhere = values.new_zeros(len(values), self.num_slices * self.num_patches, values.shape[-1])
            values = everywhere.scatter(1, encoded.places[..., None].expand_as(values), values)
        return self._unfold(values), encoded.keep, encoded.decisions, encoded.probabilities

    def _unfold(self, values: Tensor) -> Tensor:
        """Tubelet values (B, L·N, δT·δH·δW·3), channel last as in the authors' head → (B, 3, T, H, W)."""
        slices, rows, columns = self.grid
        values = values.view(len(values), slices, rows, columns, *self.tubelet, 3)
        return values.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(values), 3, self.clip.num_frames, self.clip.size, self.clip.size)

    @torch.no_grad()
    def start_as_identity(self, clips: Tensor) -> None:
        """Begin with release ≈ clip: embedding and head are the leading principal components of tubelets, residual branches 0.

        `clips` (B, 3, T, H, W) in [0, 1], a sample of the training clips. Components are half-whitened, so that tokens have
        values of like size and detail is not lost between large averages.
        """
        values = fold(clips, self.tubelet).flatten(0, 1) - 0.5  # (B·L·N, 3·δT·δH·δW)
        mean = values.mean(0)
        centred = values - mean
        variances, components = torch.linalg.eigh(centred.T @ centred / len(values))
        width = self.config.width
        variances, components = variances[-width:].clamp_min(1e-6), components[:, -width:]
        scale = variances**-0.25
        # The embedding sees (clip − mean) / std and should give ((clip − 0.5) − mean of values) · components · scale.
        weight = (components * scale).T * self.config.input_std  # (D', values)
        offset = (self.config.input_mean - 0.5 - mean) @ (components * scale)
        used = weight.shape[0]
        kernel, shift = self.patch_embed.proj.parameters()
        kernel.zero_()
        kernel[:used] = weight.view(used, 3, *self.tubelet)
        shift.zero_()
        shift[:used] = offset
        channel_last = torch.arange(values.shape[1]).view(3, *self.tubelet).permute(1, 2, 3, 0).flatten()
        self.head_recon.weight.zero_()
        self.head_recon.weight[:, :used] = (components / scale)[channel_last]
        self.head_recon.bias.copy_(mean[channel_last])
        for name, parameter in self.blocks.named_parameters():
            if ".attn.proj." in name or ".mlp.fc2." in name:
                parameter.zero_()

    @property
    def contrast(self) -> float:
        """Slope of the bound: sigmoid(4x) has slope 1 at its middle, which an identity needs; the paper's head starts anywhere."""
        return 4.0 if self.config.identity_start else 1.0


def expand_keep(keep: Tensor, tubelet: tuple[int, int, int], size: tuple[int, int]) -> Tensor:
    """Keep decisions (B, L, N) → pixels (B, 1, T, H, W), for frames of `size` = (H, W)."""
    frames, height, width = tubelet
    rows, columns = size[0] // height, size[1] // width
    grid = keep.view(len(keep), 1, keep.shape[1], rows, columns)
    return grid.repeat_interleave(frames, 2).repeat_interleave(height, 3).repeat_interleave(width, 4)
