"""One picture of the experiment in place: a few test clips as every judged method releases them."""

from pathlib import Path

import numpy as np

from stprivacy.errors import UserError
from stprivacy.evaluation.pictures import frame_grid
from stprivacy.evaluation.provenance import judged
from stprivacy.evaluation.raw_frames import shown_releases

ROWS_OF_A_PAGE = 16


def overview(results: Path, path: Path, show_raw: bool = True, raw_allowed: bool = True) -> Path:
    """A test clip or two as every judged method releases it, a row each, below the raw one if `show_raw` (`stprivacy show --figure`).

    Two while they fit a page. Where raw frames aren't allowed, releases that can hold them are left out.

    Raises UserError when nothing of the experiment in place was judged, or nothing that may be shown.
    """
    raw: np.ndarray | None = None
    strips: dict[str, np.ndarray] = {}
    for method in sorted(judged(results)[0], key=lambda name: (name == "stprivacy", name)):
        file = results / "evaluate" / method / "examples.npz"
        if not file.exists():  # its stage was ended before the pictures
            continue
        with np.load(file) as examples:
            if method == "raw":
                raw = examples["raw"] if show_raw and raw_allowed else None
            else:
                strips |= shown_releases(examples, raw_allowed)
    if raw is None and not strips:
        raise UserError(f"{results / 'evaluate'}: no clips there that may be shown; run `dvc repro` first")
    num_clips = 2 if len(strips) < ROWS_OF_A_PAGE // 2 else 1
    return frame_grid(None if raw is None else raw[:num_clips], {name: clips[:num_clips] for name, clips in strips.items()}, path)
