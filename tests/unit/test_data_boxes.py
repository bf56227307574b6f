"""Where people are: files of boxes land where clips were cut, detectors are asked once, and VP-Synth's boxes hold its people."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stprivacy.config import Clip, SyntheticDataset, WeizmannDataset
from stprivacy.data import boxes, synthetic
from stprivacy.data.boxes import BoxViews, find_motion, find_people, read_boxes, resolve_boxes, write_boxes
from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.data.synthetic_boxes import rendered_boxes
from stprivacy.errors import UserError
from stprivacy.evaluation.methods import load_method
from stprivacy.evaluation.released import Released, release
from stprivacy.randomness import keyed_seed
from tests.unit.evaluation_files import noise_clips, random_labels, release_job, write_dataset

SIZES = {"train": 3, "val": 2, "test": 2}
CLIP = Clip(num_frames=4, size=16, frame_step=2)


def dataset(folder, shape=(4, 16, 16)):
    return write_dataset(folder / "data", noise_clips(SIZES, shape), *random_labels(SIZES))


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("frames", "height", "width", "num_clips", "num_crops"), [(9, 16, 30, 2, 3), (9, 24, 16, 3, 3), (3, 16, 16, 1, 1)])
def test_a_box_lies_on_the_pixels_that_it_lay_on_in_the_video(tmp_path, frames, height, width, num_clips, num_crops):
    """Videos that show their own boxes in white: every view's mask is where it is white."""
    draw, rows, videos = np.random.default_rng(0), [], noise_clips(SIZES, (frames, height, width))
    for split, clips in videos.items():
        clips //= 2
        for index, clip in enumerate(clips):
            for time, frame in enumerate(clip):
                for _ in range(draw.integers(0, 3)):  # none, one or two boxes
                    x, y = draw.integers(0, width - 3), draw.integers(0, height - 3)
                    w, h = draw.integers(1, width - x + 1), draw.integers(1, height - y + 1)
                    frame[y : y + h, x : x + w] = 255
                    rows.append((f"{split}{index:04d}.mp4", 2 * time, (x / width, y / height, w / width, h / height)))
    write_boxes(tmp_path / "boxes.csv", rows)
    shards = write_dataset(tmp_path / "data", videos, *random_labels(SIZES))
    for split in SIZES:
        views = ClipViews(ShardReader(shards, split), CLIP, num_clips, num_crops)
        masks = BoxViews(views, str(tmp_path / "boxes.csv"), tmp_path)
        for index in range(len(views)):
            assert np.array_equal(masks[index], (views[index] == 255).all(-1))


def test_a_box_beyond_the_frame_is_cut_off(tmp_path):
    write_boxes(tmp_path / "boxes.csv", [("test0000.mp4", 0, (-0.5, 0.75, 1.0, 1.0))])
    views = ClipViews(ShardReader(dataset(tmp_path), "test"), CLIP, 1, 1)
    mask = BoxViews(views, str(tmp_path / "boxes.csv"), tmp_path)[0][0]
    assert mask[0, 12:, :8].all() and mask.sum() == 4 * 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,frame,x,y,w\na.mp4,0,0,0,1\n", "no column h"),
        ("file,frame,x,y,w,h\na.mp4,0,0,0,1,1\na.mp4,one,0,0,1,1\n", "line 3: frame must be a whole number"),
        ("file,frame,x,y,w,h\na.mp4,0,12,40,64,128\n", "line 2: .* are shares of the frame; divide pixels"),
        ("file,frame,x,y,w,h\na.mp4,0,0,nan,1,1\n", "line 2: .* are shares"),
    ],
)
def test_a_mistake_in_a_boxes_file_is_named_by_its_line(tmp_path, text, said):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_boxes(tmp_path / "boxes.csv")


# ---------------------------------------------------------------------------------------------------- detectors


