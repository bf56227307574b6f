"""The adaptive budget's thresholds: found once, after training, on training clips, and kept with the model's weights."""

import json
from pathlib import Path

import torch

from stprivacy.config import Params
from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.channel import to_float
from stprivacy.models.checkpoints import CONFIG, load_anonymizer, save_model

NUM_CLIPS = 256


def calibrate_model(folder: Path, shards: Path, params: Params) -> None:
    """Give the model in `folder` thresholds by which the mean kept share over training clips is the one asked for.

    A model that keeps the same number of every slice is left as it is.
    """
    if params.model.budget != "adaptive" or not params.model.num_sparsifications:
        return
    anonymizer, _ = load_anonymizer(folder)
    assert isinstance(anonymizer, Anonymizer)  # no other kind drops anything
    views = ClipViews(ShardReader(shards, "train"), params.clip, num_clips=1, num_crops=1)
    clips = torch.stack([torch.from_numpy(views[index][0]) for index in range(min(NUM_CLIPS, len(views)))])
    anonymizer.calibrate(to_float(clips))
    save_model(folder, anonymizer, json.loads((folder / CONFIG).read_text()))
