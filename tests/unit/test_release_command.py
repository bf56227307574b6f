"""`stprivacy anonymize` as a person meets it: files, folders, one line when something is wrong, exit codes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from stprivacy.cli import main
from stprivacy.errors import UserError
from stprivacy.release.folder import LOCK, MANIFEST, SETTINGS_FILE
from stprivacy.release.model import LOCAL_MODEL, load_folder
from stprivacy.release.video import Settings, anonymize_video
from tests.unit.release_files import make_video, noisy_frames, read_video, small_model


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with a model beside it, and no registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    small_model(tmp_path / "model")
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """run(*arguments) → exit code, what stood on stdout, what on stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["stprivacy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def video(path, num_frames=8, **options):
    return make_video(path, noisy_frames(num_frames, 32, 48), **options)


def test_a_video_becomes_a_released_video(run, place):
    video(place / "in.mov", sound=True)
    code, out, err = run("anonymize", "in.mov", "out.mp4", "--model", "model", "--kept-share", 0.25)
    assert code == 0
    assert "model: model, keep ratio 0.5 (kept share 0.25)" in err
    assert out == "out.mp4: 4 of 8 frames of in.mov, 24 × 16 in 2 tiles, 12 a second; left out: audio\n"
    assert read_video(place / "out.mp4").shape == (4, 16, 24, 3)
    assert sorted(path.name for path in place.iterdir()) == ["in.mov", "model", "out.mp4"]  # no store was made by asking for one


def test_the_model_of_the_project_is_found_and_named(run, place):
    video(place / "in.mp4")
    code, _, err = run("anonymize", "in.mp4", "out.mp4")
    assert code == 2
    assert err == "error: no model: no champion or candidate in the registry, no models/anonymizer; run `dvc repro` or give --model\n"
    small_model(place / LOCAL_MODEL)
    code, _, err = run("anonymize", "in.mp4", "out.mp4")
    assert code == 0
    assert err.startswith("model: models/anonymizer, keep ratio 0.75 ")


def test_a_model_of_another_data_set_is_not_taken_without_a_word(run, place, project_root):
    video(place / "in.mp4")
    small_model(place / LOCAL_MODEL)
    config = place / LOCAL_MODEL / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dataset": "vp-synth"}))
    shutil.copy(project_root / "params/weizmann.yaml", "params.yaml")
    _, _, err = run("anonymize", "in.mp4", "out.mp4")
    assert ", trained on vp-synth\nwarning: models/anonymizer was trained on vp-synth, params.yaml is of weizmann; --model names" in err
    assert "warning" not in run("anonymize", "in.mp4", "b.mp4", "--model", LOCAL_MODEL)[2]  # named: it is meant
    shutil.copy(project_root / "params/vp-synth.yaml", "params.yaml")
    assert "warning" not in run("anonymize", "in.mp4", "c.mp4")[2]


WRONG = {
    "anonymize gone.mp4 out.mp4": "gone.mp4: no such file",
    "anonymize text.mp4 out.mp4": "text.mp4: not readable as a video",
    "anonymize in.mp4 out.txt": "out.txt: cannot write files named *.txt",
    "anonymize in.mp4 out": "out: cannot write files named *",
    "anonymize in.mp4 there.mp4": "there.mp4: exists already; take another name, or --force",
    "anonymize in.mp4 in.mp4 --force": "in.mp4: is the original itself",
    "anonymize in.mp4 link.mp4 --force": "link.mp4: is the original itself",
    "anonymize in.mp4 model": "model: is a folder; name a file in it, such as model/in.mp4",
    "anonymize in.mp4 no/out.mp4": "no: no such folder",
    "anonymize in.mp4 out.mp4 --keep-ratio 0": "keep ratio 0: it must lie above 0",
    "anonymize in.mp4 out.mp4 --keep-ratio 1.5": "keep ratio 1.5: it must lie",
    "anonymize in.mp4 out.mp4 --keep-ratio nan": "keep ratio nan: it must lie",
    "anonymize in.mp4 out.mp4 --kept-share 2": "kept share 2: it must lie",
    "anonymize in.mp4 out.mp4 --kept-share 0.5 --keep-ratio 0.5": "--keep-ratio and --kept-share are two ways",
    "anonymize in.mp4 out.mp4 --height 4": "--height 4: the release is 16 pixels high",
    "anonymize in.mp4 out.mp4 --model gone": "gone/config.json: no such file",
    "anonymize in.mp4 out.mp4 --model models:nonsense": "--model models:nonsense: expected models:/NAME@ALIAS",
    "anonymize in.mp4 out.mp4 --model models:/x@champion": "no registry here: sqlite:///mlflow.db does not exist",
    "anonymize nothing released": "nothing: no videos there",
    "anonymize model model/released": "model/released: lies within model",
    "registry": "no registry here",
    "promote": "no registry here",
}


@pytest.mark.parametrize("command", WRONG)
def test_bad_input_is_one_line_and_exit_code_2(run, place, command):
    video(place / "in.mp4")
    (place / "link.mp4").symlink_to("in.mp4")
    (place / "text.mp4").write_text("not a video")
    (place / "there.mp4").write_text("mine")
    (place / "nothing").mkdir()
    before = sorted(place.rglob("*"))
    words = command.split()
    code, out, err = run(*words, *([] if "--model" in words or words[0] != "anonymize" else ["--model", "model"]))
    line = err.splitlines()[-1]
    assert code == 2
    assert line.startswith(f"error: {WRONG[command]}")
    assert [other for other in err.splitlines() if not other.startswith("model: ")] == [line]
    assert out == ""
    assert sorted(place.rglob("*")) == before
    assert (place / "there.mp4").read_text() == "mine"


def test_force_overwrites(run, place):
    video(place / "in.mp4")
    (place / "out.mp4").write_text("old")
    assert run("anonymize", "in.mp4", "out.mp4", "--model", "model", "--force")[0] == 0
    assert len(read_video(place / "out.mp4")) == 4


# ---------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_released_place_by_place_and_broken_files_are_told_at_the_end(run, place):
    for name in ("a.avi", "deep/b.mp4", "deep/c.mov"):
        video(place / "in" / name)
    (place / "in/broken.mp4").write_text("not a video")
    (place / "in/notes.txt").write_text("no video either")
    code, out, err = run("anonymize", "in", "out", "--model", "model")
    assert code == 1
    assert sorted(path.relative_to(place / "out").as_posix() for path in (place / "out").rglob("*.*")) == [
        SETTINGS_FILE, MANIFEST, LOCK, "a.mp4", "deep/b.mp4", "deep/c.mp4"
    ]  # fmt: skip
    assert out.endswith("out: 3 released, 0 were there already, 1 failed\n")
    assert "failed: in/broken.mp4: not readable as a video" in err
    assert err.splitlines()[-1].startswith("failed: 1 of 4 videos, named above")
    stamps = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.mp4")}
    (place / "in/broken.mp4").unlink()
    video(place / "in/d.mp4")
    code, out, _ = run("anonymize", "in", "out", "--model", "model")
    assert (code, out.splitlines()[-1]) == (0, "out: 1 released, 3 were there already, 0 failed")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_release_that_cannot_be_written_does_not_end_the_folder(run, place):
    """A file stands where a folder should be; a name as long as names may be is no hindrance."""
    for name in ("a.avi", f"{'b' * 251}.avi", "deep/c.mov", "z.mov"):
        video(place / "in" / name)
    run("anonymize", "in", "out", "--model", "model", "--force")
    for file in ("a.mp4", "z.mp4", "deep/c.mp4"):
        (place / "out" / file).unlink()
    (place / "out/deep").rmdir()
    (place / "out/deep").touch()
    code, out, err = run("anonymize", "in", "out", "--model", "model")
    assert (code, out.splitlines()[-1]) == (1, "out: 2 released, 1 were there already, 1 failed")
    assert "failed: in/deep/c.mov: out/deep: cannot be made (File exists)\n" in err


def test_a_full_disk_ends_the_folder_and_what_is_done_stays(run, place, monkeypatch):
    video(place / "in/a.mp4")
    run("anonymize", "in", "out", "--model", "model")
    for name in ("b.mp4", "c.mp4"):
        video(place / "in" / name)

    class Full:
        """The system's calls of a full disk: only a small file system of one's own could be full here, and mounting needs root."""

        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, descriptor):
            if "part" in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stprivacy.files.os", Full())
        patch.setattr("stprivacy.release.folder._claim", lambda *_: None)
        code, out, err = run("anonymize", "in", "out", "--model", "model")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("failed: out/b.mp4: cannot be written ([Errno 28] No space left on device")
    assert err.splitlines()[-1].endswith("and nothing else there; fix that and run again, what is done stays done")
    code, out, _ = run("anonymize", "in", "out", "--model", "model")
    assert (code, out.splitlines()[-1]) == (0, "out: 2 released, 1 were there already, 0 failed")


