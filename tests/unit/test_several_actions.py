"""Data sets whose videos have several actions (P-HVU): from tables to the policy; and one action a video is left as it was."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from stprivacy.action_task import ONE_ACTION, SEVERAL_ACTIONS, task_of
from stprivacy.cli import cli
from stprivacy.config import Clip, PHVUDataset, Policy, Preprocess
from stprivacy.data.annotations import Catalogue, Video
from stprivacy.data.clips import DatasetInfo, ShardReader, TrainingClips
from stprivacy.data.decode import Decoded
from stprivacy.data.preprocess import _write_clips, preprocess
from stprivacy.data.shards import write_shards
from stprivacy.data.splits import cut_val
from stprivacy.data.video import write_mp4
from stprivacy.errors import UserError
from stprivacy.evaluation.attackers import run_attack
from stprivacy.evaluation.compare import compare
from stprivacy.evaluation.fitting import attack_loss, constant_loss, judge
from stprivacy.evaluation.floors import answer_from_action, floors
from stprivacy.evaluation.front_text import not_proved, note
from stprivacy.evaluation.gallery import pick_clips
from stprivacy.evaluation.judge import attack_jobs
from stprivacy.evaluation.metrics import Labels, action_score
from stprivacy.evaluation.page import write_page
from stprivacy.evaluation.pareto import find_front, rows, write_front
from stprivacy.evaluation.released import release
from stprivacy.evaluation.report import markdown
from stprivacy.evaluation.results import POINT_COLUMNS, write_results
from stprivacy.tracking_front import view
from stprivacy.training.objectives import action_loss
from stprivacy.training.worker import constant_loss as constant_action_loss
from stprivacy.training.worker import run_worker
from tests.browser.front_files import METHODS, make_results
from tests.unit.evaluation_files import (
    ACTIONS,
    attack_job,
    made_judgement,
    noise_clips,
    random_labels,
    release_job,
    several_labels,
    tiny_params,
    write_dataset,
)
from tests.unit.test_training_worker import training_params

SIZES = {"train": 48, "val": 16, "test": 24}


# ------------------------------------------------------------------------------------------------ data

ROWS = {
    "train": {"aaaaaaaaaaa": "dance|dancing_ballet|shoe|stage", "bbbbbbbbbbb": "dance|pan|stage", "ccccccccccc": "cooking|pan|kitchen",
              "ddddddddddd": "cooking|dance|shoe|kitchen", "eeeeeeeeeee": "dancing_ballet|shoe|kitchen"},
    "test": {"fffffffffff": "cooking|dancing_ballet|pan|stage", "ggggggggggg": "dance|shoe|kitchen"},
}  # fmt: skip
CATEGORY = {"dance": "action", "dancing_ballet": "action", "cooking": "action", "shoe": "object", "pan": "object", "stage": "scene",
            "kitchen": "scene"}  # fmt: skip


def hvu(folder: Path) -> PHVUDataset:
    """HVU's three tables and real videos."""
    (folder / "hvu").mkdir()
    (folder / "videos").mkdir()
    for split, file in (("train", "HVU_Train_V1.0.csv"), ("test", "HVU_Val_V1.0.csv")):
        lines = [f"{tags},{video},3,13" for video, tags in ROWS[split].items()]
        (folder / "hvu" / file).write_text("\n".join(["Tags,youtube_id,time_start,time_end", *lines]) + "\n")
        for video in ROWS[split]:
            write_mp4(folder / "videos" / f"{video}_000003_000013.mp4", np.zeros((6, 32, 32, 3), np.uint8), 8, 23)
    pairs = "".join(f"{tag},{category}\n" for tag, category in CATEGORY.items())
    (folder / "hvu" / "HVU_Tags_Categories_V1.0.csv").write_text(f"Tag,Category\n{pairs}")
    return PHVUDataset(
        name="hvu", kind="p-hvu", source=str(folder / "videos"), annotations=str(folder / "hvu"), least_videos=1, val_share=0.2
    )


