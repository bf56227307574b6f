"""Pictures: raw above released for people, released alone for a server that must not see raw frames, and noise that stays on."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from stprivacy.errors import UserError
from stprivacy.evaluation.methods import load_method
from stprivacy.evaluation.overview import overview
from stprivacy.evaluation.pictures import write_pictures
from stprivacy.evaluation.raw_frames import shown_releases
from stprivacy.evaluation.results import write_results
from stprivacy.models.anonymizer import Anonymizer, Painted
from stprivacy.randomness import keyed_normal
from tests.unit.evaluation_files import SHARE, made_judgement, tiny_model, tiny_params, write_dataset

RAW, FILL = (255, 0, 255), (64, 64, 64)
"""No colour that a plot of ours has; and what a tubelet is filled with that `tiny_model` drops."""


def drawn(folder, method, shares=(None,), **changes):
    """The pictures of a method whose raw clips are `RAW`; `changes`: of its params."""
    judgement = made_judgement(folder / "made", method, shares)
    params, target = tiny_params().model_copy(update=changes), folder / "evaluate" / method
    metrics = write_results(judgement, params, target, None)
    sizes = {"train": 3, "val": 3, "test": 12}
    clips = {split: np.broadcast_to(np.array(RAW, np.uint8), (count, 6, 16, 16, 3)) for split, count in sizes.items()}
    actions = {split: np.arange(count) % 3 for split, count in sizes.items()}
    attributes = {split: np.ones((count, 2)) for split, count in sizes.items()}
    shards = write_dataset(folder / "raw", clips, actions, attributes)
    judgement = dataclasses.replace(judgement, shards=shards)
    metrics["attackers"]["privacy-cnn2d"]["ap"]["hat"] = None  # as of an attribute that no test clip has
    return write_pictures(judgement, metrics, params, tiny_model(folder / "model"), target)


def shows(path, colour) -> bool:
    with Image.open(path) as picture:
        return bool((np.asarray(picture.convert("RGB")) == colour).all(-1).any())


def test_released_frames_are_drawn_below_raw_ones_and_alone_in_a_picture_of_their_own(tmp_path):
    pictures = drawn(tmp_path, "stprivacy", (SHARE, 0.25))
    folder = tmp_path / "evaluate" / "stprivacy"
    assert pictures == {name: folder / f"{name}.png" for name in ("clips", "released", "attributes")}
    assert shows(pictures["clips"], RAW)
    assert shows(pictures["clips"], FILL)
    assert shows(pictures["released"], FILL)
    assert not shows(pictures["released"], RAW)
    assert not shows(pictures["attributes"], RAW)
    with np.load(folder / "examples.npz") as examples:
        releases = {f"stprivacy, kept share {SHARE:g}", "stprivacy, kept share 0.25"}
        assert set(examples.files) == {"raw", "repainted", *releases}
        assert set(examples["repainted"].tolist()) == releases
        assert (examples["raw"] == RAW).all()


def test_raw_has_a_picture_of_raw_frames_and_none_of_a_release(tmp_path):
    pictures = drawn(tmp_path, "raw")
    folder = tmp_path / "evaluate" / "raw"
    assert pictures == {"clips": folder / "raw.png", "attributes": folder / "attributes.png"}
    assert shows(folder / "raw.png", RAW)
    assert not (folder / "released.png").exists()


def test_the_noise_of_pictures_is_not_the_one_that_figures_repeat(tmp_path):
    """Who has this code has the key of the releases that attackers read, and with it the frames under the noise."""
    params = tiny_params()
    drawn(tmp_path, "noise", channel=params.channel.model_copy(update={"noise": 0.2}))
    with np.load(tmp_path / "evaluate" / "noise" / "examples.npz") as examples:
        raw, noisy = examples["raw"] / 255.0, examples["noise"] / 255.0
    inside = (noisy > 0) & (noisy < 1)  # where it wasn't cut off
    known = keyed_normal((3, 4, 16, 16), ("release", "test"), range(len(raw))).permute(0, 2, 3, 4, 1).numpy()
    assert inside.mean() > 0.4
    assert (noisy - raw)[inside].std() > 0.08
    assert abs(np.corrcoef((noisy - raw)[inside], known[inside])[0, 1]) < 0.05


@pytest.mark.parametrize(
    "method", ["blackening", "blur", "noise", "downsample-2", "sparsification alone", "a network that repeats its input"]
)
def test_a_release_that_can_hold_raw_frames_is_in_no_picture_for_a_server(tmp_path, monkeypatch, method):
    if method == "sparsification alone":
        monkeypatch.setattr(Anonymizer, "forward", lambda self, clips, ratio: Painted(clips, None))
    elif method == "a network that repeats its input":
        monkeypatch.setattr(Anonymizer, "forward", lambda self, clips, ratio: Painted(clips * 0.95, None))
    learned = " " in method
    params = tiny_params()
    evaluate = params.evaluate.model_copy(update={"boxes": "motion"})  # nothing moves, so nobody is found
    monkeypatch.chdir(tmp_path)
    pictures = drawn(tmp_path, "stprivacy" if learned else method, (SHARE,) if learned else (None,), evaluate=evaluate)
    assert set(pictures) == {"clips", "attributes"}
    assert not list(tmp_path.rglob("released.png"))
    (found,) = tmp_path.glob("evaluate/*/examples.npz")
    with np.load(found) as examples:
        assert not examples["repainted"].size
        assert shown_releases(examples, raw_allowed=False) == {}
        assert len(shown_releases(examples, raw_allowed=True)) == 1


def test_a_model_that_only_drops_counts_as_raw_by_its_configuration(tmp_path):
    method = load_method("stprivacy", tiny_model(tmp_path), tiny_params().clip, tiny_params().channel)
    assert method.repaints
    method.anonymizer.config = method.anonymizer.config.model_copy(update={"repaint": False})
    assert not method.repaints


def test_examples_of_an_earlier_version_count_as_raw(tmp_path):
    np.savez(tmp_path / "examples.npz", raw=np.zeros(1), stprivacy=np.ones(1))
    with np.load(tmp_path / "examples.npz") as examples:
        assert shown_releases(examples, raw_allowed=False) == {}
        assert list(shown_releases(examples, raw_allowed=True)) == ["stprivacy"]


def test_the_overview_of_people_whom_nobody_asked_has_no_filters(tmp_path):
    for method, shares in (("raw", (None,)), ("blur", (None,)), ("stprivacy", (SHARE,))):
        drawn(tmp_path / method, method, shares)
        (tmp_path / "results" / "evaluate").mkdir(parents=True, exist_ok=True)
        (tmp_path / method / "evaluate" / method).rename(tmp_path / "results" / "evaluate" / method)
    overview(tmp_path / "results", tmp_path / "overview.png", raw_allowed=False)
    assert shows(tmp_path / "overview.png", FILL)
    assert not shows(tmp_path / "overview.png", RAW)


def test_the_overview_shows_raw_clips_and_every_method(tmp_path):
    heights = []
    for method, shares in (("raw", (None,)), ("blur", (None,)), ("stprivacy", (SHARE,))):
        drawn(tmp_path / method, method, shares)
        (tmp_path / "results" / "evaluate").mkdir(parents=True, exist_ok=True)
        (tmp_path / method / "evaluate" / method).rename(tmp_path / "results" / "evaluate" / method)
        with Image.open(overview(tmp_path / "results", tmp_path / "overview.png")) as picture:
            heights.append(picture.height)
    assert shows(tmp_path / "overview.png", RAW)
    assert shows(tmp_path / "overview.png", FILL)
    assert [round(height / heights[0]) for height in heights] == [1, 2, 3]


def test_the_overview_leaves_out_what_another_experiment_left_and_raw_clips_above_all(tmp_path):
    """A run on real people, then `params use vp-synth`, and its first stage."""
    (tmp_path / "results/evaluate").mkdir(parents=True)
    for method, shares in (("raw", (None,)), ("stprivacy", (SHARE,))):
        drawn(tmp_path / method, method, shares)
        (tmp_path / method / "evaluate" / method).rename(tmp_path / "results/evaluate" / method)
    path = tmp_path / "results/evaluate/stprivacy/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "another"}))
    overview(tmp_path / "results", tmp_path / "overview.png")
    assert not shows(tmp_path / "overview.png", FILL)
    with pytest.raises(UserError, match="no clips there that may be shown"):
        overview(tmp_path / "results", tmp_path / "overview.png", show_raw=False)


def test_the_overview_before_anything_was_judged_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="nothing has been judged yet: run `make repro`"):
        overview(tmp_path, tmp_path / "overview.png")
