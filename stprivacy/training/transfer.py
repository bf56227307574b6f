"""An anonymizer, or a learned baseline, that was trained on another data set, taken as it is: the paper's unseen actions (table 2)."""

import shutil
from pathlib import Path

from stprivacy.config import Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.checkpoints import CONFIG, WEIGHTS, load_anonymizer

COLUMNS = ("phase", "step", "loss/action", "loss/privacy", "loss/reference")
"""Of the history, which has no steps here; `dvc plots` asks for them."""


def take_over(source: Path, clip: Clip, model: Model, outputs: dict[str, Path]) -> None:
    """Put the anonymizer of the folder `source` where training would leave its own (`anonymizer`, `init`, `history` of `outputs`).

    Its action recognizer stays behind: that one knows other actions. Raises UserError when there is no anonymizer, one of other clips, of
    another kind or base width than `model`, or of another number of sparsifications, from which the keep ratios of the kept shares follow.
    """
    anonymizer, _ = load_anonymizer(source)
    if (anonymizer.clip.num_frames, anonymizer.clip.size) != (clip.num_frames, clip.size):
        made_for = f"{anonymizer.clip.num_frames} frames at {anonymizer.clip.size} px"
        raise UserError(f"{source}: made for clips of {made_for}, not params.yaml's {clip.num_frames} at {clip.size}; set clip alike")
    found = anonymizer.config
    if found.kind != model.kind:
        raise UserError(f"{source}: the model there is of kind {found.kind}, not {model.kind}; name a folder of that kind")
    if model.kind != "stprivacy" and found.base_width != model.base_width:
        widths = f"has base_width {_or_published(found.base_width)}, and params.yaml's {_or_published(model.base_width)}"
        raise UserError(f"{source}: the model there {widths}; set base_width as in its config.json")
    if anonymizer.num_sparsifications != model.num_sparsifications:
        counts = f"{anonymizer.num_sparsifications} sparsifications, and params.yaml's has {model.num_sparsifications}"
        raise UserError(f"{source}: the model there has {counts}; set model.sparsify_before as in its config.json")
    for name in ("anonymizer", "init"):
        shutil.rmtree(outputs[name], ignore_errors=True)
        outputs[name].mkdir(parents=True)
        for file in (WEIGHTS, CONFIG):
            shutil.copy(source / file, outputs[name])
    outputs["history"].parent.mkdir(parents=True, exist_ok=True)
    outputs["history"].write_text(",".join(COLUMNS) + "\n")


def _or_published(base_width: int | None) -> str:
    return "as published" if base_width is None else str(base_width)
