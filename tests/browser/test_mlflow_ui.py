"""MLflow's own UI on the store that the pareto stage leaves: does a person find the front in it, and the registered model?

STPRIVACY_SCREENSHOTS=<folder> keeps pictures of what was seen. They are of made figures, unless STPRIVACY_UI_PROJECT names a project
folder with a front of its own, which is then looked at and not written to:

    STPRIVACY_UI_PROJECT=. STPRIVACY_SCREENSHOTS=docs pytest tests/browser/test_mlflow_ui.py
"""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.browser.front_files import METHODS, make_results

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
MODEL = "stprivacy-anonymizer"
START_S = 180
BEFORE = """
localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""
"""Neither the view for language models nor the assistant's panel."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, project_root):
    """A project folder in which the pareto stage ran and a version was registered."""
    if os.environ.get("STPRIVACY_UI_PROJECT"):
        return Path(os.environ["STPRIVACY_UI_PROJECT"]).absolute()
    folder = tmp_path_factory.mktemp("store")
    make_results(folder / "results")
    params = YAML().load(project_root / "params/vp-synth.yaml")
    params["evaluate"]["methods"] = list(METHODS)
    YAML().dump(params, folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setattr(sys, "argv", ["pareto"])
        from pipelines.pareto import main

        main()
        register_a_version(folder)
    return folder


def register_a_version(folder):
    from stprivacy import tracking

    client = tracking.connect()
    client.create_registered_model(MODEL)
    version = client.create_model_version(MODEL, source=folder.as_uri(), tags={"keep_ratio": "0.632", "privacy_cmap": "0.605"})
    client.set_registered_model_alias(MODEL, "candidate", version.version)


@pytest.fixture(scope="module")
def links(folder):
    """What `stprivacy ui` prints, while it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    log = folder / "server.log"
    with open(log, "w") as out:
        command = [sys.executable, "-m", "stprivacy", "ui", "--port", str(port)]
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/health", server, log)
        found = dict(re.findall(r"^(view|compare|summary) +(http\S+)$", log.read_text(), re.MULTILINE))
        yield found | {"server": f"http://127.0.0.1:{port}"}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def wait_until_it_answers(url, server, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
    pytest.fail(f"no answer from MLflow's server in {START_S} s: {log.read_text()}")


@pytest.fixture
def visit(open_page, links):
    """visit(link) → page, in which nothing but the server is asked."""
    pages = []

    def open_(link):
        page = open_page(link, BEFORE, viewport={"width": 1440, "height": 900})
        pages.append(page)
        return page

    yield open_
    for page in pages:
        elsewhere = [url for url in page.asked if not url.startswith((links["server"], "data:", "blob:"))]
        assert not elsewhere, elsewhere


def keep(page, name, part=None):
    """Keep a picture of the page, or of a part of it."""
    seen, folder = part or page, os.environ.get("STPRIVACY_SCREENSHOTS")
    if folder:
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)  # charts grow into their place
        seen.screenshot(path=Path(folder) / f"mlflow-{name}.png")


def column(page, metric):
    """A column of the runs table as numbers, in the order in which the rows are shown."""
    cells = page.locator(f".ag-center-cols-container .ag-cell[col-id='metrics.`{metric}`']").all()
    placed = sorted((cell.evaluate("cell => cell.getBoundingClientRect().top"), cell.inner_text()) for cell in cells)
    return [float(text) for _, text in placed]


def points_of(folder):
    """(action, cMAP) of results/pareto/points.csv, in order of size."""
    with open(folder / "results/pareto/points.csv", newline="") as file:
        return sorted((float(row["action_top1"]), float(row["privacy_cmap"])) for row in csv.DictReader(file))


def drawn_points(page, across, upwards, count):
    """The points of the plot with these axes, once all `count` are there, in order of size."""
    found = page.wait_for_function(
        """([across, upwards, count]) => {
          for (const plot of document.querySelectorAll('.js-plotly-plot')) {
            const titles = [plot.layout?.xaxis?.title?.text, plot.layout?.yaxis?.title?.text];
            const points = plot.data.flatMap(trace => Array.from(trace.x ?? [], (x, place) => [x, trace.y[place]]));
            if (titles[0] === across && titles[1] === upwards && points.length === count) return points;
          }
        }""",
        arg=[across, upwards, count],
    ).json_value()
    return sorted((x, y) for x, y in found)


def test_the_link_opens_a_runs_table_that_shows_and_sorts_by_both_metrics(visit, links, folder):
    page = visit(links["view"].replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    page.wait_for_selector(f"text={len(points_of(folder))} matching runs")
    for metric, other in (("privacy_cmap", "action_top1"), ("action_top1", "privacy_cmap")):
        page.locator(f".ag-header-cell[col-id='metrics.`{metric}`']").click()
        page.wait_for_selector(f"button:has-text('Sort: {metric}')")
        page.wait_for_function(
            """metric => {
              const cells = [...document.querySelectorAll(`.ag-center-cols-container .ag-cell[col-id='metrics.\\`${metric}\\`']`)];
              const placed = cells.map(cell => [cell.getBoundingClientRect().top, Number(cell.innerText)]);
              const numbers = placed.sort((one, other) => one[0] - other[0]).map(row => row[1]);
              const rises = numbers.every((value, place) => !place || value >= numbers[place - 1]);
              const falls = numbers.every((value, place) => !place || value <= numbers[place - 1]);
              return numbers.length > 5 && (rises || falls);
            }""",
            arg=metric,
        )
        assert len(column(page, other)) == len(column(page, metric)) > 5
    keep(page, "runs")


def test_the_link_opens_the_front_as_a_scatter_and_the_weights_as_parallel_coordinates(visit, links, folder):
    page = visit(links["view"])
    assert drawn_points(page, "action_top1", "privacy_cmap", len(points_of(folder))) == points_of(folder)
    page.wait_for_selector("text=kept_share")
    keep(page, "front")


def test_the_compare_page_draws_cmap_against_action(visit, links, folder):
    page = visit(links["compare"])
    page.wait_for_selector(f"text=Comparing {len(points_of(folder))} Runs")
    page.get_by_role("tab", name="Scatter Plot").click()
    for axis, metric in (("x", "action_top1"), ("y", "privacy_cmap")):
        pick(page, axis, metric)
    assert drawn_points(page, "action_top1", "privacy_cmap", len(points_of(folder))) == points_of(folder)
    keep(page, "compare")


def pick(page, axis, metric):
    """Choose what an axis of the compare page's scatter shows."""
    page.locator(f"#{axis}-axis-selector").click()
    page.get_by_role("option", name=metric, exact=True).click()


def test_the_summary_run_holds_words_picture_and_page(visit, links):
    page = visit(links["summary"])
    page.wait_for_selector("text=Policy:")
    assert "kept" not in page.locator("h2").first.inner_text()
    page.get_by_role("tab", name="Artifacts").click()
    for file in ("front.png", "report.html"):
        page.wait_for_selector(f"text={file}")
    page.locator("text=report.html").first.click()
    frame = page.frame_locator("iframe")
    frame.locator("#plot .points path").first.wait_for()
    keep(page, "page", page.locator("iframe"))  # without the artifact's path beside it


def test_the_model_page_shows_alias_and_tags(visit, links, folder):
    from mlflow import MlflowClient

    version = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_model_version_by_alias(MODEL, "candidate")
    page = visit(f"{links['server']}/#/models/{MODEL}/versions/{version.version}")
    for text in ("candidate", "keep_ratio", version.tags["keep_ratio"], "privacy_cmap"):
        page.wait_for_selector(f"text={text}")
    keep(page, "model")
