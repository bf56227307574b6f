"""An anonymizer of another data set is judged as it is: nothing is trained, and what DVC would empty is refused as its place."""

import csv
from pathlib import Path
from typing import get_args

import pytest

from pipelines import sweep, train_baseline
from pipelines import train as stage
from stprivacy.config import BaselineKind, Channel, Model, load_params
from stprivacy.errors import UserError
from stprivacy.models.anonymizers import build_anonymizer
from stprivacy.models.checkpoints import load_anonymizer, save_model
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


@pytest.mark.parametrize("key", ["train.anonymizer_from", "baselines.taken_from"])
def test_nothing_trained_on_the_actions_is_judged_beside_what_has_not_met_them(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    params = written(tmp_path, {key: str(tmp_path / "kept")})
    said = r"has met, and the other not; set both train\.anonymizer_from and baselines\.taken_from, or neither$"
    with pytest.raises(UserError, match=said):
        train_baseline.train_here("unet", params)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("place", ["models/anonymizer", "./models/init/", "models/sweep/p5-s0", "models/baselines"])
@pytest.mark.parametrize("key", ["train.anonymizer_from", "baselines.taken_from"])
def test_a_place_that_dvc_empties_is_refused(tmp_path, key, place):
    with pytest.raises(UserError, match=f"{key.split('.')[1]} .*: DVC empties that folder before the stage runs; copy it"):
        load_params(written(tmp_path, {key: place}))


# ---------------------------------------------------------------------------------------------------- learned baselines


def kept_baselines(folder: Path, kind: str) -> Path:
    """A folder such as models/baselines of another experiment, with an untrained network of this kind where a unet is looked for."""
    model = MODEL.model_copy(update={"kind": kind, "base_width": 4})
    config = {name: section.model_dump(mode="json") for name, section in (("model", model), ("channel", Channel()), ("clip", CLIP))}
    save_model(folder / "unet/anonymizer", build_anonymizer(model, CLIP), config)
    return folder


def cross_params(tmp_path: Path, base_width: int) -> Path:
    taken = {"train.anonymizer_from": str(tmp_path / "kept"), "baselines.taken_from": str(tmp_path / "kept-baselines")}
    sizes = {"clip.num_frames": CLIP.num_frames, "clip.size": CLIP.size, "baselines.base_width": base_width}
    return written(tmp_path, taken | sizes)


def test_a_learned_baseline_is_taken_as_it_is(tmp_path, monkeypatch):
    source = kept_baselines(tmp_path / "kept-baselines", "unet") / "unet/anonymizer"
    monkeypatch.chdir(tmp_path)
    train_baseline.train_here("unet", cross_params(tmp_path, base_width=4))
    for place in ("anonymizer", "init"):
        for file in ("anonymizer.safetensors", "config.json"):
            assert (tmp_path / "models/baselines/unet" / place / file).read_bytes() == (source / file).read_bytes()
    assert (tmp_path / "results/train-baseline/unet/history.csv").read_text().startswith("phase,step,")
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("kind", "base_width", "said"),
    [
        ("itnet", 4, r"unet/anonymizer: the model there is of kind itnet, not unet; name a folder of that kind$"),
        ("unet", 8, r"unet/anonymizer: the model there has base_width 4, and params\.yaml's 8; set base_width as in its config\.json$"),
    ],
)
def test_a_learned_baseline_of_another_kind_or_width_is_refused(tmp_path, monkeypatch, kind, base_width, said):
    kept_baselines(tmp_path / "kept-baselines", kind)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        train_baseline.train_here("unet", cross_params(tmp_path, base_width))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("experiment", ["vp-hmdb51-to-ucf101", "vp-ucf101-to-hmdb51"])
def test_table_2_has_its_learned_baselines(project_root, experiment):
    """Each is taken from where the head of the experiment's file has it copied."""
    path = project_root / "params" / f"{experiment}.yaml"
    params = load_params(path)
    assert ("stprivacy-tubelets", *params.baselines.methods) == get_args(BaselineKind)  # the first is the model itself here
    assert f"cp -r models/baselines {params.baselines.taken_from}\n" in path.read_text()
