"""From releases to points to files: what stands in metrics.json, points.csv and models/recognizers, as the contract says."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from stprivacy.evaluation.floors import floors
from stprivacy.evaluation.judge import judge
from stprivacy.evaluation.metrics import average_precisions, cmap, macro_f1, top1
from stprivacy.evaluation.results import POINT_COLUMNS, keep_recognizers, leak_removed, main_share, write_results
from tests.unit.evaluation_files import (
    ATTRIBUTES,
    SHARE,
    made_judgement,
    noise_clips,
    one_by_one,
    random_labels,
    tiny_model,
    tiny_params,
    write_dataset,
)

CONTRACT = {
    "dataset", "method", "seed", "keep_ratio", "kept_share", "action", "privacy", "attackers", "strongest_attacker", "floors",
    "leak_removed", "rate",
}  # fmt: skip
BESIDE_IT = {"action_raw_trained", "random_ranking_cmap", "leak_beyond_action", "intervals", "num_test_clips", "num_attacker_seeds"}


def strict_json(path):
    """What a parser that follows the standard reads: it knows no NaN."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{path.name} holds {name}"))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------- judging


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(shards, model, cache) of a tiny data set and an untrained anonymizer."""
    folder = tmp_path_factory.mktemp("judge")
    sizes = {"train": 24, "val": 12, "test": 16}
    actions, attributes = random_labels(sizes)
    return write_dataset(folder, noise_clips(sizes), actions, attributes), tiny_model(folder / "model"), folder / "cache"


def one_epoch(**evaluate):
    params = tiny_params(min_epochs=1, max_epochs=1)
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=evaluate)})


def test_a_learned_method_is_attacked_afresh_at_every_kept_share_and_seed(data, capsys):
    shards, model, cache = data
    found = judge("stprivacy", one_epoch(seeds=(0, 1)), shards, model, cache, one_by_one)
    assert [(point.kept_share, point.seed) for point in found.points] == [(SHARE, 0), (SHARE, 1), (0.25, 0), (0.25, 1)]
    assert [point.keep_ratio for point in found.points] == pytest.approx([SHARE**0.5] * 2 + [0.5] * 2)
    assert len({point.action.weights for point in found.points}) == 4
    assert {result.name for point in found.points for result in point.privacy} == {"privacy-cnn3d", "privacy-cnn2d"}
    assert found.released.keys() == {SHARE, 0.25}
    assert not np.array_equal(found.released[SHARE].views("test"), found.released[0.25].views("test"))
    lines = capsys.readouterr().out.splitlines()
    assert sum("clips released" in line for line in lines) == 2  # once a share, whatever the number of attackers
    assert sum(": epoch 1 of" in line for line in lines) == 4 * 3


def test_a_method_that_drops_nothing_is_one_point_without_a_share(data):
    shards, model, cache = data
    (point,) = judge("blur", one_epoch(), shards, model, cache, one_by_one).points
    assert (point.kept_share, point.keep_ratio) == (None, None)


def test_judging_again_attacks_nothing_again(data, capsys):
    shards, model, cache = data
    first = judge("raw", one_epoch(), shards, model, cache, one_by_one)
    capsys.readouterr()
    again = judge("raw", one_epoch(), shards, model, cache, one_by_one)
    assert capsys.readouterr().out == ""
    assert np.array_equal(first.points[0].strongest.test, again.points[0].strongest.test)


def test_every_attacker_is_a_task_of_its_own_and_the_long_ones_go_first(data):
    shards, model, cache = data
    seen = []

    def side_by_side(function, arguments):
        seen.append([(function.__name__, getattr(job, "kind", job.__class__.__name__)) for (job,) in arguments])
        return one_by_one(function, arguments)

    judge("raw", one_epoch(), shards, model, cache, side_by_side)
    assert seen == [[("release", "ReleaseJob")], [("run_attack", kind) for kind in ("cnn3d", "cnn3d", "cnn2d")]]


def test_val_and_not_test_says_which_attacker_is_the_strongest(tmp_path):
    judgement = made_judgement(tmp_path, "raw")
    point = judgement.points[0]
    weak, strong = point.privacy[1], point.privacy[0]
    assert point.strongest is strong
    turned = dataclasses.replace(point, privacy=(dataclasses.replace(strong, val_score=0.6), weak))
    assert turned.strongest is weak


# ---------------------------------------------------------------------------------------------------- metrics.json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(judgement, folder of its results, its metrics) of raw and of a learned method at two kept shares and two seeds."""
    folder, params = tmp_path_factory.mktemp("made"), tiny_params()
    found, raw = {}, None
    for method, shares, seeds, skill in (("raw", (None,), (0,), 0.95), ("stprivacy", (0.25, SHARE), (0, 1), 0.3)):
        judgement = made_judgement(folder / method, method, shares, seeds, skill)
        target = folder / "results" / method
        found[method] = (judgement, target, write_results(judgement, params, target, raw))
        raw = target / "metrics.json"
    return found


