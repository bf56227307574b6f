"""Clips out of shards: exactly the frames asked for, augmentation that depends on its key alone, fixed views."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stprivacy.config import Clip
from stprivacy.data.clips import ClipViews, ShardReader, TrainingClips, epoch_order
from stprivacy.data.shards import write_shards
from stprivacy.errors import UserError
from tests.unit.test_data_shards import random_clips, write_clips

SHAPES = ((12, 8, 11), (5, 9, 6), (1, 7, 7), (16, 6, 6))


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    return random_clips(*SHAPES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clips: dict[str, np.ndarray]) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_shards(write_clips(root / "clips", clips, ("train",)), root / "shards", 1)
    return root / "shards"


@pytest.fixture(scope="module")
def reader(folder: Path) -> ShardReader:
    return ShardReader(folder, "train")


def test_labels_and_sizes_stand_in_the_order_of_the_keys(reader: ShardReader) -> None:
    assert reader.keys == ["clip0", "clip1", "clip2", "clip3"] and len(reader) == 4
    assert reader.actions.tolist() == [0, 1, 0, 1] and reader.actions.dtype == np.int64
    assert reader.attributes.tolist() == [[1], [0], [0], [1]] and reader.attributes.dtype == np.float32
    assert reader.num_frames.tolist() == [shape[0] for shape in SHAPES]
    assert (reader.info.name, reader.info.actions, reader.info.attributes) == ("tiny", ("run", "walk"), ("hat",))


@settings(max_examples=200)
@given(st.integers(0, 3), st.integers(0, 15), st.integers(1, 20))
def test_a_window_is_a_slice_of_the_video_and_a_short_video_is_looped(
    reader: ShardReader, clips: dict[str, np.ndarray], index: int, start: int, num_frames: int
) -> None:
    video = clips[f"clip{index}"]
    start %= len(video)
    window = reader.read(index, start, num_frames)
    expected = np.concatenate([video] * (1 + (start + num_frames) // len(video)))[start : start + num_frames]
    assert window.dtype == np.uint8 and np.array_equal(window, expected)


def test_nothing_behind_the_window_is_read(tmp_path: Path) -> None:
    video = random_clips((10, 4, 4))
    write_shards(write_clips(tmp_path / "clips", video, ("train",)), tmp_path / "shards", 1)
    reader = ShardReader(tmp_path / "shards", "train")
    row = reader.rows[0]
    os.truncate(tmp_path / "shards" / row["shard"], row["offset"] + row["length"] - 3 * 4 * 4 * 3)
    assert np.array_equal(reader.read(0, 2, 5), video["clip0"][2:7])
    with pytest.raises(UserError, match=r"train-00000\.tar: ends within clip0\.npy"):
        reader.read(0, 3, 5)


def test_a_split_without_clips_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="no test clips"):
        ShardReader(folder, "test")


# ------------------------------------------------------------------------------------------------ training clips

CLIP = Clip(num_frames=4, size=5, frame_step=1, flip=True)


def found_in(crop: np.ndarray, video: np.ndarray) -> list[tuple[int, int, int, bool]]:
    """Every (start, top, left, flipped) at which a clip (T, S, S, 3) stands in a video, by trying them all."""
    num_frames, size = crop.shape[0], crop.shape[1]
    looped = video if len(video) >= num_frames else np.concatenate([video] * num_frames)[:num_frames]
    return [
        (start, top, left, flipped)
        for start in range(len(looped) - num_frames + 1)
        for top in range(video.shape[1] - size + 1)
        for left in range(video.shape[2] - size + 1)
        for flipped in (False, True)
        if np.array_equal(crop[:, :, ::-1] if flipped else crop, looped[start : start + num_frames, top : top + size, left : left + size])
    ]


def test_all_frames_of_a_clip_share_window_crop_and_flip_and_all_places_come_up(reader: ShardReader, clips: dict[str, np.ndarray]) -> None:
    training = TrainingClips(reader, CLIP, seed=0)
    for index in range(4):
        places = [found_in(training[epoch, index]["clip"], clips[f"clip{index}"]) for epoch in range(60)]
        assert all(len(place) == 1 for place in places)  # noise stands at one place only
        seen = {place[0] for place in places}
        assert {flipped for *_, flipped in seen} == {False, True}
        starts = max(1, len(clips[f"clip{index}"]) - 4 + 1)
        assert {start for start, *_ in seen} <= set(range(starts)) and len({start for start, *_ in seen}) > starts / 2


def test_without_flip_no_clip_is_mirrored(reader: ShardReader, clips: dict[str, np.ndarray]) -> None:
    training = TrainingClips(reader, CLIP.model_copy(update={"flip": False}), seed=0)
    assert not any(found_in(training[epoch, 0]["clip"], clips["clip0"])[0][3] for epoch in range(30))


def test_augmentation_depends_on_seed_epoch_and_clip_and_not_on_order_or_worker(reader: ShardReader) -> None:
    training = TrainingClips(reader, CLIP, seed=3)
    keys = [(epoch, index) for epoch in range(3) for index in range(4)]
    forward = {key: training[key]["clip"] for key in keys}
    assert all(np.array_equal(training[key]["clip"], forward[key]) for key in reversed(keys))
    loaded = DataLoader(training, batch_size=2, sampler=keys, num_workers=2)  # type: ignore[arg-type]
    for first, batch in zip(range(0, len(keys), 2), loaded, strict=True):
        assert all(np.array_equal(batch["clip"][i].numpy(), forward[keys[first + i]]) for i in range(2))
        assert batch["index"].tolist() == [index for _, index in keys[first : first + 2]]
    assert any(not np.array_equal(TrainingClips(reader, CLIP, seed=4)[key]["clip"], forward[key]) for key in keys)
    assert any(not np.array_equal(forward[0, index], forward[1, index]) for index in range(4))


# ------------------------------------------------------------------------------------------------ views


def test_one_view_is_the_middle_of_the_video(reader: ShardReader, clips: dict[str, np.ndarray]) -> None:
    views = ClipViews(reader, CLIP, num_clips=1, num_crops=1)[0]
    assert np.array_equal(views, clips["clip0"][None, 4:8, 1:6, 3:8])


def test_three_crops_go_along_the_longer_side_from_end_to_end(reader: ShardReader, clips: dict[str, np.ndarray]) -> None:
    wide = ClipViews(reader, CLIP, num_clips=2, num_crops=3)[0]  # 8 × 11, 12 frames
    expected = [clips["clip0"][start : start + 4, 1:6, left : left + 5] for start in (2, 6) for left in (0, 3, 6)]
    assert np.array_equal(wide, np.stack(expected))
    tall = ClipViews(reader, CLIP, num_clips=1, num_crops=3)[1]  # 9 × 6, 5 frames
    assert np.array_equal(tall, np.stack([clips["clip1"][0:4, top : top + 5, 0:5] for top in (0, 2, 4)]))


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (5, 3), (2, 2)])
def test_views_repeat_and_have_one_shape_for_every_video(reader: ShardReader, num_clips: int, num_crops: int) -> None:
    views = ClipViews(reader, CLIP, num_clips, num_crops)
    for index in range(len(views)):
        assert views[index].shape == (num_clips * num_crops, 4, 5, 5, 3) and views[index].dtype == np.uint8
        assert np.array_equal(views[index], views[index])


@given(st.integers(1, 300), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_visits_every_clip_once_in_an_order_of_its_own(num_clips: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_clips, seed, epoch)
    assert order.dtype == np.int64 and sorted(order) == list(range(num_clips))
    assert np.array_equal(order, epoch_order(num_clips, seed, epoch))
    if num_clips > 20:
        assert not np.array_equal(order, epoch_order(num_clips, seed, epoch + 1))
        assert not np.array_equal(order, epoch_order(num_clips, seed + 1, epoch))
