"""params.yaml is checked whole before any work starts, and a mistake is told in one line: file, key, value, mend."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from stprivacy.config import BaselineKind, Channel, Environment, Params, config_hash, load_params
from stprivacy.config.training import BaselineGames
from stprivacy.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
READY_MADE = [ROOT / "params.yaml", *sorted((ROOT / "params").glob("*.yaml"))]
STAGES = ["preprocess", "shard", "evaluate_raw", "train", "evaluate"]


def tiny() -> dict:
    """params/vp-synth-tiny.yaml as plain values."""
    return YAML(typ="safe", pure=True).load((ROOT / "params" / "vp-synth-tiny.yaml").read_text())


def written(folder: Path, changes: dict[str, object]) -> Path:
    """The tiny experiment with some keys (`section.key`) changed, as a file."""
    plain = tiny()
    for key, value in changes.items():
        *path, last = key.split(".")
        section = plain
        for part in path:
            section = section[part] if isinstance(section, dict) else section[int(part)]
        section[last] = value
    path_of_file = folder / "params.yaml"
    with open(path_of_file, "w") as file:
        YAML(typ="safe", pure=True).dump(plain, file)
    return path_of_file


# ---------------------------------------------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("path", READY_MADE, ids=lambda path: path.stem)
def test_every_ready_made_experiment_is_valid_and_says_in_its_first_line_what_it_is(path):
    assert isinstance(load_params(path), Params)
    assert re.match(r"# \w.{20,}", path.read_text().splitlines()[0])


def test_the_default_is_one_of_the_ready_made_experiments(project_root):
    default = (project_root / "params.yaml").read_bytes()
    assert default == (project_root / "params" / "vp-synth.yaml").read_bytes()


@pytest.mark.parametrize("path", READY_MADE, ids=lambda path: path.stem)
def test_a_ready_made_experiment_leaves_nothing_to_defaults_that_dvc_tracks(path):
    """DVC compares the file's keys: one that is absent there could change its default without a rerun."""
    plain = YAML(typ="safe", pure=True).load(path.read_text())
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in {name for stage in stages.values() for name in stage.get("params", [])}:
        found = plain
        for part in name.split("."):
            assert part in found, f"{name} is not in {path.name}"
            found = found[part]
        assert name in SPARSE or _keys(found) == _keys(_value_of(load_params(path), name)), name


SPARSE = {"baselines.game"}
"""What is left out there is as in `train.game`: it has no default of its own that could change."""
CHANGES_NO_RESULT = {"preprocess.num_processes"}


def test_dvc_tracks_every_key_that_changes_a_result():
    """Of the sections whose stage is in dvc.yaml. A key that no stage names could be changed, and nothing would run again."""
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    tracked = {name for stage in stages.values() for name in stage.get("params", [])}
    later = {"sweep", "pareto", "register"} - stages.keys()
    leaves = set(_leaves(load_params(ROOT / "params" / "vp-synth.yaml").model_dump(mode="json")))
    untracked = {leaf for leaf in leaves if not any(f"{leaf}.".startswith(f"{name}.") for name in tracked)}
    assert {leaf for leaf in untracked if leaf.partition(".")[0] not in later} == CHANGES_NO_RESULT


