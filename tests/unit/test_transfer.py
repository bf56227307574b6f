"""An anonymizer of another data set is judged as it is: nothing is trained, and what DVC would empty is refused as its place."""

import csv

import pytest

from pipelines import sweep, train_baseline
from pipelines import train as stage
from stprivacy.config import Model, load_params
from stprivacy.errors import UserError
from stprivacy.models.checkpoints import load_anonymizer
from stprivacy.training.transfer import take_over
from tests.unit.evaluation_files import CLIP, tiny_model
from tests.unit.test_config import written

MODEL = Model(depth=2, sparsify_before=(1,))
"""Of as many sparsifications as `tiny_model`."""


@pytest.fixture
def outputs(tmp_path):
    return {"anonymizer": tmp_path / "new/anonymizer", "init": tmp_path / "new/init", "history": tmp_path / "results/history.csv"}


def test_the_anonymizer_is_taken_byte_for_byte_and_its_recognizer_is_not(tmp_path, outputs):
    source = tiny_model(tmp_path / "kept")
    (source / "action.safetensors").write_bytes(b"knows other actions")
    outputs["anonymizer"].mkdir(parents=True)
    (outputs["anonymizer"] / "old").touch()
    take_over(source, CLIP, MODEL, outputs)
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
        take_over(tiny_model(tmp_path / "kept"), CLIP.model_copy(update={"num_frames": 8}), MODEL, outputs)
    with pytest.raises(UserError, match=r"nowhere/config\.json: no such file"):
        take_over(tmp_path / "nowhere", CLIP, MODEL, outputs)
    assert not outputs["anonymizer"].exists()


def test_an_anonymizer_of_another_number_of_sparsifications_is_refused(tmp_path, outputs):
    said = r"kept: the model there has 1 sparsifications, and params\.yaml's has 2; set model\.sparsify_before as in its config\.json$"
    with pytest.raises(UserError, match=said):
        take_over(tiny_model(tmp_path / "kept"), CLIP, MODEL.model_copy(update={"sparsify_before": (0, 1)}), outputs)
    assert not outputs["anonymizer"].exists()


def test_the_train_stage_trains_nothing_then(tmp_path, monkeypatch):
    source = tiny_model(tmp_path / "kept")
    clip = {"clip.num_frames": 4, "clip.size": 16}
    params = written(tmp_path, {"train.anonymizer_from": str(source), "model.sparsify_before": [1]} | clip)
    monkeypatch.chdir(tmp_path)
    stage.train_here(params)
    assert (tmp_path / "models/anonymizer/anonymizer.safetensors").read_bytes() == (source / "anonymizer.safetensors").read_bytes()
    assert not (tmp_path / "mlflow.db").exists()


def test_the_sweep_stage_says_that_there_is_nothing_to_sweep(tmp_path):
    params = written(tmp_path, {"train.anonymizer_from": str(tmp_path / "kept")})
    with pytest.raises(UserError, match="plays no games; run `dvc repro evaluate` instead of sweep"):
        sweep.sweep_here(params)


def test_no_baseline_is_trained_on_the_actions_that_the_anonymizer_has_not_met(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = written(tmp_path, {"train.anonymizer_from": str(tmp_path / "kept")})
    with pytest.raises(UserError, match=r"not met, and unet would be trained on them; set baselines\.methods: \[\]$"):
        train_baseline.train_here("unet", params)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("place", ["models/anonymizer", "./models/init/", "models/sweep/p5-s0"])
def test_a_place_that_dvc_empties_is_refused(tmp_path, place):
    with pytest.raises(UserError, match="DVC empties that folder before the stage runs; copy it"):
        load_params(written(tmp_path, {"train.anonymizer_from": place}))
