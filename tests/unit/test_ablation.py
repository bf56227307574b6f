"""Ablations: from a declared grid to DVC's commands, and from what DVC shows to the table."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from stprivacy import ablation
from stprivacy.cli import cli
from stprivacy.config import Params, config_hash
from stprivacy.errors import RunError, UserError

ROOT = Path(__file__).resolve().parents[2]
GRIDS = {
    "paper": ("vp-synth", "vp-synth-baselines", "vp-synth-full", "weizmann", "folder"),
    "paper-size": ("vp-hmdb51", "vp-ucf101", "pa-hmdb51", "celebv-hq", "p-hvu"),
}
GRIDS["beyond"] = GRIDS["paper"]
"""The grids that are shipped, and the experiments that each is for."""

GRID = """
rows:
  both: {what: as it is}
  no-sparsification: {what: anonymization alone, set: {model.sparsify_before: []}}
"""


PARAMS = (ROOT / "params/vp-synth-tiny.yaml").read_text().replace("methods: []", "methods: [unet]")


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params/ablations/paper.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(GRID)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return path


def named(grid: Path, row: str, seed: int) -> str:
    """How the experiment of a row and seed is called with the params.yaml in place."""
    return ablation.experiments(ablation.read_grid(grid), [row], [seed])[0].name


def shown(*named: tuple[str, float], removed: float | None = 0.6) -> list:
    """What `dvc exp show --json` prints, for experiments with these cMAPs; the commit of one is what `_read` finds there."""
    out = lambda md5: {"outs": {ablation.JUDGED.format(method="stprivacy"): {"hash": md5}}}  # noqa: E731
    revs = [{"revs": [{"name": name, "rev": f"{cmap} {removed}", "data": out("0.dir")}], "name": name} for name, cmap in named]
    without = {"revs": [{"name": "half", "rev": "half", "data": out(None)}], "name": "half"}
    return [{"rev": "workspace", "experiments": None}, {"rev": "abc", "experiments": [*revs, without]}]


def points(rev: str, path: str) -> str:
    """The points.csv of an experiment of `shown`: at a kept share of 0.7, and at one of 0.4 with a cMAP that is 0.1 lower."""
    assert path == "results/evaluate/stprivacy/points.csv"
    cmap, removed = rev.split()
    head = "kept_share,action_top1,privacy_cmap,privacy_f1,leak_removed,seed"
    rows = [f"{share},0.9,{float(cmap) - less},0.5,{'' if removed == 'None' else removed},0" for share, less in ((0.7, 0), (0.4, 0.1))]
    return "\n".join([head, *rows]) + "\n"


@pytest.fixture(autouse=True)
def experiments_with_points(monkeypatch):
    monkeypatch.setattr(ablation, "_read", points)


def found_by(all_shown: list) -> dict:
    judged = ablation.JUDGED.format(method="stprivacy")
    return {name: ablation.figures(points(rev, f"{judged}/points.csv")) for name, rev in ablation._finished(all_shown, judged)}


def test_every_row_at_every_seed_is_one_dvc_command(grid):
    lines = CliRunner().invoke(cli, ["ablate", "--dry-run", "--seeds", "0,1"]).output.splitlines()
    assert len(lines) == 5
    name = named(grid, "no-sparsification", 0)
    assert name.startswith("ablate-no-sparsification-seed-0-")
    assert lines[2] == f"dvc exp run --queue --name {name} -S 'model.sparsify_before=[]' -S train.seed=0 evaluate@stprivacy"
    assert lines[4] == "dvc exp run --run-all --jobs 1"


def test_the_table_has_means_spread_and_the_difference_to_the_first_row_at_every_kept_share(grid):
    found = found_by(shown((named(grid, "both", 0), 0.6), (named(grid, "both", 1), 0.7), (named(grid, "no-sparsification", 0), 0.8)))
    lines = ablation.table(ablation.read_grid(grid), (0, 1), found)
    assert [(line["row"], line["kept_share"], line["seeds"]) for line in lines] == [
        ("both", 0.7, 2), ("no-sparsification", 0.7, 1), ("both", 0.4, 2), ("no-sparsification", 0.4, 1),
    ]  # fmt: skip
    assert [line["privacy_cmap"] for line in lines] == pytest.approx([0.65, 0.8, 0.55, 0.7])
    assert lines[0]["spread"] == pytest.approx(0.1)
    assert [("+0.150" in line) for line in ablation.markdown(lines).splitlines()[2:]] == [False, True, False, True]


def test_seeds_of_attackers_are_averaged_and_a_filter_keeps_all():
    text = "kept_share,action_top1,privacy_cmap,privacy_f1,leak_removed\n,0.5,0.6,0.7,\n,0.7,0.8,0.9,\n"
    means = {"action": 0.6, "privacy_cmap": 0.7, "privacy_f1": 0.8, "leak_removed": None}
    assert ablation.figures(text) == {1.0: pytest.approx(means)}


def shipped(name: str) -> ablation.Grid:
    return ablation.read_grid(ROOT / f"params/ablations/{name}.yaml")


def changed(experiment: str, row: ablation.Row) -> Params:
    """A ready-made experiment with the row's changes."""
    plain = YAML(typ="safe", pure=True).load((ROOT / f"params/{experiment}.yaml").read_text())
    for key, value in row.set.items():
        *sections, last = key.split(".")
        section = plain
        for part in sections:
            section = section[part]
        assert last in section, f"{key}: `dvc exp run -S` changes only keys that the file has"
        section[last] = value
    return Params.model_validate(plain)


