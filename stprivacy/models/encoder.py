"""The video transformer that a release begins with: tubelets to tokens, some of them dropped on the way (paper §3.2-3.3).

What becomes of the tokens is another's business: `anonymizer.py` repaints tubelets with them, `code.py` makes latents of them.
B batch, T frames, L slices, N tokens a slice, D width, M sparsification blocks.
"""

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
from stprivacy.models.vit import Block, init_transformer


@dataclass(frozen=True)
class Encoded:
    """What the transformer makes of a clip."""

    tokens: Tensor
    """(B, L·N, D) of all tubelets in their order; or (B, n, D), those that are kept alone."""
    places: Tensor | None
    """(B, n): which tubelets `tokens` are of, slice by slice; None for all of them."""
    keep: Tensor
    """(B, L, N) of 0/1, in training with a straight-through gradient."""
    decisions: tuple[Tensor, ...] = ()
    """(B, L, N) of 0/1 after each sparsification block."""
    probabilities: tuple[Tensor, ...] = ()
    """(B, L, N) keep probabilities of each block, in training mode."""


Choose = Callable[[int, Tensor, Tensor], Tensor]
"""choose(m, scores (B, L·N, 2), keep (B, L·N)) → the m-th sparsification's decision (B, L·N) of 0/1."""
CALIBRATED_RATIOS = tuple(step / 20 for step in range(1, 21))
"""Keep ratios r for which an adaptive budget has thresholds; between two of them they are interpolated."""


class TubeletEncoder(nn.Module):
    """Transformer blocks with a sparsification before some of them. A subclass embeds a clip as tokens, and initialises."""

    thresholds: Tensor
    """(ratios, M), of an adaptive budget alone."""

    def __init__(self, model: Model, clip: Clip, embedding: nn.Module):
        """`embedding`: what makes tokens; it comes first among the parameters."""
        super().__init__()
        self.config, self.clip = model, clip
        self.tubelet, self.keep_ratio = model.tubelet, model.keep_ratio
        frames, rows, columns = model.tubelet
        self.grid = (clip.num_frames // frames, clip.size // rows, clip.size // columns)  # slices, rows and columns of tubelets
        self.num_slices, self.num_patches = self.grid[0], self.grid[1] * self.grid[2]
        self.num_sparsifications = len(model.sparsify_before)
        self.gumbel_shape = (self.num_sparsifications, self.num_slices * self.num_patches, 2)
        self.patch_embed = embedding
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_slices * self.num_patches, model.width))
        self.blocks = nn.ModuleList(Block(model.width, model.num_heads, model.mlp_ratio) for _ in range(model.depth))
        scorers = [
            Scorer(model.width, self.num_slices, model.keep_bias, model.logit_scale, model.aggregation) for _ in model.sparsify_before
        ]
        self.score_predictor = nn.ModuleList(scorers)
        if model.budget == "adaptive":
            unknown = torch.full((len(CALIBRATED_RATIOS), self.num_sparsifications), torch.nan)
            self.register_buffer("thresholds", unknown)  # `calibrate` finds them

    def initialise(self) -> None:
        """Weights as training starts with them; called when all layers are there."""
        init_transformer(self)
        for scorer in self.score_predictor:
            assert isinstance(scorer, Scorer)
            scorer.reset_bias()

    def encode(
        self,
        tokens: Tensor,
        keep_ratio: float | None = None,
        gumbel: Tensor | None = None,
        decisions: Sequence[Tensor] | None = None,
        exact: bool = False,
    ) -> Encoded:
        """`tokens` (B, L·N, D) as they were embedded, without their positions.

        `keep_ratio` r in (0, 1], None for the one it was made with; 1 drops nothing.
        Training mode: hard Gumbel decisions (`gumbel` (B, M, L·N, 2); drawn here if None), masked attention, all tokens computed.
        There the ratio is the ratio loss's business, unless `exact`: then int(rᵐ · N) of each slice are kept, noise included.
        Evaluation mode: the top int(rᵐ · N) of each slice are gathered, so that cost falls with r; under an adaptive budget all
        tokens are computed, and those above the thresholds kept.
        `decisions`, one (B, L·N) of 0/1 a sparsification, replace either choice; what one drops, the next cannot bring back. In
        evaluation mode each must leave equally many tokens in every clip, and with `attention: frame` in every slice. Raises UserError
        for a keep ratio outside (0, 1], and where an adaptive budget has no thresholds for it.
        """
        ratio = self.keep_ratio if keep_ratio is None else keep_ratio
        if not 0 < ratio <= 1:
            raise UserError(f"keep ratio {ratio:g}: it must lie above 0 and at most at 1, which drops nothing")
        tokens = tokens + self.pos_embed
        if ratio >= 1 or not self.num_sparsifications:
            everything = tokens.new_ones(len(tokens), self.num_slices, self.num_patches)
            tokens = self._apart(tokens)
            for block in self.blocks:
                tokens = block(tokens)
            return Encoded(self._joined(tokens), None, everything)
        if self.training:
            return self._encode_masked(tokens, self._noisy_choice(gumbel, decisions, ratio if exact else None))
        if self.config.budget == "adaptive" and decisions is None:
            thresholds = self._thresholds_at(ratio)
            return self._encode_masked(tokens, lambda count, scores, keep: over_threshold(scores, keep, self.num_slices, thresholds[count]))
        return self._encode_gathered(tokens, ratio, decisions)

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

    def _encode_masked(self, tokens: Tensor, choose: Choose) -> Encoded:
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
        return Encoded(tokens, None, taken[-1], tuple(taken), tuple(probabilities))

    def _encode_gathered(self, tokens: Tensor, ratio: float, decisions: Sequence[Tensor] | None) -> Encoded:
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
        return Encoded(tokens, places, taken[-1], tuple(taken))

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
    def calibrate(self, tokens: Tensor) -> None:
        """Find the adaptive budget's thresholds: with each, the mean kept share over clips is the one asked for.

        `tokens` (B, L·N, D): of the clips, as they were embedded.
        A threshold is of the keep logit's lead over the drop logit, one for every sparsification and ratio of CALIBRATED_RATIOS.
        """
        tokens = tokens + self.pos_embed
        for row, ratio in enumerate(CALIBRATED_RATIOS):

            def choose(count: int, scores: Tensor, keep: Tensor, row: int = row, ratio: float = ratio) -> Tensor:
                self.thresholds[row, count] = threshold_of(scores, keep, self.num_slices, ratio)
                return over_threshold(scores, keep, self.num_slices, self.thresholds[row, count])

            self._encode_masked(tokens, choose)


def _pick(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, N, D) at `places` (B, n) → (B, n, D)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def _gumbel_like(logits: Tensor) -> Tensor:
    return -torch.empty_like(logits).exponential_().log()