def test_a_folder_never_mixes_two_kinds_of_release(run, place):
    video(place / "in/a.mp4")
    (place / "other").mkdir()
    (place / "other/mine.txt").write_text("mine")
    assert "is not empty and not from an earlier run" in run("anonymize", "in", "other", "--model", "model")[2]
    assert run("anonymize", "in", "out", "--model", "model")[0] == 0
    first = (place / "out/a.mp4").read_bytes()
    small_model(place / "another", seed=1)
    for other in (["--model", "model", "--crf", 30], ["--model", "model", "--keep-ratio", 0.5], ["--model", "another"]):
        code, _, err = run("anonymize", "in", "out", *other)
        assert code == 2
        assert "holds releases of another model or other settings" in err
    assert (place / "out/a.mp4").read_bytes() == first
    assert run("anonymize", "in", "out", "--model", "another", "--force")[0] == 0
    assert (place / "out/a.mp4").read_bytes() != first


# ------------------------------------------------------------------------------------------------ nothing is destroyed


def test_a_file_of_the_name_that_a_temporary_one_once_had_stays(run, place):
    """`anonymize x.mp4.part x.mp4` deleted the original, and a link of that name led to any other file."""
    original = video(place / "x.mp4").rename(place / "x.mp4.part").read_bytes()
    (place / "precious.txt").write_text("precious")
    (place / "y.mp4.part").symlink_to("precious.txt")
    assert run("anonymize", "x.mp4.part", "x.mp4", "--model", "model")[0] == 0
    assert run("anonymize", "x.mp4.part", "y.mp4", "--model", "model")[0] == 0
    assert (place / "x.mp4.part").read_bytes() == original
    assert (place / "precious.txt").read_text() == "precious"
    assert len(read_video(place / "x.mp4")) == len(read_video(place / "y.mp4")) == 4


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_an_original_is_never_the_output_by_whatever_name(run, place, link):
    original = video(place / "in.mp4").read_bytes()
    (place / "out.mp4").hardlink_to(place / "in.mp4") if link == "hard" else (place / "out.mp4").symlink_to("in.mp4")
    code, _, err = run("anonymize", "in.mp4", "out.mp4", "--model", "model", "--force")
    assert (code, err) == (2, "error: out.mp4: is the original itself; take another name\n")
    with pytest.raises(UserError, match="is the original itself"):
        anonymize_video(place / "in.mp4", place / "out.mp4", load_folder(place / "model", "model"), Settings(1.0))
    assert (place / "in.mp4").read_bytes() == original


