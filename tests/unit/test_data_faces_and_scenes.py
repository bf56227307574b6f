"""CelebV-HQ and P-HVU: label files of the published form become catalogues, and other forms are refused with their place."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from stprivacy.config import CelebVDataset, PHVUDataset
from stprivacy.data.annotations import checked
from stprivacy.data.annotations_celebv import celebv
from stprivacy.data.annotations_hvu import CATEGORIES, FILES, phvu
from stprivacy.data.preprocess import catalogue_of
from stprivacy.data.splits import cut_val
from stprivacy.errors import UserError

LOOKS = ["Blurry", "Male", "Young", "Pointy Nose", "rosy_cheeks", "brown_hair"]
WORDS = ("neutral", "happy", "sadness")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# ------------------------------------------------------------------------------------------------ CelebV-HQ


def clip(source: str, emotion: object = "neutral", looks: tuple[int, ...] = (0, 1, 0, 1, 0, 1)) -> dict[str, object]:
    """A clip as the label file has it."""
    labels = {"sep_flag": isinstance(emotion, list), "labels": emotion}
    return {
        "ytb_id": source, "duration": {"start_sec": 81.62, "end_sec": 86.17}, "version": "v0.1",
        "bbox": {"top": 0.0, "bottom": 0.8815, "left": 0.1964, "right": 0.6922},
        "attributes": {"appearance": list(looks), "action": [0, 0, 1], "emotion": labels},
    }  # fmt: skip


def faces(folder: Path, clips: dict[str, object], files: tuple[str, ...] | None = None, **changes: object) -> CelebVDataset:
    """A label file and empty clips of that name."""
    about = {"appearance_mapping": LOOKS, "action_mapping": ["blow", "chew", "close_eyes"]}
    (folder / "celebvhq_info.json").write_text(json.dumps({"meta_info": about, "clips": clips}))
    touch(folder / "clips", *([f"{name}.mp4" for name in clips] if files is None else files))
    plain = {"name": "faces", "kind": "celebv-hq", "source": str(folder / "clips"), "annotations": str(folder / "celebvhq_info.json")}
    return CelebVDataset(**plain | changes)  # type: ignore[arg-type]


def test_the_expression_is_the_action_and_the_papers_five_attributes_are_hidden(tmp_path: Path) -> None:
    catalogue = celebv(faces(tmp_path, {"M2Ohb0FAaJU_1": clip("M2Ohb0FAaJU", "happy"), "_0tf2n3rlJU_0": clip("_0tf2n3rlJU")}))
    assert catalogue.attributes == ("young", "pointy_nose", "male", "rosy_cheeks", "brown_hair")
    found = {video.path.stem: (video.action, video.attributes, video.group) for video in catalogue.videos}
    assert found == {
        "M2Ohb0FAaJU_1": ("happy", (0.0, 1.0, 1.0, 0.0, 1.0), "M2Ohb0FAaJU"),
        "_0tf2n3rlJU_0": ("neutral", (0.0, 1.0, 1.0, 0.0, 1.0), "_0tf2n3rlJU"),
    }


def test_of_several_expressions_the_longest_counts_and_that_is_reported(tmp_path: Path) -> None:
    spans = [
        {"emotion": "neutral", "start_sec": 0, "end_sec": 0.28}, {"emotion": "happy", "start_sec": 1.28, "end_sec": 2.0},
        {"emotion": "neutral", "start_sec": 2.0, "end_sec": 2.6},
    ]  # fmt: skip
    one = [{"emotion": "anger", "start_sec": 0, "end_sec": 0.5}]
    catalogue = celebv(faces(tmp_path, {"a_0": clip("a", spans), "b_0": clip("b", one)}))
    assert [video.action for video in catalogue.videos] == ["neutral", "anger"]
    assert catalogue.report["clips with several expressions, of which the longest counts"] == ["a_0"]


def test_ids_that_differ_in_capitals_alone_are_two_clips_in_any_folder(tmp_path: Path) -> None:
    clips = {"abc_0": clip("abc", "happy"), "ABC_0": clip("ABC", "sadness"), "gone_0": clip("gone")}
    catalogue = celebv(faces(tmp_path, clips, ("35666/abc_0.mp4", "more/ABC_0.mp4", "more/other.mp4")))
    assert {video.path.stem: video.action for video in catalogue.videos} == {"abc_0": "happy", "ABC_0": "sadness"}
    assert catalogue.report["labels without a file"] == ["gone_0"]
    assert catalogue.report["files without a label"] == ["more/other.mp4"]


def test_source_videos_are_divided_whole_by_share_and_seed(tmp_path: Path) -> None:
    clips = {f"v{index // 3:02d}_{index % 3}": clip(f"v{index // 3:02d}", WORDS[index % 3]) for index in range(60)}
    dataset = faces(tmp_path, clips)
    catalogue = checked(celebv(dataset), "faces")
    assert Counter(video.split for video in catalogue.videos) == {"train": 36, "test": 24}
    assert {v.group for v in catalogue.of_split("train")}.isdisjoint(v.group for v in catalogue.of_split("test"))
    assert celebv(dataset).videos == catalogue.videos
    assert celebv(dataset.model_copy(update={"seed": 1})).videos != catalogue.videos
    val = cut_val(catalogue, 0.2, 0)
    assert {v.group for v in val.of_split("val")}.isdisjoint(v.group for v in val.of_split("train"))


def test_other_attributes_can_be_hidden_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    clips = {"a_0": clip("a", looks=(1, 0, 0, 0, 0, 0)), "b_0": clip("b")}
    assert celebv(faces(tmp_path, clips, hidden=("Blurry", "male"))).videos[0].attributes == (1.0, 0.0)
    with pytest.raises(UserError, match=r"dataset\.hidden: beard is no attribute .* it has blurry, male, young"):
        celebv(faces(tmp_path, clips, hidden=("beard",)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (clip("a", looks=(0, 1)), r"clip a_0: expected 6 values 0 or 1 under attributes\.appearance"),
        (clip("a", looks=(0, 1, 2, 0, 0, 0)), r"clip a_0: expected 6 values"),
        (clip("a", None), r"clip a_0: has no word under attributes\.emotion\.labels"),
        (clip("a", []), r"clip a_0: has no word"),
        (clip("a", [{"emotion": "happy"}]), r"clip a_0: expected emotion, start_sec and end_sec"),
        (clip("a", [{"emotion": "happy", "start_sec": 2, "end_sec": 1}]), r"clip a_0: expected emotion"),
        ({}, r"clip a_0: expected 6 values"),
        (3, r"clip a_0: expected 6 values"),
    ],
)
def test_a_clip_of_another_form_is_refused_with_its_id(wrong: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        celebv(faces(tmp_path, {"a_0": wrong}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "appearance_mapping is not a list"),
        ('{"meta_info": {"appearance_mapping": []}}', "has no clips"),
    ],
)
def test_a_label_file_of_another_form_is_refused(text: str, message: str, tmp_path: Path) -> None:
    dataset = faces(tmp_path, {"a_0": clip("a")})
    Path(dataset.annotations).write_text(text)
    with pytest.raises(UserError, match=message):
        celebv(dataset)
    Path(dataset.annotations).unlink()
    with pytest.raises(UserError, match="no such file; download CelebV-HQ's label file"):
        celebv(dataset)


def test_clips_that_are_not_there_are_told_how_they_are_called(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the 1 labelled videos is there; they are expected as <clip id>\.mp4, such as a_0\.mp4"):
        celebv(faces(tmp_path, {"a_0": clip("a")}, ("b.mp4",)))


# ------------------------------------------------------------------------------------------------ P-HVU

TAGS = {
    "dance": "action", "dancing_ballet": "action", "cooking": "action", "shoe": "object", "pan": "object", "stage": "scene",
    "kitchen": "scene", "fun": "concept", "birthday": "event",
}  # fmt: skip


def row(video: str, tags: str, start: object = 3, end: object = 13) -> list[object]:
    return [tags, video, start, end]


def tables(folder: Path, train: list[list[object]], test: list[list[object]], **changes: object) -> PHVUDataset:
    """HVU's three tables, and empty videos."""
    (folder / "hvu").mkdir()
    for name, head, rows in (
        (FILES["train"], ["Tags", "youtube_id", "time_start", "time_end"], train),
        (FILES["test"], ["Tags", "youtube_id", "time_start", "time_end"], test),
        (CATEGORIES, ["Tag", "Category"], [list(pair) for pair in TAGS.items()]),
    ):
        with open(folder / "hvu" / name, "w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    touch(folder / "videos", *(f"{video}_000003_000013.mp4" for _, video, *_ in [*train, *test]))
    plain = {"name": "hvu", "kind": "p-hvu", "source": str(folder / "videos"), "annotations": str(folder / "hvu"), "least_videos": 1}
    return PHVUDataset(**plain | changes)  # type: ignore[arg-type]


TRAIN = [
    row("aaaaaaaaaaa", "dance|dancing_ballet|shoe|stage|fun"), row("bbbbbbbbbbb", "dance|shoe|stage"),
    row("-c_cccccccc", "cooking|pan|kitchen"), row("ddddddddddd", "cooking|pan|birthday"),
]  # fmt: skip
TEST = [row("eeeeeeeeeee", "dance|pan|stage|kitchen"), row("fffffffffff", "cooking|shoe|pan|kitchen")]


def test_all_actions_are_kept_and_objects_and_scenes_are_hidden(tmp_path: Path) -> None:
    catalogue = phvu(tables(tmp_path, TRAIN, TEST))
    assert catalogue.attributes == ("object_pan", "object_shoe", "scene_kitchen", "scene_stage")
    found = {video.path.stem[:11]: (video.split, video.action, video.attributes) for video in catalogue.videos}
    assert found == {
        "aaaaaaaaaaa": ("train", ("dance", "dancing_ballet"), (0.0, 1.0, 0.0, 1.0)),
        "bbbbbbbbbbb": ("train", ("dance",), (0.0, 1.0, 0.0, 1.0)),
        "-c_cccccccc": ("train", ("cooking",), (1.0, 0.0, 1.0, 0.0)),
        "eeeeeeeeeee": ("test", ("dance",), (1.0, 0.0, 1.0, 1.0)),
        "fffffffffff": ("test", ("cooking",), (1.0, 1.0, 1.0, 0.0)),
    }
    assert catalogue.several_actions and catalogue.actions == ("cooking", "dance", "dancing_ballet")
    assert catalogue.report["videos without an action, an object and a scene"] == ["ddddddddddd_000003_000013"]


def test_rare_tags_are_neither_actions_nor_attributes_and_what_that_costs_is_reported(tmp_path: Path) -> None:
    catalogue = phvu(tables(tmp_path, TRAIN, TEST, least_videos=2, hidden=("scene",)))
    assert catalogue.attributes == ("scene_stage",)
    assert {video.path.stem[:3]: video.action for video in catalogue.videos} == {"aaa": ("dance",), "bbb": ("dance",), "eee": ("dance",)}
    lost = catalogue.report["videos whose actions have fewer than 2 training videos"]
    assert lost == ["-c_cccccccc_000003_000013", "fffffffffff_000003_000013"]


def test_a_file_that_the_downloader_has_cut_is_found_and_a_missing_one_reported(tmp_path: Path) -> None:
    dataset = tables(tmp_path, TRAIN, TEST)
    videos = tmp_path / "videos"
    (videos / "aaaaaaaaaaa_000003_000013.mp4").rename(videos / "aaaaaaaaaaa_000003_000013_.mp4")
    (videos / "bbbbbbbbbbb_000003_000013.mp4").unlink()
    catalogue = phvu(dataset)
    keys = {video.key[:3] for video in catalogue.videos}
    assert keys == {"aaa", "-c_", "eee", "fff"} and len({video.key for video in catalogue.videos}) == 4
    assert catalogue.report["labels without a file"] == ["bbbbbbbbbbb_000003_000013"]


def test_a_video_that_is_listed_twice_counts_once_and_seconds_may_be_fractions(tmp_path: Path) -> None:
    catalogue = phvu(tables(tmp_path, [*TRAIN, row("aaaaaaaaaaa", "dance|shoe|stage", "3.0", "13.0")], TEST))
    assert len(catalogue.videos) == 5


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([row("a", "dance|juggling|shoe|stage")], r"HVU_Train_V1\.0\.csv: line 2: tag juggling is not in HVU_Tags_Categories"),
        ([row("a", "dance|shoe|stage", "soon")], r"line 2: soon to 13 are not seconds"),
        ([["dance|shoe|stage", "a"]], r"line 2: cut short"),
    ],
)
def test_a_row_of_another_form_is_refused_with_its_line(train: list[list[object]], message: str, tmp_path: Path) -> None:
    dataset = tables(tmp_path, train, TEST) if len(train[0]) > 2 else tables(tmp_path, TRAIN, TEST)
    if len(train[0]) == 2:
        (tmp_path / "hvu" / FILES["train"]).write_text("Tags,youtube_id,time_start,time_end\ndance|shoe|stage,a\n")
    with pytest.raises(UserError, match=message):
        phvu(dataset)


def test_missing_tables_and_columns_are_named(tmp_path: Path) -> None:
    dataset = tables(tmp_path, TRAIN, TEST)
    with pytest.raises(UserError, match="no tag of object or scene has 9 training videos; lower"):
        phvu(dataset.model_copy(update={"least_videos": 9}))
    (tmp_path / "hvu" / FILES["test"]).write_text("Tags,id\n")
    with pytest.raises(UserError, match=r"HVU_Val_V1\.0\.csv: column youtube_id is missing"):
        phvu(dataset)
    (tmp_path / "hvu" / CATEGORIES).unlink()
    with pytest.raises(UserError, match=r"HVU_Tags_Categories_V1\.0\.csv: no such file; download HVU's tables"):
        phvu(dataset)


def test_the_first_stage_takes_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    clips = {f"v{index}_0": clip(f"v{index}", WORDS[index % 2]) for index in range(20)}
    assert len(catalogue_of(faces(tmp_path / "f", clips, val_share=0.2), tmp_path, 1).of_split("val")) > 0
    with pytest.raises(UserError, match="val: every group of training videos is the last of its action"):
        catalogue_of(tables(tmp_path, TRAIN[:1] + TRAIN[2:3], TEST[1:]), tmp_path, 1)
