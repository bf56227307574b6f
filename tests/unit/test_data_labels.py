"""Shipped labels and official splits of the VP data sets, the reading of pickles, and PA-HMDB51's frame-wise labels."""

import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stprivacy.config import VP_ATTRIBUTES, PADataset, VPDataset
from stprivacy.data import annotations_pa
from stprivacy.data.annotations import Catalogue
from stprivacy.data.annotations_vp import LABELS, film_of, import_labels, read_digits, scene_of, vp
from stprivacy.data.splits import cut_val
from stprivacy.errors import UserError
from tests.unit.data_files import real_data

KINDS = ("hmdb51", "ucf101")
SIZES = {"hmdb51": [(3570, 1530)] * 3, "ucf101": [(9537, 3783), (9586, 3734), (9624, 3696)]}


def pickle_of(kind: str) -> Path:
    return real_data() / "vp" / "annotations" / f"{kind}_privacy_attribute_label.pickle"


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_labels_are_those_of_the_authors_pickle(kind: str, tmp_path: Path) -> None:
    with open(pickle_of(kind), "rb") as file:
        authors = {name.removesuffix(".mp4"): tuple(values.ravel().tolist()) for name, values in pickle.load(file).items()}
    assert read_digits(LABELS / f"vp-{kind}.txt", 5) == authors
    assert import_labels(pickle_of(kind), tmp_path / "again.txt") == len(authors)
    assert (tmp_path / "again.txt").read_text() == (LABELS / f"vp-{kind}.txt").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_official_splits_have_their_published_sizes_and_cover_the_labels(kind: str) -> None:
    splits = read_digits(LABELS / f"{kind}-splits.txt", 3)
    assert splits.keys() == read_digits(LABELS / f"vp-{kind}.txt", 5).keys()
    counts = [Counter(digits[k] for digits in splits.values()) for k in range(3)]
    assert [(count[1], count[2]) for count in counts] == SIZES[kind]
    assert {name.split("/")[0] for name, digits in splits.items() if digits[0] == 2} == {name.split("/")[0] for name in splits}


@pytest.mark.parametrize("split", [1, 2, 3])
def test_shipped_splits_of_hmdb51_are_those_of_the_official_lists(split: int) -> None:
    official = {}
    for path in (real_data() / "hmdb51_splits").glob(f"*_test_split{split}.txt"):
        action = path.name.removesuffix(f"_test_split{split}.txt")
        for line in path.read_text().splitlines():
            file, digit = line.split()
            official[f"{action}/{file[:-4]}"] = int(digit)
    shipped = read_digits(LABELS / "hmdb51-splits.txt", 3)
    assert {name: digits[split - 1] for name, digits in shipped.items() if name in official or digits[split - 1]} == official


@pytest.mark.parametrize("split", [1, 2, 3])
def test_shipped_splits_of_ucf101_are_those_of_the_official_lists(split: int) -> None:
    """A video's file name tells it: lists and folders spell a class differently."""
    lines = (real_data() / "ucf101_splits" / f"testlist0{split}.txt").read_text().splitlines()
    of_test = {line.split()[0].split("/")[1].removesuffix(".avi") for line in lines}
    shipped = {name.split("/")[1]: digits[split - 1] for name, digits in read_digits(LABELS / "ucf101-splits.txt", 3).items()}
    assert {video for video, digit in shipped.items() if digit == 2} == of_test
    assert {digit for video, digit in shipped.items() if video not in of_test} == {1}


@pytest.mark.parametrize("name", ["vp-hmdb51.txt", "vp-ucf101.txt", "hmdb51-splits.txt", "ucf101-splits.txt"])
def test_shipped_files_are_small_and_credited(name: str) -> None:
    assert (LABELS / name).stat().st_size < 1_000_000
    credits = (LABELS / "LICENSES.md").read_text()
    assert f"`{name}`" in credits and "Permission is hereby granted" in credits and "CC BY 4.0" in credits


# ------------------------------------------------------------------------------------------------ videos on disk


