"""What is found after training, on training clips, and kept with a model's weights: an adaptive budget's thresholds, a code's dial."""

import json
from pathlib import Path

import numpy as np
import torch

from stprivacy.config import Params
from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.channel import to_float
from stprivacy.models.checkpoints import CONFIG, load_anonymizer, save_model
from stprivacy.models.code import CodeAnonymizer
from stprivacy.randomness import keyed_seed

NUM_CLIPS = 256
"""So many, drawn from the whole split: shards are in the order of keys, and the first ones show the first few actions alone."""


def calibrate_model(folder: Path, shards: Path, params: Params) -> None:
    """Give the model in `folder` the thresholds by which the mean kept share over training clips is the one asked for, and a code the
    mean rate at each setting of its noise. A model that has neither is left as it is.
    """
    adaptive = params.model.budget == "adaptive" and params.model.num_sparsifications
    if not (adaptive or params.model.is_code):
        return
    anonymizer, _ = load_anonymizer(folder)
    views = ClipViews(ShardReader(shards, "train"), params.clip, num_clips=1, num_crops=1)
    drawn = np.random.default_rng(keyed_seed("budget", params.train.seed)).permutation(len(views))[:NUM_CLIPS]
    clips = to_float(torch.stack([torch.from_numpy(views[index][0]) for index in sorted(drawn.tolist())]))
    if adaptive:
        assert isinstance(anonymizer, Anonymizer | CodeAnonymizer)  # no other kind drops anything
        with torch.no_grad():
            anonymizer.calibrate(anonymizer.embed(clips))
    if isinstance(anonymizer, CodeAnonymizer):
        anonymizer.calibrate_dial(clips)
    save_model(folder, anonymizer, json.loads((folder / CONFIG).read_text()))
