"""An anonymizer that was trained on another data set, taken as it is: the paper's unseen actions (table 2)."""

import shutil
from pathlib import Path

from stprivacy.config import Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.checkpoints import CONFIG, WEIGHTS, load_anonymizer

COLUMNS = ("phase", "step", "loss/action", "loss/privacy", "loss/reference")
"""Of the history, which has no steps here; `dvc plots` asks for them."""


def take_over(source: Path, clip: Clip, model: Model, outputs: dict[str, Path]) -> None:
    """Put the anonymizer of the folder `source` where training would leave its own (`anonymizer`, `init`, `history` of `outputs`).

    Its action recognizer stays behind: that one knows other actions. Raises UserError when there is no anonymizer, one of other clips, or
    one of another number of sparsifications than `model`, from which the keep ratios of the kept shares follow.
    """
    anonymizer, _ = load_anonymizer(source)
    if (anonymizer.clip.num_frames, anonymizer.clip.size) != (clip.num_frames, clip.size):
        made_for = f"{anonymizer.clip.num_frames} frames at {anonymizer.clip.size} px"
        raise UserError(f"{source}: made for clips of {made_for}, not params.yaml's {clip.num_frames} at {clip.size}; set clip alike")
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
