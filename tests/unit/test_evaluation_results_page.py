"""docs/results.md is made of kept runs, the paper's figures and the shipped labels, and of nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from stprivacy.cli import cli
from stprivacy.errors import UserError
from stprivacy.evaluation import results_page
from stprivacy.evaluation.report import markdown
from stprivacy.evaluation.results import write_results
from tests.unit.evaluation_files import SHARE, made_judgement, tiny_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder, raw = tmp_path_factory.mktemp("page"), None
    for method, shares, skill in (("raw", (None,), 0.95), ("stprivacy", (SHARE,), 0.2)):
        target = folder / "results" / "evaluate" / method
        write_results(made_judgement(folder / method, method, shares, (0,), skill), tiny_params(), target, raw)
        raw = raw or target / "metrics.json"
    return folder / "results"


@pytest.fixture
def project(tmp_path, monkeypatch, judged):
    shutil.copytree(judged, tmp_path / "results")
    (tmp_path / "params").mkdir()
    for name in ("weizmann", "vp-hmdb51", "vp-synth-tiny"):
        shutil.copy(ROOT / "params" / f"{name}.yaml", tmp_path / "params")
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


def test_tables_of_ablations_are_kept_with_the_run_that_they_change(project):
    ablations = project / "results/ablations"
    ablations.mkdir()
    (ablations / "beyond.md").write_text("| ablation |\n| --- |\n| grey |\n")
    run("--keep")
    text = (project / "docs/results.md").read_text()
    assert "### Ablations of weizmann: beyond\n\n`stprivacy ablate --grid params/ablations/beyond.yaml`" in text
    assert "| ablation |\n| --- |\n| grey |\n" in text


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


def test_the_papers_figures_stand_beside_a_result_on_the_same_data_set(project):
    run("--keep")
    path = project / "docs/results/weizmann.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"dataset": "vp-hmdb51"}))
    section = results_page.page(project / "docs/results", {}).split("## ")[1]
    assert "| STPrivacy | 50.73 | .613 | 72.48 |" in section


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
    assert (ROOT / "docs/results.md").read_text() == results_page.page(ROOT / "docs/results", about)
