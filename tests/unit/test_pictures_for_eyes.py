"""`stprivacy picture`: raw frames only of who may be seen, outlines where the release is not blank, everything labelled and in step."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from stprivacy import cli
from stprivacy.config import load_params
from stprivacy.data.video import each_frame
from stprivacy.errors import UserError
from stprivacy.evaluation import gallery, sheets
from stprivacy.evaluation.gallery import decisions, load_learned, pick_clips, releasers, spread_rows
from stprivacy.models.anonymizer import expand_keep
from tests.unit.gallery_files import MAGENTA, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """The same, of real people whom nobody has asked."""
    return make_project(tmp_path_factory.mktemp("people"), kind="weizmann")


@pytest.fixture
def command(monkeypatch, capsys):
    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        capsys.readouterr()  # what making the project said
        monkeypatch.setattr(sys, "argv", ["stprivacy", "picture", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def clips(project):
    return pick_clips(load_params(project / "params.yaml"), project / "data/shards/tiny", count=3)


def shows(path, colour):
    with Image.open(path) as picture:
        return bool((np.asarray(picture.convert("RGB")) == colour).all(-1).any())


# ------------------------------------------------------------------------------------------------ which clips


@pytest.mark.parametrize(("count", "expected"), [(1, {0}), (2, {0, 2}), (3, {0, 1, 2}), (5, {0, 1, 2})])
def test_clips_are_spread_over_the_actions_before_one_comes_twice(count, expected):
    actions = np.array([2, 0, 0, 0, 1, 2, 1])
    rows = spread_rows(actions, count)
    assert len(rows) == len(set(rows)) == count
    assert {int(actions[row]) for row in rows} == expected
    assert rows[:1] == [1]


def test_a_clip_is_found_by_its_key_and_an_unknown_key_is_named(project):
    params, shards = load_params(project / "params.yaml"), project / "data/shards/tiny"
    found = pick_clips(params, shards, ["test0005", "test0001"])
    assert found.keys == ("test0005", "test0001")
    assert found.caption(0).startswith("action: wave · attributes: ")
    with pytest.raises(UserError, match=r"test9999: no such test clip .* keys look like test0000"):
        pick_clips(params, shards, ["test9999"])


# ------------------------------------------------------------------------------------------------ what was kept


def test_the_decisions_shown_are_those_of_the_release(project, clips):
    """The oracle is the released clip: dropped tubelets hold the channel's fill and nothing else does."""
    params, model = load_params(project / "params.yaml"), project / "models/anonymizer"
    anonymizer = load_learned(params, model)
    for share in (0.5, 0.25):
        shown = decisions(anonymizer, clips.pixels, share)
        released = releasers(params, model, ["stprivacy"], [share])[0].show(clips.pixels)
        keep = torch.from_numpy(shown.kept[:, -1].reshape(3, 2, 4)).float()
        mask = expand_keep(keep, anonymizer.tubelet, (16, 16))[:, 0].bool().numpy()
        assert (released.pixels[~mask] == 64).all()
        assert shown.kept[:, -1].mean() == share


def test_probabilities_say_why_and_nobody_is_asked_about_what_had_been_dropped(project, clips, monkeypatch):
    anonymizer = load_learned(load_params(project / "params.yaml"), project / "models/anonymizer")
    monkeypatch.setattr(gallery, "BATCH", 2)  # three clips: a batch that is not full
    shown = decisions(anonymizer, clips.pixels, 0.5)
    flat = shown.probabilities.reshape(*shown.probabilities.shape[:3], -1)
    kept = shown.kept.reshape(flat.shape)
    assert not np.isnan(flat[:, 0]).any() and ((flat >= 0) & (flat <= 1) | np.isnan(flat)).all()
    for clip in range(3):
        for one_slice in range(flat.shape[2]):
            scores, keep = flat[clip, 0, one_slice], kept[clip, 0, one_slice]
            assert scores[keep].min() >= scores[~keep].max()
    for earlier, later in pairwise(range(flat.shape[1])):
        assert (np.isnan(flat[:, later]) == ~kept[:, earlier]).all()