def test_a_link_in_the_output_folder_leads_to_no_original(run, place):
    original = video(place / "in/sub/a.mp4").read_bytes()
    (place / "out").mkdir()
    (place / "out/sub").symlink_to("../in/sub")
    code, _, err = run("anonymize", "in", "out", "--model", "model", "--force")
    assert (code, err.count("\n")) == (2, 2) and "out/sub: a link leads out of out" in err
    assert (place / "in/sub/a.mp4").read_bytes() == original
    (place / "out/sub").unlink()
    (place / "out/sub").mkdir()
    (place / "out/sub/a.mp4").hardlink_to(place / "in/sub/a.mp4")
    code, _, err = run("anonymize", "in", "out", "--model", "model", "--force")
    assert code == 2 and "out/sub/a.mp4: is an original itself" in err
    assert (place / "in/sub/a.mp4").read_bytes() == original


@pytest.mark.parametrize("name", [LOCK, MANIFEST, SETTINGS_FILE])
def test_what_is_noted_in_the_output_folder_is_written_through_no_link(run, place, name):
    video(place / "in/a.mp4")
    (place / "precious.txt").write_text("precious")
    (place / "out").mkdir()
    (place / "out" / name).symlink_to("../precious.txt")
    code, _, err = run("anonymize", "in", "out", "--model", "model", "--force")
    assert code == 2 and f"out/{name}: is a link" in err
    assert (place / "precious.txt").read_text() == "precious"


