"""A whole training run in this process on the plain-torch engine: killed after any epoch it goes on as if nothing had happened."""

import contextlib
import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch

from stprivacy.config import Channel
from stprivacy.errors import UserError
from stprivacy.models.checkpoints import load_anonymizer, save_weights
from stprivacy.models.recognizers import build_recognizer
from stprivacy.training import distributed, worker
from stprivacy.training.distributed import game_hash, init_hash
from stprivacy.training.worker import TrainingJob, run_worker
from tests.unit.evaluation_files import ACTIONS, ATTRIBUTES, CLIP, SIZES, noise_clips, random_labels, tiny_params, write_dataset

EPOCHS = [("init", 1), ("init", 2), ("game", 1), ("game", 2), ("game", 3)]


def training_params(**changes):
    """Two epochs of init and three of the game, three steps each; every part of the game takes part."""
    params = tiny_params()
    phases = {name: getattr(params.train, name).model_copy(update={"epochs": epochs}) for name, epochs in (("init", 2), ("game", 3))}
    settings = {"engine": "torch", "global_batch": 8, "micro_batch": 4, "num_workers": 1, **phases, **changes}
    return params.model_copy(update={"train": params.train.model_copy(update=settings)})


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder, sizes = tmp_path_factory.mktemp("training"), {"train": 26, "val": 2, "test": 2}
    actions, attributes = random_labels(sizes)
    shards = write_dataset(folder, noise_clips(sizes), actions, attributes)
    torch.manual_seed(0)
    for name, kind in (("action", "cnn3d"), ("privacy-cnn3d", "cnn3d"), ("privacy-cnn2d", "cnn2d")):
        outputs = ACTIONS if name == "action" else ATTRIBUTES
        save_weights(folder / "recognizers" / f"{name}.safetensors", build_recognizer(kind, len(outputs), SIZES, CLIP))
    return TrainingJob(training_params(), shards, folder / "recognizers")


class Killed(BaseException):
    """What nothing catches."""


def play(job, folder, checkpoint=None, kill_after=None, world_size=1):
    """Run the job; its checkpoints are folders 0, 1, … below `folder`, in the order of writing."""
    count = 0

    def save(name, write, metrics):
        nonlocal count
        target = folder / str(count)
        target.mkdir(parents=True)
        write(target)
        count += 1
        if count == kill_after:
            raise Killed

    run_worker(job, 0, world_size, checkpoint, save, lambda rows: rows)
    return [folder / str(index) for index in range(count)]


def progress_of(checkpoint):
    found = json.loads((checkpoint / "progress.json").read_text())
    return found["phase"], found["epochs"]


def history_of(checkpoint):
    """Every step's metrics, without how long it took."""
    return pd.read_csv(checkpoint / "history.csv").drop(columns="time/step_s")


@pytest.fixture(scope="module")
def undisturbed(job, tmp_path_factory):
    return play(job, tmp_path_factory.mktemp("undisturbed"))


def test_every_epoch_leaves_a_checkpoint_with_a_model_that_can_be_used(undisturbed):
    assert [progress_of(checkpoint) for checkpoint in undisturbed] == EPOCHS
    for checkpoint in undisturbed:
        anonymizer, channel = load_anonymizer(checkpoint / "model")
        assert channel == tiny_params().channel != Channel(noise=0.0)
        assert (anonymizer.clip, anonymizer.training) == (CLIP, False)
    history = history_of(undisturbed[-1])
    assert history["phase"].tolist() == ["init"] * 6 + ["game"] * 9
    assert history["step"].tolist() == [*range(6), *range(9)]
    game = history[history["phase"] == "game"].filter(like="loss/")
    assert game["loss/total"].notna().all()


def test_each_phase_moves_the_model(undisturbed):
    weights = [(checkpoint / "model" / "anonymizer.safetensors").read_bytes() for checkpoint in undisturbed]
    assert len(set(weights)) == len(weights)
    assert (undisturbed[-1] / "init" / "anonymizer.safetensors").read_bytes() == weights[1]  # what init left goes along


@pytest.mark.parametrize("killed_after", range(1, len(EPOCHS)), ids=[f"{phase}-{epoch}" for phase, epoch in EPOCHS[:-1]])
def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(job, undisturbed, killed_after, tmp_path, capsys):
    with pytest.raises(Killed):
        play(job, tmp_path / "killed", kill_after=killed_after)
    capsys.readouterr()
    moved = tmp_path / "moved"  # as Ray hands a checkpoint over, wherever it was written
    shutil.move(tmp_path / "killed" / str(killed_after - 1), moved)
    rest = play(job, tmp_path / "rest", moved)
    assert [progress_of(checkpoint) for checkpoint in rest] == EPOCHS[killed_after:]
    pd.testing.assert_frame_equal(history_of(rest[-1]), history_of(undisturbed[-1]), check_exact=False, rtol=1e-5, atol=1e-6)
    for name in ("model/anonymizer.safetensors", "model/action.safetensors", "init/anonymizer.safetensors"):
        assert (rest[-1] / name).read_bytes() == (undisturbed[-1] / name).read_bytes(), name