def test_a_kept_share_of_one_has_no_scores_to_show(project, command):
    code, _, err = command(project, "scores", "scores.png", "--kept-share", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert "at 1 nothing is dropped" in err


def test_outlines_run_between_kept_and_dropped_tubelets_and_nowhere_else():
    frame, keep = np.full((1, 32, 32, 3), 100, np.uint8), np.array([[[True, True], [True, False]]])
    drawn = sheets.outlined(frame, keep)[0]
    assert (drawn[4:12, 15:17] == 100).all(), "a line between two kept tubelets"
    assert (drawn[20:28, 20:28] == 30).all(), "a dropped tubelet is darkened"
    assert (drawn[15, 20:28] == sheets.OUTLINE).any(), "no line between a kept and a dropped one"
    assert (drawn[0, 4:28] == sheets.OUTLINE).any(), "no line at the border"


def test_frames_are_enlarged_by_whole_factors_without_smoothing():
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    large = sheets.enlarged(frames, 100)
    assert large.shape == (2, 144, 144, 3)
    assert (large[:, 1::3, 1::3] == frames).all()


# ------------------------------------------------------------------------------------------------ commands


def test_a_grid_has_a_row_for_raw_and_every_method_and_kept_share(project, command, tmp_path):
    code, out, _ = command(project, "grid", tmp_path / "new" / "grid.png", "--clips", 2, "--frames", 3)
    assert (code, out) == (0, f"{tmp_path}/new/grid.png: 2 clips, 4 rows each\n")
    assert shows(tmp_path / "new" / "grid.png", MAGENTA)
    for method, rows in (("blur", 2), ("stprivacy", 3)):
        code, out, _ = command(project, "grid", tmp_path / "one.png", "--method", method)
        assert f"{rows} rows each" in out
    assert "2 rows each" in command(project, "grid", tmp_path / "one.png", "--method", "stprivacy", "--kept-share", 0.25)[1]


def test_people_s_boxes_are_hidden_where_a_method_asks_for_them(project, monkeypatch, tmp_path):
    """Nothing moves in these clips, so `motion` finds nobody; with boxes given, they are black and the rest is raw."""
    monkeypatch.chdir(project)
    params = load_params(project / "params.yaml")
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"boxes": "motion"})})
    clips = pick_clips(params, project / "data/shards/tiny", count=2, methods=["blackening"])
    assert clips.boxes.shape == (2, 4, 16, 16) and not clips.boxes.any()
    assert pick_clips(params, project / "data/shards/tiny", count=2, methods=["blur"]).boxes is None
    blackened = releasers(params, tmp_path, ["blackening"], [1.0])[0]
    boxes = np.zeros_like(clips.boxes)
    boxes[:, :, 4:8] = True
    shown = blackened.show(clips.pixels, boxes).pixels
    assert (shown[:, :, 4:8] == 0).all() and (shown[:, :, 8:] == clips.pixels[:, :, 8:]).all()
    with pytest.raises(UserError, match="blackening"):
        blackened.show(clips.pixels)


def test_scores_and_video_are_drawn(project, command, tmp_path):
    assert command(project, "scores", tmp_path / "scores.png", "--clips", 1)[0] == 0
    assert shows(tmp_path / "scores.png", MAGENTA) and shows(tmp_path / "scores.png", sheets.OUTLINE)
    assert command(project, "video", tmp_path / "side.mp4", "--clips", 2)[0] == 0
    frames = np.stack(list(each_frame(tmp_path / "side.mp4")))
    assert len(frames) == sheets.PLAYS * (4 + sheets.HOLD)
    assert (frames[0, -40, 40].astype(int) - MAGENTA < 12).all(), "the first column is the raw clip"


@pytest.mark.parametrize("words", [("grid", "a.png"), ("scores", "a.png"), ("video", "a.mp4")])
def test_raw_frames_of_real_people_are_refused_before_anything_is_drawn(people, command, words):
    code, out, err = command(people, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "show real people; leave them out with --no-raw, or set tracking.log_raw_clips: true" in err
    assert not (people / words[1]).exists()


@pytest.mark.parametrize("words", [("grid", "a.png", "--method", "raw", "--method", "stprivacy"), ("scores", "a.png")])
def test_without_raw_no_raw_pixel_is_drawn(people, command, words):
    code, _, err = command(people, *words, "--no-raw")
    assert (code, err) == (0, "")
    assert not shows(people / "a.png", MAGENTA)


def test_without_raw_no_filter_of_real_people_is_drawn(people, command):
    code, out, err = command(people, "grid", "b.png", "--no-raw")
    assert (code, out) == (0, "b.png: 3 clips, 2 rows each\n")
    assert err == "note: left out, since they can hold raw frames: blur\n"
    code, _, err = command(people, "grid", "c.png", "--no-raw", "--method", "blur")
    assert (code, err.count("\n")) == (2, 1)
    assert "blur: can hold raw frames, and tiny shows real people; take a trained model" in err
    assert not (people / "c.png").exists()


def test_people_who_were_asked_are_drawn(tmp_path, command):
    folder = make_project(tmp_path / "asked", kind="weizmann", log_raw_clips=True)
    assert command(folder, "grid", "grid.png")[0] == 0
    assert shows(folder / "grid.png", MAGENTA)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("grid", "a.jpg"), "a.jpg: this command writes .png files; call it a.png"),
        (("video", "a.png"), "writes .mp4 files"),
        (("grid", "a.png", "--method", "smudge"), "smudge"),
        (("grid", "a.png", "--kept-share", "1.5"), "--kept-share 1.5: it must lie above 0"),
        (("grid", "a.png", "--model", "nowhere"), "nowhere"),
        (("grid", "a.png", "--params", "none.yaml"), "none.yaml: no such file"),
    ],
)
def test_a_wrong_wish_is_refused_in_one_line(project, command, words, message):
    code, out, err = command(project, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