@pytest.mark.parametrize("method", ["raw", "stprivacy"])
def test_metrics_json_has_the_keys_of_the_contract_and_shares_within_bounds(made, method):
    _, folder, metrics = made[method]
    read = strict_json(folder / "metrics.json")
    assert read == metrics
    several = {"spread_over_seeds"} if method == "stprivacy" else set()
    assert read.keys() == CONTRACT | BESIDE_IT | several
    assert (read["dataset"], read["method"], read["seed"]) == ("vp-synth-tiny", method, 0)
    assert read["action"].keys() == {"top1"}
    assert read["privacy"].keys() == {"cmap", "f1", "ap"}
    assert tuple(read["privacy"]["ap"]) == ATTRIBUTES
    assert read["attackers"].keys() == {"action", "privacy-cnn3d", "privacy-cnn2d"}
    assert read["strongest_attacker"] == "privacy-cnn3d"
    assert read["floors"].keys() == {"chance", "constant", "action_only"}
    for floor in read["floors"].values():
        assert floor.keys() == {"cmap", "f1", "action_top1", "ap"}
        assert tuple(floor["ap"]) == ATTRIBUTES
    shares = [read["action"]["top1"], read["privacy"]["cmap"], read["privacy"]["f1"], *read["privacy"]["ap"].values()]
    shares += [floor[name] for floor in read["floors"].values() for name in ("cmap", "f1", "action_top1")]
    assert all(0 <= share <= 1 for share in shares)


def test_figures_are_the_strongest_attacker_s_on_test(made):
    judgement, _, metrics = made["raw"]
    labels = judgement.released[None].labels("test")
    (point,) = judgement.points
    assert metrics["action"]["top1"] == top1(point.action.test, labels.actions)
    assert metrics["privacy"]["cmap"] == cmap(point.privacy[0].test, labels.present)
    assert metrics["privacy"]["f1"] == macro_f1(point.privacy[0].test, labels.present)
    assert list(metrics["privacy"]["ap"].values()) == pytest.approx(average_precisions(point.privacy[0].test, labels.present))
    assert metrics["attackers"]["privacy-cnn2d"]["cmap"] == cmap(point.privacy[1].test, labels.present)
    ground = floors(judgement.released[None].labels("train"), labels)
    assert {name: floor["cmap"] for name, floor in metrics["floors"].items()} == {name: floor.cmap for name, floor in ground.items()}
    assert (metrics["keep_ratio"], metrics["kept_share"]) == (None, None)


def test_leak_removed_counts_from_chance_to_raw(made):
    raw, released = made["raw"][2], made["stprivacy"][2]
    chance = released["floors"]["chance"]["cmap"]
    expected = 1 - (released["privacy"]["cmap"] - chance) / (raw["privacy"]["cmap"] - chance)
    assert released["leak_removed"] == pytest.approx(expected)
    assert raw["leak_removed"] == 0
    assert leak_removed(released=0.5, raw=0.9, chance=0.5) == 1
    assert leak_removed(released=0.9, raw=0.9, chance=0.5) == 0
    assert leak_removed(released=0.7, raw=0.9, chance=0.5) == pytest.approx(0.5)
    assert leak_removed(released=0.4, raw=0.9, chance=0.5) > 1
    assert math.isnan(leak_removed(released=0.5, raw=0.5, chance=0.5))


def test_metrics_are_those_of_the_kept_share_that_the_model_was_trained_for_as_means_over_seeds(made):
    judgement, _, metrics = made["stprivacy"]
    labels = judgement.released[SHARE].labels("test")
    mine = [cmap(point.strongest.test, labels.present) for point in judgement.points if point.kept_share == SHARE]
    assert len(mine) == metrics["num_attacker_seeds"] == 2
    assert metrics["privacy"]["cmap"] == pytest.approx(np.mean(mine))
    assert metrics["spread_over_seeds"]["privacy_cmap"] == pytest.approx(max(mine) - min(mine))
    assert (metrics["kept_share"], metrics["keep_ratio"]) == (SHARE, SHARE**0.5)