def empty_videos(folder: Path, kind: str) -> Path:
    names = read_digits(LABELS / f"vp-{kind}.txt", 5)
    for action in {name.split("/")[0] for name in names}:
        (folder / action).mkdir()
    for name in names:
        (folder / f"{name}.avi").touch()
    return folder


def vp_in(folder: Path, kind: str, split: int = 1) -> Catalogue:
    return vp(VPDataset(name="x", source=str(folder), kind=f"vp-{kind}", split=split))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_val_of_the_vp_data_sets_never_divides_a_film_or_scene(kind: str, tmp_path: Path) -> None:
    catalogue = cut_val(vp_in(empty_videos(tmp_path, kind), kind), 0.1, 0)
    train, val, test = (catalogue.of_split(split) for split in ("train", "val", "test"))
    assert (len(train) + len(val), len(test)) == SIZES[kind][0]
    # Apart from our code: HMDB51 names begin with the film, UCF101's are scene and clip.
    apart = (lambda v: v.path.stem.rsplit(f"_{v.action}_", 1)[0]) if kind == "hmdb51" else (lambda v: v.path.stem.rsplit("_c", 1)[0])
    assert {apart(video) for video in train}.isdisjoint(apart(video) for video in val)
    assert {video.action for video in train} == set(catalogue.actions)
    assert 0.1 <= len(val) / (len(train) + len(val)) < 0.12


