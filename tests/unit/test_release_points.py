"""From operating points to versions: what is one content, and whose seeds say how much its figures vary."""

import csv

import pytest

from stprivacy.errors import UserError
from stprivacy.evaluation.results import POINT_COLUMNS
from stprivacy.release.points import chosen, entries_of, read_points
from tests.unit.release_files import MODEL, small_model


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """models/anonymizer, and a sweep of two configurations, one of them with two seeds."""
    monkeypatch.chdir(tmp_path)
    narrow = MODEL.model_copy(update={"keep_ratio": 0.5})
    for seed, (name, model) in enumerate({"anonymizer": MODEL, "sweep/a-0": MODEL, "sweep/a-1": MODEL, "sweep/b-0": narrow}.items()):
        small_model(tmp_path / "models" / name, seed, model=model)


def points(tmp_path, *given):
    """The rows as `pareto` writes and `register` reads them."""
    with open(tmp_path / "points.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, POINT_COLUMNS, restval="")
        writer.writeheader()
        for row in given:
            writer.writerow({"method": "stprivacy", "keep_ratio": 0.75, "kept_share": 0.5625, "action_weight": 1.0, "privacy_weight": 15.0,
                             "seed": 0, "val_action_top1": 0.9, "val_privacy_cmap": 0.6, "action_top1": 0.9, "privacy_cmap": 0.6,
                             "privacy_f1": 0.5, "leak_removed": 0.8, "on_front": "true", "run_id": "", **row})  # fmt: skip
    return read_points(tmp_path / "points.csv")


def test_seeds_of_a_training_are_versions_of_their_own_with_the_spread_of_all(tmp_path):
    found = entries_of(points(
        tmp_path,
        {"model_path": "models/sweep/a-0", "seed": 0, "val_privacy_cmap": 0.6},
        {"model_path": "models/sweep/a-1", "seed": 1, "val_privacy_cmap": 0.65},
        {"model_path": "models/sweep/b-0", "seed": 0, "val_privacy_cmap": 0.9},  # trained at another share
        {"model_path": "models/anonymizer", "seed": 0, "val_privacy_cmap": 0.1},  # trained longer
    ), None)  # fmt: skip
    assert [entry.folder.name for entry in found] == ["a-0", "a-1", "b-0", "anonymizer"]
    assert [entry.figures["val_privacy_cmap"] for entry in found] == [0.6, 0.65, 0.9, 0.1]
    assert [entry.spread.get("val_privacy_cmap") for entry in found] == [pytest.approx(0.05), pytest.approx(0.05), None, None]
    assert [entry.num_seeds for entry in found] == [2, 2, 1, 1]


def test_seeds_of_attackers_are_one_version_with_the_mean(tmp_path):
    row = {"model_path": "models/anonymizer"}
    rows = [row | {"seed": seed, "val_privacy_cmap": cmap, "run_id": f"run{seed}"} for seed, cmap in ((0, 0.6), (1, 0.7))]
    (entry,) = entries_of(points(tmp_path, *rows), None)
    assert entry.figures["val_privacy_cmap"] == pytest.approx(0.65)
    assert entry.spread["val_privacy_cmap"] == pytest.approx(0.1)
    assert entry.runs == ("run0", "run1")


def test_one_model_at_two_keep_ratios_is_two_contents(tmp_path):
    row = {"model_path": "models/anonymizer"}
    found = entries_of(points(tmp_path, row, row | {"keep_ratio": 0.5, "kept_share": 0.25}), None)
    assert len({entry.content for entry in found}) == 2


def test_points_behind_the_front_and_baselines_are_left_out_but_for_the_choice(tmp_path):
    rows = points(
        tmp_path,
        {"method": "blur", "model_path": "", "keep_ratio": "", "kept_share": "", "action_weight": "", "privacy_weight": ""},
        {"model_path": "models/sweep/a-0", "on_front": "false"},
        {"model_path": "models/sweep/b-0", "on_front": "false"},
    )
    assert entries_of(rows, None) == []
    found = entries_of(rows, rows[2])
    assert [entry.folder.name for entry in found] == ["b-0"]
    assert chosen(rows[2], found) == found[0]
    assert chosen(rows[0], found) is None
    with pytest.raises(UserError, match=r"its choice \(models/anonymizer\) is not in points.csv"):
        chosen(rows[2] | {"model_path": "models/anonymizer"}, found)


def test_a_figure_that_is_not_known_is_left_out(tmp_path):
    (entry,) = entries_of(points(tmp_path, {"model_path": "models/anonymizer", "leak_removed": "nan"}), None)
    assert "leak_removed" not in entry.figures


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"models/gone: points.csv names it.*dvc repro"):
        entries_of(points(tmp_path, {"model_path": "models/gone"}), None)
