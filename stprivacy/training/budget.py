"""The adaptive budget's thresholds: found once, after training, on training clips, and kept with the model's weights."""

import json
from pathlib import Path

import numpy as np
import torch

from stprivacy.config import Params
from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.models.channel import to_float
from stprivacy.models.checkpoints import CONFIG, load_anonymizer, save_model
from stprivacy.models.encoder import TubeletEncoder
from stprivacy.randomness import keyed_seed

NUM_CLIPS = 256
"""So many, drawn from the whole split: shards are in the order of keys, and the first ones show the first few actions alone."""


def calibrate_model(folder: Path, shards: Path, params: Params) -> None:
    """Give the model in `folder` thresholds by which the mean kept share over training clips is the one asked for.

    A model that keeps the same number of every slice is left as it is.
    """
    if params.model.budget != "adaptive" or not params.model.num_sparsifications:
        return
    anonymizer, _ = load_anonymizer(folder)
    assert isinstance(anonymizer, TubeletEncoder)  # no other kind drops anything
    views = ClipViews(ShardReader(shards, "train"), params.clip, num_clips=1, num_crops=1)
    drawn = np.random.default_rng(keyed_seed("budget", params.train.seed)).permutation(len(views))[:NUM_CLIPS]
    clips = torch.stack([torch.from_numpy(views[index][0]) for index in sorted(drawn.tolist())])
    with torch.no_grad():
        anonymizer.calibrate(anonymizer.embed(to_float(clips)))
    save_model(folder, anonymizer, json.loads((folder / CONFIG).read_text()))
