"""`val`: whole groups of training videos, withheld from all training; everything that chooses reads it."""

from collections import Counter
from dataclasses import replace

import numpy as np

from stprivacy.data.annotations import Catalogue
from stprivacy.errors import UserError
from stprivacy.randomness import keyed_seed


def cut_val(catalogue: Catalogue, share: float, seed: int) -> Catalogue:
    """Move about `share` of the training videos to val, by groups drawn from `seed`; a data set that brings a val keeps it.

    A group is skipped when an action would be left without a training video. Raises UserError when no group could be moved.
    """
    if catalogue.of_split("val"):
        return catalogue
    train = catalogue.of_split("train")
    groups: dict[str, list[str]] = {}
    sizes = Counter(video.group for video in train)
    for video in train:
        groups.setdefault(video.group, []).extend(video.actions)
    left = Counter(action for video in train for action in video.actions)
    order = np.random.default_rng(keyed_seed("val", seed)).permutation(sorted(groups))
    chosen: set[str] = set()
    moved = 0
    for group in order:
        if moved >= share * len(train):
            break
        actions = groups[group]
        if any(left[action] - actions.count(action) < 1 for action in set(actions)):
            continue
        for action in actions:
            left[action] -= 1
        chosen.add(str(group))
        moved += sizes[group]
    if not chosen:
        raise UserError("val: every group of training videos is the last of its action; add videos or give groups in the labels")
    videos = tuple(replace(video, split="val") if video.split == "train" and video.group in chosen else video for video in catalogue.videos)
    return replace(catalogue, videos=videos)