def test_every_grid_that_is_shipped_says_what_it_is_for():
    heads = {path.stem: path.read_text().partition("rows:")[0] for path in (ROOT / "params/ablations").glob("*.yaml")}
    assert heads.keys() == GRIDS.keys()
    for grid_name, head in heads.items():
        assert set(GRIDS[grid_name]) <= set(re.findall(r"[\w-]+", head)), grid_name


@pytest.mark.parametrize(("grid_name", "experiment"), [(name, one) for name, experiments in GRIDS.items() for one in experiments])
def test_every_row_that_is_shipped_makes_valid_params_and_says_what_it_does_there(grid_name, experiment):
    before = changed(experiment, ablation.Row(what="as it is"))
    for name, row in shipped(grid_name).rows.items():
        after = changed(experiment, row)
        assert not row.set or after != before, name
        if {"model.keep_ratio", "model.sparsify_before"} <= row.set.keys():  # as many tubelets kept in all
            assert after.model.kept_share == pytest.approx(before.model.kept_share, abs=0.001), name
        if "train.privacy_weight" in row.set:
            assert after.train.privacy_weight == pytest.approx(before.train.privacy_weight / 3, rel=0.01)
        if "train.action_weight" in row.set:
            assert after.train.action_weight == pytest.approx(before.train.action_weight * 3)
        assert after.model.tubelet[1:] == before.model.tubelet[1:], name


def test_both_sizes_have_the_same_rows():
    small, large = shipped("paper").rows.values(), shipped("paper-size").rows.values()
    assert [row.set.keys() for row in small] == [row.set.keys() for row in large]


def test_values_are_written_as_dvc_parses_them():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = {"a": [1, 2.5], "b": {"kind": "cnn3d", "start": None, "on": False}}
    row = ablation.Row(what="x", set={"key": [value, "word"], "empty": []})
    parsed = [OverridesParser.create().parse_override(change).value() for change in row.changes]
    assert parsed == [[value, "word"], []]


def test_what_has_finished_is_not_played_again_and_a_failure_is_told(grid, monkeypatch):
    played = []

    def dvc(command, quiet):
        played.append(" ".join(command))
        return json.dumps(shown((named(grid, "both", 0), 0.6))) if "show" in command else ""

    monkeypatch.setattr(ablation, "_dvc", dvc)
    outcome = CliRunner().invoke(cli, ["ablate"])
    queued = [command for command in played if "--queue" in command]
    assert len(queued) == 1 and "no-sparsification" in queued[0]
    assert isinstance(outcome.exception, RunError) and "ablate-no-sparsification-seed-0" in str(outcome.exception)
    assert (grid.parents[2] / "results/ablations/paper.md").exists()


