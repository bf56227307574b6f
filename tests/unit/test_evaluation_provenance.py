"""What stands in results/ is of the experiment in place, or it is left out with a reason."""

import subprocess

import pytest

from stprivacy.config import Policy
from stprivacy.errors import UserError
from stprivacy.evaluation import provenance
from stprivacy.evaluation.pareto import find_front, rows, write_front
from tests.browser.front_files import METHODS, make_results

STAGE = "evaluate@stprivacy"


@pytest.fixture
def results(tmp_path):
    """Results with the front of their own points."""
    results = make_results(tmp_path / "results")
    front = find_front(results, METHODS, Policy())
    write_front(front, [""] * len(rows(front)), results / "pareto")
    return results


def test_the_policys_choice_is_taken_from_the_front_of_the_same_points(results):
    chosen, wrong = provenance.policy(results, ("raw", *METHODS))
    assert "the most private learned point" in chosen and wrong is None


@pytest.mark.parametrize("file", ["evaluate/stprivacy/points.csv", "sweep/points.csv"])
def test_a_front_of_other_points_than_were_judged_says_nothing_about_them(results, file):
    head, first, rest = (results / file).read_text().split("\n", 2)
    cells = dict(zip(head.split(","), first.split(","), strict=True)) | {"val_privacy_cmap": "0.123"}
    (results / file).write_text("\n".join([head, ",".join(cells.values()), rest]))
    assert provenance.policy(results, ("raw", *METHODS)) == (
        None, f"{results}/pareto: left out, made of other points or by another policy; run `dvc repro pareto`",
    )  # fmt: skip


def test_a_front_with_a_method_of_another_experiment_is_not_this_one_s(results):
    assert provenance.policy(results, ("raw", *METHODS[1:]))[0] is None


def test_without_a_front_nothing_is_said(tmp_path):
    assert provenance.policy(make_results(tmp_path / "results"), ("raw", *METHODS)) == (None, None)


def changed(monkeypatch, results, status):
    (results.parent / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setattr(provenance, "_status", lambda folder: status)
    return provenance.changed_code(results, ("raw", "stprivacy"))


def test_code_that_is_not_as_it_was_when_a_stage_ran_is_named(results, monkeypatch):
    status = {
        "train": [{"changed deps": {"stprivacy/training": "modified"}}, "changed command"],
        STAGE: [{"changed deps": {"stprivacy/evaluation/judge.py": "modified"}}],
    }
    assert changed(monkeypatch, results, status) == ["dvc.yaml", "stprivacy/evaluation/judge.py", "stprivacy/training"]


def test_what_no_figure_depends_on_is_no_change(results, monkeypatch):
    judge = [{"changed deps": {"stprivacy/evaluation/judge.py": "modified", "params.yaml": {"evaluate.seeds": "modified"}}}]
    gone = [{"changed deps": {"data/shards/vp-synth": "deleted"}}, {"changed outs": {"results/evaluate/raw": "not in cache"}}]
    assert changed(monkeypatch, results, {"sweep": judge, "pareto": judge, "evaluate@blur": judge, "shard": gone}) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"changed deps": {"params.yaml": {"evaluate.seeds": "modified"}}}, "params.yaml: evaluate.seeds"),
        ({"changed outs": {"results/evaluate/stprivacy": "modified"}}, "results/evaluate/stprivacy"),
        ({"changed deps": {"models/anonymizer": "new"}}, "models/anonymizer"),
    ],
    ids=["params", "results", "a model"],
)
def test_figures_of_other_params_models_or_stages_are_refused(results, monkeypatch, change, name):
    with pytest.raises(UserError, match=f"^{name}: not as it was when {STAGE} ran; run `dvc repro`"):
        changed(monkeypatch, results, {STAGE: [change]})


def test_without_a_pipeline_nothing_is_known_of_the_code(results):
    assert provenance.changed_code(results, ("raw",)) is None


def test_the_commit_says_when_a_stages_code_differs_from_it_and_minds_nothing_else(tmp_path):
    def git(*words):
        mine = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(mine, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: a, deps: [stprivacy/training, 'data/${name}']}}\n")
    (tmp_path / "stprivacy/training").mkdir(parents=True)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    head = git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "README.md").write_text("another text")
    assert provenance.commit(tmp_path) == head
    (tmp_path / "stprivacy/training/loop.py").write_text("another step")
    assert provenance.commit(tmp_path) == f"{head} with changes"
