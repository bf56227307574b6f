"""The losses that the game is made of. Each takes tensors and gives a scalar; none knows a network or a phase.

B clips, A attributes, C actions, L slices, N tokens a slice, F features.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def action_loss(logits: Tensor, actions: Tensor) -> Tensor:
    """Cross-entropy of `logits` (B, C) with the actions' numbers (B,); mean BCE with `actions` (B, C) of 0/1 where clips have several."""
    if actions.ndim == 1:
        return F.cross_entropy(logits, actions)
    return F.binary_cross_entropy_with_logits(logits, actions)


def ratio_loss(decisions: Sequence[Tensor], keep_ratio: float, per: Literal["slice", "clip"] = "slice") -> Tensor:
    """Eq. 7: mean over blocks m and slices of (kept share of the slice − r^m)². `decisions`: one (B, L, N) of 0/1 a block.

    Per slice and not over the clip: pooled over space and time (`per` clip) the paper found training unstable.
    """
    if not decisions:
        return torch.zeros(())
    over = (2,) if per == "slice" else (1, 2)
    terms = [(kept.mean(dim=over) - keep_ratio**block).square().mean() for block, kept in enumerate(decisions, start=1)]
    return torch.stack(terms).mean()


def polarisation_loss(probabilities: Sequence[Tensor]) -> Tensor:
    """Mean of 4p(1 − p) in [0, 1] over keep probabilities (B, L, N) a block: 1 where every decision is a coin flip.

    Tokens that flip from step to step flicker, and flicker looks like motion to the action recognizer (RECIPE: without
    this term the action fell to chance and stayed there).
    """
    if not probabilities:
        return torch.zeros(())
    return torch.stack([(4 * p * (1 - p)).mean() for p in probabilities]).mean()


def reconstruction_loss(clips: Tensor, pixels: Tensor, keep: Tensor) -> Tensor:
    """Mean squared error over all pixels, counting kept tubelets alone: dropping one is free.

    `clips`, `pixels`: (B, 3, T, H, W) in [0, 1]; `keep`: (B, 1, T, H, W) of 0/1.
    """
    keep = keep.detach()
    return F.mse_loss(pixels * keep, clips * keep)


def rate_loss(pixels: Tensor, keep: Tensor, noise: float) -> Tensor:
    """What the noisy channel can carry at most, in nats a pixel value: mean of keep · (pixel − ½)² / 2σ².

    `pixels` (B, 3, T, H, W) in [0, 1], `keep` (B, 1, T, H, W) of 0/1, `noise` σ > 0. The divergence KL(N(x, σ²) ‖ N(½, σ²)) is an upper
    bound of the information that a release holds of its clip, whoever reads it (the variational bottleneck of Alemi et al.,
    arXiv 1612.00410, with a fixed marginal): what neither action nor attributes need costs something, too.
    """
    return (keep * (pixels - 0.5).square()).mean() / (2 * noise**2)


def privacy_objective(logits: Tensor, attributes: Tensor, prior: Tensor, objective: Literal["entropy", "prior", "negative"]) -> Tensor:
    """What the anonymizer minimises on an adversary's answer. `logits`, `attributes`: (B, A); `prior`: (A,) in [0, 1].

    `entropy`: BCE against 0.5 less its minimum (0 when the adversary says nothing, whatever is true); `prior`: the same
    against each attribute's share of the training clips, for attributes that are rare; `negative`: −BCE (paper §3.4),
    clipped at 1 an answer, beyond which a wrong adversary could be pushed without end.
    """
    if objective == "negative":
        return -F.binary_cross_entropy_with_logits(logits, attributes, reduction="none").clamp(max=1.0).mean()
    target = torch.full_like(prior, 0.5) if objective == "entropy" else prior
    target = target.expand_as(logits)
    least = F.binary_cross_entropy(target, target)  # the entropy of the target itself
    return F.binary_cross_entropy_with_logits(logits, target) - least


def ridge_r2(features: Tensor, attributes: Tensor, ridge: float, num_judged: int | None = None) -> Tensor:
    """Leave-one-out R² (A,) of ridge regression from standardised features (B, F) to attributes (B, A), in closed form.

    With the kernel K = ZZᵀ/F of the standardised features and the hat matrix H = K(K + λI)⁻¹, the residual of sample i
    when i is left out is (t − Ht)ᵢ / (1 − Hᵢᵢ) (Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, §7.10).
    All rows are learned from, the first `num_judged` (None: all) are judged. Differentiable in the features; 1 − Hᵢᵢ is kept
    above 0.05 for the sake of the gradient.
    """
    features, attributes = features.float(), attributes.float()
    standard = (features - features.mean(0)) / (features.std(0) + 1e-4)
    kernel = standard @ standard.T / features.shape[1]  # (B, B)
    identity = torch.eye(len(kernel), device=kernel.device)
    hat = torch.linalg.solve(kernel + ridge * identity, kernel).T
    target = attributes - attributes.mean(0)
    residual = (target - hat @ target) / (1 - hat.diagonal()).clamp_min(0.05)[:, None]
    return 1 - residual[:num_judged].square().mean(0) / target[:num_judged].square().mean(0).clamp_min(1e-3)


KERNEL_WIDTHS = (0.3, 1.0)
"""Of the Gaussian kernels, in units of the median squared distance."""


def kernel_r2(judged: Tensor, attributes: Tensor, known: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """R² (kernels, A) on clips with latents `judged` (G, Z) and `attributes` (G, A) of kernel ridge regression from others.

    `known` (M, Z) with `labels` (M, A) of 0/1 is what it has learned from: none of the judged clips may be among them. A Gaussian kernel of
    each of KERNEL_WIDTHS, over latents scaled by their spread. Differentiable in `judged`.
    """
    judged, known, labels = judged.float(), known.float(), labels.float()
    scale, mean = known.std(0) + 1e-3, labels.mean(0)
    judged, known = judged / scale, known / scale
    distances, target = torch.cdist(known, known).square(), attributes.float() - mean
    spread = target.square().mean(0).clamp_min(0.05)
    identity = torch.eye(len(known), device=known.device)
    found = []
    for width in KERNEL_WIDTHS:
        reach = width * distances.median()
        weights = torch.linalg.solve((-distances / reach).exp() + ridge * identity, labels - mean)
        answers = (-torch.cdist(judged, known).square() / reach).exp() @ weights
        found.append((2 * (answers * target).mean(0) - answers.square().mean(0)) / spread)
    return torch.stack(found)


def ramp(step: int, steps: int) -> float:
    """Grows linearly from 1/steps at step 0 to 1 at step `steps` − 1, then stays."""
    return min(1.0, (step + 1) / max(1, steps))
