"""From results folders to the front, the policy's choice and the files of results/pareto."""

import csv
import json

import pytest
from click.testing import CliRunner

from stprivacy.cli import cli
from stprivacy.config import Policy
from stprivacy.errors import RunError, UserError
from stprivacy.evaluation.front_text import measured, not_proved, note
from stprivacy.evaluation.pareto import find_front, rows, write_front
from stprivacy.evaluation.results import POINT_COLUMNS
from tests.browser.front_files import EVALUATED, METHODS, NUM_CONFIGURATIONS, SWEPT, Made, make_results


def front_of(folder, evaluated=EVALUATED, swept=SWEPT, policy=Policy()):  # noqa: B008 (frozen)
    return find_front(make_results(folder, evaluated, swept), METHODS, policy)


def by_name(front, part):
    return next(c for c in front.configurations if part in c.name)


def test_seeds_of_a_configuration_count_by_their_means_and_others_stay_apart(tmp_path):
    front = front_of(tmp_path)
    assert len(front.configurations) == NUM_CONFIGURATIONS
    two = by_name(front, "at 0.7, privacy weight 5")
    assert two.mean["action_top1"] == pytest.approx((0.978 + 0.968) / 2)
    assert two.spread["privacy_cmap"] == pytest.approx(0.025)
    assert [point.seed for point in two.points] == [0, 1]


def test_a_trial_judged_at_another_kept_share_is_no_trial_trained_at_it(tmp_path):
    trained = Made("stprivacy", 0.95, 0.7, 0.4, 5.0, 0, "own", 0.4)
    front = front_of(tmp_path, swept=(*SWEPT, trained))
    names = [c.name for c in front.configurations if "at 0.4, privacy weight 5" in c.name]
    assert len(names) == 2 and sum("trained at 0.7" in name for name in names) == 1


def test_val_chooses_although_test_says_otherwise(tmp_path):
    results = make_results(tmp_path)
    path = results / "sweep/points.csv"
    lines = list(csv.DictReader(path.open()))
    for line in lines:
        if line["model_path"].endswith("p30-s0") or line["model_path"].endswith("p30-s1"):
            line["privacy_cmap"] = "0.99"  # the test figure of the choice becomes the worst of all
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, POINT_COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    front = find_front(results, METHODS, Policy())
    assert front.choice is not None and front.choice.settings["privacy_weight"] == 30
    assert front.choice in front.on_front


@pytest.mark.parametrize("share", [0.0, 0.85, 0.9, 0.94, 0.97])
def test_the_choice_is_the_least_leak_with_enough_action(tmp_path, share):
    front = front_of(tmp_path, policy=Policy(least_action_of_raw=share))
    learned = [c for c in front.configurations if c.learned and c.mean["val_action_top1"] >= share * front.raw.mean["val_action_top1"]]
    assert front.choice is not None
    assert front.choice.mean["val_privacy_cmap"] == min(c.mean["val_privacy_cmap"] for c in learned)


def test_without_a_good_enough_point_there_is_no_choice_and_the_reason_is_said(tmp_path):
    front = front_of(tmp_path, policy=Policy(least_action_of_raw=0.999))
    assert front.choice is None
    assert "there is none" in front.explain_choice() and "lower pareto.policy.least_action_of_raw" in front.explain_choice()
    assert write_front(front, [""] * len(rows(front)), tmp_path / "pareto")["choice"] is None


def test_a_point_just_on_the_policys_bound_is_good_enough(tmp_path):
    evaluated = (Made("raw", 0.998, 0.985), Made("stprivacy", 0.9 * 1.0 - 0.002, 0.6, 0.4, 15.0))
    assert find_front(make_results(tmp_path, evaluated, ()), ["stprivacy"], Policy(least_action_of_raw=0.9)).choice is not None


def test_a_choice_that_a_baseline_beats_is_not_on_the_front_and_says_so(tmp_path):
    evaluated = (*EVALUATED[:3], Made("blur", 0.99, 0.55), *EVALUATED[4:])
    front = front_of(tmp_path, evaluated, ())
    assert front.choice not in front.on_front
    assert "not on the front" in front.explain_choice()


def test_the_released_model_is_the_seed_nearest_to_what_was_promised(tmp_path):
    swept = tuple(Made("stprivacy", action, 0.6, 0.4, 30.0, seed, f"s{seed}", 0.4) for seed, action in enumerate((0.99, 0.93, 0.91)))
    choice = front_of(tmp_path, swept=swept).choice
    assert choice is not None and choice.typical.model_path == "models/sweep/s1"


def test_without_a_sweep_the_evaluated_methods_make_the_front(tmp_path):
    front = front_of(tmp_path, swept=())
    assert len(front.configurations) == len(EVALUATED)
    assert front.seeds == 1


def test_folders_of_methods_that_params_no_longer_name_are_left_out(tmp_path):
    results = make_results(tmp_path)
    front = find_front(results, ["stprivacy"], Policy())
    assert {c.settings["method"] for c in front.configurations} == {"raw", "stprivacy"}


