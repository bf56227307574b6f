"""How much can a release say at all? The rate of a code in bits, and what no attacker can pass because of it.

With latents z ~ N(μ(x), σ(x)²) and the prior N(0, 1), the mean over clips x of KL(N(μ, σ²) ‖ N(0, 1)) is at least the mutual information
I(x; z) (Alemi et al., arXiv 1612.00410), and what is painted from z alone says no more (data-processing inequality).
"""

from typing import Any

import numpy as np
from scipy.optimize import brentq

from stprivacy.evaluation.statistics import interval, resamples


def entropy_bits(share: float) -> float:
    """Entropy in bits of an attribute that a share of clips has."""
    return 0.0 if share in (0.0, 1.0) else float(-share * np.log2(share) - (1 - share) * np.log2(1 - share))


def highest_accuracy(share: float, information_bits: float) -> float:
    """The accuracy that nobody passes who knows at most so much of a yes-or-no attribute that a `share` of clips has (Fano's inequality).

    An error e needs h(e) ≥ H(attribute) − information, where h is the binary entropy; so e is at least where the two are equal.
    """
    left = entropy_bits(share) - information_bits
    if left <= 0:
        return 1.0
    return max(share, 1 - share, 1 - float(brentq(lambda error: entropy_bits(error) - left, 0.0, 0.5)))


def action_information(probabilities: np.ndarray, actions: np.ndarray, num_actions: int) -> float:
    """Bits that answers `probabilities` (n, C) surely hold of `actions` (n,), as numbers: entropy less cross-entropy, at least 0.

    A lower bound of the mutual information between release and action, whoever gives the answers (Barber and Agakov, 2003).
    """
    shares = np.bincount(actions, minlength=num_actions) / len(actions)
    entropy = float(-sum(share * np.log2(share) for share in shares if share))
    told = np.clip(probabilities[np.arange(len(actions)), actions], 1e-12, 1)
    return max(0.0, entropy + float(np.log2(told).mean()))


def rate_figures(
    bits: np.ndarray, about_action: float, present: np.ndarray, groups: np.ndarray, attributes: tuple[str, ...]
) -> dict[str, Any]:
    """`rate` of metrics.json, of a release that has one.

    `bits` (n, V): the rate of every released view. `about_action`: bits that surely are of the action; where attributes are independent of
    it, they can't be of an attribute, too: I(attribute; z) ≤ rate − I(action; z). For the rate stands the upper end of its interval over
    test clips, whose `groups` (n,) come and go together. `present` (n, A) of 0/1.
    """
    times = resamples(groups)
    between = interval(times @ bits.mean(1) / times.sum(1))
    assert between is not None  # every resample has clips
    left, shares = max(0.0, between[1] - about_action), present.mean(0)
    ceiling = {name: highest_accuracy(float(share), left) for name, share in zip(attributes, shares, strict=True)}
    return {
        "bits_per_clip": float(bits.mean()),
        "interval": between,
        "bits_largest": float(bits.max()),
        "bits_of_action": about_action,
        "ceiling": ceiling,
    }
