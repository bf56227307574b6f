"""Which tubelets are kept: the scorer (eq. 2-5), the hard Gumbel decision (eq. 6), the top of each slice at inference.

B batch, L slices, N tokens a slice, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = ("local", "spatial", "spatiotemporal")
FAR_BELOW = -1e4
"""The lead of a token that fell before: below any that a scorer gives, and finite, so that gradients are."""


class Scorer(nn.Module):
    """Keep and drop logits (B, L·N, 2) of tokens, from three levels: local, mean of the slice, mean of the clip, over kept tokens.

    `levels`: those of the three that are looked at; a level that is not has no weights.
    As in the authors' module, one projection split in thirds stands for the paper's three MLPs; a width that is no multiple of three
    is projected to the nearest below. Their closing log-softmax is left out: neither decision nor order depends on it.
    `keep_bias`: the logit of keep - the logit of drop where training starts; `logit_scale` multiplies what the layers give.
    """

    def __init__(self, width: int, num_slices: int, keep_bias: float = 0.0, logit_scale: float = 1.0, levels: Sequence[str] = LEVELS):
        super().__init__()
        self.num_slices, self.logit_scale, self.third = num_slices, logit_scale, width // 3
        self.levels = [level for level in LEVELS if level in levels]
        inner = len(self.levels) * self.third
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU())
        half, quarter = width // 2, width // 4
        self.out_conv = nn.Sequential(nn.Linear(inner, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU(), nn.Linear(quarter, 2))
        self.start_bias = keep_bias / logit_scale

    def reset_bias(self) -> None:
        """Begin with p(keep) near sigmoid(keep_bias) for every token; called after the usual initialisation."""
        *_, bias = self.out_conv.parameters()
        with torch.no_grad():
            bias.copy_(torch.tensor([self.start_bias, 0.0]))

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """`tokens` (B, L·N, D), `keep` (B, L·N) of 0/1: the decisions so far."""
        batch, num_tokens, _ = tokens.shape
        projected = self.in_conv(tokens).view(batch, self.num_slices, -1, len(self.levels) * self.third).split(self.third, dim=-1)
        mask = keep.to(tokens.dtype).view(batch, self.num_slices, -1, 1)
        over = {"spatial": (2,), "spatiotemporal": (1, 2)}  # (B, L, 1, D/3) and (B, 1, 1, D/3)
        seen = [
            values if level == "local" else _mean_of_kept(values, mask, over[level]).expand_as(values)
            for level, values in zip(self.levels, projected, strict=True)
        ]
        return self.out_conv(torch.cat(seen, dim=-1)).view(batch, num_tokens, 2).float() * self.logit_scale


def _mean_of_kept(values: Tensor, mask: Tensor, over: tuple[int, ...]) -> Tensor:
    """Mean of `values` (B, L, N, D/3) where `mask` (B, L, N, 1) is 1, over some dimensions, which stay with size 1."""
    return (values * mask).sum(over, keepdim=True) / mask.sum(over, keepdim=True).clamp_min(1e-6)


def gumbel_decision(logits: Tensor, gumbel: Tensor) -> Tensor:
    """Eq. 6 at τ = 1: 1 where keep wins with its Gumbel noise, else 0, with the gradient of the softmax (straight-through).

    `logits`, `gumbel` (B, L·N, 2) → (B, L·N).
    """
    soft = (logits + gumbel).softmax(dim=-1)[..., 0]
    hard = (soft >= 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())  # in this order the values are 0 and 1 to the last bit


def gumbel_top_share(logits: Tensor, gumbel: Tensor, keep: Tensor, num_slices: int, share: float) -> Tensor:
    """The decision of eq. 6 at a given share: of each slice's tokens in `keep`, the `num_kept` that win most clearly with their noise.

    Without noise these are the tokens of `top_of_each_slice`; where fewer are left than that, all of them stay. The gradient
    is that of a sigmoid around the slice's own threshold, midway between the last token that is kept and the first that is
    not (straight-through); tokens that fell before get none. `logits`, `gumbel` (B, L·N, 2), `keep` (B, L·N) of 0/1 → (B, L·N).
    """
    left = keep.detach() != 0
    noisy = logits + gumbel
    lead = (noisy[..., 0] - noisy[..., 1]).masked_fill(~left, FAR_BELOW).view(len(logits), num_slices, -1)  # (B, L, N)
    count = num_kept(share, lead.shape[2])
    ranked, order = lead.detach().sort(dim=2, descending=True, stable=True)
    ranked = F.pad(ranked, (0, 1), value=FAR_BELOW)
    threshold = ranked[..., count - 1 : count + 1].mean(2, keepdim=True)
    soft = (lead - threshold).sigmoid()
    hard = torch.zeros_like(lead).scatter(2, order[..., :count], 1.0)
    return (hard + (soft - soft.detach())).flatten(1) * left


def over_threshold(logits: Tensor, keep: Tensor, num_slices: int, threshold: Tensor) -> Tensor:
    """The decision of an adaptive budget: 1 where keep leads by `threshold` (a scalar) or more, and for the best of each slice.

    `logits` (B, L·N, 2), `keep` (B, L·N) of 0/1, the decisions so far → (B, L·N) of 0/1.
    """
    return (_lead_with_best(logits, keep, num_slices) >= threshold).to(logits.dtype)


def threshold_of(logits: Tensor, keep: Tensor, num_slices: int, share: float) -> Tensor:
    """The threshold by which `over_threshold` keeps a `share` of all tokens in `keep` (B, L·N) of 0/1, of all clips together; a scalar.

    The best of each slice stay whatever it is, so a share below theirs cannot be had: then they alone are kept.
    """
    leads = _lead_with_best(logits, keep, num_slices)[keep != 0].sort(descending=True).values
    return leads[max(0, round(share * len(leads)) - 1)]


def _lead_with_best(logits: Tensor, keep: Tensor, num_slices: int) -> Tensor:
    """Keep logit − drop logit (B, L·N), FAR_BELOW for what fell before and as far above for the best of each slice."""
    lead = (logits[..., 0] - logits[..., 1]).masked_fill(keep == 0, FAR_BELOW).view(len(logits), num_slices, -1)
    return lead.scatter(2, lead.argmax(2, keepdim=True), -FAR_BELOW).flatten(1)


def num_kept(share: float, num_patches: int) -> int:
    """int(share · patches), at least one. The tiny addend undoes rounding such as 0.7 / 0.7 · 49 = 48.999…"""
    return max(1, int(share * num_patches + 1e-9))


def top_of_each_slice(logits: Tensor, num_slices: int, count: int) -> Tensor:
    """Indices (B, L·count) of the `count` tokens of each slice that keep wins most clearly; `logits` (B, L·n, 2)."""
    score = (logits[..., 0] - logits[..., 1]).view(len(logits), num_slices, -1)  # (B, L, n)
    chosen = score.topk(count, dim=2).indices
    offsets = torch.arange(num_slices, device=logits.device).view(1, -1, 1) * score.shape[2]
    return (chosen + offsets).flatten(1)
