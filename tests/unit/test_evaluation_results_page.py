"""docs/results.md is made of kept runs, the paper's figures and the shipped labels, and of nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from stprivacy.ablation import read_grid
from stprivacy.cli import cli
from stprivacy.config import config_hash, load_params
from stprivacy.errors import UserError
from stprivacy.evaluation import provenance, results_page
from stprivacy.evaluation.report import markdown
from stprivacy.evaluation.results import write_results
from tests.unit.evaluation_files import SHARE, made_judgement

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder, raw, params = tmp_path_factory.mktemp("page"), None, load_params(ROOT / "params/weizmann.yaml")
    for method, shares, skill in (("raw", (None,), 0.95), ("stprivacy", (SHARE,), 0.2)):
        target = folder / "results" / "evaluate" / method
        write_results(made_judgement(folder / method, method, shares, params.evaluate.seeds, skill), params, target, raw)
        raw = raw or target / "metrics.json"
    return folder / "results"


@pytest.fixture
def project(tmp_path, monkeypatch, judged):
    shutil.copytree(judged, tmp_path / "results")
    (tmp_path / "params").mkdir()
    for name in ("weizmann", "vp-hmdb51", "vp-synth-tiny"):
        shutil.copy(ROOT / "params" / f"{name}.yaml", tmp_path / "params")
    (tmp_path / "params/ablations").mkdir()
    (tmp_path / "params/ablations/beyond.yaml").write_text("rows:\n  default: {what: as it is}\n  grey: {what: a}\n  codec: {what: b}\n")
    shutil.copy(ROOT / "params" / "weizmann.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return CliRunner().invoke(cli, ["results", *words])


def test_a_kept_run_stands_on_the_page_with_command_commit_and_table(project):
    assert run("--keep", "--note", "One of five splits.").exit_code == 0
    text = (project / "docs/results.md").read_text()
    record = json.loads((project / "docs/results/weizmann.json").read_text())
    assert "## weizmann" in text and "One of five splits." in text
    assert f"`stprivacy params use weizmann && make repro`, commit {record['commit']}, {record['date']}" in text
    assert markdown(project / "results").strip() in text


def ablated(project, params: str | None = None):
    """A table of ablations, of a params.yaml of this text (the one in place)."""
    folder = project / "results/ablations"
    folder.mkdir(exist_ok=True)
    (folder / "beyond.md").write_text("| ablation |\n| --- |\n| default |\n| grey |\n")
    of = config_hash(params or (project / "params.yaml").read_text())
    about = {"params": of, "command": "stprivacy ablate --grid params/ablations/beyond.yaml --seeds 0,1", "commits": ["0123456789ab"]}
    (folder / "beyond.json").write_text(json.dumps(about))


def test_tables_of_ablations_are_kept_with_their_own_command_and_commit(project):
    ablated(project)
    run("--keep")
    text = (project / "docs/results.md").read_text()
    caption = "`stprivacy ablate --grid params/ablations/beyond.yaml --seeds 0,1` at commit 0123456789ab: a training"
    assert f"### Ablations of weizmann: beyond\n\n{caption}" in text
    assert "| ablation |\n| --- |\n| default |\n| grey |\n" in text


def test_rows_of_a_grid_without_a_result_are_named_and_so_are_grids_that_nobody_played(project):
    ablated(project)
    (project / "params/ablations/paper.yaml").write_text("rows: {both: {what: a}, neither: {what: b}}\n")
    run("--keep")
    text = (project / "docs/results.md").read_text()
    assert "Without a result: `codec`.\n" in text.split("### Ablations of weizmann")[1]
    assert "- `stprivacy ablate --grid params/ablations/paper.yaml`: `both`, `neither`\n" in text.split("## Not run")[1]


def test_ablations_of_another_params_yaml_or_of_none_are_left_out_and_named(project):
    ablated(project, "another: 1\n")
    said = run("--keep").output
    assert "results/ablations/beyond.md: left out, of another params.yaml; `stprivacy ablate --table" in said
    (project / "results/ablations/beyond.json").unlink()
    said = run("--keep").output
    assert "results/ablations/beyond.md: left out, no beyond.json beside it says of which params.yaml it is" in said
    text = (project / "docs/results.md").read_text()
    assert "Ablations of weizmann" not in text and "None of the ablations in params/ablations/ was played with it." in text


def test_an_older_record_s_ablations_are_shown_without_a_claim_about_their_commit(project):
    run("--keep")
    path = project / "docs/results/weizmann.json"
    record = json.loads(path.read_text())
    record["ablations"] = {"beyond": ["| ablation |", "| --- |", "| grey |"]}
    path.write_text(json.dumps({key: value for key, value in record.items() if key not in ("further", "changed_code")}))
    section = results_page.page(project / "docs/results", {}, {"beyond": ("grey", "codec")}).split("### Ablations")[1]
    assert "at a commit that was not kept with it" in section and "same commit" not in section
    assert "| grey |\n\nWithout a result: `codec`." in section


def test_what_is_left_of_another_experiment_is_not_kept(project):
    shutil.copytree(project / "results/evaluate/stprivacy", project / "results/evaluate/noise")
    path = project / "results/evaluate/noise/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "noise"}))
    said = run("--keep").output
    assert "results/evaluate/noise: left out" in said
    assert "noise" not in (project / "docs/results/weizmann.json").read_text()


def test_a_kept_run_says_how_sure_it_is_and_what_every_attacker_found(project):
    run("--keep")
    text = (project / "docs/results.md").read_text()
    assert "95% intervals over 2,000 resamples" in text and "| attacker | raw | stprivacy at 0.5 |" in text


def test_code_that_changed_since_the_run_is_named_beside_the_commit(project, monkeypatch):
    for changed, said in (
        (["stprivacy/evaluation/judge.py"], "Code that was another when the stages ran: stprivacy/evaluation/judge.py.\n"),
        ([], "3 seeds of attackers.\n"),
        (None, "DVC's lock was not asked for the run's code."),
    ):
        monkeypatch.setattr(results_page, "changed_code", lambda results, methods, changed=changed: changed)
        run("--keep")
        assert said in (project / "docs/results.md").read_text()


def test_a_run_whose_params_are_no_longer_in_place_is_not_kept(project, monkeypatch):
    (project / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setattr(provenance, "_status", lambda folder: {"train": [{"changed deps": {"params.yaml": {"train.seed": "modified"}}}]})
    refused = run("--keep")
    assert isinstance(refused.exception, UserError) and "params.yaml: train.seed: not as it was when train ran" in str(refused.exception)
    assert not (project / "docs/results/weizmann.json").exists()


def test_the_page_can_be_made_again_without_the_results(project):
    run("--keep")
    before = (project / "docs/results.md").read_text()
    shutil.rmtree(project / "results")
    assert run().exit_code == 0
    assert (project / "docs/results.md").read_text() == before


def test_what_was_not_run_is_named_and_figures_without_meaning_are_not_asked_for(project):
    run("--keep")
    not_run = (project / "docs/results.md").read_text().split("## Not run")[1]
    assert "`vp-hmdb51`" in not_run
    assert "`weizmann`" not in not_run and "tiny" not in not_run


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"dataset": "vp-hmdb51"}, "| STPrivacy | 50.73 | .613 | 72.48 |"),
        ({"dataset": "vp-hmdb51", "experiment": "vp-ucf101-to-hmdb51"}, "| STPrivacy | 49.56 | .595 | 71.25 |"),
        ({"dataset": "vp-ucf101", "experiment": "vp-hmdb51-to-ucf101-seed-1"}, "| STPrivacy | 81.04 | .645 | 74.60 |"),
    ],
    ids=["of its data set", "of the experiment", "of the experiment, under a longer name"],
)
def test_the_papers_figures_of_the_same_question_stand_beside_a_result(project, changes, row):
    run("--keep")
    path = project / "docs/results/weizmann.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | changes))
    section, rest = results_page.page(project / "docs/results", {}, {}).split("## The paper's figures")
    assert row in section and section.count("| STPrivacy |") == 1
    assert row not in rest


def test_behind_an_anonymizer_of_elsewhere_the_papers_known_actions_are_another_question(project):
    run("--keep")
    path = project / "docs/results/weizmann.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"dataset": "vp-hmdb51", "experiment": "mine", "anonymizer_from": "models/kept/vp-ucf101"}))
    assert "| STPrivacy |" not in results_page.page(project / "docs/results", {}, {}).split("## The paper's figures")[0]


def test_published_tables_are_whole_rows_of_numbers():
    tables = json.loads(results_page.PUBLISHED.read_text())["data_sets"]
    assert {len(figures) == len(table["columns"]) for table in tables.values() for figures in table["rows"].values()} == {True}
    assert all(0 < float(figure) < 100 for table in tables.values() for figures in table["rows"].values() for figure in figures)


def test_changed_params_need_a_name_and_a_broken_record_is_named(project):
    with open(project / "params.yaml", "a") as file:
        file.write("# mine\n")
    refused = run("--keep")
    assert isinstance(refused.exception, UserError) and "--name" in str(refused.exception)
    assert run("--keep", "--name", "mine", "--command", "dvc repro").exit_code == 0
    (project / "docs/results/mine.json").write_text("{}")
    assert "mine.json: not a kept result" in str(run().exception)


def test_the_page_in_the_repository_is_what_its_records_give():
    about = {path.stem: path.read_text().splitlines()[0].removeprefix("#").strip() for path in sorted((ROOT / "params").glob("*.yaml"))}
    grids = {path.stem: tuple(read_grid(path).rows) for path in sorted((ROOT / "params/ablations").glob("*.yaml"))}
    assert (ROOT / "docs/results.md").read_text() == results_page.page(ROOT / "docs/results", about, grids)