def test_a_released_file_has_the_mode_that_the_umask_says(run, place):
    video(place / "in.mp4")
    before = os.umask(0o027)
    try:
        run("anonymize", "in.mp4", "out.mp4", "--model", "model")
    finally:
        os.umask(before)
    assert (place / "out.mp4").stat().st_mode & 0o777 == 0o640


# ------------------------------------------------------------------------------------------------ two runs, and what is done


def test_a_file_that_is_not_as_it_was_released_is_told_and_left_alone(run, place):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        video(place / "in" / name)
    assert run("anonymize", "in", "out", "--model", "model")[0] == 0
    (place / "out/a.mp4").write_bytes(b"broken")
    (place / "out/b.mp4").unlink()
    lines = (place / "out" / MANIFEST).read_text().splitlines()
    (place / "out" / MANIFEST).write_text("\n".join(line for line in lines if "c.mp4" not in line) + '\n{"file": "c.mp')  # cut short
    code, out, err = run("anonymize", "in", "out", "--model", "model")
    assert (code, out.splitlines()[-1]) == (1, "out: 1 released, 0 were there already, 2 failed")
    for name in ("a", "c"):
        assert f"failed: in/{name}.mp4: out/{name}.mp4 is there and is not what an earlier run left; move it away" in err
    assert (place / "out/a.mp4").read_bytes() == b"broken"
    assert run("anonymize", "in", "out", "--model", "model", "--force")[0] == 0
    assert run("anonymize", "in", "out", "--model", "model")[1] == "out: 0 released, 3 were there already, 0 failed\n"