def test_ucf101_folders_are_found_in_both_spellings_of_handstand(tmp_path: Path) -> None:
    for folder, video in (("HandStandPushups", "v_HandStandPushups_g01_c01"), ("ApplyEyeMakeup", "v_ApplyEyeMakeup_g01_c01")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{video}.avi").touch()
    assert {video.action for video in vp_in(tmp_path, "ucf101").videos} == {"HandstandPushups", "ApplyEyeMakeup"}


def test_what_labels_and_videos_do_not_agree_on_is_reported(tmp_path: Path) -> None:
    names = sorted(read_digits(LABELS / "vp-hmdb51.txt", 5))
    for name in (names[0], "brush_hair/own_video"):
        (tmp_path / f"{name}.mp4").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.mp4").touch()
    report = vp_in(tmp_path, "hmdb51").report
    assert report["labels without a file"] == names[1:]
    assert report["files without a label"] == ["brush_hair/own_video.mp4"]


def test_a_folder_without_any_labelled_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.mp4").touch()
    with pytest.raises(UserError, match=r"none of the 6766 labelled videos is there; they are expected as brush_hair/"):
        vp_in(tmp_path, "hmdb51")


def test_a_video_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    name = "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0"
    (tmp_path / "brush_hair").mkdir()
    for suffix in (".avi", ".mp4"):
        (tmp_path / f"{name}{suffix}").touch()
    with pytest.raises(UserError, match="is there twice"):
        vp_in(tmp_path, "hmdb51")


def test_groups_are_the_film_and_the_g_number() -> None:
    assert film_of("kick/THE_PROTECTOR_kick_f_cm_np1_fr_med_12") == film_of("hit/THE_PROTECTOR_hit_f_nm_np2_le_bad_3") == "THE_PROTECTOR"
    assert scene_of("YoYo/v_YoYo_g25_c04") == scene_of("YoYo/v_YoYo_g25_c05") != scene_of("YoYo/v_YoYo_g24_c04")
    for wrong in (lambda: film_of("kick/holiday"), lambda: scene_of("YoYo/holiday")):
        with pytest.raises(UserError, match="original name"):
            wrong()


@pytest.mark.parametrize("line", ["brush_hair/a", "brush_hair/a 101", "brush_hair/a 10a00", "10100", "brush_hair/a 10100 "])
def test_a_damaged_label_file_is_refused_with_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(f"# names\nbrush_hair/b 11111\n{line}\n")
    with pytest.raises(UserError, match=r"labels\.txt: line 3"):
        read_digits(tmp_path / "labels.txt", 5)


# ------------------------------------------------------------------------------------------------ pickles


class _Attack:
    """Pickles to a call of `function`."""

    def __init__(self, function: object, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def labels(count: int = 3) -> dict[str, np.ndarray]:
    return {f"walk/v{i}.mp4": np.array([[i % 2, 1, 0, 0, 1]]) for i in range(count)}


# Below 3 numpy writes arrays through _codecs.encode, from 5 on through a function of its own; the authors' files have 4.
@pytest.mark.parametrize("protocol", [3, 4])
def test_labels_are_read_from_a_pickle_of_arrays(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(labels(), protocol=protocol))
    assert import_labels(tmp_path / "p", tmp_path / "out.txt") == 3
    assert read_digits(tmp_path / "out.txt", 5) == {"walk/v0": (0, 1, 0, 0, 1), "walk/v1": (1, 1, 0, 0, 1), "walk/v2": (0, 1, 0, 0, 1)}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused_and_nothing_runs(protocol: int, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for attack in (_Attack(os.system, f"touch {witness}"), _Attack(eval, f"open({str(witness)!r}, 'w')"), _Attack(Path.touch, witness)):
        (tmp_path / "p").write_bytes(pickle.dumps({"walk/v.mp4": attack}, protocol=protocol))
        with pytest.raises(UserError, match="refused"):
            import_labels(tmp_path / "p", tmp_path / "out.txt")
        assert not witness.exists() and not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", r"numpy\.ndarray\.tofile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", r"numpy\.load"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "array of 'O'"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "beyond its own length"),
        (b"\x80\x02}p2147483647\n.", "refused"),
        (b"", "refused"),
        (b"\x80\x04]\x94.", "no dict"),
        (b"\x80\x04}\x94.", "no dict"),
    ],
)
def test_hostile_and_empty_pickles_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(UserError, match=message):
        import_labels(tmp_path / "p", tmp_path / "out.txt")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"walk/v.mp4": np.array([[1, 0, 1, 0]])}, "expected 5 values"),
        ({"walk/v.mp4": np.array([[1, 0, 2, 0, 0]])}, "expected 5 values"),
        ({"walk/v.mp4": [1, 0, 1, 0, 0]}, "expected 5 values"),
        ({"v.mp4": np.zeros((1, 5), int)}, "not named <class>/<video>"),
        ({"a/b/v.mp4": np.zeros((1, 5), int)}, "not named <class>/<video>"),
        ({"walk/v 1\n.mp4": np.zeros((1, 5), int)}, "not named <class>/<video>"),
        ({3: np.zeros((1, 5), int)}, "not named <class>/<video>"),
    ],
)
def test_labels_of_another_form_are_refused(wrong: dict[object, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps(wrong, protocol=4))
    with pytest.raises(UserError, match=message):
        import_labels(tmp_path / "p", tmp_path / "out.txt")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_read_or_refused_and_never_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(labels(), protocol=4))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "p").write_bytes(bytes(content))
    try:
        import_labels(tmp_path / "p", tmp_path / "out.txt")
    except UserError:
        return
    assert all(len(values) == 5 for values in read_digits(tmp_path / "out.txt", 5).values())


def test_a_name_with_another_kind_of_line_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(pickle.dumps({"walk/one\x85two.mp4": np.ones((1, 5))}, protocol=4))
    with pytest.raises(UserError, match="is not named"):
        import_labels(tmp_path / "p", tmp_path / "out.txt")


def test_names_with_a_number_sign_are_no_comments() -> None:
    """numpy.loadtxt and pandas with comment="#" lose them, which moves the floors of VP-HMDB51 by half a point."""
    for name, digits in (("vp-hmdb51.txt", 5), ("hmdb51-splits.txt", 3)):
        names = read_digits(LABELS / name, digits)
        assert (len(names), sum("#" in one for one in names)) == (6766, 44)


# ------------------------------------------------------------------------------------------------ PA-HMDB51


def annotation(**changes: object) -> dict[str, object]:
    return {name: [[0, 9, 0]] for name in VP_ATTRIBUTES} | {"review": True, "note": ""} | changes


