"""Labels of frames, from PA-HMDB51's files to the labels of clips: spans say what the frames say, and a clip is labelled by its own."""

import json
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stprivacy.config import VP_ATTRIBUTES, Clip, PADataset, Preprocess
from stprivacy.data.clips import ClipViews, ShardReader, TrainingClips
from stprivacy.data.frame_labels import every_nth, prevailing, spans_of, values_of
from stprivacy.data.preprocess import preprocess
from stprivacy.data.shards import read_index, write_shards
from tests.unit.data_files import grey_video
from tests.unit.test_data_shards import random_clips, write_clips

CLIP = Clip(num_frames=4, size=32, frame_step=2)
NUM_FRAMES = 12
LEVELS = 20
"""Grey levels from a frame of `grey_video` to the next."""

on_a_loaded_machine = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
values = arrays(np.int8, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=st.integers(-1, 1))


@on_a_loaded_machine
@given(values)
def test_spans_say_what_every_frame_says(values: np.ndarray) -> None:
    spans = [spans_of(column) for column in values.T]
    assert np.array_equal(values_of(spans, len(values)), values)
    for of_attribute in spans:
        assert all(first <= last for first, last, _ in of_attribute)
        assert all(before[1] < after[0] for before, after in pairwise(of_attribute))


@on_a_loaded_machine
@given(values, st.integers(1, 5), st.integers(0, 14))
def test_spans_of_kept_frames_are_those_of_the_frames_that_were_kept(values: np.ndarray, step: int, num_frames: int) -> None:
    kept = values[::step][:num_frames]
    found = values_of([every_nth(spans_of(column), step, num_frames) for column in values.T], num_frames)
    assert np.array_equal(found[: len(kept)], kept)
    assert (found[len(kept) :] == -1).all()  # a video that is longer than its labels


def test_a_clip_is_what_most_of_its_labelled_frames_are() -> None:
    frames = np.array([[1, 1, 0, -1], [0, 0, 0, -1], [0, 1, 0, -1], [-1, 0, 1, -1]], np.int8)
    assert prevailing(frames, np.array([1, 0, 1, 1])).tolist() == [0, 1, 0, 1]  # half is enough; without labels the video's value
    assert prevailing(np.stack([frames, frames]), np.zeros((2, 4))).tolist() == [[0, 1, 0, 0]] * 2


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder after preprocess and shard of eight videos, and their labels in the published form, by video.

    A video's face shows in its last five frames, and skin_color has no label in its first two; one video is longer than its labels.
    """
    folder = tmp_path_factory.mktemp("pa")
    (folder / "labels").mkdir()
    published: dict = {}
    for action in ("kick", "wave"):
        of_class = {}
        for number in range(4):
            name = f"film{number}_{action}_f_cm_np1_fr_med_0"
            last = NUM_FRAMES - 1 if (action, number) != ("kick", 0) else NUM_FRAMES - 3
            of_class[f"{name}.avi"] = {attribute: [[0, last, 0]] for attribute in VP_ATTRIBUTES} | {
                "face": [[0, 6, 0], [7, last, 2]], "skin_color": [[2, last, [1, 3]]], "review": True, "note": "",
            }  # fmt: skip
            grey_video(folder / "videos" / action / f"{name}.mp4", NUM_FRAMES)
            published[f"{action}_{name}"] = of_class[f"{name}.avi"]
        (folder / "labels" / f"{action}.json").write_text(json.dumps(of_class))
    dataset = PADataset(name="pa", kind="pa-hmdb51", source=str(folder / "videos"), annotations=str(folder / "labels"), val_share=0.3)
    preprocess(dataset, CLIP, Preprocess(short_side=32), folder / "clips", folder / "cache")
    write_shards(folder / "clips", folder / "shards", 1)
    return folder, published


def value_at(published: dict, attribute: str, frame: int) -> int:
    """What the published label says of a frame of the file: 1, 0, or −1 for nothing."""
    found = [np.any(np.array(value) != 0) for first, last, value in published[attribute] if first <= frame <= last]
    return int(found[0]) if found else -1


def test_the_index_keeps_the_published_labels_of_the_frames_that_were_kept(annotated: tuple[Path, dict]) -> None:
    folder, published = annotated
    rows = read_index(folder / "shards")
    assert len(rows) == 8
    for row in rows:
        assert row["num_frames"] == 6
        found = values_of(row["frame_labels"], 6)
        expected = [[value_at(published[row["key"]], name, 2 * frame) for name in VP_ATTRIBUTES] for frame in range(6)]
        assert found.tolist() == expected
        with tarfile.open(folder / "shards" / row["shard"]) as tar:
            assert json.load(tar.extractfile(f"{row['key']}.json"))["frame_labels"] == row["frame_labels"]  # type: ignore[arg-type]


def test_the_report_names_videos_of_which_frames_have_no_label(annotated: tuple[Path, dict]) -> None:
    findings = json.loads((annotated[0] / "clips" / "report.json").read_text())["findings"]
    assert findings["videos of which some frames have no label"]["count"] == 8


def test_a_training_clip_is_labelled_by_its_own_frames(annotated: tuple[Path, dict]) -> None:
    folder, published = annotated
    reader = ShardReader(folder / "shards", "train")
    clips, seen = TrainingClips(reader, CLIP, seed=0), set()
    for epoch in range(20):
        for index, key in enumerate(reader.keys):
            item = clips[epoch, index]
            shown = np.round(item["clip"].mean((1, 2, 3)) / LEVELS).astype(int)  # which frames of the file, read off the pixels
            faces = [value_at(published[key], "face", frame) for frame in shown]
            assert item["attributes"][VP_ATTRIBUTES.index("face")] == (faces.count(1) >= faces.count(0))
            assert item["attributes"].dtype == np.float32
            seen.add(float(item["attributes"][1]))
    assert seen == {0.0, 1.0}
    assert (reader.attributes[:, 1] == 1).all()  # somebody who watches the whole video sees every face


def test_a_view_names_the_frames_that_it_shows_also_of_a_short_video(annotated: tuple[Path, dict]) -> None:
    reader = ShardReader(annotated[0] / "shards", "test")
    for num_frames, num_crops in ((4, 2), (8, 1)):
        views = ClipViews(reader, Clip(num_frames=num_frames, size=32, frame_step=2), 3, num_crops)
        for index in range(len(reader)):
            shown = np.round(views[index].mean((2, 3, 4)) / (2 * LEVELS)).astype(int)
            assert np.array_equal(views.frames(index), shown)


def test_a_data_set_without_labels_of_frames_has_nothing_of_them_in_its_files(tmp_path: Path) -> None:
    write_shards(write_clips(tmp_path / "clips", random_clips(*[(4, 6, 8)] * 6)), tmp_path / "shards", 1)
    for row in read_index(tmp_path / "shards"):
        assert row.keys() == {
            "key", "file", "split", "group", "action", "attributes", "num_frames", "height", "width",
            "shard", "member", "offset", "length", "sha256",
        }  # fmt: skip
        with tarfile.open(tmp_path / "shards" / row["shard"]) as tar:
            content = tar.extractfile(f"{row['key']}.json").read()  # type: ignore[union-attr]
        assert content == json.dumps({name: row[name] for name in ("action", "attributes", "file")}).encode()
    reader = ShardReader(tmp_path / "shards", "train")
    assert reader.frame_labels is None
    assert np.array_equal(reader.attributes_of(1, 0, 4), reader.attributes[1])
    assert np.array_equal(reader.prevailing_attributes(), reader.attributes)
