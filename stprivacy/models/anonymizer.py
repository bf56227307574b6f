"""The STPrivacy anonymizer: drop action-irrelevant tubelets, repaint the others (paper §3.2-3.3).

B batch, T frames, L slices, N tokens a slice, D width, M sparsification blocks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stprivacy.config import Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.sparsification import (
    Scorer,
    gumbel_decision,
    gumbel_top_share,
    num_kept,
    over_threshold,
    threshold_of,
    top_of_each_slice,
)
from stprivacy.models.vit import EPSILON, Block, TubeletEmbedding, fold, init_transformer


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
Choose = Callable[[int, Tensor, Tensor], Tensor]
"""choose(m, scores (B, L·N, 2), keep (B, L·N)) → the m-th sparsification's decision (B, L·N) of 0/1."""
CALIBRATED_RATIOS = tuple(step / 20 for step in range(1, 21))
"""Keep ratios r for which an adaptive budget has thresholds; between two of them they are interpolated."""


class Anonymizer(nn.Module):
    """A video transformer with sparsification before some of its blocks and a linear head to pixels."""

    thresholds: Tensor
    """(ratios, M), of an adaptive budget alone."""

    def __init__(self, model: Model, clip: Clip):
        super().__init__()
        self.config, self.clip = model, clip
        self.tubelet, self.keep_ratio = model.tubelet, model.keep_ratio
        frames, rows, columns = model.tubelet
        self.grid = (clip.num_frames // frames, clip.size // rows, clip.size // columns)  # slices, rows and columns of tubelets
        self.num_slices, self.num_patches = self.grid[0], self.grid[1] * self.grid[2]
        self.num_sparsifications = len(model.sparsify_before)
        self.gumbel_shape = (self.num_sparsifications, self.num_slices * self.num_patches, 2)
        self.patch_embed = TubeletEmbedding(model.width, model.tubelet)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_slices * self.num_patches, model.width))
        self.blocks = nn.ModuleList(Block(model.width, model.num_heads, model.mlp_ratio) for _ in range(model.depth))
        scorers = [
            Scorer(model.width, self.num_slices, model.keep_bias, model.logit_scale, model.aggregation) for _ in model.sparsify_before
        ]
        self.score_predictor = nn.ModuleList(scorers)
        self.norm_recon = nn.LayerNorm(model.width, eps=EPSILON) if model.final_norm else nn.Identity()
        self.head_recon = nn.Linear(model.width, 3 * math.prod(model.tubelet))
        init_transformer(self)
        for scorer in scorers:
            scorer.reset_bias()
        if model.budget == "adaptive":
            unknown = torch.full((len(CALIBRATED_RATIOS), self.num_sparsifications), torch.nan)
            self.register_buffer("thresholds", unknown)  # `calibrate` finds them

    def forward(
        self,
        clips: Tensor,
        keep_ratio: float | None = None,
        gumbel: Tensor | None = None,
        decisions: Sequence[Tensor] | None = None,
        exact: bool = False,
    ) -> Painted:
        """`clips` (B, 3, T, H, W) in [0, 1]; `keep_ratio` r in (0, 1], None for the one it was made with; 1 drops nothing.

        Training mode: hard Gumbel decisions (`gumbel` (B, M, L·N, 2); drawn here if None), masked attention, all tokens computed.
        There the ratio is the ratio loss's business, unless `exact`: then int(rᵐ · N) of each slice are kept, noise included.
        Evaluation mode: the top int(rᵐ · N) of each slice are gathered, so that cost falls with r; under an adaptive budget all
        tokens are computed, and those above the thresholds kept.
        `decisions`, one (B, L·N) of 0/1 a sparsification, replace either choice; what one drops, the next cannot bring back. In
        evaluation mode each must leave equally many tokens in every clip, and with `attention: frame` in every slice. Raises UserError
        for a keep ratio outside (0, 1], and where an adaptive budget has no thresholds for it.
        """
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
        ratio = self.keep_ratio if keep_ratio is None else keep_ratio
        if not 0 < ratio <= 1:
            raise UserError(f"keep ratio {ratio:g}: it must lie above 0 and at most at 1, which drops nothing")
        tokens = self.patch_embed((clips - self.config.input_mean) / self.config.input_std) + self.pos_embed
        if ratio >= 1 or not self.num_sparsifications:
            everything = tokens.new_ones(len(clips), self.num_slices, self.num_patches)
            tokens = self._apart(tokens)
            for block in self.blocks:
                tokens = block(tokens)
            return self._to_pixels(self._joined(tokens)), everything, (), ()
        if self.training:
            return self._paint_masked(tokens, self._noisy_choice(gumbel, decisions, ratio if exact else None))
        if self.config.budget == "adaptive" and decisions is None:
            thresholds = self._thresholds_at(ratio)
            return self._paint_masked(tokens, lambda count, scores, keep: over_threshold(scores, keep, self.num_slices, thresholds[count]))
        return self._paint_gathered(tokens, ratio, decisions)

    def _noisy_choice(self, gumbel: Tensor | None, decisions: Sequence[Tensor] | None, exact_ratio: float | None) -> Choose:
        """How training decides, as `forward` says."""

        def choose(count: int, scores: Tensor, keep: Tensor) -> Tensor:
            noise = _gumbel_like(scores) if gumbel is None else gumbel[:, count]
            if decisions is not None:
                return decisions[count]
            if exact_ratio is None:
                return gumbel_decision(scores, noise)
            return gumbel_top_share(scores, noise, keep, self.num_slices, exact_ratio ** (count + 1))

        return choose

    def _paint_masked(self, tokens: Tensor, choose: Choose) -> Unbound:
        """All tokens are computed; kept ones stand first, so that a block can spare the backward pass of those that no clip kept.

        The polarisation of a dropped token's keep probability thus trains the scorer, and not the blocks before it.
        """
        keep = tokens.new_ones(tokens.shape[:2])  # (B, L·N)
        tokens = self._apart(tokens)
        order: Tensor | None = None  # (B, L·N), or (B·L, N) where slices are apart: which token stands where
        hidden, num_live = None, tokens.shape[1]
        taken: list[Tensor] = []
        probabilities: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index in self.config.sparsify_before:
                count = len(taken)
                tokens = self._joined(tokens if order is None else _pick(tokens, order.argsort(1)))
                if taken:  # num_live is the batch's: without this a dropped token would train blocks where a clip beside it kept more
                    tokens = torch.where(keep.detach()[..., None] == 0, tokens.detach(), tokens)
                scores = self.score_predictor[count](tokens, keep)  # (B, L·N, 2)
                keep = keep * choose(count, scores, keep).to(keep.dtype)
                taken.append(self._by_slice(keep))
                probabilities.append(self._by_slice(scores.softmax(-1)[..., 0]))
                tokens, kept = self._apart(tokens), self._apart(keep)
                order = kept.detach().argsort(dim=1, descending=True, stable=True)
                tokens, hidden, num_live = _pick(tokens, order), kept.gather(1, order), max(1, int(kept.detach().sum(1).max()))
            tokens = block(tokens, hidden, num_live)
        tokens = self._joined(tokens if order is None else _pick(tokens, order.argsort(1)))
        return self._to_pixels(tokens), taken[-1], tuple(taken), tuple(probabilities)

    def _paint_gathered(self, tokens: Tensor, ratio: float, decisions: Sequence[Tensor] | None) -> Unbound:
        batch, num_tokens, _ = tokens.shape
        places = torch.arange(num_tokens, device=tokens.device).expand(batch, -1)  # where each remaining token belongs
        taken: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if index in self.config.sparsify_before:
                count = len(taken)
                if decisions is None:
                    scores = self.score_predictor[count](tokens, tokens.new_ones(tokens.shape[:2]))
                    chosen = top_of_each_slice(scores, self.num_slices, num_kept(ratio ** (count + 1), self.num_patches))
                else:
                    chosen = decisions[count].gather(1, places).nonzero()[:, 1].view(batch, -1)
                tokens = _pick(tokens, chosen)
                places = places.gather(1, chosen)
                taken.append(self._by_slice(tokens.new_zeros(batch, num_tokens).scatter(1, places, 1.0)))
            tokens = self._joined(block(self._apart(tokens)))
        painted = self.head_recon(self.norm_recon(tokens))
        everywhere = painted.new_zeros(batch, num_tokens, painted.shape[-1])
        everywhere = everywhere.scatter(1, places[..., None].expand_as(painted), painted)
        return self._unfold(everywhere), taken[-1], tuple(taken), ()

    def _to_pixels(self, tokens: Tensor) -> Tensor:
        return self._unfold(self.head_recon(self.norm_recon(tokens)))

    def _unfold(self, values: Tensor) -> Tensor:
        """Tubelet values (B, L·N, δT·δH·δW·3), channel last as in the authors' head → (B, 3, T, H, W)."""
        slices, rows, columns = self.grid
        values = values.view(len(values), slices, rows, columns, *self.tubelet, 3)
        return values.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(values), 3, self.clip.num_frames, self.clip.size, self.clip.size)

    def _by_slice(self, flat: Tensor) -> Tensor:
        return flat.view(len(flat), self.num_slices, self.num_patches)

    def _apart(self, values: Tensor) -> Tensor:
        """(B, L·n, …) → (B·L, n, …) where a slice sees itself alone, so that each is a sequence of its own; else as it is."""
        return values.unflatten(1, (self.num_slices, -1)).flatten(0, 1) if self.config.attention == "frame" else values

    def _joined(self, values: Tensor) -> Tensor:
        """Undoes `_apart`."""
        return values.unflatten(0, (-1, self.num_slices)).flatten(1, 2) if self.config.attention == "frame" else values

    def _thresholds_at(self, ratio: float) -> Tensor:
        """The adaptive budget's thresholds (M,) at a keep ratio, between those of its two neighbours among `CALIBRATED_RATIOS`."""
        if self.thresholds.isnan().any():
            raise UserError("model.budget = 'adaptive': this model has no thresholds yet; run train, or set budget: per_slice")
        if ratio < CALIBRATED_RATIOS[0]:
            raise UserError(f"keep ratio {ratio:g}: an adaptive budget is calibrated from {CALIBRATED_RATIOS[0]:g} on; take a larger one")
        place = ratio * len(CALIBRATED_RATIOS) - 1
        below = min(int(place), len(CALIBRATED_RATIOS) - 2)
        return torch.lerp(self.thresholds[below], self.thresholds[below + 1], place - below)

    @torch.no_grad()
    def calibrate(self, clips: Tensor) -> None:
        """Find the adaptive budget's thresholds: with each, the mean over `clips` (B, 3, T, H, W) of the kept share is the one asked for.

        A threshold is of the keep logit's lead over the drop logit, one for every sparsification and ratio of CALIBRATED_RATIOS.
        """
        tokens = self.patch_embed((clips - self.config.input_mean) / self.config.input_std) + self.pos_embed
        for row, ratio in enumerate(CALIBRATED_RATIOS):

            def choose(count: int, scores: Tensor, keep: Tensor, row: int = row, ratio: float = ratio) -> Tensor:
                self.thresholds[row, count] = threshold_of(scores, keep, self.num_slices, ratio)
                return over_threshold(scores, keep, self.num_slices, self.thresholds[row, count])

            self._paint_masked(tokens, choose)

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


def _pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, N, D) at `places` (B, n) → (B, n, D)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def _gumbel_like(logits: Tensor) -> Tensor:
    return -torch.empty_like(logits).exponential_().log()
