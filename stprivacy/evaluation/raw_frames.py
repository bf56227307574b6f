"""May raw frames be shown? Of rendered people always; of real ones where `tracking.log_raw_clips` says so.

A release can hold raw frames, too: a filter passes on what it doesn't touch, and a model that has learned little repeats its input.
"""

from collections.abc import Mapping

import numpy as np

from stprivacy.config import Params
from stprivacy.errors import UserError

REPAINTED = "repainted"
"""In examples.npz: the titles of the releases in it that hold no raw frames."""


def raw_allowed(params: Params) -> bool:
    """Nobody is in VP-Synth's videos; the people in all others are asked first, and `tracking.log_raw_clips` says that they were."""
    return params.dataset.kind == "vp-synth" or params.tracking.log_raw_clips


def refuse_raw(params: Params, otherwise: str) -> None:
    """Raises UserError where raw frames may not be shown; `otherwise`: what to do in place of allowing them."""
    if not raw_allowed(params):
        raise UserError(
            f"raw frames of {params.dataset.name} show real people; {otherwise}, or set tracking.log_raw_clips: true in params.yaml "
            "where they may be seen"
        )


def shown_releases(examples: Mapping[str, np.ndarray], raw_allowed: bool) -> dict[str, np.ndarray]:
    """The releases of an examples.npz that may be shown, by title: all where raw frames may be, else those that hold none."""
    repainted = set(np.atleast_1d(examples[REPAINTED]).tolist()) if REPAINTED in examples else set()  # an earlier version's: none
    return {title: examples[title] for title in examples if title not in ("raw", REPAINTED) and (raw_allowed or title in repainted)}