def test_an_init_that_is_there_already_is_not_trained_again(job, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "ClipViews", None)  # nor is a clip read for the start that it replaces
    with_init = dataclasses.replace(job, init=undisturbed[1] / "model")
    checkpoints = play(with_init, tmp_path)
    assert [progress_of(checkpoint) for checkpoint in checkpoints] == EPOCHS[2:]
    for name in ("model/anonymizer.safetensors", "init/action.safetensors"):
        assert (checkpoints[-1] / name).read_bytes() == (undisturbed[-1] / name).read_bytes(), name


def test_a_checkpoint_of_two_workers_is_taken_up_by_one(job, undisturbed, tmp_path):
    two = shutil.copytree(undisturbed[3], tmp_path / "two")
    replay = torch.load(two / "replay-0.pt", weights_only=True)
    for rank in (0, 1):  # a worker's rows are its half of every global batch
        half = {name: values if name == "steps" else values.chunk(2, 1)[rank].clone() for name, values in replay.items()}
        torch.save(half, two / f"replay-{rank}.pt")
    progress = json.loads((two / "progress.json").read_text())
    (two / "progress.json").write_text(json.dumps(progress | {"world_size": 2}))
    rest = play(job, tmp_path / "rest", two)
    assert [progress_of(checkpoint) for checkpoint in rest] == EPOCHS[4:]
    pd.testing.assert_frame_equal(history_of(rest[-1]), history_of(undisturbed[-1]), check_exact=False, rtol=1e-5, atol=1e-6)
    for name in ("model/anonymizer.safetensors", "model/action.safetensors"):
        assert (rest[-1] / name).read_bytes() == (undisturbed[-1] / name).read_bytes(), name


def test_without_raw_recognizers_the_missing_file_is_named(job, tmp_path):
    with pytest.raises(UserError, match=r"action\.safetensors: no such file; run the stage that makes it"):
        play(dataclasses.replace(job, recognizers=tmp_path), tmp_path / "out")


def test_a_job_travels_as_plain_values(job, tmp_path):
    for sent in (job, dataclasses.replace(job, init=tmp_path, tracking_run="abc")):
        assert TrainingJob.from_dict(json.loads(json.dumps(sent.as_dict()))) == sent


# ---------------------------------------------------------------------------------------------------- what a run leaves


@pytest.mark.parametrize("killed_at", range(4))
def test_outs_that_are_replaced_are_never_half_there(tmp_path, monkeypatch, killed_at):
    """Killed while a folder is removed: those of an earlier kill, then the old one."""
    contents = {name: {f"{name}-{number}" for number in range(3)} for name in ("fresh", "out", "out.new", "out.old")}
    for folder, files in contents.items():
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).touch()
    rmtree, calls = shutil.rmtree, []

    def removed(folder, ignore_errors):
        calls.append(folder)
        if len(calls) == killed_at:
            next(folder.iterdir()).unlink()
            raise Killed
        rmtree(folder, ignore_errors)

    monkeypatch.setattr(distributed.shutil, "rmtree", removed)
    for _ in range(2 if killed_at else 1):
        with contextlib.suppress(Killed):
            distributed._replace_folder(tmp_path / "fresh", tmp_path / "out")
        assert {file.name for file in (tmp_path / "out").iterdir()} in (contents["out"], contents["fresh"])
    assert {file.name for file in (tmp_path / "out").iterdir()} == contents["fresh"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "out"]


# ---------------------------------------------------------------------------------------------------- names of runs


@pytest.mark.parametrize(
    ("changes", "new_init", "new_game"),
    [
        ({"privacy_weight": 3.0}, False, True),
        ({"action_weight": 3.0}, False, True),
        ({"num_workers": 2}, False, False),
        ({"micro_batch": 2}, False, False),
        ({"loader_processes": 1}, False, False),
        ({"seed": 1}, True, True),
        ({"ratio_weight": 1.0}, True, True),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_is_named_after_what_changes_its_result(job, changes, new_init, new_game):
    params = training_params(**changes)
    assert (init_hash(params, job.shards, job.recognizers) != init_hash(job.params, job.shards, job.recognizers)) is new_init
    assert (game_hash(params, job.shards, job.recognizers) != game_hash(job.params, job.shards, job.recognizers)) is new_game


def test_another_recognizer_or_clip_is_another_run(job, tmp_path):
    shutil.copytree(job.recognizers, tmp_path / "recognizers")
    shutil.copytree(job.shards, tmp_path / "shards")
    same = game_hash(job.params, tmp_path / "shards", tmp_path / "recognizers")
    assert same == game_hash(job.params, job.shards, job.recognizers)
    (tmp_path / "recognizers" / "action.safetensors").write_bytes(b"other")
    other_start = game_hash(job.params, tmp_path / "shards", tmp_path / "recognizers")
    (tmp_path / "shards" / "index.jsonl").write_text("")
    assert len({same, other_start, game_hash(job.params, tmp_path / "shards", tmp_path / "recognizers")}) == 3
