"""One picture of the experiment in place: a few test clips as every judged method releases them."""

from pathlib import Path

import numpy as np

from stprivacy.errors import UserError
from stprivacy.evaluation.pictures import frame_grid
from stprivacy.evaluation.provenance import judged


def overview(results: Path, path: Path, show_raw: bool = True) -> Path:
    """Two test clips as every judged method releases them, a row each, below the raw ones unless they may not be shown
    (`stprivacy show --figure`).

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
                raw = examples["raw"][:2] if show_raw else None
            else:
                strips |= {name: examples[name][:2] for name in examples.files if name != "raw"}
    if raw is None and not strips:
        raise UserError(f"{results / 'evaluate'}: no clips there that may be shown; run `dvc repro` first")
    return frame_grid(raw, strips, path)
