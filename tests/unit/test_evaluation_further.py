"""The tables of a kept result beside the main one, from what judging left."""

import copy
import dataclasses
import json

import pytest

from stprivacy.errors import UserError
from stprivacy.evaluation.further import further
from stprivacy.evaluation.provenance import judged
from stprivacy.evaluation.results import write_results
from tests.unit.evaluation_files import SHARE, made_judgement, tiny_params


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Raw clips and a learned method at two kept shares, two seeds of attackers; at the lower share the second seed's 2D CNN counts."""
    folder, raw = tmp_path_factory.mktemp("further"), None
    for method, shares, skill in (("raw", (None,), 0.95), ("stprivacy", (SHARE, 0.25), 0.2)):
        judgement = made_judgement(folder / method, method, shares, (0, 1), skill)
        *points, last = judgement.points
        if method == "stprivacy":
            cnn3d, cnn2d = last.privacy
            last = dataclasses.replace(last, privacy=(cnn3d, dataclasses.replace(cnn2d, val_score=0.99)))
        target = folder / "results/evaluate" / method
        write_results(dataclasses.replace(judgement, points=(*points, last)), tiny_params(), target, raw)
        raw = raw or target / "metrics.json"
    return folder / "results"


@pytest.fixture
def metrics(results):
    return copy.deepcopy(judged(results)[0])


def tables(results, metrics) -> list[tuple[str, list[list[str]]]]:
    """(caption, rows of cells, headings first) of every table."""
    found, caption = [], ""
    for block in further(results, metrics).split("\n\n"):
        if block.startswith("|"):
            found.append((caption, [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]))
        caption = block
    return found


def span(ends, digits=3):
    return " to ".join(f"{end:.{digits}f}" for end in ends)


def test_intervals_at_the_trained_kept_share_are_those_of_metrics_json(results, metrics):
    caption, rows = tables(results, metrics)[0]
    assert caption.startswith("95% intervals over 2,000 resamples") and "means over 2 seeds of attackers" in caption
    found = metrics["stprivacy"]["intervals"]
    row = next(row for row in rows if row[:2] == ["stprivacy", f"{SHARE:g}"])
    beyond = f"{metrics['stprivacy']['leak_beyond_action']['cmap']:.3f}: {span(found['leak_beyond_action'])}"
    assert row[3:] == [span(found["action_top1"]), span(found["privacy_cmap"]), span(found["leak_removed"], 2), beyond]


def test_another_kept_share_has_its_own_intervals_and_attackers(results, metrics):
    _, rows = tables(results, metrics)[0]
    main, other = (next(row for row in rows if row[:2] == ["stprivacy", share]) for share in (f"{SHARE:g}", "0.25"))
    assert (main[2], other[2]) == ("cnn3d 2×", "cnn3d 1×, cnn2d 1×")
    assert other[4] not in ("", main[4]) and other[5:] == ["", ""]


def test_every_attacker_has_a_row_and_the_one_that_counts_is_bold(results, metrics):
    metrics["stprivacy"]["attackers"]["privacy-raw-trained-cnn3d"] = {"cmap": 0.25}
    caption, rows = tables(results, metrics)[1]
    assert "the first of 2 seeds of attackers alone" in caption
    assert rows[0] == ["attacker", "raw", f"stprivacy at {SHARE:g}"]
    cells = {row[0]: row[1:] for row in rows[2:]}
    assert cells["raw-trained-cnn3d"] == ["", "0.250"]
    assert cells["cnn3d"] == [f"**{metrics[method]['attackers']['privacy-cnn3d']['cmap']:.3f}**" for method in ("raw", "stprivacy")]


def test_without_identities_or_inversion_there_are_no_tables_of_them(results, metrics):
    assert len(tables(results, metrics)) == 2


def test_who_it_is_stands_beside_a_random_order(results, metrics):
    again = {"rank1": 0.75, "map": 0.5, "chance_rank1": 0.125, "chance_map": 0.25}
    for method, named in (("raw", 0.9), ("stprivacy", 0.3)):
        metrics[method]["attackers"]["privacy-cnn3d"]["identity_top1"] = named
        metrics[method]["reidentification"] = again
    caption, rows = tables(results, metrics)[2]
    assert caption.startswith("Who is it?")
    assert rows[2:] == [
        ["raw", "", "0.900", "0.750", "0.500"], ["stprivacy", f"{SHARE:g}", "0.300", "0.750", "0.500"],
        ["_floor: random order_", "", "", "_0.125_", "_0.250_"],
    ]  # fmt: skip


def test_what_was_painted_back_stands_beside_what_needs_no_painter(results, metrics):
    metrics["stprivacy"]["inversion"] = {
        "psnr": 20.04, "ssim": 0.7, "epochs": 9, "action_top1": 0.5,
        "attacker": "privacy-inversion-cnn2d", "cmap": 0.6, "identity_top1": None,
        "floors": {"released": {"psnr": 9.0, "ssim": 0.1}, "constant": {"psnr": 15.0, "ssim": 0.4}},
    }  # fmt: skip
    caption, rows = tables(results, metrics)[2]
    assert caption.startswith("Raw clips painted back")
    assert rows[2:] == [
        ["stprivacy", f"{SHARE:g}", "20.0 / 9.0 / 15.0", "0.700 / 0.100 / 0.400", "inversion-cnn2d", "0.600", "", "0.500"],
    ]  # fmt: skip


def test_a_method_whose_answers_are_missing_is_named(results, metrics, tmp_path):
    target = tmp_path / "results/evaluate/raw"
    target.mkdir(parents=True)
    (target / "metrics.json").write_text(json.dumps(metrics["raw"]))
    with pytest.raises(UserError, match=r"raw/predictions\.npz: no such file"):
        further(tmp_path / "results", {"raw": metrics["raw"]})