def _leaves(tree: dict, prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _value_of(params: Params, name: str) -> object:
    value: object = params.model_dump(mode="json")
    for part in name.split("."):
        value = value[part]  # type: ignore[index]
    return value


def _keys(value: object) -> object:
    return {name: _keys(inner) for name, inner in value.items()} if isinstance(value, dict) else None


# ---------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.privacy_wieght": 3}, "train.privacy_wieght = 3: unknown key; did you mean `privacy_weight`?"),
        ({"train.game.closed_form.rigde": 1}, "train.game.closed_form.rigde = 1: unknown key; did you mean `ridge`?"),
        (
            {"train.game.closed_form.random_kinds": [], "train.game.closed_form.raw_trained": False},
            "train.game.closed_form: weight is above 0 and there is nothing to see: set weight to 0",
        ),
        ({"train.game.adversaries.0.knid": "vit"}, "train.game.adversaries.0.knid = 'vit': unknown key; did you mean `kind`?"),
        ({"dataset.num_trian": 64}, "dataset.num_trian = 64: unknown key; did you mean `num_train`?"),
        ({"modle": {}}, "modle = {}: unknown key; did you mean `model`?"),
        ({"channel.zzz": 1}, "channel.zzz = 1: unknown key; known here: codec_crf, fill, grey, noise"),
        ({"model.keep_ratio": 1.5}, "model.keep_ratio = 1.5: Input should be less than or equal to 1"),
        ({"model.keep_ratio": 0}, "model.keep_ratio = 0: Input should be greater than 0"),
        ({"model.width": "wide"}, "model.width = 'wide': Input should be a valid integer"),
        ({"train.global_batch": 16.5}, "train.global_batch = 16.5: Input should be a valid integer"),
        ({"train.weight_decay": float("inf")}, "train.weight_decay = inf: Input should be a finite number"),
        ({"train.zero_stage": 3}, "train.zero_stage = 3: Input should be 0, 1 or 2"),
        ({"evaluate.attack.kinds": ["cnn4d"]}, "evaluate.attack.kinds.0 = 'cnn4d': Input should be 'cnn3d', 'cnn2d', 'vit', 'frames', "),
        ({"dataset.kind": "kinetics"}, "dataset: .*'vp-synth', 'vp-hmdb51'"),
        ({"dataset.name": "My Data"}, "dataset.name = 'My Data': .*pattern"),
        ({"model.depth": 2, "model.sparsify_before": [0, 1, 2]}, "model: sparsify_before names block 2.*raise depth to at least 3"),
        ({"model.sparsify_before": [2, 1]}, "model: sparsify_before must rise without repeats"),
        ({"model.width": 15}, "model: width 15 is not a multiple of num_heads 2; take 16"),
        ({"model.final_norm": True}, "model: identity_start needs final_norm: false"),
        ({"clip.num_frames": 7}, "clip.num_frames 7 is not a multiple of model.tubelet's 2; take 8"),
        ({"clip.size": 30}, "clip.size 30 is not a multiple of model.tubelet's 8; take 32"),
        ({"preprocess.short_side": 16}, "preprocess.short_side 16 is below clip.size 32; raise it to at least 32"),
        ({"evaluate.attack.kinds": ["cnn3d", "cnn3d"]}, "evaluate.attack.kinds: cnn3d is there twice; name it once"),
        ({"evaluate.seeds": [0, 1, 0]}, "0 is there twice; name it once"),
        ({"evaluate.kept_shares": [0.7, 0.7]}, "0.7 is there twice"),
        ({"sweep.seeds": [1, 1]}, "1 is there twice"),
        ({"evaluate.attack.kinds": ["cnn3d"]}, "cnn2d starts from a raw recognizer, but evaluate.attack.kinds trains none; add cnn2d"),
        ({"train.action_kind": "cnn2d"}, "train.action_kind cnn2d starts from the raw recognizer.*set both alike"),
        ({"evaluate.methods": ["blur", "unet"]}, "evaluate: methods names unet, a learned baseline, .*; name it in baselines.methods"),
        ({"baselines.game": {"itnte": {}}}, "baselines.game.itnte = {}: unknown key; did you mean `itnet`?"),
        ({"baselines.game": {"itnet": {"Combine": "mean"}}}, "baselines.game.itnet.Combine = 'mean': unknown key; did you mean `combine`?"),
        ({"baselines.game": {"unet": {"combine": "best"}}}, "baselines.game.unet.combine = 'best': Input should be 'mean' or 'strongest'"),
        ({"train.engine": "torch", "train.precision": "bf16"}, "train: precision bf16 needs engine: deepspeed"),
        ({"sweep.kept_share": {"low": 0.7, "high": 0.4}}, "sweep.kept_share: low 0.7 is not below high 0.4; exchange them"),
        ({"sweep.kept_share": [0.4, "all"]}, "sweep.kept_share.1 = 'all': Input should be a valid number"),
        ({"sweep.kept_share": {"low": 0.4, "hihg": 0.7}}, "sweep.kept_share.hihg = 0.7: unknown key; did you mean `high`?"),
    ],
    ids=lambda value: " ".join(f"{key}={wrong}" for key, wrong in value.items()) if isinstance(value, dict) else "",
)
def test_a_mistake_is_told_with_file_key_value_and_mend(changes, said, tmp_path):
    path = written(tmp_path, changes)
    with pytest.raises(UserError) as caught:
        load_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert re.search(re.escape(said) if ".*" not in said else said, message), message


