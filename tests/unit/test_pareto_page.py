"""What is in report.html, without a browser."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from stprivacy.config import Policy
from stprivacy.errors import UserError
from stprivacy.evaluation.page import draw_front, write_page
from stprivacy.evaluation.pareto import find_front
from tests.browser.front_files import METHODS, NUM_CLIPS, NUM_CONFIGURATIONS, NUM_FRAMES, SIDE, made_clips, make_results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("made") / "results")


def data_of(results, path, show_raw):
    text = write_page(find_front(results, METHODS, Policy()), path, show_raw, rendered=show_raw).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1]), text


def frames(video):
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(base64.b64decode(video))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_clips_in_the_page_are_the_test_clips(results, tmp_path):
    data, _ = data_of(results, tmp_path / "report.html", show_raw=True)
    point = data["points"][data["selected"]]
    assert len(point["clips"]) == NUM_CLIPS
    shown = frames(data["videos"][point["clips"][1]["raw"]])
    assert shown.shape == (NUM_FRAMES, 2 * SIDE, 2 * SIDE, 3)
    centres = shown[:, 1::2, 1::2].astype(int)
    assert np.abs(centres - made_clips()[1]).mean() < 4


def test_every_clip_is_put_in_once(results, tmp_path):
    data, _ = data_of(results, tmp_path / "report.html", show_raw=True)
    assert len(set(data["videos"])) == len(data["videos"])
    assert {pair["raw"] for point in data["points"] for pair in point["clips"]} == set(range(NUM_CLIPS))


def test_no_raw_clip_is_in_the_page_when_they_must_not_be_shown(results, tmp_path):
    with_raw, _ = data_of(results, tmp_path / "with.html", show_raw=True)
    without, _ = data_of(results, tmp_path / "without.html", show_raw=False)
    raw = {with_raw["videos"][pair["raw"]] for point in with_raw["points"] for pair in point["clips"]}
    assert not raw & set(without["videos"])
    assert all(pair["raw"] is None for point in without["points"] for pair in point["clips"])
    assert {bool(point["clips"]) for point in without["points"] if point["method"] == "stprivacy"} == {True}
    assert {bool(point["clips"]) for point in without["points"] if point["method"] != "stprivacy"} == {False}


def test_the_same_results_give_the_same_bytes(results, tmp_path):
    front = find_front(results, METHODS, Policy())
    one, two = (write_page(front, tmp_path / f"{name}.html", True, True).read_bytes() for name in ("one", "two"))
    assert one == two
    assert draw_front(front, tmp_path / "one.png").read_bytes() == draw_front(front, tmp_path / "two.png").read_bytes()


def test_nothing_is_loaded_from_elsewhere(results, tmp_path):
    _, text = data_of(results, tmp_path / "report.html", show_raw=True)
    asked = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            addresses = [value for name, value in attrs if name in ("src", "href") and value]
            asked.extend((tag, value) for value in addresses if not value.startswith(("data:", "#")))

    Reader().feed(text)
    assert asked == []
    assert "default-src 'none'" in text
    assert text.count("plotly.js v") == 1, "plotly belongs in once"


def test_a_name_that_looks_like_markup_stays_text(tmp_path):
    results = make_results(tmp_path / "results")
    (results / "evaluate/blur").rename(results / "evaluate/<b>blur")
    points = results / "evaluate/<b>blur/points.csv"
    points.write_text(points.read_text().replace("blur", "<b>blur"))
    examples = dict(np.load(results / "evaluate/<b>blur/examples.npz"))
    np.savez(results / "evaluate/<b>blur/examples.npz", **{name.replace("blur", "<b>blur"): clips for name, clips in examples.items()})
    path = write_page(find_front(results, ["<b>blur", "stprivacy"], Policy()), tmp_path / "report.html", True, True)
    table = path.read_text(encoding="utf-8").partition('<table id="points-table">')[2].partition("</table>")[0]
    assert "&lt;b&gt;blur" in table and "<b>" not in table


def test_many_points_share_the_page_fairly(results, tmp_path, monkeypatch):
    monkeypatch.setattr("stprivacy.evaluation.page.CLIPS_TOGETHER", NUM_CONFIGURATIONS)
    data, _ = data_of(results, tmp_path / "report.html", show_raw=True)
    assert {len(point["clips"]) for point in data["points"]} == {1}


@pytest.mark.parametrize("lost", ["file", "kept share"])
def test_missing_examples_are_named(tmp_path, lost):
    results = make_results(tmp_path / "results")
    path = results / "evaluate/stprivacy/examples.npz"
    if lost == "file":
        path.unlink()
    else:
        np.savez(path, raw=made_clips())
    with pytest.raises(UserError, match=r"evaluate/stprivacy/examples\.npz.*dvc repro -f"):
        write_page(find_front(results, METHODS, Policy()), tmp_path / "report.html", True, True)