def test_all_actions_of_a_p_hvu_video_reach_the_training_clip_as_a_row_of_0_and_1(tmp_path):
    clip = Clip(num_frames=4, size=16, frame_step=1)
    preprocess(hvu(tmp_path), clip, Preprocess(short_side=16, num_processes=1), tmp_path / "clips", tmp_path / "cache")
    write_shards(tmp_path / "clips", tmp_path / "shards", 1)
    assert DatasetInfo.read(tmp_path / "shards").several_actions
    names = ("cooking", "dance", "dancing_ballet")
    seen = {}
    for split in ("train", "val", "test"):
        reader = ShardReader(tmp_path / "shards", split)
        assert reader.info.actions == names and reader.actions.dtype == np.float32
        for index, row in enumerate(reader.actions):
            seen[reader.keys[index][:11]] = tuple(row)
            item = TrainingClips(reader, clip, 0)[0, index]["action"]
            assert item.tolist() == row.tolist()
            assert reader.action_name(index) == ", ".join(name for name, value in zip(names, row, strict=True) if value)
    tagged = ROWS["train"] | ROWS["test"]
    assert seen == {video: tuple(float(name in tags.split("|")) for name in names) for video, tags in tagged.items()}


def test_one_action_a_video_is_written_as_before(tmp_path):
    frames = tmp_path / "a.npy"
    np.save(frames, np.zeros((2, 4, 4, 3), np.uint8))
    videos = tuple(Video(name, tmp_path / f"{name}.mp4", action, "train", "g", (1.0,)) for name, action in (("a", "walk"), ("b", "run")))
    catalogue = Catalogue(tmp_path, videos, ("hat",))
    (tmp_path / "out").mkdir()
    _write_clips(tmp_path / "out", [Decoded(video, frames, (2, 4, 4)) for video in videos], catalogue, "tiny", 1)
    row = '{"action": %d, "attributes": [1.0], "file": "%s.mp4", "group": "g", "height": 4, "key": "%s", "num_frames": 2, '
    row += '"split": "train", "width": 4}\n'
    assert (tmp_path / "out/manifest.jsonl").read_text() == row % (1, "a", "a") + row % (0, "b", "b")
    assert json.loads((tmp_path / "out/dataset.json").read_text()).keys() == {"name", "actions", "attributes", "num_videos"}


def test_val_takes_no_group_that_an_action_would_miss():
    def video(name, *actions, split="train"):
        return Video(name, Path(name), actions, split, name, (0.0,))

    only = video("only", "cooking", "dance")  # the one video of cooking
    catalogue = Catalogue(Path(), (only, *(video(f"v{i}", "dance") for i in range(4)), video("t", "dance", split="test")), ("hat",))
    for seed in range(20):
        found = cut_val(catalogue, 0.5, seed)
        assert [one.key for one in found.of_split("val") if "cooking" in one.actions] == []
        assert len(found.of_split("val")) == 3  # videos are counted, not their actions


# ------------------------------------------------------------------------------------------------ training


def test_the_action_loss_is_bce_where_clips_have_several_and_cross_entropy_where_one():
    logits, several = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    p = logits.sigmoid()
    expected = -(several * p.log() + (1 - several) * (1 - p).log()).mean()
    assert action_loss(logits, several).item() == pytest.approx(expected.item(), rel=1e-5)
    one = torch.tensor([0, 2, 1, 1, 0])
    assert torch.equal(action_loss(logits, one), torch.nn.functional.cross_entropy(logits, one))


def several_shards(folder: Path, sizes=SIZES) -> Path:
    actions, attributes = several_labels(sizes)
    return write_dataset(folder, noise_clips(sizes), actions, attributes)


def test_a_whole_training_run_plays_with_several_actions(tmp_path):
    from stprivacy.models.checkpoints import save_weights
    from stprivacy.models.recognizers import build_recognizer
    from stprivacy.training.worker import TrainingJob
    from tests.unit.evaluation_files import CLIP
    from tests.unit.evaluation_files import SIZES as WIDTHS

    shards = several_shards(tmp_path, {"train": 26, "val": 2, "test": 2})
    for name, kind, outputs in (("action", "cnn3d", 3), ("privacy-cnn3d", "cnn3d", 2), ("privacy-cnn2d", "cnn2d", 2)):
        save_weights(tmp_path / "recognizers" / f"{name}.safetensors", build_recognizer(kind, outputs, WIDTHS, CLIP))
    saved = []
    run_worker(
        TrainingJob(training_params(), shards, tmp_path / "recognizers"), 0, 1, None, lambda name, write, metrics: saved.append(metrics),
        lambda rows: rows,
    )  # fmt: skip
    assert len(saved) == 5 and all(0 < metrics["loss/action"] < 2 for metrics in saved)
    assert constant_action_loss(ShardReader(shards, "train")) < np.log(2) + 1e-6 < np.log(3)  # nats of an action, not of a class


# ------------------------------------------------------------------------------------------------ attackers and floors


