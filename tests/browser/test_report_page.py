"""report.html in a real browser: what people see, click and hear of, and that nothing leaves it."""

import pytest

from stprivacy.config import Policy
from stprivacy.evaluation.page import write_page
from stprivacy.evaluation.pareto import find_front
from tests.browser.front_files import METHODS, NUM_CLIPS, NUM_CONFIGURATIONS, make_results

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
POINTS = "#plot .points path"
RINGS = 2
"""Marks around knee and choice, which are drawn as points."""
PLAYS = "videos => videos.every(video => video.readyState >= 2 && !video.paused && video.currentTime > 0)"


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    return find_front(make_results(tmp_path_factory.mktemp("made") / "results"), METHODS, Policy())


@pytest.fixture(scope="module")
def address(front, tmp_path_factory):
    return write_page(front, tmp_path_factory.mktemp("page") / "report.html", show_raw=True, rendered=True).as_uri()


@pytest.fixture
def page(open_page, address):
    page = open_page(address, viewport={"width": 1280, "height": 900})
    page.wait_for_selector(POINTS)
    yield page
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith("data:")] == [address]


def place(page, index):
    """The middle of a point of the plot, by its place among all that are drawn."""
    box = page.locator(POINTS).nth(index).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def all_play(page):
    page.wait_for_function(f"() => ({PLAYS})([...document.querySelectorAll('#clips video')])")
    return page.locator("#clips video").count()


def test_every_configuration_is_a_point_and_a_row(page, front):
    assert page.locator(POINTS).count() == NUM_CONFIGURATIONS + RINGS
    assert page.locator("#points-table tr[data-point]").count() == NUM_CONFIGURATIONS
    assert page.locator("#plot .errorbars path.xerror").count() > 0, "no bars for configurations with several seeds"
    assert "floor: chance 0.500" in page.locator("#plot").inner_text()


def test_the_choice_is_shown_first_and_its_clips_play(page, front):
    assert "choice" in page.locator("#detail-name").inner_text()
    assert page.locator("#points-table tr.selected .badge.choice").count() == 1
    assert all_play(page) == 2 * NUM_CLIPS
    assert page.locator("#clips video").first.bounding_box()["width"] >= 192


def test_a_click_on_a_point_opens_its_clips(page):
    page.mouse.click(*place(page, RINGS))  # rings, then the first baseline
    page.wait_for_function("() => document.getElementById('detail-name').textContent === 'downsample-2'")
    assert all_play(page) == 2 * NUM_CLIPS
    assert "0.985" in page.locator("#detail-figures").inner_text()


def test_hovering_tells_the_configuration(page):
    page.mouse.move(*place(page, RINGS + NUM_CONFIGURATIONS - 1))
    page.wait_for_selector("#plot .hoverlayer .hovertext")
    told = page.locator("#plot .hoverlayer .hovertext").text_content()
    assert "kept share 0.2" in told and "2 seeds" in told


def test_a_row_opens_its_clips_by_keyboard_alone(page):
    page.locator("#points-table tr[data-point] button").nth(3).focus()
    page.keyboard.press("Enter")
    assert page.locator("#detail-name").inner_text() == "blur"
    assert page.locator("#points-table tr.selected").count() == 1
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.locator("#play").focus()
    page.keyboard.press("Space")
    page.wait_for_function("() => [...document.querySelectorAll('#clips video')].every(video => video.paused)")


def test_before_and_after_show_the_same_frame(page):
    """One that has fallen behind, as on a busy machine, is in step again after a loop of a second, in which the leader starts over."""
    all_play(page)
    page.evaluate("video => { video.currentTime = (video.currentTime + 0.5) % 1; }", page.locator("#clips video").nth(1).element_handle())
    page.wait_for_function(
        """() => {
          const [leader, ...others] = [...document.querySelectorAll('#clips video')].map(video => video.currentTime);
          return others.every(time => Math.min(Math.abs(time - leader), 1 - Math.abs(time - leader)) < 0.25);
        }"""
    )


def test_val_figures_are_drawn_on_demand(page):
    before = place(page, RINGS)
    page.locator("[data-split=val]").click()
    page.wait_for_function("() => document.querySelector('[data-split=val]').getAttribute('aria-pressed') === 'true'")
    assert "Everything above and left" in page.locator("#split-note").inner_text()
    assert place(page, RINGS) != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(open_page, address, scheme):
    page = open_page(address, color_scheme=scheme)
    page.wait_for_selector(POINTS)
    contrasts = page.evaluate(
        """() => {
          const light = (colour) => {
            const linear = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
            const [r, g, b] = colour.match(/[\\d.]+/g).map((value) => linear(Number(value) / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const [page, panel] = [document.body, document.getElementById('detail')].map(e => light(getComputedStyle(e).backgroundColor));
          return [...document.querySelectorAll('h1, p, th, td, small, .badge.knee, .tile span')].map(element => {
            const text = light(getComputedStyle(element).color), ground = element.closest('#detail') ? panel : page;
            return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
          });
        }"""
    )
    assert min(contrasts) >= 4.5
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_a_phone_shows_it_without_scrolling_sideways(open_page, address):
    page = open_page(address, viewport={"width": 390, "height": 844}, has_touch=True)
    page.wait_for_selector(POINTS)
    all_play(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    first, second = (page.locator("#clips video").nth(number).bounding_box() for number in (0, 1))
    assert first["y"] == second["y"] and first["width"] >= 192


def test_clips_stand_still_where_motion_is_unwelcome(open_page, address):
    page = open_page(address, reduced_motion="reduce")
    page.wait_for_selector("#clips video")
    assert page.locator("#play").inner_text() == "Play"
    assert page.evaluate("[...document.querySelectorAll('#clips video')].every(video => video.paused)")


def test_raw_clips_of_people_stay_out(open_page, front, tmp_path):
    page = open_page(write_page(front, tmp_path / "report.html", show_raw=False, rendered=False).as_uri())
    page.wait_for_selector(POINTS)
    assert all_play(page) == NUM_CLIPS
    assert "tracking.log_raw_clips" in page.locator("#detail").inner_text()
    page.locator("#points-table tr[data-point] button").first.click()
    assert page.locator("#detail-name").inner_text() == "raw"
    assert page.locator("#clips video").count() == 0
    assert page.complaints == []