def moving_square(size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A square that goes over a still, grainy picture, and where it is."""
    draw = np.random.default_rng(0)
    still = draw.integers(60, 120, (size, size, 3))
    frames = np.stack([still + draw.normal(0, 3, still.shape) for _ in range(8)]).clip(0, 255).astype(np.uint8)
    true = np.zeros(frames.shape[:3], bool)
    for time in range(8):
        left = 3 * time
        frames[time, 10:18, left : left + 8] = 250
        true[time, 10:18, left : left + 8] = True
    return frames, true


def test_motion_is_boxed_where_it_is():
    frames, true = moving_square()
    found = find_motion(frames)
    assert (found & true).sum() > 0.9 * true.sum() and (found & ~true).sum() < 0.2 * true.sum()


def test_a_still_picture_has_no_motion():
    frames, _ = moving_square()
    assert not find_motion(np.repeat(frames[:1], 8, axis=0)).any()


def test_a_detector_is_asked_once_for_a_clip(tmp_path, monkeypatch):
    asked = []

    def detector(clip):
        asked.append(clip.shape)
        return np.indices(clip.shape[:3]).sum(0) % 3 == 0

    monkeypatch.setitem(boxes.DETECTORS, "motion", detector)
    views = ClipViews(ShardReader(dataset(tmp_path, (9, 16, 20)), "val"), CLIP, 2, 3)
    first = BoxViews(views, "motion", tmp_path)[0]
    assert len(asked) == 6
    again = BoxViews(views, "motion", tmp_path)[0]
    assert len(asked) == 6
    assert np.array_equal(first, again) and np.array_equal(first[0], np.indices((4, 16, 16)).sum(0) % 3 == 0)


@pytest.mark.skipif(not hasattr(cv2, "HOGDescriptor"), reason="this OpenCV comes without its people detector")
def test_the_detector_finds_nobody_in_a_blank_picture():
    assert not find_people(np.full((2, 48, 48, 3), 128, np.uint8)).any()


OUTLINE = np.array([
    (-3.3, 5), (3.3, 5), (4.2, 14), (3, 14), (2.4, 9), (2.4, 15), (2.8, 27), (1, 27), (0, 17), (-1, 27), (-2.8, 27), (-2.4, 15), (-2.4, 9),
    (-3, 14), (-4.2, 14),
])  # fmt: skip
"""Shoulders, arms and legs of a person who is 27 high, beginning at the crown."""


def someone_standing(middle: float, size: int = 96) -> np.ndarray:
    """A dark person before a bright wall, two thirds of the picture high, at this column."""
    frame = np.full((size, size, 3), 200, np.uint8)
    crown, unit = np.array([middle, 0.15 * size]), 0.7 * size / 27
    cv2.fillPoly(frame, [(crown + unit * OUTLINE).astype(int)], (40, 40, 40))
    cv2.circle(frame, tuple(map(int, crown + (0, 2.2 * unit))), int(2 * unit), (40, 40, 40), -1)
    return frame


@pytest.mark.skipif(not hasattr(cv2, "HOGDescriptor"), reason="this OpenCV comes without its people detector")
def test_the_detector_boxes_who_stands_there_and_follows_them():
    clip = np.stack([someone_standing(30), np.full((96, 96, 3), 200, np.uint8), someone_standing(66)])
    person, found = (clip == 40).all(-1), find_people(clip)
    assert not found[1].any()
    for time in (0, 2):
        assert (found[time] & person[time]).sum() > 0.9 * person[time].sum()
        assert found[time].mean() < 0.6  # and not by covering everything: its boxes are ample, two thirds as wide as the person is high
        assert abs(np.flatnonzero(found[time].any(0)).mean() - np.flatnonzero(person[time].any(0)).mean()) < 6


@pytest.mark.skipif(hasattr(cv2, "HOGDescriptor"), reason="this OpenCV has its people detector")
def test_an_opencv_without_its_detector_says_what_to_install():
    with pytest.raises(UserError, match="this OpenCV has no people detector; install opencv-contrib-python-headless=="):
        find_people(np.zeros((1, 48, 48, 3), np.uint8))


def test_sources_that_are_not_there_are_refused(tmp_path):
    real = WeizmannDataset(kind="weizmann", name="weizmann", source="data/raw/weizmann")
    assert resolve_boxes("motion", real, tmp_path) == "motion"
    with pytest.raises(UserError, match="evaluate.boxes = 'people.csv': no such file"):
        resolve_boxes("people.csv", real, tmp_path)
    with pytest.raises(UserError, match="evaluate.boxes = 'rendered': weizmann was not"):
        resolve_boxes("rendered", real, tmp_path)


# ---------------------------------------------------------------------------------------------------- VP-Synth


def test_rendered_boxes_hold_vp_synth_s_people(monkeypatch):
    """The oracle is the renderer itself, once with people and once without, its draws the same."""
    synth = SyntheticDataset(kind="vp-synth", name="vp-synth", source="x", num_train=16, num_test=16, num_frames=4)
    found = {(file, frame): box for file, frame, box in rendered_boxes(synth)}
    assert len(found) == 32 * 4
    with_people, draw_person = [], synthetic.draw_person
    for row in synthetic.plan(synth):
        arguments = str(row["action"]), tuple(int(str(row[name])) for name in synthetic.VP_ATTRIBUTES), 4, 64
        key = keyed_seed("vp-synth", 0, str(row["file"]))
        shown = synthetic.render_video(*arguments, np.random.default_rng(key))
        monkeypatch.setattr(synthetic, "draw_person", lambda *_: None)
        people = (shown != synthetic.render_video(*arguments, np.random.default_rng(key))).any(-1)
        monkeypatch.setattr(synthetic, "draw_person", draw_person)
        for frame in range(4):
            mask = np.zeros((64, 64), bool)
            boxes._cover(mask, [64 * share for share in found[str(row["file"]), frame]])
            rows, columns = np.flatnonzero(people[frame].any(1)), np.flatnonzero(people[frame].any(0))
            tight = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
            with_people.append(((people[frame] & mask).sum() / people[frame].sum(), mask.sum() / tight))
    covered, size = np.array(with_people).T
    assert covered.min() > 0.9 and covered.mean() > 0.995
    assert size.max() < 1.5  # and not by covering everything


def test_rendered_boxes_are_written_once(tmp_path, monkeypatch):
    synth = SyntheticDataset(kind="vp-synth", name="vp-synth", source="x", num_train=16, num_test=16, num_frames=4)
    path = resolve_boxes("rendered", synth, tmp_path)
    assert len(read_boxes(tmp_path / path)) == 32 * 4
    monkeypatch.setattr(boxes, "write_boxes", None)
    assert resolve_boxes("rendered", synth, tmp_path) == path


# ---------------------------------------------------------------------------------------------------- in a release


def test_a_node_without_the_file_of_rendered_boxes_makes_the_same_one(tmp_path):
    synth = SyntheticDataset(kind="vp-synth", name="vp-synth", source="x", num_train=16, num_test=16, num_frames=4)
    shards = dataset(tmp_path)
    here, there = (release_job(shards, tmp_path / node, "blackening", boxes="rendered", dataset=synth) for node in ("here", "there"))
    assert here.folder.name == there.folder.name
    assert Path(here.boxes_here()).read_bytes() == Path(there.boxes_here()).read_bytes()


def test_blackened_people_are_black_in_what_attackers_get(tmp_path):
    shards = dataset(tmp_path)
    rows = [
        (f"{split}{index:04d}.mp4", frame, (0.25, 0.5, 0.5, 0.5))
        for split, n in SIZES.items()
        for index in range(n)
        for frame in range(0, 8, 2)
    ]
    write_boxes(tmp_path / "boxes.csv", rows)
    job = release_job(shards, tmp_path, "blackening", clip=CLIP, boxes=str(tmp_path / "boxes.csv"))
    released = Released(release(job))
    view = released.views("test")[0, 0]
    assert (view[:, 8:, 4:12] == 0).all() and (view[:, :8] > 0).mean() > 0.9
    training = released.training_batch(np.arange(3), 0, 0)
    assert (training[..., 8:, 4:12] == 0).all() and (training[..., :8, :] > 0).float().mean() > 0.9


def test_other_boxes_are_another_release_and_of_no_matter_to_other_methods(tmp_path):
    shards = dataset(tmp_path)
    for name in ("one", "other"):
        write_boxes(tmp_path / f"{name}.csv", [("test0000.mp4", 0, (0.0, 0.0, 0.5 if name == "one" else 0.6, 1.0))])
    sources = ["motion", "hog", str(tmp_path / "one.csv"), str(tmp_path / "other.csv")]
    assert len({release_job(shards, tmp_path, "weak-blur", boxes=source).folder for source in sources}) == 4
    assert len({release_job(shards, tmp_path, "blur", boxes=source).folder for source in sources}) == 1


def test_a_method_that_hides_boxes_asks_for_them(tmp_path):
    method = load_method("blackening", tmp_path, CLIP, release_job(tmp_path, tmp_path).channel)
    with pytest.raises(UserError, match="blackening: hides people's boxes"):
        method.paint(torch.zeros(1, 3, 4, 16, 16), 1.0)
