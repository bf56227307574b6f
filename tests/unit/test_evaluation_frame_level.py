"""Single frames as items: who is one, what is learned of it, whose answers count, and what metrics.json says of them."""

import json
import shutil
from collections import defaultdict

import numpy as np
import pytest
import torch

from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.errors import UserError
from stprivacy.evaluation.floors import floors
from stprivacy.evaluation.frame_level import FRESH, FrameFit, FrameLevel, FrameReading, Items, items_of, predict_frames
from stprivacy.evaluation.judge import judge
from stprivacy.evaluation.metrics import Labels, average_precisions, cmap, macro_f1
from stprivacy.evaluation.released import FrameLabels, Released, release
from stprivacy.evaluation.report import markdown
from stprivacy.evaluation.results import keep_recognizers, write_results
from stprivacy.models.recognizers import FrameCNN
from tests.unit.evaluation_files import (
    ATTACK,
    ATTRIBUTES,
    CLIP,
    attack_job,
    noise_clips,
    one_by_one,
    random_labels,
    release_job,
    tiny_params,
    write_dataset,
)

pytestmark = pytest.mark.timeout(300)  # attackers are trained once for several tests

SIZES = {"train": 40, "val": 20, "test": 24}
NUM_FRAMES = 10
VIEWS = ATTACK.model_copy(update={"num_clips": 3})


def frame_clips(sizes=SIZES):
    """Videos of noise whose attributes change from frame to frame and show in the frames that have them.

    In a third of the test videos the first two frames have no label.
    """
    draw = np.random.default_rng(3)
    clips, of_frames, of_videos = noise_clips(sizes, (NUM_FRAMES, 16, 16)), {}, {}
    for split, frames in clips.items():
        values = draw.integers(0, 2, (len(frames), NUM_FRAMES, len(ATTRIBUTES))).astype(np.int8)
        frames //= 3
        for column, place in enumerate((slice(0, 8), slice(8, 16))):
            frames[:, :, place] += 150 * values[:, :, column, None, None, None].astype(np.uint8)
        if split == "test":
            values[::3, :2] = -1
        of_frames[split], of_videos[split] = values, (values == 1).any(1)
    return clips, of_frames, of_videos


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    clips, of_frames, of_videos = frame_clips()
    actions, _ = random_labels(SIZES)
    return write_dataset(tmp_path_factory.mktemp("frames"), clips, actions, of_videos, of_frames)


@pytest.fixture(scope="module")
def raw(shards, tmp_path_factory):
    return Released(release(release_job(shards, tmp_path_factory.mktemp("cache"), attack=VIEWS)))


# ---------------------------------------------------------------------------------------------------- items


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_release_knows_the_label_of_every_frame_that_its_views_show(shards, raw, split):
    reader = ShardReader(shards, split)
    views = ClipViews(reader, CLIP, *((VIEWS.train_windows, 1) if split == "train" else (VIEWS.num_clips, VIEWS.num_crops)))
    found = raw.frame_labels(split)
    for index in range(len(reader)):
        for view, (start, *_) in enumerate(views.places(index)):
            assert found.frames[index, view].tolist() == list(range(start, start + CLIP.num_frames))
            assert np.array_equal(found.attributes[index, view], frame_clips()[1][split][index, start : start + CLIP.num_frames])


def test_every_labelled_frame_is_one_item_answered_by_the_mean_over_the_views_that_show_it():
    draw = np.random.default_rng(0)
    frames = draw.integers(0, 5, (6, 3, 4))  # shown by several views, or by one twice
    values = draw.integers(-1, 2, (6, 5, 2)).astype(np.int8)
    labels = Labels(np.arange(6) % 3, np.zeros((6, 2)))
    seen = draw.random((6, 3, 4, 2))
    items = Items(labels, FrameLabels(frames, np.stack([video[shown] for video, shown in zip(values, frames, strict=True)])))
    answers = defaultdict(list)
    for place in np.ndindex(frames.shape):
        answers[place[0], frames[place]].append(seen[place])
    expected = {place: np.mean(given, axis=0) for place, given in answers.items() if (values[place] >= 0).all()}
    assert 0 < len(expected) < len(answers)
    order = sorted(expected)
    assert items.answers(seen) == pytest.approx(np.array([expected[place] for place in order]))
    assert items.clips.tolist() == [clip for clip, _ in order]
    assert items.labels.actions.tolist() == [clip % 3 for clip, _ in order]
    assert np.array_equal(items.labels.attributes, [values[place] for place in order])
    assert items.num_unlabelled == len(answers) - len(expected)


