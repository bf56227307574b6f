"""Catalogues of videos: Weizmann, folders with a CSV, what does not match, and the cut of val."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprivacy.config import FolderDataset, WeizmannDataset
from stprivacy.data import annotations
from stprivacy.data.annotations import Catalogue, Video, key_of
from stprivacy.data.splits import cut_val
from stprivacy.errors import UserError
from tests.unit.data_files import real_data

PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")
ACTIONS = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")


def weizmann_in(folder: Path, split: int = 0) -> Catalogue:
    return annotations.weizmann(WeizmannDataset(name="weizmann", kind="weizmann", source=str(folder), split=split))


@pytest.fixture
def weizmann_folder(tmp_path: Path) -> Path:
    for person in PERSONS:
        for action in ACTIONS:
            (tmp_path / f"{person}_{action}.avi").touch()
    return tmp_path


@pytest.mark.parametrize("split", range(5))
def test_a_weizmann_split_holds_out_the_cells_of_its_diagonal(weizmann_folder: Path, split: int) -> None:
    catalogue = weizmann_in(weizmann_folder, split)
    held_out = {video.path.stem for video in catalogue.of_split("test")}
    assert held_out == {f"{p}_{a}" for i, p in enumerate(PERSONS) for j, a in enumerate(ACTIONS) if (i + j) % 5 == split}
    train = catalogue.of_split("train")
    assert {video.action for video in train} == set(ACTIONS)
    assert {video.attributes for video in train} == {tuple(float(i == j) for j in range(9)) for i in range(9)}


def test_every_weizmann_clip_is_tested_in_exactly_one_split(weizmann_folder: Path) -> None:
    tested = Counter(video.key for split in range(5) for video in weizmann_in(weizmann_folder, split).of_split("test"))
    assert len(tested) == 90 and set(tested.values()) == {1}


def test_two_clips_of_one_person_and_action_share_cell_and_group_and_wave1_stays_an_action(weizmann_folder: Path) -> None:
    (weizmann_folder / "lena_run.avi").unlink()
    for clip in ("run1", "run2"):
        (weizmann_folder / f"lena_{clip}.avi").touch()
    catalogue = weizmann_in(weizmann_folder)
    twice = [video for video in catalogue.videos if video.path.stem in ("lena_run1", "lena_run2")]
    assert catalogue.actions == ACTIONS
    assert len({(video.action, video.split, video.group) for video in twice}) == 1 and len({video.key for video in twice}) == 2


def test_the_real_weizmann_folder_has_nine_persons_and_ten_actions() -> None:
    catalogue = weizmann_in(real_data() / "weizmann")
    assert (len(catalogue.videos), catalogue.actions) == (90, ACTIONS)
    assert catalogue.attributes == tuple(f"person_{person}" for person in PERSONS)


def test_a_file_that_is_not_named_like_weizmann_is_named(weizmann_folder: Path) -> None:
    (weizmann_folder / "readme.avi").touch()
    with pytest.raises(UserError, match=r"readme\.avi is not named"):
        weizmann_in(weizmann_folder)


# ------------------------------------------------------------------------------------------------ folders with a CSV


def folder_of(tmp_path: Path, csv: str | bytes, files: tuple[str, ...] = ("a/1.mp4", "a/2.mp4", "b/3.avi")) -> Catalogue:
    for file in files:
        (tmp_path / "videos" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / file).touch()
    labels = tmp_path / "labels.csv"
    labels.write_bytes(csv if isinstance(csv, bytes) else csv.encode())
    return annotations.folder(FolderDataset(name="mine", kind="folder", source=str(tmp_path / "videos"), labels=str(labels)))


GOOD = "file,action,split,glasses,hat\na/1.mp4,walk,train,0,1\na/2.mp4,run,test,1,0\nb/3.avi,run,val,1,1\n"


def test_a_folder_takes_its_labels_from_the_csv(tmp_path: Path) -> None:
    catalogue = folder_of(tmp_path, GOOD)
    assert catalogue.attributes == ("glasses", "hat")
    assert [(v.key, v.action, v.split, v.attributes) for v in catalogue.videos] == [
        ("a_1", "walk", "train", (0.0, 1.0)),
        ("a_2", "run", "test", (1.0, 0.0)),
        ("b_3", "run", "val", (1.0, 1.0)),
    ]


def test_a_spreadsheets_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    assert len(folder_of(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()).videos) == 3


def test_labels_without_a_file_and_files_without_a_label_are_reported(tmp_path: Path) -> None:
    report = folder_of(tmp_path, GOOD + "gone.mp4,run,train,0,0\n", ("a/1.mp4", "a/2.mp4", "b/3.avi", "c/new.mkv")).report
    assert report == {"labels without a file": ["gone.mp4"], "files without a label": ["c/new.mkv"]}


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        (GOOD.replace("test", "tset"), r"line 3: split is 'tset'"),
        (GOOD.replace("1,0\n", "2,0\n"), r"line 3: glasses is '2'"),
        (GOOD.replace("a/2.mp4,run", "a/2.mp4,"), r"line 3: action is empty"),
        (GOOD.replace(",1,1\n", ",1\n"), r"line 4: not 5 values"),
        (GOOD.replace(",1,1\n", ",1,1,1\n"), r"line 4: not 5 values"),
        (GOOD.replace("hat", "glasses"), r"'glasses' is there twice"),
        (GOOD.replace("split", "part"), r"column split is missing"),
        ("file,action,split\na/1.mp4,walk,train\n", r"column of an attribute is missing"),
        (GOOD + "./a/1.mp4,walk,train,0,1\n", r"line 5: a/1\.mp4 is listed a second time"),
        (GOOD.encode("utf-16"), r"not readable as CSV in UTF-8"),
        ("", r"column file is missing"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_line(tmp_path: Path, csv: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        folder_of(tmp_path, csv)


def test_linked_folders_are_searched_and_an_empty_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.mp4").touch()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to(tmp_path / "elsewhere")
    assert annotations.videos_below(tmp_path / "source") == [tmp_path / "source" / "link" / "1.mp4"]
    with pytest.raises(UserError, match="no videos there"):
        annotations.videos_below(tmp_path / "nowhere")


file_names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(file_names, min_size=2, max_size=2))
def test_keys_are_safe_and_differ_where_only_other_signs_differ(names: list[str]) -> None:
    keys = [key_of(f"class/{name}.mp4") for name in names]
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for key in keys)
    # The digest has 24 bits: two of a thousand examples meet with probability 1e-7.
    assert (keys[0] == keys[1]) == (names[0] == names[1])


# ------------------------------------------------------------------------------------------------ checks and val


def videos(*rows: tuple[str, str, str]) -> tuple[Video, ...]:
    return tuple(
        Video(f"v{i}", Path(f"v{i}.mp4"), action, split, group, (float(i % 2),))  # type: ignore[arg-type]
        for i, (action, split, group) in enumerate(rows)
    )


def test_actions_in_one_split_alone_and_constant_attributes_are_reported() -> None:
    found = Catalogue(Path(), videos(("run", "train", "a"), ("walk", "train", "b"), ("run", "test", "c"), ("fly", "test", "d")), ("x",))
    report = annotations.checked(found, "here").report
    assert (report["actions in train only"], report["actions in test only"]) == (["walk"], ["fly"])
    same = Catalogue(Path(), videos(("run", "train", "a"), ("run", "test", "b"), ("run", "train", "c")), ("x",))
    assert annotations.checked(same, "here").report["attributes that are the same in all of train"] == ["x"]


def test_without_a_test_video_nothing_starts() -> None:
    with pytest.raises(UserError, match="1 actions in train and 0 in test"):
        annotations.checked(Catalogue(Path(), videos(("run", "train", "a")), ("x",)), "here")


def test_two_files_with_one_key_are_named() -> None:
    twice = (Video("a_1", Path("a/1.mp4"), "run", "train", "g", (0.0,)), Video("a_1", Path("a_1.mp4"), "run", "test", "g", (0.0,)))
    with pytest.raises(UserError, match=r"a/1\.mp4 and a_1\.mp4"):
        annotations.checked(Catalogue(Path(), twice, ("x",)), "here")


row = st.tuples(st.sampled_from("abcd"), st.sampled_from(["train", "test"]), st.sampled_from("ghijklmn"))
rows = st.lists(row, min_size=4, max_size=40)


@settings(max_examples=200)
@given(rows, st.floats(0.05, 0.6), st.integers(0, 3))
def test_val_takes_whole_groups_of_train_and_leaves_every_action(rows: list[tuple[str, str, str]], share: float, seed: int) -> None:
    before = Catalogue(Path(), videos(*rows), ("x",))
    try:
        after = cut_val(before, share, seed)
    except UserError:
        movable = [
            group
            for group in {v.group for v in before.of_split("train")}
            if {v.action for v in before.of_split("train")} == {v.action for v in before.of_split("train") if v.group != group}
        ]
        assert not movable
        return
    assert {v.group for v in after.of_split("val")}.isdisjoint({v.group for v in after.of_split("train")})
    assert {v.action for v in after.of_split("train")} == {v.action for v in before.of_split("train")}
    assert after.of_split("test") == before.of_split("test")
    assert Counter(v.key for v in after.videos) == Counter(v.key for v in before.videos)


def test_val_is_the_same_for_a_seed_whatever_the_order_of_the_videos() -> None:
    rows = [("ab"[i % 2], "train", f"g{i // 2}") for i in range(40)]
    catalogue = Catalogue(Path(), videos(*rows), ("x",))
    turned = Catalogue(Path(), catalogue.videos[::-1], ("x",))
    chosen = {video.key for video in cut_val(catalogue, 0.2, 5).of_split("val")}
    assert chosen == {video.key for video in cut_val(turned, 0.2, 5).of_split("val")}
    assert chosen != {video.key for video in cut_val(catalogue, 0.2, 6).of_split("val")}
    assert len(chosen) == 8


def test_a_data_set_that_brings_its_val_keeps_it() -> None:
    own = Catalogue(Path(), videos(("a", "train", "g"), ("a", "val", "h"), ("a", "test", "i")), ("x",))
    assert cut_val(own, 0.5, 0) == own