def test_written_files_hold_the_contract(tmp_path):
    front = front_of(tmp_path / "results")
    ids = [f"id-{number}" for number in range(len(rows(front)))]
    metrics = write_front(front, ids, tmp_path / "pareto")
    with open(tmp_path / "pareto/points.csv", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == POINT_COLUMNS
        written = list(reader)
    assert [row["run_id"] for row in written] == ids
    assert {row["on_front"] for row in written} == {"true", "false"}
    assert sum(row["on_front"] == "true" for row in written) == sum(c.num_seeds for c in front.on_front)
    assert json.loads((tmp_path / "pareto/metrics.json").read_text()) == metrics
    assert {"hypervolume", "front_size", "knee", "choice"} <= metrics.keys()
    choice = metrics["choice"]
    row = next(row for row in written if row["run_id"] == choice["run_id"])
    assert (row["model_path"], float(row["kept_share"]), int(row["seed"])) == (choice["model_path"], choice["kept_share"], choice["seed"])
    with open(tmp_path / "pareto/front.csv", newline="") as file:
        actions = [float(row["val_action_top1"]) for row in csv.DictReader(file)]
    assert actions == sorted(actions, reverse=True) and len(actions) == metrics["front_size"]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_figure_that_is_no_number_stops_with_the_run_that_has_it(tmp_path):
    results = make_results(tmp_path)
    edit(results / "sweep/points.csv", "0.796", "nan")
    with pytest.raises(RunError, match=r"sweep/points\.csv, line 2 \(run run-of-p5-s0\): val_privacy_cmap is nan"):
        find_front(results, METHODS, Policy())


def test_raw_clips_that_leak_nothing_are_no_error(tmp_path):
    results = make_results(tmp_path)
    edit(results / "evaluate/raw/points.csv", ",0.0,", ",nan,")
    assert "–" in note_of(find_front(results, METHODS, Policy()))


def note_of(front):
    return note(front, write_front(front, [""] * len(rows(front)), front.raw.typical.folder.parents[1] / "pareto"))


def test_the_note_of_a_long_front_fits_into_mlflow_and_names_the_choice(tmp_path):
    along = [(0.7 + number / 500, 0.52 + number / 700, 0.4 + number / 1000, 123.4, 0, f"trial-{number}", 0.7) for number in range(120)]
    front = front_of(tmp_path, swept=tuple(Made("stprivacy", *point) for point in along))
    text = note_of(front)
    assert len(front.on_front) > 80 and len(text) < 5000
    assert any(line.startswith(f"| {front.choice.name} |") and "choice" in line for line in text.splitlines())
    assert "more points of the front left out" in text


@pytest.mark.parametrize(
    ("missing", "mend"),
    [
        ("evaluate/raw/metrics.json", "dvc repro evaluate-raw"),
        ("evaluate/blur/points.csv", "dvc repro evaluate@blur"),
        ("sweep/trials.csv", "dvc repro sweep"),
    ],
)
def test_a_missing_file_is_named_with_the_stage_that_makes_it(tmp_path, missing, mend):
    results = make_results(tmp_path)
    (results / missing).unlink()
    with pytest.raises(UserError, match=f"{missing}.*{mend}"):
        find_front(results, METHODS, Policy())


def test_results_of_another_data_set_are_refused(tmp_path):
    results = make_results(tmp_path)
    edit(results / "sweep/p5-s1/metrics.json", "vp-synth", "weizmann")
    with pytest.raises(UserError, match=r"sweep/p5-s1/metrics\.json: judged on weizmann"):
        find_front(results, METHODS, Policy())


def test_several_attackers_of_one_model_are_no_several_trainings(tmp_path):
    twice = tuple(Made("stprivacy", action, 0.6, 0.4, 30.0, 0, "one", 0.4) for action in (0.99, 0.95))
    choice = front_of(tmp_path, swept=twice).choice
    assert choice is not None and choice.num_seeds == 1
    assert choice.mean["action_top1"] == pytest.approx(0.97) and choice.spread["action_top1"] == pytest.approx(0.04)


def test_a_point_of_an_unknown_trial_is_refused(tmp_path):
    results = make_results(tmp_path)
    edit(results / "sweep/points.csv", "models/sweep/p5-s0", "models/sweep/other")
    with pytest.raises(UserError, match=r"models/sweep/other.*no trial"):
        find_front(results, METHODS, Policy())


def test_without_a_learned_point_there_is_nothing_to_choose(tmp_path):
    results = make_results(tmp_path, EVALUATED[:4], ())
    with pytest.raises(UserError, match="no learned point"):
        find_front(results, ["downsample-2", "downsample-4", "blur"], Policy())


def test_show_names_the_choice(tmp_path, monkeypatch):
    front = front_of(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    before = CliRunner().invoke(cli, ["show"])
    write_front(front, [""] * len(rows(front)), tmp_path / "results/pareto")
    after = CliRunner().invoke(cli, ["show"])
    assert before.exit_code == after.exit_code == 0
    assert "policy" not in before.output
    assert f": {front.choice.name} (" in after.output and "results/pareto/report.html" in after.output


def test_the_words_say_what_the_figures_rest_on(tmp_path):
    front = front_of(tmp_path)
    assert "400 test clips" in measured(front) and "privacy-cnn3d, privacy-cnn2d" in measured(front)
    assert "Others were not trained" not in measured(front)
    text = not_proved(front, rendered=True)
    assert "a single seed" in text and "rendered" in text and "1 of the 20 privacy attackers" in text
    assert "rendered" not in not_proved(front, rendered=False)
    path = front.configurations[-1].typical.folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["attackers"] |= {"privacy-raw-trained-cnn3d": metrics["attackers"]["privacy-cnn3d"]}
    path.write_text(json.dumps(metrics))
    assert "Beside them: privacy-raw-trained-cnn3d." in measured(front)


def test_the_words_say_how_many_seeds_there_are(tmp_path):
    evaluated = EVALUATED[:4]
    swept = tuple(made for made in SWEPT)
    front = find_front(make_results(tmp_path, evaluated, swept), ["blur"], Policy())
    assert front.seeds == 2
    assert "at least 2 seeds" in not_proved(front, rendered=True)
