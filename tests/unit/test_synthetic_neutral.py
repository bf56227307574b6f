"""The neutral video: the motion of a rendered video, and nothing of who performed it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from stprivacy.config import VP_ATTRIBUTES, SyntheticDataset
from stprivacy.data import synthetic
from stprivacy.data.synthetic import ACTIONS, NEUTRAL_BACKGROUND, draw_scene, neutral_video, neutral_video_of, plan, render_video

DATASET = SyntheticDataset(name="vp-synth", kind="vp-synth", source="x", num_train=64, num_test=16)
PERSON = (0, 0, 0, 0, 0)
ALONE, ACCOMPANIED = PERSON, (0, 0, 0, 0, 1)
SIZE = 48


def neutral(action: str = "wave", attributes: tuple[int, ...] = PERSON, key: int = 0, num_frames: int = 8) -> np.ndarray:
    return neutral_video(action, attributes, num_frames, SIZE, np.random.default_rng(key))


def of_row(row: dict[str, object], frames: list[int] | range) -> np.ndarray:
    attributes = tuple(int(str(row[name])) for name in VP_ATTRIBUTES)
    return neutral_video_of(str(row["file"]), str(row["action"]), attributes, DATASET, frames, SIZE)


@pytest.mark.parametrize("action", ACTIONS)
def test_it_is_a_grey_figure_that_moves(action: str) -> None:
    video = neutral(action)
    assert video.shape == (8, SIZE, SIZE) and video.dtype == np.uint8
    assert video.min() == NEUTRAL_BACKGROUND and 200 < video.max() <= 230
    assert all((frame != following).sum() > 5 for frame, following in pairwise(video))


@pytest.mark.parametrize("attribute", range(4))
def test_attributes_of_the_person_do_not_show(attribute: int) -> None:
    other = tuple(int(index == attribute) for index in range(5))
    for key in range(4):  # these attributes change no draw, so the motion is the same
        assert np.array_equal(neutral("walk_left", other, key), neutral("walk_left", PERSON, key))


def test_nor_does_anything_of_the_scene_but_its_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bystander changes which draws follow; so the two scenes are given one motion here, and differ in all else."""
    alone, accompanied = (draw_scene(who, SIZE, np.random.default_rng(7)) for who in (ALONE, ACCOMPANIED))
    assert alone.bystander is None and accompanied.bystander is not None
    same = replace(accompanied, style=replace(alone.style, amplitude=0.9, stride=0.16), begin=alone.begin, end=alone.end)
    videos = []
    for scene in (alone, same):
        monkeypatch.setattr(synthetic, "draw_scene", lambda *_, scene=scene: scene)
        videos.append([neutral(action) for action in ACTIONS])
    assert np.array_equal(*videos)


@pytest.mark.parametrize(
    ("action", "top", "bottom"),
    [("raise_arms", 0.88, 1), ("lower_arms", 0.88, 1), ("wave", 0.88, 1), ("squat_down", 0, 0.36), ("stand_up", 0, 0.36)],
)
def test_no_second_figure_is_seen(action: str, top: float, bottom: float) -> None:
    """Where the figure's feet are, and in a squat, where knees splay, its head: a bystander's are further from the middle."""
    for key in range(4):
        scene = draw_scene(ACCOMPANIED, SIZE, np.random.default_rng(key))
        assert scene.bystander is not None and abs(scene.bystander[0].x - 0.5) > 0.2
        rows = neutral(action, ACCOMPANIED, key)[:, int(top * SIZE) : int(bottom * SIZE)]
        assert (rows > NEUTRAL_BACKGROUND).any()
        assert (rows[:, :, : int(0.32 * SIZE)] == NEUTRAL_BACKGROUND).all()
        assert (rows[:, :, int(0.68 * SIZE) :] == NEUTRAL_BACKGROUND).all()


def test_videos_of_one_action_differ_by_the_motion_s_own_draws_alone() -> None:
    """Phase, handedness, begin and end: with those made equal, the videos of two files are one."""
    scenes = [draw_scene(PERSON, SIZE, np.random.default_rng(key)) for key in (1, 2)]
    for action in ACTIONS:
        one, other = (synthetic._neutral_frames(action, scene, range(4), 4, SIZE) for scene in scenes)
        assert not np.array_equal(one, other)
        motion = {"phase": scenes[0].style.phase, "left_handed": scenes[0].style.left_handed}
        made_equal = replace(scenes[1], style=replace(scenes[1].style, **motion), begin=scenes[0].begin, end=scenes[0].end)
        assert np.array_equal(synthetic._neutral_frames(action, made_equal, range(4), 4, SIZE), one)


def test_the_motion_is_that_of_the_rendered_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase, hand, begin and end are read off the poses that both hand to the drawing."""
    seen: list[tuple[float, float, bool]] = []
    pose_at = synthetic.pose_at

    def watched(action: str, progress: float, style: synthetic.Style) -> synthetic.Pose:
        seen.append((progress, style.phase, style.left_handed))
        return pose_at(action, progress, style)

    monkeypatch.setattr(synthetic, "pose_at", watched)
    render_video("wave", ACCOMPANIED, 8, SIZE, np.random.default_rng(3))
    neutral("wave", ACCOMPANIED, 3)
    assert len(seen) == 16 and seen[:8] == seen[8:]


def test_a_file_s_neutral_video_replays_the_draws_of_that_file() -> None:
    for row in plan(DATASET)[::9]:
        key = synthetic.keyed_seed("vp-synth", DATASET.seed, str(row["file"]))
        attributes = tuple(int(str(row[name])) for name in VP_ATTRIBUTES)
        whole = neutral_video(str(row["action"]), attributes, DATASET.num_frames, SIZE, np.random.default_rng(key))
        assert np.array_equal(of_row(row, range(DATASET.num_frames)), whole)
        assert np.array_equal(of_row(row, [14, 0, 3, 3]), whole[[14, 0, 3, 3]])
    assert of_row(plan(DATASET)[0], []).shape == (0, SIZE, SIZE)


@pytest.mark.parametrize("frames", [[-1], [0, 16]])
def test_frames_that_the_video_lacks_are_named(frames: list[int]) -> None:
    with pytest.raises(ValueError, match="frames 0 … 15"):
        of_row(plan(DATASET)[0], frames)