HOLD_THE_LOCK = """
import sys
from filelock import FileLock

with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_into_a_folder_says_that_another_is_at_work(run, place):
    video(place / "in/a.mp4")
    assert run("anonymize", "in", "out", "--model", "model")[0] == 0
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, place / "out" / LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"held\n"
        before = (place / "out/a.mp4").read_bytes()
        for force in ([], ["--force"]):
            code, _, err = run("anonymize", "in", "out", "--model", "model", *force)
            assert code == 2 and err.splitlines()[-1].startswith("error: out: another run is writing to it; wait until it has ended")
        assert (place / "out/a.mp4").read_bytes() == before
    finally:
        holder.kill()
        holder.communicate()
    assert run("anonymize", "in", "out", "--model", "model")[1] == "out: 0 released, 1 were there already, 0 failed\n"


def test_two_runs_at_once_leave_whole_files(place):
    for number in range(4):
        video(place / f"in/{number}.mp4")
    command = [sys.executable, "-m", "stprivacy", "anonymize", "in", "out", "--model", "model"]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    codes = {one.wait(timeout=200) for one in runs}
    assert codes <= {0, 2} and 0 in codes
    for number in range(4):
        assert len(read_video(place / f"out/{number}.mp4")) == 4
    rows = [json.loads(line) for line in (place / "out" / MANIFEST).read_text().splitlines()]
    assert sorted(row["file"] for row in rows) == [f"{number}.mp4" for number in range(4)]


def test_releases_of_an_earlier_version_are_not_mixed_with_new_ones(run, place):
    video(place / "in/a.mp4")
    assert run("anonymize", "in", "out", "--model", "model")[0] == 0
    note = json.loads((place / "out" / SETTINGS_FILE).read_text())
    (place / "out" / SETTINGS_FILE).write_text(json.dumps({name: value for name, value in note.items() if name != "format"}))
    code, _, err = run("anonymize", "in", "out", "--model", "model")
    assert code == 2 and "an earlier version's releases, whose noise can be taken off" in err


def test_what_a_killed_run_left_half_written_is_deleted(run, place):
    video(place / "in/a.mp4")
    assert run("anonymize", "in", "out", "--model", "model")[0] == 0
    (place / "out/.stprivacy-0123.part").write_bytes(b"half")
    assert run("anonymize", "in", "out", "--model", "model")[0] == 0
    assert not list((place / "out").glob("*.part"))


@pytest.mark.parametrize("words", [("anonymize", "in", "out"), ("picture", "grid", "a.png"), ("study", "make", "a.html")])
def test_a_seed_is_refused_where_pixels_leave(run, place, words):
    code, out, err = run(*words, "--seed", 0)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--seed: gone, since everybody who guesses a seed can take the noise off" in err


def test_two_videos_that_would_become_one_are_refused_before_any_work(run, place):
    for name in ("a.avi", "a.mp4"):
        video(place / "in" / name)
    code, _, err = run("anonymize", "in", "out", "--model", "model")
    assert code == 2
    assert "in/a.avi and in/a.mp4 would both become out/a.mp4; rename one" in err
    assert not (place / "out").exists()


HANG_IN_THE_LAST = """
import sys, time
from stprivacy.release import video
from stprivacy.cli import main
from stprivacy.errors import UserError

def release(*arguments):
    global calls
    calls += 1
    if calls == 43:  # three videos of one window each are done, and more of the last than the encoder keeps waiting
        print("hangs", flush=True)
        time.sleep(600)
    return original(*arguments)

calls, original, video.release_clips = 0, video.release_clips, release
main()
"""


def test_a_killed_run_over_a_folder_goes_on_where_it_was(run, place, project_root):
    for number in range(3):
        video(place / f"in/{number}.mp4", 4)
    video(place / "in/long.mp4", 400)
    command = [sys.executable, "-c", HANG_IN_THE_LAST, "anonymize", "in", "out", "--model", "model"]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(project_root)}, stdout=subprocess.PIPE, text=True)
    assert any(line == "hangs\n" for line in child.stdout)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    (part,) = (place / "out").glob(".stprivacy-*.part")
    assert not (place / "out/long.mp4").exists()
    done = {path: path.stat().st_mtime_ns for path in (place / "out").glob("?.mp4")}
    assert len(done) == 3
    code, out, _ = run("anonymize", "in", "out", "--model", "model")
    assert (code, out.splitlines()[-1]) == (0, "out: 1 released, 3 were there already, 0 failed")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not part.exists()
    assert len(read_video(place / "out/long.mp4")) == 200


def test_settings_of_a_folder_are_kept_readable(run, place):
    video(place / "in/a.mp4")
    run("anonymize", "in", "out", "--model", "model", "--crf", 30)
    assert json.loads((place / "out" / SETTINGS_FILE).read_text())["crf"] == 30
