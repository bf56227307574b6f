"""Pictures: raw above released for people, released alone for a server that must not see raw frames."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from stprivacy.errors import UserError
from stprivacy.evaluation.overview import overview
from stprivacy.evaluation.pictures import write_pictures
from stprivacy.evaluation.results import write_results
from tests.unit.evaluation_files import SHARE, made_judgement, tiny_params, write_dataset

RAW, RELEASED = (255, 0, 255), (0, 130, 60)
"""No colour that a plot of ours has."""


class OneColour:
    """A release of clips that all have one colour."""

    def __init__(self, released):
        self.released, self.attributes = released, released.attributes

    def labels(self, split):
        return self.released.labels(split)

    def views(self, split):
        return np.broadcast_to(np.array(RELEASED, np.uint8), self.released.views(split).shape)


def drawn(folder, method, shares=(None,)):
    """(pictures, judgement) of a method whose raw clips are `RAW` and whose releases are `RELEASED`."""
    judgement = made_judgement(folder / "made", method, shares)
    params, target = tiny_params(), folder / "evaluate" / method
    metrics = write_results(judgement, params, target, None)
    sizes = {"train": 3, "val": 3, "test": 12}
    clips = {split: np.broadcast_to(np.array(RAW, np.uint8), (count, 6, 16, 16, 3)) for split, count in sizes.items()}
    actions = {split: np.arange(count) % 3 for split, count in sizes.items()}
    attributes = {split: np.ones((count, 2)) for split, count in sizes.items()}
    shards = write_dataset(folder / "raw", clips, actions, attributes)
    judgement = dataclasses.replace(
        judgement, shards=shards, released={share: OneColour(released) for share, released in judgement.released.items()}
    )
    metrics["attackers"]["privacy-cnn2d"]["ap"]["hat"] = None  # as of an attribute that no test clip has
    return write_pictures(judgement, metrics, params, target)


def shows(path, colour) -> bool:
    with Image.open(path) as picture:
        return bool((np.asarray(picture.convert("RGB")) == colour).all(-1).any())


def test_released_frames_are_drawn_below_raw_ones_and_alone_in_a_picture_of_their_own(tmp_path):
    pictures = drawn(tmp_path, "stprivacy", (SHARE, 0.25))
    folder = tmp_path / "evaluate" / "stprivacy"
    assert pictures == {name: folder / f"{name}.png" for name in ("clips", "released", "attributes")}
    assert shows(pictures["clips"], RAW)
    assert shows(pictures["clips"], RELEASED)
    assert shows(pictures["released"], RELEASED)
    assert not shows(pictures["released"], RAW)
    assert not shows(pictures["attributes"], RAW)
    with np.load(folder / "examples.npz") as examples:
        assert set(examples.files) == {"raw", f"stprivacy, kept share {SHARE:g}", "stprivacy, kept share 0.25"}
        assert (examples["raw"] == RAW).all()


def test_raw_has_a_picture_of_raw_frames_and_none_of_a_release(tmp_path):
    pictures = drawn(tmp_path, "raw")
    folder = tmp_path / "evaluate" / "raw"
    assert pictures == {"clips": folder / "raw.png", "attributes": folder / "attributes.png"}
    assert shows(folder / "raw.png", RAW)
    assert not (folder / "released.png").exists()


def test_the_overview_shows_raw_clips_and_every_method(tmp_path):
    heights = []
    for method in ("raw", "blur", "stprivacy"):
        drawn(tmp_path / method, method)
        (tmp_path / "results" / "evaluate").mkdir(parents=True, exist_ok=True)
        (tmp_path / method / "evaluate" / method).rename(tmp_path / "results" / "evaluate" / method)
        with Image.open(overview(tmp_path / "results", tmp_path / "overview.png")) as picture:
            heights.append(picture.height)
    assert shows(tmp_path / "overview.png", RAW)
    assert shows(tmp_path / "overview.png", RELEASED)
    assert [round(height / heights[0]) for height in heights] == [1, 2, 3]


def test_the_overview_leaves_out_what_another_experiment_left_and_raw_clips_above_all(tmp_path):
    """A run on real people, then `params use vp-synth`, and its first stage."""
    (tmp_path / "results/evaluate").mkdir(parents=True)
    for method in ("raw", "stprivacy"):
        drawn(tmp_path / method, method)
        (tmp_path / method / "evaluate" / method).rename(tmp_path / "results/evaluate" / method)
    path = tmp_path / "results/evaluate/stprivacy/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "another"}))
    overview(tmp_path / "results", tmp_path / "overview.png")
    assert not shows(tmp_path / "overview.png", RELEASED)
    with pytest.raises(UserError, match="no clips there that may be shown"):
        overview(tmp_path / "results", tmp_path / "overview.png", show_raw=False)


def test_the_overview_before_anything_was_judged_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="nothing has been judged yet: run `make repro`"):
        overview(tmp_path, tmp_path / "overview.png")
