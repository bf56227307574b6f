"""VP-Synth: balanced labels, actions that are each other reversed in time, attributes that can be seen, bytes that repeat."""

from dataclasses import astuple
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprivacy.config import VP_ATTRIBUTES, Clip, SyntheticDataset
from stprivacy.data.decode import read_frames
from stprivacy.data.synthetic import ACTIONS, Style, plan, pose_at, render, render_video
from stprivacy.data.video import write_mp4

DEFAULT = SyntheticDataset(name="vp-synth", kind="vp-synth", source="x")
PERSON = (0, 0, 0, 0, 0)
shares = st.floats(0, 1)
styles = st.builds(Style, st.floats(0.85, 1.1), shares, st.booleans(), st.floats(0.15, 0.23))


def film(action: str = "wave", attributes: tuple[int, ...] = PERSON, key: int = 0, num_frames: int = 16) -> np.ndarray:
    return render_video(action, attributes, num_frames, 64, np.random.default_rng(key))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_action_and_attribute_is_balanced_and_independent_of_the_others(split: str) -> None:
    rows = [row for row in plan(DEFAULT) if row["split"] == split]
    columns = {name: np.array([row[name] for row in rows], float) for name in VP_ATTRIBUTES}
    columns |= {action: np.array([row["action"] == action for row in rows], float) for action in ACTIONS}
    assert len(rows) == {"train": 1600, "test": 400}[split]
    assert all(columns[name].mean() == 0.5 for name in VP_ATTRIBUTES)
    assert all(columns[action].mean() == 1 / 8 for action in ACTIONS)
    # Of 50 pairs, the largest correlation of independent columns exceeds 4 standard deviations once in 300 seeds.
    pairs = [pair for pair in combinations(columns, 2) if not set(pair) <= set(ACTIONS)]
    assert max(abs(np.corrcoef(columns[a], columns[b])[0, 1]) for a, b in pairs) < 4 / np.sqrt(len(rows))


def test_train_and_test_and_seeds_share_no_video() -> None:
    films = {split: film(key=seed) for split, seed in (("train", 0), ("test", 1))}
    assert not np.array_equal(films["train"], films["test"])
    assert plan(DEFAULT) == plan(DEFAULT) != plan(DEFAULT.model_copy(update={"seed": 1}))
    assert len({row["file"] for row in plan(DEFAULT)}) == 2000


@given(shares, styles)
def test_paired_actions_are_each_other_reversed_in_time(progress: float, style: Style) -> None:
    for action, reverse in (("raise_arms", "lower_arms"), ("squat_down", "stand_up")):
        assert astuple(pose_at(action, progress, style)) == pytest.approx(astuple(pose_at(reverse, 1 - progress, style)), abs=1e-12)
    assert pose_at("walk_right", progress, style).shift == pytest.approx(pose_at("walk_left", 1 - progress, style).shift, abs=1e-12)


def test_a_clip_at_the_default_frame_step_spans_the_whole_video() -> None:
    assert len(range(0, DEFAULT.num_frames, Clip().frame_step)) == Clip().num_frames


@pytest.mark.parametrize("attribute", range(5))
def test_each_attribute_changes_what_is_seen(attribute: int) -> None:
    other = tuple(int(index == attribute) for index in range(5))
    changes = [np.abs(film(key=key).astype(int) - film(attributes=other, key=key)).max(axis=(0, 3)) > 40 for key in range(8)]
    assert min(change.sum() for change in changes) > 8


def test_the_face_shows_in_some_of_the_frames_only() -> None:
    firsts = set()
    for key in range(10):
        hidden, shown = film("raise_arms", PERSON, key), film("raise_arms", (0, 1, 0, 0, 0), key)
        differs = (np.abs(hidden.astype(int) - shown).max(axis=3) > 40).any(axis=(1, 2))
        assert 0.3 * 16 <= differs.sum() < 16
        firsts.add(int(differs.argmax()))
    assert len(firsts) > 2


def test_the_second_person_stands_still() -> None:
    """Where the two films differ is the second person or the first one moved aside: a still scene differs nowhere in time."""
    still = render_video("squat_down", (0, 0, 0, 0, 1), 16, 64, _NoMotion(3))
    assert np.abs(still.astype(int) - still[:1]).max() <= 40


class _NoMotion(np.random.Generator):
    """Draws that make the first person's action last no time at all."""

    def __init__(self, seed: int):
        super().__init__(np.random.PCG64(seed))

    def uniform(self, low=0.0, high=1.0, size=None):  # type: ignore[no-untyped-def, override]
        if (low, high) == (0.85, 1.0) or (low, high) == (0, 0.15):
            return 0.5
        return super().uniform(low, high, size)


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    frames, draw, seen = film("kick"), np.random.default_rng(), set()
    for _ in range(40):
        # What lies about in memory must not matter: x264's assembly read some of it in a third of such runs.
        rubbish = [draw.integers(0, 256, int(draw.integers(1_000, 400_000)), dtype=np.uint8) for _ in range(3)]
        del rubbish
        write_mp4(tmp_path / "a.mp4", frames, 16, crf=10)
        seen.add((tmp_path / "a.mp4").read_bytes())
    assert len(seen) == 1


def test_the_video_file_holds_what_was_rendered(tmp_path: Path) -> None:
    frames = film("walk_left", (1, 1, 1, 0, 1))
    write_mp4(tmp_path / "a.mp4", frames, 16, crf=10)
    read = read_frames(tmp_path / "a.mp4", 1, 64)
    assert read.shape == frames.shape and np.abs(read.astype(int) - frames).mean() < 6


@pytest.mark.timeout(120)
def test_rendering_in_parallel_or_after_a_stop_gives_the_same_files(tmp_path: Path) -> None:
    small = DEFAULT.model_copy(update={"num_train": 16, "num_test": 16, "num_frames": 4, "size": 32})
    rows = render(small, tmp_path / "one", 1)
    render(small, tmp_path / "two", 2)
    files = {str(row["file"]): (tmp_path / "one" / str(row["file"])).read_bytes() for row in rows}
    assert {name: (tmp_path / "two" / name).read_bytes() for name in files} == files
    assert (tmp_path / "one" / "labels.csv").read_text() == (tmp_path / "two" / "labels.csv").read_text()
    kept, lost = list(files)[:20], list(files)[20:]
    times = {name: (tmp_path / "two" / name).stat().st_mtime_ns for name in kept}
    for name in lost:
        (tmp_path / "two" / name).unlink()
    render(small, tmp_path / "two", 2)
    assert {name: (tmp_path / "two" / name).read_bytes() for name in files} == files
    assert {name: (tmp_path / "two" / name).stat().st_mtime_ns for name in kept} == times
