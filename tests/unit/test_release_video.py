"""Any video in, any video out, and nothing of the original but what the anonymizer painted."""

import os
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprivacy.data.decode import read_frames
from stprivacy.errors import RunError, UserError
from stprivacy.release.model import load_folder
from stprivacy.release.tiles import fitted_size
from stprivacy.release.video import FORMATS, Settings, anonymize_video, opened, shown_size
from tests.unit.release_files import CLIP, SECRET, make_video, marker_model, noisy_frames, numbered_frames, read_video, small_model

WHOLE = Settings(1.0)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(8, 40), width=st.integers(8, 40), num_frames=st.integers(1, 19))
def test_nothing_of_the_input_survives_an_anonymizer_that_paints_nothing(tmp_path_factory, height, width, num_frames):
    folder = tmp_path_factory.mktemp("video")
    height, width = 2 * height, 2 * width
    video = make_video(folder / "in.mp4", noisy_frames(num_frames, height, width))
    model = marker_model(0.0)
    report = anonymize_video(video, folder / "out.mp4", model, WHOLE)
    shown = read_video(folder / "out.mp4")
    assert shown.max() <= 2  # every pixel of every frame, border and padding included; the codec may round
    rows, columns = fitted_size(height, width, CLIP.size)
    assert shown.shape == (-(-num_frames // CLIP.frame_step), rows + rows % 2, columns + columns % 2, 3)
    assert report.frames_out == len(shown)
    num_windows = -(-len(shown) // CLIP.num_frames)
    assert sum(map(len, model.anonymizer.seen)) == num_windows * report.num_tiles  # no tile of any window was passed by


def test_what_the_anonymizer_sees_is_what_preprocess_gives(tmp_path):
    video = make_video(tmp_path / "in.mp4", noisy_frames(9, 64, 128))
    model = marker_model(0.0)
    anonymize_video(video, tmp_path / "out.mp4", model, WHOLE)
    left, right = np.concatenate(model.anonymizer.seen).reshape(2, 2, -1, CLIP.size, CLIP.size, 3).swapaxes(0, 1)  # windows of two tiles
    seen = np.concatenate([left.reshape(-1, *left.shape[2:]), right.reshape(-1, *right.shape[2:])], axis=2)[:5]
    expected = read_frames(video, CLIP.frame_step, CLIP.size)  # decord converts colours by other rounding than PyAV
    assert np.abs(seen - expected.astype(float)).mean() < 2


def test_frames_keep_their_order_and_their_pace(tmp_path):
    video = make_video(tmp_path / "in.mp4", numbered_frames(23, 32, 48), rate=Fraction(30000, 1001))
    report = anonymize_video(video, tmp_path / "out.mkv", marker_model(None), Settings(1.0, crf=1))
    levels = read_video(tmp_path / "out.mkv").mean((1, 2, 3))
    assert np.abs(levels - 4 * np.arange(0, 23, CLIP.frame_step)).max() < 4
    assert (report.frames_in, report.frames_out, report.rate) == (23, 12, Fraction(15000, 1001))
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(15000 / 1001, rel=0.01)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_suffix_that_is_offered_can_be_written_and_read(tmp_path, suffix):
    video = make_video(tmp_path / "in.mp4", numbered_frames(11, 32, 50))
    target = tmp_path / f"out{suffix}"
    report = anonymize_video(video, target, marker_model(None), WHOLE)
    shown = read_video(target)
    assert (shown.shape[0], shown.shape[2], shown.shape[1]) == (6, *report.size)
    assert np.abs(shown.mean((1, 2, 3)) - 4 * np.arange(0, 11, 2)).max() < 20  # gif has 256 colours


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_sound_and_metadata_stay_behind(tmp_path, suffix):
    video = make_video(tmp_path / "in.mp4", noisy_frames(8, 32, 32), sound=True)
    assert SECRET.encode() in video.read_bytes()
    target = tmp_path / f"out{suffix}"
    report = anonymize_video(video, target, marker_model(0.5), WHOLE)
    assert report.left_out == ("audio",)
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert SECRET not in str([container.metadata, container.streams[0].metadata])
    assert SECRET.encode() not in target.read_bytes()
    assert b"in.mp4" not in target.read_bytes()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_video_that_a_telephone_turned_comes_out_upright(tmp_path, rotation):
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :16, :32] = 255
    video = make_video(tmp_path / "in.mp4", frames, rotation=rotation)
    anonymize_video(video, tmp_path / "out.mp4", marker_model(None), WHOLE)
    reader = cv2.VideoCapture(str(video))  # it turns frames by itself
    expected = reader.read()[1]
    reader.release()
    shown = read_video(tmp_path / "out.mp4")[0]
    assert np.abs(shown.astype(int) - cv2.resize(expected, shown.shape[1::-1], interpolation=cv2.INTER_AREA)).mean() < 15


def test_two_releases_of_a_video_have_other_noise(tmp_path):
    model = load_folder(small_model(tmp_path / "model"), "small")
    video = make_video(tmp_path / "in.mp4", noisy_frames(20, 32, 80))
    for name in ("a", "b"):
        anonymize_video(video, tmp_path / f"{name}.mp4", model, Settings(1.0, crf=1))
    one, other = (read_video(tmp_path / f"{name}.mp4").astype(int) for name in ("a", "b"))
    assert np.abs(one - other).mean() > 5


def test_windows_and_tiles_of_a_still_video_get_noise_of_their_own(tmp_path):
    model = load_folder(small_model(tmp_path / "model"), "small")
    video = make_video(tmp_path / "in.mp4", np.full((32, 32, 64, 3), 128, np.uint8))
    anonymize_video(video, tmp_path / "out.mp4", model, Settings(1.0, crf=1))
    shown = read_video(tmp_path / "out.mp4").astype(int)
    first, second = shown[: CLIP.num_frames], shown[CLIP.num_frames : 2 * CLIP.num_frames]
    assert np.abs(first - second).mean() > 5
    assert np.abs(first[:, :, :16] - first[:, :, 16:]).mean() > 5


def test_height_enlarges_by_nearest_neighbour_to_even_sizes(tmp_path):
    video = make_video(tmp_path / "in.mp4", noisy_frames(4, 32, 58))
    report = anonymize_video(video, tmp_path / "out.mp4", marker_model(None), Settings(1.0, crf=1, height=64))
    plain = anonymize_video(video, tmp_path / "plain.mp4", marker_model(None), Settings(1.0, crf=1))
    assert (plain.size, report.size) == ((30, 16), (116, 64))
    shown = read_video(tmp_path / "out.mp4").astype(int)
    assert np.abs(shown[:, 1:3] - shown[:, :2]).mean() < 8 < np.abs(shown[:, 4:8] - shown[:, :4]).mean()
    assert shown_size(16, 29, None) == (16, 30)
    with pytest.raises(UserError, match="can only be enlarged; take at least 16"):
        anonymize_video(video, tmp_path / "small.mp4", marker_model(None), Settings(1.0, height=8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "plain.mp4"]


def test_a_stream_whose_frames_change_their_size_is_fitted_to_the_first(tmp_path):
    parts = [make_video(tmp_path / f"{side}.ts", noisy_frames(8, 32, side)) for side in (64, 48)]
    (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    report = anonymize_video(tmp_path / "in.ts", tmp_path / "out.mp4", marker_model(0.5), WHOLE)
    assert report.size == (32, 16)
    assert report.frames_out >= 4


def test_frames_are_never_all_in_memory(tmp_path, monkeypatch):
    """At most a window's frames wait: the anonymizer is asked while most of the video is still undecoded."""
    video = make_video(tmp_path / "in.mp4", noisy_frames(120, 32, 32))
    decoded = []
    with opened(video) as source:
        for number, _ in enumerate(source.frames(CLIP.frame_step, CLIP.size)):
            decoded.append(source.num_decoded)
            assert source.num_decoded <= number * CLIP.frame_step + 2
    assert len(decoded) == 60


# ---------------------------------------------------------------------------------------------------- what goes wrong


def test_what_cannot_be_read_is_said_in_one_line_and_leaves_nothing(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(make_video(tmp_path / "in.mp4", noisy_frames(8, 32, 32)).read_bytes()[:300])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        voice = container.add_stream("aac", rate=16000)
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        heard.sample_rate = 16000
        container.mux([*voice.encode(heard), *voice.encode()])
    before = sorted(tmp_path.iterdir())
    for name, reason in {"gone.mp4": "no such file", "broken.mp4": "not readable", "text.mp4": "not readable", "empty.mp4": "not readable",
                         "sound.mp4": "no video stream"}.items():  # fmt: skip
        with pytest.raises(UserError, match=reason) as caught:
            anonymize_video(tmp_path / name, tmp_path / "out.mp4", marker_model(0.0), WHOLE)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["out.txt", "out", "out.mp3", "out.png"])
def test_a_suffix_that_is_no_video_is_refused_with_the_list(tmp_path, name):
    video = make_video(tmp_path / "in.mp4", noisy_frames(4, 32, 32))
    with pytest.raises(UserError, match="take one of .mp4"):
        anonymize_video(video, tmp_path / name, marker_model(0.0), WHOLE)


def test_a_failure_half_way_leaves_no_file_and_the_old_one_as_it_was(tmp_path):
    video = make_video(tmp_path / "in.mp4", noisy_frames(40, 32, 32))
    (tmp_path / "out.mp4").write_text("old")
    model = marker_model(0.5)

    class Stopped(Exception):
        pass

    def stop(clips, keep_ratio):
        if len(model.anonymizer.seen) == 2:
            raise Stopped
        return paint(clips, keep_ratio)

    paint, model.anonymizer.forward = model.anonymizer.forward, stop
    with pytest.raises(Stopped):
        anonymize_video(video, tmp_path / "out.mp4", model, WHOLE)
    assert sorted(os.listdir(tmp_path)) == ["in.mp4", "out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "old"


def test_a_place_that_cannot_be_written_is_a_failed_run(tmp_path):
    video = make_video(tmp_path / "in.mp4", noisy_frames(4, 32, 32))
    with pytest.raises(RunError, match="cannot be written"):
        anonymize_video(video, tmp_path / "no" / "such" / "folder.mp4", marker_model(0.0), WHOLE)
