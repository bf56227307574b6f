"""What attackers answered is kept, and two methods are compared by it later, without training anything."""

import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from stprivacy.cli import cli
from stprivacy.errors import UserError
from stprivacy.evaluation.compare import compare
from stprivacy.evaluation.metrics import average_precisions, cmap, top1
from stprivacy.evaluation.predictions import groups_of, load_predictions, save_predictions
from stprivacy.evaluation.results import write_results
from tests.unit.evaluation_files import ATTRIBUTES, SHARE, made_judgement, tiny_params


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(results, judgement by method) of raw and of a learned method at two kept shares and two seeds, which hides a good deal."""
    folder, found = tmp_path_factory.mktemp("compare"), {}
    for method, shares, seeds, skill in (("raw", (None,), (0,), 0.95), ("stprivacy", (0.25, SHARE), (0, 1), 0.3)):
        found[method] = made_judgement(folder / method, method, shares, seeds, skill)
        raw = folder / "results/evaluate/raw/metrics.json"
        write_results(found[method], tiny_params(), folder / "results/evaluate" / method, None if method == "raw" else raw)
    return folder / "results", found


# ---------------------------------------------------------------------------------------------------- kept


def test_answers_are_kept_as_they_are_with_labels_groups_and_the_strongest_named(made):
    results, found = made
    kept = load_predictions(results / "evaluate/stprivacy/predictions.npz")
    judgement = found["stprivacy"]
    labels = judgement.released[SHARE].labels("test")
    assert (kept.method, kept.dataset, kept.main_share, kept.attributes) == ("stprivacy", "vp-synth-tiny", SHARE, ATTRIBUTES)
    assert np.array_equal(kept.labels.actions, labels.actions)
    assert np.array_equal(kept.labels.attributes, labels.attributes)
    assert np.array_equal(kept.groups, groups_of(judgement.shards, "test"))
    assert len(set(kept.keys)) == len(labels.actions)
    for point, saved in zip(judgement.points, kept.points, strict=True):
        assert (saved.kept_share, saved.seed, saved.strongest) == (point.kept_share, point.seed, point.strongest.name)
        assert np.array_equal(saved.action, point.action.test)
        assert np.array_equal(saved.privacy, point.strongest.test)


def test_every_attacker_s_answers_on_val_and_test_are_in_the_file(made):
    results, found = made
    with np.load(results / "evaluate/raw/predictions.npz", allow_pickle=False) as file:
        (point,) = found["raw"].points
        for result in (point.action, *point.privacy):
            assert np.array_equal(file[f"0/{result.name}/val"], result.val)
            assert np.array_equal(file[f"0/{result.name}/test"], result.test)


def test_the_same_answers_make_the_same_bytes(made, tmp_path):
    """So that DVC sees no change where there is none."""
    _, found = made
    for name in ("one", "two"):
        save_predictions(found["raw"], "tiny", None, tmp_path / f"{name}.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_a_file_that_would_run_code_is_refused(tmp_path):
    np.savez(tmp_path / "predictions.npz", about=np.array([{"method": "raw"}], dtype=object))
    with pytest.raises(UserError, match="not a file of predictions"):
        load_predictions(tmp_path / "predictions.npz")


@pytest.mark.parametrize("content", [b"", b"something else", b"PK\x03\x04"])
def test_another_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(UserError, match="not a file of predictions") as error:
        load_predictions(tmp_path / "predictions.npz")
    assert "\n" not in str(error.value)


def test_a_file_without_answers_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "predictions.npz", "w"):
        pass
    with pytest.raises(UserError, match="not a file of predictions"):
        load_predictions(tmp_path / "predictions.npz")


# ---------------------------------------------------------------------------------------------------- compared


def test_a_comparison_holds_the_figures_of_metrics_json_and_their_difference(made):
    results, found = made
    compared = compare(results, "raw", "stprivacy")
    assert (compared.a, compared.b, compared.num_clips) == ("raw", f"stprivacy@{SHARE:g}", 40)
    metrics = {name: json.loads((results / "evaluate" / name / "metrics.json").read_text()) for name in ("raw", "stprivacy")}
    by_figure = {line.figure: line for line in compared.lines}
    assert by_figure.keys() == {"action top-1", "cMAP", *(f"AP {name}" for name in ATTRIBUTES)}
    expected = {"action top-1": ("action", "top1"), "cMAP": ("privacy", "cmap")}
    for figure, (section, key) in expected.items():
        line = by_figure[figure]
        assert (line.a, line.b) == pytest.approx((metrics["raw"][section][key], metrics["stprivacy"][section][key]))
        assert line.difference.value == pytest.approx(line.a - line.b)
        assert line.difference.low <= line.difference.value <= line.difference.high
    assert by_figure["cMAP"].difference.p < 0.01
    points = [point for point in found["stprivacy"].points if point.kept_share == SHARE]
    labels = found["raw"].released[None].labels("test")
    mean = np.mean([average_precisions(point.strongest.test, labels.present) for point in points], axis=0)
    assert [by_figure[f"AP {name}"].b for name in ATTRIBUTES] == pytest.approx(mean)


def test_the_action_s_figure_is_the_mean_of_all_seeds_and_its_p_is_that_of_its_interval(made):
    results, found = made
    labels = found["raw"].released[None].labels("test")
    (line,) = (line for line in compare(results, "raw", "stprivacy@0.25").lines if line.figure == "action top-1")
    assert line.a == pytest.approx(np.mean([top1(point.action.test, labels.actions) for point in found["raw"].points]))
    crosses_zero = line.difference.low <= 0 <= line.difference.high
    assert crosses_zero == (line.difference.p >= 0.05)


def test_the_other_way_round_every_difference_turns_its_sign(made):
    results, _ = made
    forth, back = compare(results, "raw", "stprivacy"), compare(results, "stprivacy", "raw")
    for one, other in zip(forth.lines, back.lines, strict=True):
        assert one.difference.value == pytest.approx(-other.difference.value)
        assert (one.difference.low, one.difference.high) == pytest.approx((-other.difference.high, -other.difference.low))
        assert one.difference.p == pytest.approx(other.difference.p)


def test_a_method_is_no_different_from_itself(made):
    assert all(line.difference.p == 1 for line in compare(made[0], "raw", "raw").lines)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stprivacy@0.3", "judged at 0.25, 0.5"),
        ("stprivacy@much", "'much' is no kept share"),
        ("raw@0.5", "drops nothing"),
        ("blur", "run `dvc repro evaluate@blur`"),
    ],
)
def test_what_was_not_judged_is_told_in_one_line(made, name, message):
    with pytest.raises(UserError, match=message) as error:
        compare(made[0], "raw", name)
    assert "\n" not in str(error.value)


def test_methods_that_were_judged_on_other_clips_are_not_compared(made, tmp_path):
    _, found = made
    for name, num in (("raw", 40), ("blur", 30)):
        judgement = found["raw"] if name == "raw" else made_judgement(tmp_path / "other", "blur", num=num)
        write_results(judgement, tiny_params(), tmp_path / "results/evaluate" / name, None)
    with pytest.raises(UserError, match="other test clips"):
        compare(tmp_path / "results", "raw", "blur")


def test_the_command_prints_a_table_or_json(made):
    results, _ = made
    table = CliRunner().invoke(cli, ["compare", "raw", "stprivacy", "--results", str(results)], env={"COLUMNS": "140"})
    assert table.exit_code == 0, table.output
    for text in ("vp-synth-tiny: 40 test clips", "cMAP", "strongest attackers: privacy-cnn3d on raw", "1 and 2 attacker seeds"):
        assert text in table.output
    plain = CliRunner().invoke(cli, ["compare", "raw", "stprivacy", "--results", str(results), "--json"])
    assert json.loads(plain.output)["lines"][1]["figure"] == "cMAP"


# ---------------------------------------------------------------------------------------------------- intervals in metrics.json


def test_metrics_json_says_how_sure_each_figure_is(made):
    results, found = made
    metrics = json.loads((results / "evaluate/stprivacy/metrics.json").read_text())
    intervals = metrics["intervals"]
    assert (intervals["level"], intervals["groups"]) == (0.95, 40)
    assert tuple(intervals["ap"]) == ATTRIBUTES
    figures = {"action_top1": metrics["action"]["top1"], "privacy_cmap": metrics["privacy"]["cmap"], "privacy_f1": metrics["privacy"]["f1"]}
    figures |= {"leak_removed": metrics["leak_removed"], "leak_beyond_action": metrics["leak_beyond_action"]["cmap"]}
    for name, value in figures.items():
        low, high = intervals[name]
        assert low < value < high, name
    assert metrics["leak_beyond_action"].keys() == {"cmap", "ap", "attacker", "told_cmap", "ap_intervals"}
    labels = found["raw"].released[None].labels("test")
    assert metrics["privacy"]["cmap"] == pytest.approx(
        np.mean([cmap(point.strongest.test, labels.present) for point in found["stprivacy"].points if point.kept_share == SHARE])
    )


def test_where_raw_answers_were_not_kept_the_removed_leak_has_no_interval(made, tmp_path):
    """As in results of an older version."""
    _, found = made
    (tmp_path / "metrics.json").write_text(json.dumps({"privacy": {"cmap": 0.9}}))
    metrics = write_results(found["stprivacy"], tiny_params(), tmp_path / "stprivacy", tmp_path / "metrics.json")
    assert metrics["leak_removed"] is not None
    assert metrics["intervals"]["leak_removed"] is None
