"""PA-HMDB51 (Wu, Wang et al., TPAMI 2021): five attributes, frame by frame, of 515 HMDB51 videos.

The licence is for research only, so the labels are not shipped: the person names their folder.

`<class>.json` maps a video to attribute → list of [first frame, last frame, value]; a value is a number, or a list of numbers where
people differ. 0 is "not identifiable" (face: invisible, nudity: none) for every attribute, higher numbers say which or how
much. Binarised as in the data set's own benchmark (VITA-Group/Privacy-AdversarialLearning, data-preparation/PA_HMDB51): a frame is
positive when the value is not 0. A video is positive when any of its frames is, as for somebody who watches it whole.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stprivacy.config import VP_ATTRIBUTES, PADataset
from stprivacy.data.annotations import Catalogue, Video, key_of, match_files
from stprivacy.data.annotations_vp import film_of
from stprivacy.data.frame_labels import UNLABELLED, spans_of
from stprivacy.errors import UserError
from stprivacy.randomness import keyed_seed

LONGEST_VIDEO = 1_000_000
"""Frames; a larger frame number is a slip, and would ask for as much memory."""


def pa(dataset: PADataset) -> Catalogue:
    """The annotated videos below `source` (`<class>/<video>.avi`), divided at random within each action (the paper's 60/40)."""
    frames = read_frame_labels(Path(dataset.annotations))
    root = Path(dataset.source)
    found, report = match_files(root, frames)
    splits = _divide(sorted(found), dataset.train_share, dataset.seed)
    videos = [
        Video(
            key_of(f"{name}.mp4"), path, name.split("/")[0], splits[name], film_of(name), video_labels(frames[name]),
            tuple(spans_of(column) for column in frames[name].T),
        )
        for name, path in sorted(found.items())
    ]  # fmt: skip
    return Catalogue(root, tuple(videos), VP_ATTRIBUTES, report)


def read_frame_labels(folder: Path) -> dict[str, np.ndarray]:
    """`<class>/<video>` → int8 (F, A): 1, 0, or −1 where a frame has no label (73 of the spans begin late or after a gap).

    Raises UserError naming file and video where the JSON has another form.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no PA-HMDB51 annotations (*.json) there; set dataset.annotations to their PrivacyAttributes folder")
    labels = {}
    for path in files:
        try:
            of_class = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not readable as JSON ({error}); download it again") from None
        if not isinstance(of_class, dict):
            raise UserError(f"{path}: expected videos and their attributes; download it again")
        for video, attributes in of_class.items():
            labels[f"{path.stem}/{Path(video).stem}"] = _frames_of(f"{path}: {video}", attributes)
    return labels


def _frames_of(place: str, attributes: Any) -> np.ndarray:
    """int8 (F, A) of one video; F reaches to the last labelled frame."""
    if not isinstance(attributes, Mapping) or any(not isinstance(attributes.get(name), list) for name in VP_ATTRIBUTES):
        raise UserError(f"{place}: expected lists of [first, last, value] for {', '.join(VP_ATTRIBUTES)}; download it again")
    for name in VP_ATTRIBUTES:
        for span in attributes[name]:
            if not _is_span(span):
                raise UserError(f"{place}: {name} has {str(span)[:60]}, expected [first frame, last frame, value]; download it again")
    num_frames = 1 + max((span[1] for name in VP_ATTRIBUTES for span in attributes[name]), default=-1)
    frames = np.full((num_frames, len(VP_ATTRIBUTES)), UNLABELLED, np.int8)
    for column, name in enumerate(VP_ATTRIBUTES):
        for first, last, value in attributes[name]:
            frames[first : last + 1, column] = value != 0 if isinstance(value, int) else any(value)
    return frames


def _is_span(span: Any) -> bool:
    if not (isinstance(span, list) and len(span) == 3):
        return False
    first, last, value = span
    values = value if isinstance(value, list) and value else [value]
    return all(type(number) is int for number in (first, last, *values)) and 0 <= first <= last < LONGEST_VIDEO and min(values) >= 0


def video_labels(frames: np.ndarray) -> tuple[float, ...]:
    """Attributes (A) of a video from int8 (F, A) of its frames: positive when any frame is."""
    return tuple(float(value) for value in (frames == 1).any(axis=0))


def _divide(names: list[str], train_share: float, seed: int) -> dict[str, Literal["train", "test"]]:
    """Videos of each action at random to train and test, at least one to each where an action has two."""
    splits: dict[str, Literal["train", "test"]] = {}
    for action in sorted({name.split("/")[0] for name in names}):
        of_action = [name for name in names if name.split("/")[0] == action]
        order = np.random.default_rng(keyed_seed("pa-hmdb51", seed, action)).permutation(len(of_action))
        num_train = round(train_share * len(of_action))
        if len(of_action) > 1:
            num_train = min(max(num_train, 1), len(of_action) - 1)
        for place, index in enumerate(order):
            splits[of_action[index]] = "train" if place < num_train else "test"
    return splits