def test_beside_a_table_stands_of_which_params_command_and_commits_it_is(grid, monkeypatch):
    git = lambda *words: subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()  # noqa: E731
    git("init", "--quiet")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message", "first")
    commit, name = git("rev-parse", "HEAD"), named(grid, "both", 1)
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/{name}", "HEAD")
    git("update-ref", f"refs/exps/00/{'0' * 38}/another", "HEAD")
    monkeypatch.setattr(ablation, "_dvc", lambda command, quiet: json.dumps(shown((name, 0.6))))
    CliRunner().invoke(cli, ["ablate", "--table", "--seeds", "0,1", "--grid", "params/ablations/paper.yaml"])
    assert json.loads(Path("results/ablations/paper.json").read_text()) == {
        "params": config_hash(PARAMS),
        "command": "stprivacy ablate --grid params/ablations/paper.yaml --seeds 0,1",
        "commits": [commit[:12]],
    }


def test_figures_of_another_params_yaml_or_of_a_row_that_changed_are_not_taken_for_this_one_s(grid):
    before = named(grid, "both", 0), named(grid, "no-sparsification", 0)
    Path("params.yaml").write_text(PARAMS.replace("name: vp-synth-tiny", "name: other"))
    assert named(grid, "both", 0) != before[0]
    Path("params.yaml").write_text(PARAMS)
    grid.write_text(GRID.replace("[]", "[2]"))
    assert (named(grid, "both", 0), named(grid, "no-sparsification", 0) == before[1]) == (before[0], False)


def test_where_raw_clips_leak_nothing_the_table_leaves_the_leak_removed_out(grid):
    found = found_by(shown((named(grid, "both", 0), 0.6), removed=None))
    lines = ablation.table(ablation.read_grid(grid), (0,), found)
    assert lines[0]["leak_removed"] is None
    assert ablation.markdown(lines).splitlines()[2].endswith("| 0.500 |  | 1 | as it is |")


def test_a_learned_baseline_is_judged_by_its_own_stage_and_under_its_own_name(grid):
    lines = CliRunner().invoke(cli, ["ablate", "both", "--method", "unet", "--dry-run"]).output.splitlines()
    assert lines[0].startswith("dvc exp run --queue --name ablate-unet-both-seed-0-") and lines[0].endswith(" evaluate-baseline@unet")


@pytest.mark.parametrize(("method", "section"), [("weak-blur", "evaluate"), ("itnet", "baselines")])
def test_a_method_that_no_stage_judges_is_refused_at_once(grid, method, section):
    refused = CliRunner().invoke(cli, ["ablate", "--method", method, "--dry-run"]).exception
    mend = f"add it to {section}.methods of params.yaml, or take one of blur, stprivacy, unet"
    assert isinstance(refused, UserError) and str(refused) == f"--method {method}: no stage judges it; {mend}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rows: {}", "rows"),
        ("rows: {a: {set: {x: 1}}}", "rows.a.what"),
        ("rows: {a: {what: b, sets: {}}}", "rows.a.sets"),
        ("{", "not YAML"),
    ],
)
def test_a_bad_grid_is_one_line_with_the_key(grid, text, problem):
    grid.write_text(text)
    outcome = CliRunner().invoke(cli, ["ablate", "--dry-run"])
    assert isinstance(outcome.exception, UserError) and problem in str(outcome.exception)


def test_unknown_rows_and_seeds_are_refused(grid):
    for words, problem in ((["nothing"], "no such row"), (["--seeds", "a"], "--seeds a")):
        outcome = CliRunner().invoke(cli, ["ablate", "--dry-run", *words])
        assert isinstance(outcome.exception, UserError) and problem in str(outcome.exception)