def test_a_missing_section_and_a_missing_key_are_named(tmp_path):
    plain = tiny()
    del plain["dataset"]["source"]
    for lacking, key in ((plain, "dataset.source"), ({"dataset": tiny()["dataset"]}, "clip")):
        with open(tmp_path / "params.yaml", "w") as file:
            YAML(typ="safe", pure=True).dump(lacking, file)
        with pytest.raises(UserError, match=f"params.yaml: {key}: missing; add it"):
            load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: [1, 2", "not readable as YAML: .*line 1"),
        ("train: {seed: 0}\ntrain: {seed: 1}\n", "not readable as YAML: .*duplicate key"),
        ("- a list", "expected sections such as `train:`"),
        ("", "expected sections such as `train:`"),
    ],
    ids=["a bracket left open", "a section twice", "a list", "empty"],
)
def test_a_file_that_is_no_experiment_is_refused_in_one_line(text, said, tmp_path):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=f"params.yaml: {said}") as caught:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such file; .*`stprivacy params use vp-synth`"):
        load_params(tmp_path / "none.yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ends_with_one_line_and_exit_code_2_before_any_work(stage, tmp_path):
    path = written(tmp_path, {"model.keep_ratio": 1.5})
    raw = tmp_path / "results" / "evaluate" / "raw"
    raw.mkdir(parents=True)
    (raw / "metrics.json").write_text("{}")  # the stage evaluate asks for it first
    command = [sys.executable, "-m", f"pipelines.{stage}", *(["--method", "blur"] if stage == "evaluate" else [])]
    before = sorted(tmp_path.rglob("*"))
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=100
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: {path.name}: model.keep_ratio = 1.5: Input should be less than or equal to 1\n"
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------------------------------------------- values


def test_a_number_may_be_written_1e_4(tmp_path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params" / "vp-synth-tiny.yaml").read_text()
    path.write_text(re.sub(r"privacy_weight: \S+", "privacy_weight: 1e-4", text, count=1))
    assert load_params(path).train.privacy_weight == 0.0001


def test_every_learned_baseline_may_have_a_game_of_its_own():
    assert ("stprivacy-tubelets", *BaselineGames.model_fields) == get_args(BaselineKind)  # the first plays train.game itself


def test_parameters_cannot_be_changed_after_they_were_checked():
    with pytest.raises(ValidationError, match="frozen"):
        Channel().noise = 0.5  # type: ignore[misc]


def test_kept_share_is_the_keep_ratio_to_the_power_of_the_blocks(tmp_path):
    model = load_params(written(tmp_path, {"model.keep_ratio": 0.7, "model.sparsify_before": [0, 1, 2]})).model
    assert model.kept_share == pytest.approx(0.343)


def test_the_hash_names_the_numbers_and_not_how_they_were_written(tmp_path):
    params = load_params(ROOT / "params" / "vp-synth-tiny.yaml")
    turned = {name: dict(reversed(section.items())) for name, section in reversed(tiny().items())}
    with open(tmp_path / "turned.yaml", "w") as file:
        YAML(typ="safe", pure=True).dump(turned, file)
    assert config_hash(load_params(tmp_path / "turned.yaml")) == config_hash(params)
    assert config_hash(params.clip, "game") == config_hash(params.clip.model_dump(), "game")


@pytest.mark.parametrize(
    ("key", "value"), [("train.seed", 1), ("model.keep_ratio", 0.8368), ("dataset.num_train", 65), ("tracking.log_raw_clips", True)]
)
def test_the_hash_changes_with_every_number(key, value, tmp_path):
    assert config_hash(load_params(written(tmp_path, {key: value}))) != config_hash(load_params(ROOT / "params" / "vp-synth-tiny.yaml"))


def test_the_hash_is_the_same_in_every_process():
    program = "from stprivacy.config import Channel, config_hash; print(config_hash(Channel(), {'b': 1, 'a': [2]}, 'x'))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {config_hash(Channel(), {"a": [2], "b": 1}, "x")}


# ---------------------------------------------------------------------------------------------------- the environment


def test_the_environment_says_where_things_are(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "STPRIVACY_NUM_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    assert (Environment.read().tracking_uri, Environment.read().num_workers) == ("sqlite:///mlflow.db", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("STPRIVACY_NUM_WORKERS", "3")
    assert (Environment.read().tracking_uri, Environment.read().num_workers) == ("http://127.0.0.1:5000", 3)


@pytest.mark.parametrize("workers", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_refused(workers, monkeypatch):
    monkeypatch.setenv("STPRIVACY_NUM_WORKERS", workers)
    with pytest.raises(UserError, match="STPRIVACY_NUM_WORKERS = .*: must be a whole number from 1; unset it"):
        Environment.read()