def frames_of(folder: Path, attributes: object) -> np.ndarray:
    (folder / "kick.json").write_text(json.dumps({"x_kick_f_cm_np1_fr_med_0.avi": attributes}))
    return annotations_pa.read_frame_labels(folder)["kick/x_kick_f_cm_np1_fr_med_0"]


def test_a_frame_is_positive_where_any_value_is_not_zero(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, annotation(face=[[0, 3, 0], [4, 9, 2]], gender=[[0, 4, [1, 2]], [5, 9, [0, 1]]], skin_color=[[2, 9, 1]]))
    assert frames.shape == (10, 5)
    assert frames[:, 1].tolist() == [0] * 4 + [1] * 6
    assert frames[:, 2].tolist() == [1] * 10
    assert frames[:, 0].tolist() == [-1] * 2 + [1] * 8
    assert annotations_pa.video_labels(frames) == (1.0, 1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        [], annotation(face=None), annotation(face=[[0, 3]]), annotation(face=[[3, 0, 1]]), annotation(face=[[-1, 3, 1]]),
        annotation(face=[[0, 3, "yes"]]), annotation(face=[[0, 3, []]]), annotation(face=[[0, 3, -1]]), annotation(face=[[0, 10**12, 1]]),
        annotation(face=[[0, 3, True]]), {"face": [[0, 3, 1]]},
    ],
)  # fmt: skip
def test_annotations_of_another_form_are_refused_with_file_and_video(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"kick\.json: x_kick_f_cm_np1_fr_med_0\.avi"):
        frames_of(tmp_path, wrong)


def test_a_json_file_that_is_none_and_a_folder_without_any_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no PA-HMDB51 annotations"):
        annotations_pa.read_frame_labels(tmp_path)
    (tmp_path / "kick.json").write_text("{")
    with pytest.raises(UserError, match=r"kick\.json: not readable as JSON"):
        annotations_pa.read_frame_labels(tmp_path)


def test_real_frame_labels_have_the_counts_that_their_authors_published() -> None:
    frames = annotations_pa.read_frame_labels(real_data() / "pa_hmdb51" / "PrivacyAttributes")
    assert len(frames) == 515
    positive = sum((labels == 1).sum(axis=0) for labels in frames.values())
    # Frames with a value other than 0, from the statistics in VITA-Group/PA-HMDB51 (tpami_drawing); they count a frame of `face`, which two
    # spans name, twice.
    assert dict(zip(VP_ATTRIBUTES, positive.tolist(), strict=True)) == {
        "skin_color": 50936, "face": 39325 - 1, "gender": 51352, "nudity": 31313, "relationship": 8208,
    }  # fmt: skip


def test_pa_hmdb51_is_divided_within_each_action_and_val_by_films(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    for action, count in (("kick", 20), ("walk", 10), ("wave", 2), ("run", 1)):
        names = [f"film{i % 5}_{action}_f_cm_np1_fr_med_{i}" for i in range(count)]
        (folder / f"{action}.json").write_text(json.dumps({f"{name}.avi": annotation() for name in names}))
        (tmp_path / "videos" / action).mkdir(parents=True)
        for name in names:
            (tmp_path / "videos" / action / f"{name}.avi").touch()
    dataset = PADataset(name="pa", kind="pa-hmdb51", source=str(tmp_path / "videos"), annotations=str(folder))
    catalogue = annotations_pa.pa(dataset)
    counts = Counter((video.action, video.split) for video in catalogue.videos)
    assert counts == {
        ("kick", "train"): 12, ("kick", "test"): 8, ("walk", "train"): 6, ("walk", "test"): 4,
        ("wave", "train"): 1, ("wave", "test"): 1, ("run", "train"): 1,
    }  # fmt: skip
    assert annotations_pa.pa(dataset) == catalogue
    assert annotations_pa.pa(dataset.model_copy(update={"seed": 1})) != catalogue
    val = cut_val(catalogue, 0.2, 0)
    assert {video.group for video in val.of_split("val")}.isdisjoint(video.group for video in val.of_split("train"))
