"""The registry from the front to the champion, in a real MLflow store (sqlite) with real packages."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from stprivacy import __version__
from stprivacy.cli import main as cli
from stprivacy.models.anonymizer import expand_keep
from stprivacy.models.channel import to_float
from stprivacy.models.checkpoints import load_anonymizer
from stprivacy.release.card import LONGEST
from stprivacy.release.clips import release
from tests.services.registry_project import ATTRIBUTES, CHOICE, NAME, POINTS, child_environment, make_project, write_points
from tests.unit.release_files import CLIP, make_video, noisy_frames, read_video, small_model

pytestmark = pytest.mark.timeout(400)  # the first test makes a store, which alone took 250 s beside two trainings on two cores


def register(monkeypatch) -> dict:
    from pipelines.register import main

    monkeypatch.setattr(sys, "argv", ["register"])
    main()
    return json.loads(Path("results/register.json").read_text())


@pytest.fixture(scope="module")
def registered(tmp_path_factory, project_root):
    """A project whose front was registered once."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
        experiment = client.create_experiment("stprivacy/vp-synth/pareto", artifact_location=(folder / "mlartifacts").as_uri())
        run_id = client.create_run(experiment, run_name="point", tags={"mlflow.note.content": "An operating point."}).info.run_id
        make_project(folder, project_root, run_id)
        register(patch)
    return folder


