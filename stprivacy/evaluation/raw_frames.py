"""May raw frames be shown? Of rendered people always; of real ones where `tracking.log_raw_clips` says so."""

from stprivacy.config import Params
from stprivacy.errors import UserError


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
