"""What dvc.yaml says of a stage, as we read it: the same as what DVC reads."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stprivacy.errors import UserError
from stprivacy.stages import folder_md5, read_stage, recorded

PIPELINE = """
stages:
  shard:
    cmd: python -m pipelines.shard
    deps: ["data/clips/${dataset.name}", code.py]
    outs: ["data/shards/${dataset.name}"]
  judge:
    matrix:
      method: ${methods}
    cmd: judge --method ${item.method}
    deps: ["data/shards/${dataset.name}", code.py]
    params: [judge.epochs]
    outs:
      - results/${item.method}:
          cache: true
"""
PARAMS = "dataset: {name: people}\nmethods: [blur]\njudge: {epochs: 3, threads: 2}\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A pipeline of two stages."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"dvc.yaml": PIPELINE, "params.yaml": PARAMS, "code.py": "1\n"}.items():
        Path(name).write_text(text)
    return tmp_path


def test_a_stage_of_a_matrix_is_read_with_its_values_in_place(project):
    stage = read_stage("judge@blur")
    assert (stage.command, stage.data, stage.code) == ("judge --method blur", ("data/shards/people",), ("code.py",))
    assert (stage.outs, stage.params) == (("results/blur",), '{"judge.epochs": 3}')


def test_every_stage_of_this_project_can_be_read(project_root, monkeypatch):
    monkeypatch.chdir(project_root)
    for name in ("evaluate-raw", "train", "sweep", "evaluate@stprivacy"):
        stage = read_stage(name)
        assert stage.command.startswith("python -m pipelines.")
        assert f"data/shards/{stage.data[0].rpartition('/')[2]}" in stage.data
        assert stage.outs and all(Path(path).exists() for path in stage.code)
        assert "$" not in "".join((stage.command, *stage.data, *stage.code, *stage.outs))


@pytest.mark.parametrize("name", ["judges", "judge", "shard@blur"])
def test_a_stage_that_is_not_there_is_named(project, name):
    with pytest.raises(UserError, match=rf"dvc.yaml: no stage {name}; there are shard, judge"):
        read_stage(name)


def test_the_hash_follows_code_params_and_data_and_nothing_else(project):
    def hash_now(data="1"):
        return read_stage("judge@blur").hash({"data/shards/people": data})

    first = hash_now()
    Path("params.yaml").write_text(PARAMS.replace("threads: 2", "threads: 1"))  # dvc.yaml doesn't name it
    assert hash_now() == first
    Path("params.yaml").write_text(PARAMS.replace("epochs: 3", "epochs: 4"))
    assert hash_now() != first
    Path("params.yaml").write_text(PARAMS)
    assert hash_now("2") != first
    Path("code.py").write_text("2\n")
    assert hash_now() != first
    assert hash_now() != read_stage("judge@noise").hash({"data/shards/people": "1"})


def test_a_params_file_of_another_name_goes_into_the_command(project):
    Path("other.yaml").write_text(PARAMS.replace("people", "places"))
    stage = read_stage("shard", Path("other.yaml"))
    assert (stage.command, stage.outs) == ("python -m pipelines.shard --params other.yaml", ("data/shards/places",))


def test_a_param_that_dvc_asks_for_and_nobody_has_set_is_named(project):
    Path("params.yaml").write_text(PARAMS.replace("epochs: 3, ", ""))
    with pytest.raises(UserError, match=r"params.yaml: judge.epochs: missing"):
        read_stage("judge@blur")


@pytest.mark.timeout(300)
def test_folders_have_the_md5_that_dvc_gives_them(project):
    for name in ("b.txt", "a/z.bin", "a/ä.txt", "a.txt"):
        path = Path("folder") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    Path("dvc.yaml").unlink()
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = False\n")
    added = subprocess.run([sys.executable, "-m", "dvc", "add", "--quiet", "folder"], capture_output=True, text=True, check=False)
    assert added.returncode == 0, added.stderr
    (by_dvc,) = YAML(typ="safe", pure=True).load(Path("folder.dvc").read_text())["outs"]
    assert folder_md5(Path("folder")) == by_dvc["md5"]


def test_the_lock_tells_the_md5_of_every_out(project):
    assert recorded() == {}
    Path("dvc.lock").write_text("stages: {a: {outs: [{path: x, md5: 1.dir}, {path: y, md5: 2.dir}]}, b: {cmd: none}}")
    assert recorded() == {"x": "1.dir", "y": "2.dir"}
