"""The table that people read: in the terminal and as Markdown, from what stands in results/."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from stprivacy.errors import UserError
from stprivacy.evaluation import report
from stprivacy.evaluation.results import write_results
from tests.unit.evaluation_files import ATTRIBUTES, SHARE, made_judgement, tiny_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, raw = tmp_path_factory.mktemp("report"), None
    judged = (("raw", (None,), (0,), 0.95), ("stprivacy", (0.25, SHARE), (0, 1), 0.2), ("blur", (None,), (0,), 0.7))
    for method, shares, seeds, skill in judged:
        target = folder / "results" / "evaluate" / method
        write_results(made_judgement(folder / method, method, shares, seeds, skill), tiny_params(), target, raw)
        raw = raw or target / "metrics.json"
    return folder / "results"


def metrics_of(results, method):
    return json.loads((results / "evaluate" / method / "metrics.json").read_text())


def table_of(text: str) -> list[list[str]]:
    """Cells of the Markdown tables in a text, without emphasis."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" *_") for cell in row] for row in rows]


def test_raw_is_first_the_learned_method_last_and_shares_fall(results):
    rows, _ = report.collect(results)
    assert [(row.method, row.kept_share) for row in rows] == [("raw", None), ("blur", None), ("stprivacy", SHARE), ("stprivacy", 0.25)]


def test_seeds_of_a_kept_share_are_one_row_with_their_mean_and_spread(results):
    rows, _ = report.collect(results)
    row, metrics = rows[2], metrics_of(results, "stprivacy")
    assert (row.seeds, rows[0].seeds) == (2, 1)
    assert (row.cmap, row.leak_removed) == pytest.approx((metrics["privacy"]["cmap"], metrics["leak_removed"]))
    assert row.spread == pytest.approx(metrics["spread_over_seeds"]["privacy_cmap"])


def test_the_terminal_shows_every_row_and_the_floors(results):
    page = io.StringIO()
    report.show(results, Console(file=page, width=200))
    lines = page.getvalue().splitlines()
    metrics = metrics_of(results, "raw")
    assert f"vp-synth-tiny: fresh attackers, test split ({metrics['num_test_clips']} clips)" in page.getvalue()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in cells] == [
        "raw", "blur", "stprivacy", "stprivacy", "floor: chance", "floor: constant answer", "floor: action label alone",
    ]  # fmt: skip
    raw, floor = cells[0], cells[-1]
    privacy = metrics["privacy"]
    assert raw[2:] == [f"{metrics['action']['top1']:.3f}", f"{privacy['cmap']:.3f}", f"{privacy['f1']:.3f}", "0.00", ""]
    assert floor[2:4] == ["1.000", f"{metrics['floors']['action_only']['cmap']:.3f}"]
    assert "±" in cells[2][3]
    assert "±" not in raw[3]


def test_markdown_says_the_same_as_the_terminal_and_the_ap_of_every_attribute(results):
    page = io.StringIO()
    report.show(results, Console(file=page, width=200))
    shown = [[cell.strip() for cell in line.strip("│").split("│")] for line in page.getvalue().splitlines() if line.startswith("│")]
    table = table_of(report.markdown(results))
    assert table[0] == ["method", "kept share", "action top-1 ↑", "cMAP ↓", "F1 ↓", "leak removed ↑", "bits ↓"]
    assert table[2:9] == shown
    assert table[9] == ["method", "attacker", *ATTRIBUTES]
    assert [row[0] for row in table[11:]] == ["raw", "blur", "stprivacy"]
    assert table[11][1:] == ["privacy-cnn3d", *(f"{value:.2f}" for value in metrics_of(results, "raw")["privacy"]["ap"].values())]
    assert all(len(row) == len(table[0]) for row in table[:9])


def test_an_attribute_that_no_test_clip_has_and_a_leak_that_is_not_there_are_empty_cells(results, tmp_path):
    folder = tmp_path / "evaluate" / "raw"
    folder.mkdir(parents=True)
    metrics = metrics_of(results, "raw")
    metrics["privacy"]["ap"]["hat"] = metrics["leak_removed"] = None
    (folder / "metrics.json").write_text(json.dumps(metrics))
    lines = (results / "evaluate" / "raw" / "points.csv").read_text().splitlines()
    column = lines[0].split(",").index("leak_removed")
    cells = lines[1].split(",")
    cells[column] = ""
    (folder / "points.csv").write_text(f"{lines[0]}\n{','.join(cells)}\n")
    table = table_of(report.markdown(tmp_path))
    assert table[2][-2:] == ["", ""]
    assert table[-1][2] == ""
    report.show(tmp_path, Console(file=io.StringIO()))