@pytest.fixture
def project(registered, tmp_path, monkeypatch):
    """A copy of it, to change; packages stay where the store says that they are."""
    folder = tmp_path / "project"
    shutil.copytree(registered, folder, ignore=shutil.ignore_patterns("mlartifacts"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def client(project):
    return mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")


@pytest.fixture
def run(monkeypatch, capsys):
    """run(*arguments) of the stprivacy command → exit code, stdout, stderr."""

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["stprivacy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def clips():
    return np.random.default_rng(1).integers(0, 256, (3, CLIP.num_frames, CLIP.size, CLIP.size, 3), dtype=np.uint8)


# ---------------------------------------------------------------------------------------------------- register


def test_the_fronts_learned_points_are_versions_and_the_choice_is_candidate(project):
    standing = json.loads((project / "results/register.json").read_text())
    assert standing["name"] == NAME
    wide, narrow = standing["versions"]  # no baseline, nothing off the front, attackers' seeds taken together
    assert (wide["version"], wide["aliases"]) == (1, [])
    assert (narrow["version"], narrow["aliases"]) == (2, ["candidate"])
    expected = {"keep_ratio": "0.6325", "privacy_weight": "15", "action_top1": "0.92", "privacy_cmap": "0.58", "dataset": "vp-synth",
                "val_action_top1": "0.93", "val_privacy_cmap": "0.57", "leak_removed": "0.85", "num_seeds": "1",
                "model_path": "models/anonymizer"}  # fmt: skip
    assert expected.items() <= narrow["tags"].items()
    assert {"git.commit", "dvc.lock_md5", "content_hash", "judged_on"} <= narrow["tags"].keys()
    assert float(narrow["tags"]["least_val_action_top1"]) == pytest.approx(0.9)  # of raw video's 1.0
    assert "spread_val_privacy_cmap" not in narrow["tags"]
    assert wide["tags"]["num_seeds"] == "2"
    assert float(wide["tags"]["privacy_cmap"]) == pytest.approx(0.64)  # the mean of 0.63 and 0.65
    assert float(wide["tags"]["spread_val_privacy_cmap"]) == pytest.approx(0.04)
    assert wide["tags"]["content_hash"] != narrow["tags"]["content_hash"]


def test_the_same_content_registered_twice_is_one_version_with_the_latest_figures(project, client, monkeypatch):
    before = json.loads((project / "results/register.json").read_text())
    assert register(monkeypatch) == before
    better = [row | {"val_privacy_cmap": 0.5, "privacy_cmap": 0.51} if row is CHOICE else row for row in POINTS]
    write_points(project, better, better[4])
    after = register(monkeypatch)
    assert [version["version"] for version in after["versions"]] == [1, 2]
    assert after["versions"][1]["tags"]["privacy_cmap"] == "0.51"
    assert "0.510" in client.get_model_version(NAME, "2").description


def test_other_weights_are_another_version_and_the_candidate_moves(project, client, monkeypatch):
    small_model(project / "models/anonymizer", seed=5)
    after = register(monkeypatch)
    assert [(version["version"], version["aliases"]) for version in after["versions"]] == [(1, []), (2, []), (3, []), (4, ["candidate"])]


def test_a_choice_that_is_not_learned_leaves_no_candidate(project, client, monkeypatch, capsys):
    write_points(project, POINTS, POINTS[1])
    after = register(monkeypatch)
    assert all(version["aliases"] == [] for version in after["versions"])
    assert "candidate: none, since the policy chose downsample-4, which is not learned" in capsys.readouterr().out


def test_a_choice_behind_the_front_is_registered_too(project, client, monkeypatch):
    write_points(project, POINTS, POINTS[5])
    after = register(monkeypatch)
    assert [(version["version"], version["aliases"]) for version in after["versions"]] == [(1, []), (2, []), (3, ["candidate"])]
    assert after["versions"][2]["tags"]["model_path"] == "models/sweep/t1"


def test_a_policy_that_nothing_meets_leaves_no_candidate(project, client, monkeypatch, capsys):
    write_points(project, POINTS, None)
    assert all(version["aliases"] == [] for version in register(monkeypatch)["versions"])
    assert "candidate: none, since no point meets the policy" in capsys.readouterr().out


def test_the_run_of_a_point_links_to_its_version_once(project, client, monkeypatch):
    run_id = json.loads((project / "results/register.json").read_text())["versions"][1]["tags"]["runs"]
    expected = f"An operating point.\n\nRegistered as [{NAME} version 2](#/models/{NAME}/versions/2)"
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == expected
    register(monkeypatch)
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == expected


def test_a_run_that_another_server_holds_is_told_and_stops_nothing(project, monkeypatch, capsys):
    write_points(project, [row | ({"run_id": "0" * 32} if row is CHOICE else {}) for row in POINTS], CHOICE)
    register(monkeypatch)
    assert "is not on this tracking server" in capsys.readouterr().out


def test_what_is_missing_is_named(project, monkeypatch, capsys):
    from pipelines.register import main

    monkeypatch.setattr(sys, "argv", ["register"])
    for path, line in {
        "models/anonymizer/config.json": "error: models/anonymizer: points.csv names it",
        "data/shards/vp-synth/dataset.json": "error: data/shards/vp-synth/dataset.json: no such file; run `dvc repro shard`",
        "results/pareto/points.csv": "error: results/pareto/points.csv: no such file",
    }.items():
        (project / path).rename(project / "away")
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(line)
        (project / "away").rename(project / path)


# ---------------------------------------------------------------------------------------------------- the card


def test_every_figure_of_a_card_stands_in_a_file(project, client):
    text = client.get_model_version(NAME, "2").description
    assert "144 train, 16 val, 40 test" in text
    assert "privacy-cnn3d, privacy-cnn2d" in text
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    rows = {title: cells for title, *cells in table}
    assert rows["action top-1 ↑"] == ["0.920", "1.000", "0.125", "0.125", "0.125"]
    assert rows["cMAP ↓"] == ["0.580", "0.980", "0.500", "0.500", "0.500"]
    assert [rows[f"AP {name} ↓"][0] for name in ATTRIBUTES] == ["0.510", "0.520", "0.530", "0.540", "0.800"]
    assert "One seed: how much the figures vary with it is unknown." in text
    assert "rendered people say little about real ones" in text


def test_a_card_says_what_no_file_knows(project, client):
    text = client.get_model_version(NAME, "1").description
    assert "The AP of each attribute was not recorded for this point." in text
    assert re.search(r"\| AP face ↓ \| – \| 0\.910 \|", text)
    assert "Largest − smallest over 2 seeds: val_action_top1 0.000; val_privacy_cmap 0.040." in text


def test_a_card_with_many_attributes_fits_the_registry(client):
    assert len(client.get_model_version(NAME, "2").description) < LONGEST - 9 * 80


# ---------------------------------------------------------------------------------------------------- the package

ELSEWHERE = """
import sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/stprivacy-anonymizer@candidate")
clips = np.load(sys.argv[2])
np.savez(sys.argv[3], own=model.predict(clips), again=model.predict(clips), wide=model.predict(clips, params={"keep_ratio": 1.0}))
"""


def test_a_clean_process_elsewhere_gives_the_librarys_bytes(project, project_root, tmp_path):
    np.save(tmp_path / "clips.npy", clips())
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-c", ELSEWHERE, f"sqlite:///{project}/mlflow.db", tmp_path / "clips.npy", tmp_path / "released.npz"]
    subprocess.run(command, cwd=tmp_path / "elsewhere", env=child_environment(project_root), check=True)
    anonymizer, channel = load_anonymizer(project / "models/anonymizer")
    with np.load(tmp_path / "released.npz") as found:
        for name, ratio in (("own", CHOICE["keep_ratio"]), ("wide", 1.0)):  # their noise is secret; without it, they are the same
            away = found[name] - release(anonymizer, channel.model_copy(update={"noise": 0.0}), clips(), ratio).astype(int)
            keep = anonymizer(to_float(torch.from_numpy(clips())), ratio).keep
            kept = np.broadcast_to(expand_keep(keep, anonymizer.tubelet, (CLIP.size, CLIP.size))[:, 0, ..., None], away.shape) > 0
            assert not away[~kept].any() and 0.6 < away[kept].std() / (255 * channel.noise) < 1.1
        assert not np.array_equal(found["own"], found["again"])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_package_holds_tensors_numbers_and_code_and_no_pickle(project, client, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # MLflow runs the code once while it packs
    small_model(project / "models/anonymizer", seed=6)
    register(monkeypatch)  # another package than the others', which may have been loaded since, where they lie
    assert sys.dont_write_bytecode is False
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/4", tracking_uri=f"sqlite:///{project}/mlflow.db"))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"artifacts/anonymizer.safetensors", "artifacts/config.json", "served.py", "MLmodel", "input_example.json"} <= files
    assert {Path(file).suffix for file in files} <= {".safetensors", ".json", ".py", ".yaml", ".txt", ""}
    requirements = (folder / "requirements.txt").read_text().split()
    assert f"stprivacy=={__version__}" in requirements
    assert all(line.startswith(("stprivacy==", "mlflow==")) for line in requirements)
    config = json.loads((folder / "artifacts/config.json").read_text())
    assert config["model"]["keep_ratio"] == CHOICE["keep_ratio"]  # a version is weights and keep ratio
    signature = mlflow.models.get_model_info(f"models:/{NAME}/4").signature
    assert signature.inputs.to_dict() == signature.outputs.to_dict()
    assert signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "uint8", "shape": (-1, 4, 16, 16, 3)}
    assert [(param.name, param.default) for param in signature.params] == [("keep_ratio", 0.6325)]


# ---------------------------------------------------------------------------------------------------- promote, registry, anonymize


def test_the_candidate_becomes_challenger_then_champion(project, client, run):
    code, out, _ = run("promote")
    assert (code, out.splitlines()[-1]) == (0, f"models:/{NAME}/2 is now challenger")
    assert "no champion yet" in out
    assert run("promote")[1].splitlines()[-1] == f"models:/{NAME}/2 is now champion"
    assert {name: int(number) for name, number in client.get_registered_model(NAME).aliases.items()} == {"candidate": 2, "champion": 2}
    code, out, _ = run("promote")
    assert (code, out) == (0, f"models:/{NAME}/2 (candidate, champion): it is the champion, and nothing newer waits\n")
    code, _, err = run("promote", "--to", "champion", "--name", "unknown")
    assert (code, err) == (2, "error: models:/unknown: there is no challenger; `stprivacy promote --to challenger` makes one\n")


def test_a_candidate_that_is_worse_than_the_champion_is_refused_with_the_reason(project, client, run):
    for _ in range(2):
        run("promote")
    client.set_registered_model_alias(NAME, "candidate", "1")  # val cMAP 0.64 with spread 0.04; the champion has 0.57, of one seed
    code, out, err = run("promote")
    assert (code, out) == (1, "")
    assert err.startswith(f"failed: models:/{NAME}/1 (candidate): not promoted to challenger: its val cMAP 0.640 is above 0.570 of")
    assert "beyond" not in err and "by more than the spread 0.040" in err
    assert len(err.splitlines()) == 1
    assert "challenger" not in client.get_registered_model(NAME).aliases
    code, out, _ = run("promote", "--force")
    assert code == 0
    assert "note: judged with one seed, so its spread is unknown; 0.02 is assumed" in out
    assert "forced although its val cMAP" in client.get_model_version(NAME, "1").tags["promoted.challenger"]
    client.set_model_version_tag(NAME, "1", "val_privacy_cmap", "0.6")  # within the spread now
    code, out, _ = run("promote", "--to", "champion")
    assert (code, out.splitlines()[-1]) == (0, f"models:/{NAME}/1 is now champion, in place of version 2")


def test_registry_lists_the_versions(project, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    code, out, _ = run("registry")
    assert code == 0
    assert re.search(r"2 │ candidate *│ *0\.632 │ *0\.920 │ *0\.580 │ *0\.850 │ vp-synth", out)
    assert run("registry", "--name", "unknown")[:1] == (2,)


def test_anonymize_takes_the_champion_else_the_candidate_and_says_which(project, client, run):
    make_video(project / "in.mp4", noisy_frames(8, 32, 32))
    code, _, err = run("anonymize", "in.mp4", "out.mp4")
    assert code == 0
    assert err.startswith(f"model: models:/{NAME}/2 (candidate), keep ratio 0.6325 ")
    client.set_registered_model_alias(NAME, "champion", "1")
    assert f"model: models:/{NAME}/1 (champion), keep ratio 0.8367 " in run("anonymize", "in.mp4", "out.mp4", "--force")[2]
    assert f"models:/{NAME}/2 (candidate)" in run("anonymize", "in.mp4", "b.mp4", "--model", f"models:/{NAME}@candidate")[2]
    assert run("anonymize", "in.mp4", "c.mp4", "--model", "models/anonymizer", "--keep-ratio", CHOICE["keep_ratio"])[0] == 0
    dark = [read_video(project / name).max(-1) < 24 for name in ("b.mp4", "c.mp4")]  # what was dropped; the rest has noise of its own
    assert dark[0].any() and (dark[0] == dark[1]).mean() > 0.9
    code, _, err = run("anonymize", "in.mp4", "d.mp4", "--model", f"models:/{NAME}@challenger")
    assert code == 2
    assert err.startswith(f"error: models:/{NAME}: the registry has no version with the alias challenger; `stprivacy registry` lists")


def test_weights_that_are_not_those_registered_are_refused(project, client, run):
    client.set_model_version_tag(NAME, "2", "content_hash", "0" * 16)
    make_video(project / "in.mp4", noisy_frames(8, 32, 32))
    code, _, err = run("anonymize", "in.mp4", "out.mp4")
    assert code == 2
    assert "its files are not those that were registered" in err
    assert not (project / "out.mp4").exists()


def test_a_server_that_is_away_is_told_and_nothing_else_is_taken_instead(project, run, monkeypatch, free_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    make_video(project / "in.mp4", noisy_frames(8, 32, 32))
    for command in (["anonymize", "in.mp4", "out.mp4"], ["registry"], ["promote"]):
        code, _, err = run(*command)
        assert code == 2
        assert f"MLFLOW_TRACKING_URI = http://127.0.0.1:{free_port}" in err.splitlines()[-1]
    assert not (project / "out.mp4").exists()
