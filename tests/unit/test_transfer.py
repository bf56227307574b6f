"""An anonymizer of another data set is judged as it is: nothing is trained, and what DVC would empty is refused as its place."""

import csv

import pytest

from pipelines import sweep
from pipelines import train as stage
from stprivacy.config import load_params
from stprivacy.errors import UserError
from stprivacy.models.checkpoints import load_anonymizer
from stprivacy.training.transfer import take_over
from tests.unit.evaluation_files import CLIP, tiny_model
from tests.unit.test_config import written


@pytest.fixture
def outputs(tmp_path):
    return {"anonymizer": tmp_path / "new/anonymizer", "init": tmp_path / "new/init", "history": tmp_path / "results/history.csv"}


def test_the_anonymizer_is_taken_byte_for_byte_and_its_recognizer_is_not(tmp_path, outputs):
    source = tiny_model(tmp_path / "kept")
    (source / "action.safetensors").write_bytes(b"knows other actions")
    outputs["anonymizer"].mkdir(parents=True)
    (outputs["anonymizer"] / "old").touch()
    take_over(source, CLIP, outputs)
    for name in ("anonymizer", "init"):
        assert {path.name for path in outputs[name].iterdir()} == {"anonymizer.safetensors", "config.json"}
        for file in outputs[name].iterdir():
            assert file.read_bytes() == (source / file.name).read_bytes()
    load_anonymizer(outputs["anonymizer"])
    with open(outputs["history"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == []


def test_an_anonymizer_of_other_clips_is_refused(tmp_path, outputs):
    with pytest.raises(UserError, match=r"made for clips of 4 frames at 16 px, not params\.yaml's 8 at 16; set clip alike"):
        take_over(tiny_model(tmp_path / "kept"), CLIP.model_copy(update={"num_frames": 8}), outputs)
    with pytest.raises(UserError, match=r"nowhere/config\.json: no such file"):
        take_over(tmp_path / "nowhere", CLIP, outputs)
    assert not outputs["anonymizer"].exists()


def test_the_train_stage_trains_nothing_then(tmp_path, monkeypatch):
    source = tiny_model(tmp_path / "kept")
    params = written(tmp_path, {"train.anonymizer_from": str(source), "clip.num_frames": 4, "clip.size": 16})
    monkeypatch.chdir(tmp_path)
    stage.train_here(params)
    assert (tmp_path / "models/anonymizer/anonymizer.safetensors").read_bytes() == (source / "anonymizer.safetensors").read_bytes()
    assert not (tmp_path / "mlflow.db").exists()


def test_the_sweep_stage_says_that_there_is_nothing_to_sweep(tmp_path):
    params = written(tmp_path, {"train.anonymizer_from": str(tmp_path / "kept")})
    with pytest.raises(UserError, match="plays no games; run `dvc repro evaluate` instead of sweep"):
        sweep.sweep_here(params)


@pytest.mark.parametrize("place", ["models/anonymizer", "./models/init/", "models/sweep/p5-s0"])
def test_a_place_that_dvc_empties_is_refused(tmp_path, place):
    with pytest.raises(UserError, match="DVC empties that folder before the stage runs; copy it"):
        load_params(written(tmp_path, {"train.anonymizer_from": place}))