def lit_clips(actions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Noise, brighter in a corner of its own for every action that a clip shows."""
    clips = noise_clips({split: len(shown) for split, shown in actions.items()})
    for split, shown in actions.items():
        for place, (top, left) in enumerate(((0, 0), (0, 8), (8, 0))):
            lit = clips[split][:, :, top : top + 8, left : left + 8]
            lit[shown[:, place] > 0] = lit[shown[:, place] > 0] // 2 + 127
    return clips


@pytest.mark.parametrize("kind", ["linear", "frames"])
def test_an_attacker_finds_every_one_of_several_actions(kind, tmp_path):
    actions, attributes = several_labels(SIZES)
    released = release(release_job(write_dataset(tmp_path, lit_clips(actions), actions, attributes), tmp_path / "cache"))
    job = attack_job(released, tmp_path / "cache", "actions", kind)
    job = replace(job, attack=job.attack.model_copy(update={"max_epochs": 40, "patience": 40, "learning_rate": 0.01}))
    result = run_attack(job)
    assert result.name == "action" and (result.test.sum(1) > 1.5).any()  # sigmoids: no softmax sums to more than 1
    precisions = [average_precision_score(truth, answer) for truth, answer in zip(actions["test"].T, result.test.T, strict=True)]
    assert action_score(result.test, Labels(actions["test"], attributes["test"])) == pytest.approx(np.mean(precisions))
    assert np.mean(precisions) > 0.95


def test_which_actions_are_asked_follows_from_the_labels(tmp_path):
    for name, labels in (("one", random_labels), ("several", several_labels)):
        actions, attributes = labels(SIZES)
        shards = write_dataset(tmp_path / name, noise_clips(SIZES), actions, attributes)
        released = release(release_job(shards, tmp_path / name / "cache"))
        action, *privacy = attack_jobs(released, 0, tiny_params(), tmp_path, "")
        assert action.target == {"one": "action", "several": "actions"}[name] and action.name == "action"
        assert {job.target for job in privacy} == {"privacy"}


def labels_of(split: str = "test", seed: int = 0) -> Labels:
    actions, attributes = several_labels({"train": 60, "val": 30, "test": 50}, seed)
    attributes[split][:, 0] = actions[split][:, 1]  # a hat is worn by those who walk
    return Labels(actions[split].astype(np.float32), attributes[split])


def test_the_loss_and_the_score_of_several_actions_are_those_of_attributes():
    labels, answer = labels_of(), np.random.default_rng(0).random((50, 3))
    as_attributes = Labels(np.zeros(50, np.int64), labels.actions)
    assert judge(answer, labels, "actions") == judge(answer, as_attributes, "privacy")
    clips, logits = np.array([3, 7]), torch.randn(2, 3)
    assert attack_loss(logits, labels, clips, "actions") == attack_loss(logits, as_attributes, clips, "privacy")
    assert constant_loss(labels, "actions") == constant_loss(as_attributes, "privacy")


def test_the_action_only_floor_is_a_logistic_regression_from_all_actions():
    train, test = labels_of("train"), labels_of("test")
    found = answer_from_action(train, test)
    for column in range(2):
        theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(train.actions.astype(float), train.attributes[:, column])
        assert found[:, column] == pytest.approx(theirs.predict_proba(test.actions.astype(float))[:, 1], abs=1e-5)
    ground = floors(train, test)
    assert ground["action_only"].ap[0] == pytest.approx(1)  # walkers have hats: nobody needs a picture for it
    assert ground["action_only"].action == 1 and ground["action_only"].ap[1] < 0.8


def test_floors_of_an_attribute_that_all_or_no_training_clips_have_are_finite():
    train, test = labels_of("train"), labels_of("test")
    train.attributes[:, 0], train.attributes[:, 1] = 0, 1
    answer = answer_from_action(train, test)
    assert (answer[:, 0] == 0).all() and (answer[:, 1] == 1).all()


def test_chance_and_a_constant_answer_have_each_action_s_share_as_ap():
    train, test = labels_of("train"), labels_of("test")
    shares = test.actions.mean(0).mean()
    assert floors(train, test)["chance"].action == pytest.approx(shares)
    assert floors(train, test)["constant"].action == pytest.approx(shares)


# ------------------------------------------------------------------------------------------------ results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folder of results of raw and a learned method, judged on clips with several actions."""
    folder, raw = tmp_path_factory.mktemp("several"), None
    for method, share, skill in (("raw", None, 0.95), ("stprivacy", 0.5, 0.5)):
        found = made_judgement(folder / method, method, (share,), (0, 1), skill, several=True)
        write_results(found, tiny_params(), folder / "results/evaluate" / method, raw)
        raw = folder / "results/evaluate" / method / "metrics.json"
    return folder / "results"


def test_results_hold_mean_average_precision_under_its_own_name(results):
    metrics = json.loads((results / "evaluate/raw/metrics.json").read_text())
    assert metrics["action"].keys() == {"map"}
    assert "action_map" in metrics["intervals"] and "top1" not in json.dumps(metrics)
    with np.load(results / "evaluate/raw/predictions.npz") as file:
        truth, answers = file["test_actions"], [file[f"{seed}/action/test"] for seed in (0, 1)]
    expected = [average_precision_score(truth, answer, average="macro") for answer in answers]
    assert metrics["action"]["map"] == pytest.approx(np.mean(expected))
    low, high = metrics["intervals"]["action_map"]
    assert low < metrics["action"]["map"] < high
    with open(results / "evaluate/raw/points.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == SEVERAL_ACTIONS.named(POINT_COLUMNS) and "action_top1" not in lines[0]
    assert [float(line["action_map"]) for line in lines] == pytest.approx(expected)
    assert "| method | kept share | action mAP ↑ |" in markdown(results)


def test_two_methods_are_compared_by_mean_average_precision(results):
    line = compare(results, "raw", "stprivacy").lines[0]
    metrics = {name: json.loads((results / f"evaluate/{name}/metrics.json").read_text()) for name in ("raw", "stprivacy")}
    assert (line.figure, line.a, line.b) == ("action mAP", metrics["raw"]["action"]["map"], metrics["stprivacy"]["action"]["map"])
    assert line.difference.low < line.a - line.b < line.difference.high and line.difference.p < 0.05
    said = CliRunner().invoke(cli, ["compare", "raw", "stprivacy", "--results", str(results)]).output
    assert "means over 2 and 2 attacker seeds" in said


def test_clips_for_people_name_all_actions(tmp_path):
    clips = pick_clips(tiny_params(), several_shards(tmp_path), count=4)
    reader = ShardReader(tmp_path / "shards", "test")
    row = reader.keys.index(clips.keys[0])
    assert clips.caption(0).startswith("actions: " + ", ".join(np.array(ACTIONS)[reader.actions[row] > 0]))


# ------------------------------------------------------------------------------------------------ front and policy


def renamed(results: Path) -> Path:
    """The same results as if clips had had several actions."""
    for path in (*results.rglob("*.csv"), *results.rglob("metrics.json")):
        path.write_text(path.read_text().replace("action_top1", "action_map").replace('"top1"', '"map"'))
    return results


def test_the_policy_asks_for_a_share_of_raw_s_mean_average_precision(tmp_path):
    (tmp_path / "one").mkdir()
    before = find_front(make_results(tmp_path / "one"), METHODS, Policy())
    shutil.copytree(tmp_path / "one", tmp_path / "several")
    front = find_front(renamed(tmp_path / "several"), METHODS, Policy())
    assert (before.task, front.task) == (ONE_ACTION, SEVERAL_ACTIONS)
    assert front.choice.name == before.choice.name and front.least_action == before.least_action
    assert [c.name for c in front.on_front] == [c.name for c in before.on_front]
    metrics = write_front(front, [""] * len(rows(front)), tmp_path)
    assert "val action mAP ≥" in front.explain_choice() and "top-1" not in note(front, metrics)
    assert "top-1" not in not_proved(front, rendered=True)
    assert task_of((tmp_path / "front.csv").read_text().splitlines()[0].split(",")) is SEVERAL_ACTIONS
    assert {"action_map", "val_action_map"} <= json.loads((tmp_path / "metrics.json").read_text())["choice"].keys()
    page = write_page(front, tmp_path / "report.html", show_raw=True, rendered=True).read_text()
    assert "action mAP ↑" in page and "action_top1" not in page
    assert "action_map" in json.dumps(view(front.task)) and "top1" not in json.dumps(view(front.task))


def test_points_judged_by_another_task_are_refused(tmp_path):
    results = make_results(tmp_path)
    metrics = results / "evaluate/stprivacy/metrics.json"
    metrics.write_text(metrics.read_text().replace('"top1"', '"map"'))
    with pytest.raises(UserError, match="judged by action mAP, but raw video by top-1"):
        find_front(results, METHODS, Policy())
