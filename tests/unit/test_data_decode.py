"""Decoding in worker processes: the right frames, every kind of broken file in quarantine, killed runs that go on."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from stprivacy.config import Preprocess
from stprivacy.data.annotations import Video
from stprivacy.data.decode import Decoded, decode_all, read_frames
from stprivacy.data.video import each_frame
from tests.unit.data_files import grey_video, real_data, video_at

pytestmark = pytest.mark.timeout(120)


def settings(**changes: float) -> Preprocess:
    return Preprocess(**({"short_side": 32, "num_processes": 2, "timeout_s": 60} | changes))


def decoded(videos: list[Video], folder: Path, **changes: float) -> dict[str, Decoded]:
    return {one.video.key: one for one in decode_all(videos, folder, 2, settings(**changes))}


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


@pytest.mark.parametrize("frame_step", [1, 2, 5])
def test_every_nth_frame_of_the_whole_video_is_read(frame_step: int, tmp_path: Path) -> None:
    frames = read_frames(grey_video(tmp_path / "a.mp4", num_frames=12), frame_step, 32)
    expected = np.arange(0, 12, frame_step) * 20
    assert frames.shape == (len(expected), 32, 64, 3) and frames.dtype == np.uint8
    assert np.abs(frames.mean(axis=(1, 2, 3)) - expected).max() < 5


@pytest.mark.parametrize(("height", "width", "expected"), [(32, 48, (16, 24)), (48, 32, (24, 16)), (64, 64, (16, 16)), (30, 90, (16, 48))])
def test_the_short_side_is_resized_and_the_shape_kept(height: int, width: int, expected: tuple[int, int], tmp_path: Path) -> None:
    frames = read_frames(grey_video(tmp_path / "a.mp4", 3, height, width), 1, 16)
    assert frames.shape == (3, *expected, 3)


@pytest.mark.parametrize("width", [16, 24, 48, 72])
def test_narrow_videos_that_decord_refuses_are_read_all_the_same(width: int, tmp_path: Path) -> None:
    frames = read_frames(grey_video(tmp_path / "a.mp4", 12, 80, width), 5, width)
    assert frames.shape[::2] == (3, width) and np.abs(frames.mean(axis=(1, 2, 3)) - [0, 100, 200]).max() < 5


def test_decord_gives_the_frames_of_another_reader_on_real_video() -> None:
    path = real_data() / "weizmann" / "daria_walk.avi"
    other = np.stack(list(each_frame(path)))
    ours = read_frames(path, 1, min(other.shape[1:3]))
    assert ours.shape == other.shape
    # Two converters to RGB differ by a rounding; another frame of a walking person differs by far more.
    ours, other = (frames[:, ::6, ::6].astype(int) for frames in (ours, other))
    difference = np.abs(ours[:, None] - other[None, :]).mean(axis=(2, 3, 4))
    assert (difference.argmin(axis=1) == np.arange(len(ours))).all() and difference.diagonal().max() < 2


def test_each_kind_of_broken_video_is_quarantined_with_its_reason_and_the_others_are_decoded(tmp_path: Path) -> None:
    good = grey_video(tmp_path / "good.mp4")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:400])
    audio_only(tmp_path / "audio.mp4")
    names = ("text", "cut", "audio", "good")
    result = decoded([video_at(tmp_path / f"{name}.mp4") for name in names], tmp_path / "frames")
    assert list(result) == list(names)
    assert result["good"].shape == (6, 32, 64)
    reasons = {name: one.reason for name, one in result.items() if one.shape is None}
    assert reasons.keys() == set(names) - {"good"}
    assert all(reason.startswith("not decodable: ") for reason in reasons.values())
    assert [path.name for path in (tmp_path / "frames").iterdir()] == [result["good"].frames.name]


def test_a_video_that_takes_too_long_is_given_up_and_those_behind_it_are_looked_at(tmp_path: Path) -> None:
    """Those behind it need no decord, whose import alone may take so long on a busy machine."""
    # Opening a pipe that nobody writes to blocks for ever, in the C code below decord, as its hangs on broken files do.
    os.mkfifo(tmp_path / "hangs.mp4")
    (tmp_path / "empty.mp4").touch()
    names = ("hangs", "empty", "missing")
    result = decoded([video_at(tmp_path / f"{name}.mp4") for name in names], tmp_path / "frames", num_processes=1, timeout_s=4)
    assert {name: (one.shape, one.reason) for name, one in result.items()} == {
        "hangs": (None, "decoding took longer than preprocess.timeout_s = 4 s"),
        "empty": (None, "the file is empty"),
        "missing": (None, "no such file"),
    }
    assert list((tmp_path / "frames").iterdir()) == []


def test_a_decoder_that_kills_its_process_costs_one_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Workers are new processes: they import this stand-in for decord from the path.
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "decord.py").write_text(
        "import os, numpy as np\n"
        "class DECORDError(Exception): pass\n"
        "class Batch:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def asnumpy(self): return np.zeros((self.n, 32, 32, 3), np.uint8)\n"
        "class VideoReader:\n"
        "    def __init__(self, path, num_threads):\n"
        "        if 'crash' in path: os.kill(os.getpid(), 11)\n"
        "        if 'memory' in path: raise MemoryError\n"
        "    def __len__(self): return 4\n"
        "    def get_batch(self, wanted): return Batch(len(wanted))\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "stub")
    for name in ("crash", "memory", "good"):
        (tmp_path / f"{name}.mp4").write_text("x")
    result = decoded([video_at(tmp_path / f"{name}.mp4") for name in ("crash", "memory", "good")], tmp_path / "frames", num_processes=1)
    assert result["crash"].reason.startswith("the decoder crashed (exit code")
    assert result["memory"].reason.startswith("not decodable")
    assert result["good"].shape == (2, 32, 32)


def test_a_video_is_decoded_once_and_again_when_its_file_has_changed(tmp_path: Path) -> None:
    paths = [grey_video(tmp_path / f"{name}.mp4") for name in ("kept", "changed")]
    videos = [video_at(path) for path in paths]
    first = decoded(videos, tmp_path / "frames")
    written = {name: one.frames.stat().st_mtime_ns for name, one in first.items()}
    grey_video(tmp_path / "changed.mp4", num_frames=8)
    second = decoded(videos, tmp_path / "frames")
    assert second["kept"].frames.stat().st_mtime_ns == written["kept"]
    assert second["changed"].shape == (4, 32, 64) and first["changed"].shape == (6, 32, 64)


def test_closing_the_iterator_does_not_wait_for_what_is_left(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.mp4")
    videos = [video_at(grey_video(tmp_path / "good.mp4")), video_at(tmp_path / "hangs.mp4")]
    # Waiting would take the time limit of ten minutes, five times this test's.
    with closing(decode_all(videos, tmp_path / "frames", 1, settings(timeout_s=600))) as outcomes:
        assert next(outcomes).shape is not None


RUN = """
import sys
from pathlib import Path
from stprivacy.config import Preprocess
from stprivacy.data.decode import decode_all
from tests.unit.data_files import video_at
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    videos = [video_at(folder / f"{name}.mp4") for name in ("hangs", "a", "b", "c")]
    list(decode_all(videos, folder / "frames", 2, Preprocess(short_side=32, num_processes=2, timeout_s=600)))
"""


def children(pid: int) -> list[int]:
    """Processes that any thread of a process has started (Linux)."""
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether a process runs: neither gone nor a zombie that waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_killed_run_leaves_no_worker_behind_and_goes_on_where_it_was(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        grey_video(tmp_path / f"{name}.mp4")
    os.mkfifo(tmp_path / "hangs.mp4")
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list((tmp_path / "frames").glob("*.npy"))) == 3)
    workers = children(run.pid)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert len(workers) >= 2
    wait_for(lambda: not any(lives(worker) for worker in workers))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "frames").glob("*.npy")}
    (tmp_path / "hangs.mp4").unlink()
    grey_video(tmp_path / "hangs.mp4")
    result = decoded([video_at(tmp_path / f"{name}.mp4") for name in ("hangs", "a", "b", "c")], tmp_path / "frames")
    assert all(one.shape == (6, 32, 64) for one in result.values())
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "frames").glob("*.npy")}
    assert len(after) == 4 and before.items() <= after.items()