def test_without_results_it_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"raw/metrics\.json: no such file; nothing has been judged yet: run `make repro`"):
        report.collect(tmp_path)


def test_means_over_seeds_say_that_the_attacker_s_name_is_the_first_seed_s(results, tmp_path):
    copy = copied(results, tmp_path)
    assert "AP of each attribute, strongest attacker:" in report.markdown(copy)
    change(copy, "raw", num_attacker_seeds=3)
    assert "strongest attacker (figures: mean over 3 seeds of attackers; the name is the first seed's):" in report.markdown(copy)


# ---------------------------------------------------------------------------------------------------- left from another experiment


def copied(results, folder, params: str | None = None):
    """The judged results, with the ready-made `params` beside them as params.yaml."""
    shutil.copytree(results, folder / "results")
    if params:
        shutil.copy(ROOT / "params" / f"{params}.yaml", folder / "params.yaml")
    return folder / "results"


def change(results, folder, **changes):
    path = results / "evaluate" / folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def left_over(results, method, **changes):
    """A method that an earlier experiment left in results/."""
    shutil.copytree(results / "evaluate/blur", results / "evaluate" / method)
    change(results, method, **{"method": method} | changes)


def methods_of(text: str) -> set[str]:
    return {row[0] for row in table_of(text)} - {"method", "---"}


def test_what_an_earlier_experiment_left_is_in_no_table_and_named_on_stderr(results, tmp_path, capsys):
    copy = copied(results, tmp_path, "vp-synth-tiny")
    left_over(copy, "downsample-2")
    left_over(copy, "unet", dataset="weizmann", privacy={"cmap": 1.0, "f1": 1.0, "ap": {"person_ira": 1.0}})
    assert {method for method in methods_of(report.markdown(copy)) if "floor" not in method} == {"raw", "blur"}
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"{copy}/evaluate/downsample-2: left out, neither evaluate.methods nor baselines.methods of params.yaml names it",
        f"{copy}/evaluate/stprivacy: left out, judged with 2 of attackers' seeds, evaluate.seeds of params.yaml has 1",
        f"{copy}/evaluate/unet: left out, judged on weizmann, params.yaml has vp-synth-tiny",
    ]
    page = io.StringIO()
    report.show(copy, Console(file=page, width=200))
    assert "unet" not in page.getvalue() and "stprivacy" not in page.getvalue()


def test_a_method_of_the_experiment_that_was_not_judged_yet_is_named(results, tmp_path, capsys):
    copy = copied(results, tmp_path, "vp-synth-tiny")
    shutil.rmtree(copy / "evaluate/blur")
    report.markdown(copy)
    assert f"{copy}/evaluate/blur: not judged yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": "weizmann"}, "judged on weizmann, raw video on vp-synth-tiny"),
        ({"privacy": {"cmap": 1.0, "f1": 1.0, "ap": {"person_ira": 1.0}}}, "judged by other attributes than raw video"),
        ({"action": {"map": 0.5}}, "judged by action mAP, raw video by top-1"),
    ],
    ids=["data set", "attributes", "several actions"],
)
def test_without_params_only_what_does_not_go_with_raw_video_is_left_out(results, tmp_path, capsys, changes, reason):
    copy = copied(results, tmp_path)
    left_over(copy, "unet", **changes)
    assert {"raw", "blur", "stprivacy"} == {method for method in methods_of(report.markdown(copy)) if "floor" not in method}
    assert capsys.readouterr().err == f"{copy}/evaluate/unet: left out, {reason}\n"


def test_raw_video_of_another_experiment_is_refused(results, tmp_path):
    copy = copied(results, tmp_path, "weizmann")
    with pytest.raises(UserError, match=r"raw/metrics\.json: judged on vp-synth-tiny, params\.yaml has weizmann; run `dvc repro`"):
        report.markdown(copy)