def test_clips_without_labels_of_frames_have_no_items(tmp_path):
    sizes = {"train": 3, "val": 3, "test": 3}
    released = Released(release(release_job(write_dataset(tmp_path, noise_clips(sizes), *random_labels(sizes)), tmp_path / "cache")))
    assert released.frame_labels("test") is None
    with np.load(released.folder / "test-labels.npz") as file:
        assert file.files == ["actions", "attributes"]
    with pytest.raises(ValueError, match="whole videos"):
        items_of(released, "test")


def test_a_frame_is_answered_by_itself(raw):
    """As a network answers a clip that is that frame alone, whatever the frames beside it."""
    network = FrameCNN(len(ATTRIBUTES), 4)
    views = np.asarray(raw.views("val"))[:3]
    alone = network(torch.from_numpy(views[2, 1, 3].copy()).permute(2, 0, 1)[None, :, None].float() / 255).sigmoid()
    assert predict_frames(network, views)[2, 1, 3] == pytest.approx(alone.detach().numpy()[0], abs=1e-6)


# ---------------------------------------------------------------------------------------------------- what is learned


def test_training_windows_have_the_labels_of_their_own_frames(raw):
    frames = raw.frame_labels("train").attributes.reshape(-1, CLIP.num_frames, len(ATTRIBUTES))
    assert len(frames) == raw.num_training_rows
    labels = raw.training_labels()
    assert np.array_equal(labels.attributes, frames.mean(1) >= 0.5)
    assert np.array_equal(labels.actions, np.repeat(raw.labels("train").actions, raw.num_training_rows // SIZES["train"]))
    assert raw.labels("train").present.mean() > labels.present.mean()  # nearly all videos have some frame with each


def test_the_loss_of_a_batch_is_that_of_its_labelled_frames(raw, tmp_path):
    fit = FrameFit(attack_job(raw.folder, tmp_path), raw)
    rows = np.array([0, 3, 7])
    fit.of_rows = fit.of_rows.clone()
    fit.of_rows[3, 1, 0] = -1
    clips = raw.training_batch(rows, 0, 0)
    losses = []
    for clip, labels in zip(clips, fit.of_rows[rows], strict=True):
        for frame in range(CLIP.num_frames):
            if (labels[frame] >= 0).all():
                logits = fit.network(clip[None, :, frame : frame + 1])[0]
                losses.append(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[frame].float()).item())
    assert len(losses) == 3 * CLIP.num_frames - 1
    assert fit._loss(rows, 0).item() == pytest.approx(np.mean(losses), rel=1e-5)
    fit.of_rows[rows] = -1
    assert fit._loss(rows, 0).item() == 0


# ---------------------------------------------------------------------------------------------------- judging


def test_val_says_whose_answers_to_frames_count():
    answers = np.zeros((2, 1))
    found = FrameLevel((FrameReading("one", 0.6, answers), FrameReading("other", 0.7, answers)), 1, True)
    assert found.strongest.name == "other"


def experiment():
    attack = {"kinds": ("cnn2d", "frames"), "extra": ("raw-trained",), "action_kind": "cnn2d", "num_clips": 3}
    return tiny_params(**attack, min_epochs=8, max_epochs=8, learning_rate=0.01)


@pytest.fixture(scope="module")
def judged(shards, tmp_path_factory):
    """(judgements, folder of metrics.json) of raw clips and of a filter."""
    folder = tmp_path_factory.mktemp("judged")
    params, found, raw_metrics = experiment(), {}, None
    for method, recognizers in (("raw", None), ("downsample-2", folder / "recognizers")):
        found[method] = judge(method, params, shards, folder / "no-model", folder / "cache", one_by_one, recognizers)
        write_results(found[method], params, folder / method, raw_metrics)
        if method == "raw":
            keep_recognizers(found[method], folder / "recognizers")
        raw_metrics = folder / "raw" / "metrics.json"
    return found, folder


def section(judged, method):
    return json.loads((judged[1] / method / "metrics.json").read_text())["frame_level"]


def test_attributes_that_change_within_a_video_are_found_frame_by_frame(judged):
    found = section(judged, "raw")
    assert found["cmap"] > 0.95
    assert found["cmap"] > found["floors"]["action_only"]["cmap"] + 0.3
    low, high = found["intervals"]["cmap"]
    assert low <= found["cmap"] <= high


def test_the_tables_for_people_show_single_frames_below_the_videos(judged, tmp_path):
    (tmp_path / "evaluate").mkdir()
    for method in ("raw", "downsample-2"):
        shutil.copytree(judged[1] / method, tmp_path / "evaluate" / method)
    text = markdown(tmp_path).split("Single frames, strongest attacker:")[1]
    found = section(judged, "downsample-2")
    assert f"| downsample-2 | {found['strongest_attacker']} | {found['cmap']:.3f} | {found['f1']:.3f} |" in text
    assert text.count("_floor: ") == 3


def test_figures_and_floors_of_frames_are_those_of_their_labels(judged):
    judgement, found = judged[0]["raw"], section(judged, "raw")
    (point,), released = judgement.points, judgement.released[None]
    train, test = (items_of(released, split).labels for split in ("train", "test"))
    answer = point.frame_level.strongest.test
    assert found["cmap"] == pytest.approx(cmap(answer, test.present))
    assert found["f1"] == pytest.approx(macro_f1(answer, test.present))
    assert list(found["ap"].values()) == pytest.approx(average_precisions(answer, test.present))
    assert tuple(found["ap"]) == ATTRIBUTES
    ground = floors(train, test)
    assert {name: floor["cmap"] for name, floor in found["floors"].items()} == {name: floor.cmap for name, floor in ground.items()}
    frames, values = released.frame_labels("test").frames, frame_clips()[1]["test"]
    shown = {(clip, frame) for clip, views in enumerate(frames) for frame in views.ravel()}
    labelled = [place for place in shown if (values[place] >= 0).all()]
    assert (found["num_frames"], found["num_frames_without_labels"]) == (len(labelled), len(shown) - len(labelled))
    assert found["num_frames_without_labels"] > 0


def test_attackers_that_take_frames_by_themselves_answer_them_too_a_bystander_s_as_well(judged):
    fresh = {FRESH, "privacy-cnn2d", "privacy-frames"}
    assert section(judged, "raw")["attackers"].keys() == fresh
    assert section(judged, "downsample-2")["attackers"].keys() == fresh | {"privacy-raw-trained-cnn2d"}
    for method in judged[0]:
        found = section(judged, method)
        scores = {name: attacker["val_score"] for name, attacker in found["attackers"].items()}
        assert found["strongest_attacker"] == max(scores, key=scores.get)


def test_leak_removed_of_frames_counts_from_raw_frames(judged):
    raw, released = section(judged, "raw"), section(judged, "downsample-2")
    chance = raw["floors"]["chance"]["cmap"]
    assert raw["leak_removed"] == 0
    assert released["leak_removed"] == pytest.approx(1 - (released["cmap"] - chance) / (raw["cmap"] - chance))


def test_judging_again_trains_nothing_again(judged, shards, capsys):
    again = judge("raw", experiment(), shards, judged[1] / "no-model", judged[1] / "cache", one_by_one)
    assert capsys.readouterr().out == ""
    mine, theirs = (found.points[0].frame_level.strongest for found in (again, judged[0]["raw"]))
    assert np.array_equal(mine.test, theirs.test)


def test_raw_figures_without_frames_are_no_measure_for_frames(judged, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"privacy": {"cmap": 0.9}}))
    params = tiny_params()
    with pytest.raises(UserError, match="evaluate-raw"):
        write_results(judged[0]["downsample-2"], params, tmp_path / "results", tmp_path / "metrics.json")
