"""The study's page in a real browser: every question can be answered, the file that it saves is scored, and nothing leaves it."""

import csv
import json

import numpy as np
import pytest

from stprivacy.config import Channel
from stprivacy.evaluation.gallery import LabelledClips, Releaser
from stprivacy.evaluation.methods import load_method
from stprivacy.study.page import write_study
from stprivacy.study.questions import Drawer, wording_for
from stprivacy.study.scoring import accuracies, read_answers, read_key
from tests.browser.front_files import made_clips
from tests.unit.evaluation_files import CLIP

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
NUM_FRAMES = 8


def write(folder, persons=False, each=1):
    """A page on raw video and a filter."""
    pixels = np.concatenate([made_clips()] * 6)  # 24 clips of 8 frames of 48 × 48
    attributes = np.eye(2, dtype=bool)[np.arange(24) // 2 % 2] if persons else np.arange(24)[:, None] // [1, 2] % 2 == 1
    actions = tuple(("walk_left", "wave")[index // 4 % 2] for index in range(24))
    names = ("person_a", "person_b") if persons else ("hat", "face")
    clips = LabelledClips("made", tuple(f"clip{i}" for i in range(24)), actions, attributes, names, pixels)
    releasers = [
        Releaser("raw", None, None),
        Releaser("downsample-4", None, load_method("downsample-4", folder, CLIP, Channel())),
    ]
    drawer = Drawer(clips, 2, each, 0, wording_for("vp-synth", names, {}), clips if persons else None, raw_gallery=True)
    return write_study(folder / "study.html", "A made study", clips, clips if persons else None, releasers, drawer.all(), {})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write(tmp_path_factory.mktemp("study"), each=2)


@pytest.fixture
def key(study):
    return read_key(study.key)


@pytest.fixture
def page(open_page, study):
    page = open_page(study.page.as_uri(), viewport={"width": 1280, "height": 800})
    yield page
    assert page.complaints == []
    assert {url for url in page.asked if not url.startswith(("data:", "blob:"))} == {study.page.as_uri()}


def current(page):
    """The question on the screen, as the page's data has it."""
    return page.evaluate("data.questions[state.order[state.answers.length]]")


def answer(page, choice, press=None):
    """Answer by a click, or by a key, once the page takes it."""
    number = page.evaluate("state.answers.length")
    page.wait_for_timeout(300)  # before that nobody can have seen the clip
    if press:
        page.keyboard.press(press)
    else:
        page.locator("#answers button").nth(choice - 1).click()
    page.wait_for_function("number => state.answers.length === number + 1", arg=number)


def answer_all(page, key, press=False):
    while not page.evaluate("document.getElementById('question').hidden"):
        choice = key["questions"][current(page)["id"]]["answer"]
        answer(page, choice, str(choice) if press else None)


def saved(page, folder):
    with page.expect_download() as download:
        page.locator("#save").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_all_questions_can_be_answered_and_the_saved_file_is_scored(page, study, key, tmp_path):
    page.locator("#begin").click()
    assert page.locator("#place").inner_text() == f"Question 1 of {study.num_questions}"
    answer_all(page, key)
    assert page.locator("#end-heading").inner_text() == "Thank you"
    sheet = saved(page, tmp_path)
    assert sheet.name.startswith(f"answers-{study.id}-p") and sheet.suffix == ".csv"
    answers = read_answers([sheet], key)
    assert len(answers) == study.num_questions == 12
    assert {row.share for row in accuracies(answers)} == {1.0}
    with open(sheet, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["question"] for row in rows] != list(key["questions"]), "every participant has an order of their own"
    assert all(0.2 < float(row["seconds"]) < 60 for row in rows)
    page.locator("#as-text summary").click()
    assert page.locator("#text").input_value() == sheet.read_text(), "what is to be copied is the same"


def test_the_keyboard_alone_is_enough(page, key, tmp_path):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "begin"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt", "a screen reader hears the question"
    first = key["questions"][current(page)["id"]]["answer"]
    answer(page, first, "ArrowLeft" if first == 1 else "ArrowRight")
    page.keyboard.press("p")
    assert page.locator("#play").inner_text() == "Play"
    answer_all(page, key, press=True)
    assert len(read_answers([saved(page, tmp_path)], key)) == 12


def test_clips_play_in_step_and_can_be_stopped(page):
    page.locator("#begin").click()
    while current(page)["layout"] != "pick":
        answer(page, 1)
    places = "[...document.querySelectorAll('.clip')].map(clip => clip.style.backgroundPosition)"
    seen = set()
    for _ in range(40):
        now = page.evaluate(places)
        assert len(now) == 2 and len(set(now)) == 1
        seen.add(now[0])
        page.wait_for_timeout(60)
    assert len(seen) > NUM_FRAMES / 2
    page.locator("#play").click()
    stopped = page.evaluate(places)
    page.wait_for_timeout(400)
    assert page.evaluate(places) == stopped


def test_the_frames_shown_are_the_released_bytes(page, study):
    """The strip of a clip, decoded by the browser, is one of those that were encoded, pixel for pixel."""
    assert study.lossless
    pixels = page.evaluate(
        """async () => {
          const image = new Image();
          image.src = "data:image/webp;base64," + data.clips[0];
          await image.decode();
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.width, image.height];
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          return [image.width, image.height, ...context.getImageData(0, 0, image.width, image.height).data];
        }"""
    )
    width, height, *values = pixels
    shown = np.array(values, np.uint8).reshape(height, width, 4)[..., :3].reshape(height, NUM_FRAMES, -1, 3).transpose(1, 0, 2, 3)
    coarse = made_clips().reshape(4, 8, 12, 4, 12, 4, 3).mean((3, 5)).repeat(4, 2).repeat(4, 3)
    assert any(np.abs(shown.astype(int) - clip).max() <= 1 for clip in (*made_clips().astype(int), *coarse))


def test_a_reload_goes_on_where_it_was_and_the_next_participant_begins_anew(page, key, tmp_path):
    page.locator("#begin").click()
    answer(page, 1)
    answer(page, 2)
    before = page.evaluate("[state.participant, JSON.stringify(state.order)]")
    page.reload()
    assert page.locator("#begin").inner_text() == "Go on"
    assert "answered 2 questions" in page.locator("#resumed").inner_text()
    assert page.evaluate("[state.participant, JSON.stringify(state.order)]") == before
    page.locator("#begin").click()
    answer_all(page, key)
    page.locator("#again").click()
    assert page.locator("#begin").inner_text() == "Begin"
    assert page.evaluate("[state.participant, state.answers.length]")[0] != before[0]


def test_a_key_that_is_held_down_answers_one_question_only(page):
    page.locator("#begin").click()
    page.wait_for_timeout(300)
    for _ in range(5):
        page.keyboard.down("1")  # without an up in between: repeats
    assert page.evaluate("state.answers.length") == 1


def test_nothing_in_the_page_tells_the_answer(page, key):
    text = page.content()
    assert 'answer":' not in text.partition('id="data"')[2].partition("</script>")[0]
    known = page.evaluate("Object.keys(data.questions[0]).sort()")
    assert known == ["clips", "id", "layout", "options", "prompt"]
    assert all(entry["method"] not in text for entry in key["questions"].values() if entry["method"] != "raw")


def test_a_phone_shows_a_whole_question_without_scrolling(open_page, study, key):
    page = open_page(study.page.as_uri(), viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    page.locator("#begin").tap()
    for _ in range(6):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for number in range(2):
            box = page.locator("#answers button").nth(number).bounding_box()
            assert box["y"] + box["height"] <= 780 and box["height"] >= 44 and box["width"] >= 120
        number = page.evaluate("state.answers.length")
        page.wait_for_timeout(300)
        page.locator("#answers button").first.tap()
        page.wait_for_function("number => state.answers.length === number + 1", arg=number)
    assert page.complaints == []


def test_persons_are_matched_by_clips(open_page, tmp_path):
    study = write(tmp_path, persons=True)
    key = read_key(study.key)
    page = open_page(study.page.as_uri(), viewport={"width": 390, "height": 780})
    page.locator("#begin").click()
    layouts = set()
    while not page.evaluate("document.getElementById('question').hidden"):
        question = current(page)
        layouts.add(question["layout"])
        if question["layout"] == "match":
            assert page.locator("#stage .clip").count() == 1 and page.locator("#answers .clip").count() == 2
            below = page.locator("#answers button").first.bounding_box()
            assert below["y"] + below["height"] <= 780
        answer(page, key["questions"][question["id"]]["answer"])
    assert layouts == {"name", "match"}
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(open_page, study, scheme):
    page = open_page(study.page.as_uri(), color_scheme=scheme)
    contrast = """() => {
      const light = (colour) => {
        const linear = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = colour.match(/[\\d.]+/g).map((value) => linear(Number(value) / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" && element.parentElement ? ground(element.parentElement) : colour;
      };
      const shown = [...document.querySelectorAll("h1, p, li, kbd, button, .main, summary")].filter((e) => e.offsetParent);
      return Math.min(...shown.map((element) => {
        const [text, behind] = [light(getComputedStyle(element).color), light(ground(element))];
        return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
      }));
    }"""
    assert page.evaluate(contrast) >= 4.5
    page.locator("#begin").click()
    assert page.evaluate(contrast) >= 4.5
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_clips_stand_still_where_motion_is_unwelcome_until_they_are_asked_to_play(open_page, study):
    page = open_page(study.page.as_uri(), reduced_motion="reduce")
    page.locator("#begin").click()
    assert page.locator("#play").inner_text() == "Play"
    place = "document.querySelector('.clip').style.backgroundPosition"
    still = page.evaluate(place)
    page.wait_for_timeout(400)
    assert page.evaluate(place) == still
    page.locator("#play").click()
    page.wait_for_function(f"still => {place} !== still", arg=still)


def test_the_data_of_the_page_survives_words_that_look_like_markup(open_page, tmp_path):
    study = write(tmp_path)
    text = study.page.read_text()
    assert json.loads(text.partition('id="data">')[2].partition("</script>")[0])["id"] == study.id
    page = open_page(study.page.as_uri())
    assert page.evaluate("data.id") == study.id
    assert page.complaints == []