def test_the_main_share_is_the_nearest_that_was_judged(made):
    judgement, params = made["stprivacy"][0], tiny_params()
    for keep_ratio, nearest in ((0.1, 0.25), (0.6, 0.25), (0.65, SHARE), (1.0, SHARE)):
        model = params.model.model_copy(update={"keep_ratio": keep_ratio})
        assert main_share(judgement, params.model_copy(update={"model": model})) == nearest
    assert main_share(made["raw"][0], params) is None


def test_an_attribute_that_no_test_clip_has_is_null_and_counts_nowhere(tmp_path):
    judgement = made_judgement(tmp_path, "raw")
    folder = judgement.released[None].folder
    for split in ("train", "val", "test"):
        labels = judgement.released[None].labels(split)
        attributes = labels.attributes.copy()
        attributes[:, 1] = 0
        np.savez(folder / f"{split}-labels.npz", actions=labels.actions, attributes=attributes)
    metrics = write_results(judgement, tiny_params(), tmp_path / "results", None)
    assert strict_json(tmp_path / "results" / "metrics.json") == metrics
    assert metrics["privacy"]["ap"]["glasses"] is None
    assert metrics["floors"]["constant"]["ap"]["glasses"] is None
    assert metrics["privacy"]["cmap"] == metrics["privacy"]["ap"]["hat"]


def test_raw_clips_that_leak_nothing_leave_nothing_to_remove(tmp_path):
    """Then there is no share that was removed: null, since JSON has no NaN."""
    judgement = made_judgement(tmp_path, "blur")
    (tmp_path / "raw.json").write_text(json.dumps({"privacy": {"cmap": 0.01}}))
    metrics = write_results(judgement, tiny_params(), tmp_path / "results", tmp_path / "raw.json")
    assert metrics["leak_removed"] is None
    assert strict_json(tmp_path / "results" / "metrics.json")["leak_removed"] is None
    assert rows_of(tmp_path / "results" / "points.csv")[0]["leak_removed"] == ""


# ---------------------------------------------------------------------------------------------------- the other files


def test_points_csv_has_a_row_a_share_and_seed_with_the_columns_of_the_front(made):
    judgement, folder, metrics = made["stprivacy"]
    rows = rows_of(folder / "points.csv")
    assert tuple(rows[0]) == POINT_COLUMNS == (
        "method", "keep_ratio", "kept_share", "action_weight", "privacy_weight", "seed", "val_action_top1", "val_privacy_cmap",
        "action_top1", "privacy_cmap", "privacy_f1", "leak_removed", "bits", "on_front", "run_id", "model_path",
    )  # fmt: skip
    assert [(float(row["kept_share"]), int(row["seed"])) for row in rows] == [(0.25, 0), (0.25, 1), (SHARE, 0), (SHARE, 1)]
    params = tiny_params()
    for row, point in zip(rows, judgement.points, strict=True):
        assert float(row["privacy_weight"]) == params.train.privacy_weight
        assert float(row["val_privacy_cmap"]) == point.strongest.val_score
        assert row["model_path"] == "models/anonymizer"
        assert row["on_front"] == row["run_id"] == ""
    assert np.mean([float(row["leak_removed"]) for row in rows[2:]]) == pytest.approx(metrics["leak_removed"])


def test_a_baseline_s_point_has_neither_weights_nor_model(made):
    (row,) = rows_of(made["raw"][1] / "points.csv")
    empty = ("keep_ratio", "kept_share", "action_weight", "privacy_weight", "model_path")
    assert [row[name] for name in empty] == [""] * len(empty)


def test_curves_csv_has_a_row_an_epoch_of_every_attacker(made):
    rows = rows_of(made["stprivacy"][1] / "curves.csv")
    assert len(rows) == 4 * 3 * 2
    assert [row["epoch"] for row in rows[:2]] == ["1", "2"]
    assert {row["attacker"] for row in rows} == {"action", "privacy-cnn3d", "privacy-cnn2d"}


def test_the_game_starts_from_the_first_seed_s_attackers(data, tmp_path):
    shards, model, cache = data
    found = judge("raw", one_epoch(seeds=(3, 4)), shards, model, cache, one_by_one)
    keep_recognizers(found, tmp_path / "recognizers")
    first = found.points[0]
    assert first.seed == 3
    for result in (first.action, *first.privacy):
        assert (tmp_path / "recognizers" / f"{result.name}.safetensors").read_bytes() == result.weights.read_bytes()
    info = json.loads((tmp_path / "recognizers" / "info.json").read_text())
    assert info.keys() == {"action", "privacy-cnn3d", "privacy-cnn2d"}
    assert info["action"]["val_score"] == first.action.val_score
