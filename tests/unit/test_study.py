"""The human study: balanced questions, a page that doesn't tell the answers, and answers that are counted only when they are whole."""

import json
import re
import sys
from collections import Counter
from math import sqrt

import numpy as np
import pytest

from stprivacy import cli
from stprivacy.errors import UserError
from stprivacy.evaluation.gallery import LabelledClips
from stprivacy.study.questions import Drawer, wording_for
from stprivacy.study.scoring import accuracies, accuracy, find_key, line_check, read_answers, read_key
from tests.unit.gallery_files import make_project
from tests.unit.study_files import answer_lines, write_answers

NAMES = ("skin_color", "face", "gender", "nudity", "relationship")
ACTIONS = ("kick", "run", "walk", "wave")


def labelled(count=200, persons=False, seed=0):
    draw = np.random.default_rng(seed)
    attributes = np.eye(4, dtype=bool)[np.arange(count) // 4 % 4] if persons else draw.random((count, 5)) < 0.5
    names = tuple(f"person_{name}" for name in "abcd") if persons else NAMES
    actions = tuple(ACTIONS[index % 4] for index in range(count))
    keys, pixels = tuple(f"clip{index}" for index in range(count)), np.zeros((count, 2, 4, 4, 3), np.uint8)
    return LabelledClips("made", keys, actions, attributes, names, pixels)


def drawn(clips, each=2, num_releases=3, seed=0, gallery=None, raw_gallery=True):
    drawer = Drawer(clips, num_releases, each, seed, wording_for("vp-synth", clips.attribute_names, {}), gallery, raw_gallery)
    return drawer, drawer.all()


# ------------------------------------------------------------------------------------------------ questions


@pytest.mark.parametrize("each", [1, 2, 3])
def test_every_release_gets_as_many_questions_of_each_kind_and_right_answers_are_half_first(each):
    _, questions = drawn(labelled(400), each, num_releases=4)
    counts = Counter((question.kind, question.release) for question in questions)
    assert counts == {(kind, release): each for kind in ("action", *NAMES) for release in range(4)}
    for kind in ("action", *NAMES):
        firsts = [question.answer == 0 for question in questions if question.kind == kind]
        assert sum(firsts) * 2 == len(firsts)


def test_the_right_answer_is_right_and_the_other_is_not():
    clips = labelled()
    for question in drawn(clips)[1]:
        rows = [seen.row for seen in question.clips]
        if question.kind == "action":
            assert question.options[question.answer] == clips.actions[rows[0]] != question.options[1 - question.answer]
        else:
            has = clips.attributes[rows, NAMES.index(question.kind)]
            assert has[question.answer] and not has[1 - question.answer]
            assert clips.actions[rows[0]] == clips.actions[rows[1]], "the action could tell"
        assert {seen.release for seen in question.clips} == {question.release}


def test_no_clip_is_shown_twice_while_there_are_others():
    _, questions = drawn(labelled(400), each=2, num_releases=3)
    shown = Counter(seen.row for question in questions for seen in question.clips)
    assert set(shown.values()) == {1}
    _, more = drawn(labelled(40), each=2, num_releases=3)
    assert max(Counter(seen.row for question in more for seen in question.clips).values()) <= 4


def test_all_actions_are_asked_about_alike():
    _, questions = drawn(labelled(), each=4, num_releases=3)
    right = Counter(question.options[question.answer] for question in questions if question.kind == "action")
    assert right == dict.fromkeys(ACTIONS, 3)


def test_the_seed_draws_the_questions():
    clips = labelled()
    assert drawn(clips, seed=1)[1] == drawn(clips, seed=1)[1] != drawn(clips, seed=2)[1]


def test_an_attribute_that_all_clips_have_is_not_asked_and_that_is_told():
    clips = labelled()
    clips.attributes[:, 1] = True
    drawer, questions = drawn(clips)
    assert "face" not in {question.kind for question in questions}
    assert drawer.left_out == ["face: the same in all clips"]


def test_persons_are_compared_with_others_who_do_the_same_and_not_what_is_done_in_the_clip():
    clips, gallery = labelled(24, persons=True), labelled(64, persons=True)
    _, questions = drawn(clips, each=4, gallery=gallery)
    who = [question for question in questions if question.kind == "person"]
    assert {question.kind for question in questions} == {"action", "person"} and len(who) == 12
    for question in who:
        own, *others = question.clips
        assert not own.gallery and all(seen.gallery and seen.release == -1 for seen in others)
        person = [clips.attributes[own.row].argmax(), *(gallery.attributes[seen.row].argmax() for seen in others)]
        assert person[1 + question.answer] == person[0] != person[2 - question.answer]
        actions = [clips.actions[own.row], *(gallery.actions[seen.row] for seen in others)]
        assert actions[1] == actions[2] != actions[0]
    for question in drawn(clips, gallery=gallery, raw_gallery=False)[1]:
        assert {seen.release for seen in question.clips} == {question.release}, "a raw clip where none may be shown"


def test_persons_without_other_clips_are_not_asked_about():
    drawer, questions = drawn(labelled(24, persons=True), gallery=None)
    assert {question.kind for question in questions} == {"action"}
    assert "no other clips of the same people" in drawer.left_out[0]


def test_own_words_replace_ours_and_must_be_of_an_attribute():
    words = wording_for("folder", ("child", "face"), {"child": "Which one is a child?"})
    assert words == {"child": "Which one is a child?", "face": "In which clip was the original person's face to be seen?"}
    assert wording_for("folder", ("red_hat",), {}) == {"red_hat": "Which clip is the one with “red hat”?"}
    with pytest.raises(UserError, match="chid is no attribute .* it has child, face"):
        wording_for("folder", ("child", "face"), {"chid": "?"})


# ------------------------------------------------------------------------------------------------ the page


@pytest.fixture
def command(monkeypatch, capsys):
    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "160")
        capsys.readouterr()  # what making the project said
        monkeypatch.setattr(sys, "argv", ["stprivacy", "study", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("study"))


@pytest.fixture
def made(project, command, tmp_path):
    code, out, _ = command(project, "make", tmp_path / "study.html", "--each", 1)
    assert code == 0 and "12 questions on 4 releases" in out  # action, hat and glasses for raw, blur and two kept shares
    return tmp_path / "study.html", read_key(tmp_path / "study.key.json")


def page_data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_the_page_holds_the_questions_of_the_key_and_no_right_answer(made):
    page, key = made
    data = page_data(page)
    assert data["id"] == key["study"]
    assert [question["id"] for question in data["questions"]] == list(key["questions"])
    assert all(question.keys() == {"id", "prompt", "layout", "clips", "options"} for question in data["questions"])
    text = page.read_text()
    for told in ("blur", "stprivacy, ", "kept share", "test0", *(clip for entry in key["questions"].values() for clip in entry["clips"])):
        assert told not in text, f"the page says {told!r}"


def test_the_page_loads_nothing(made):
    text = made[0].read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|https?://|@import""", text)


def test_another_study_of_the_same_clips_has_other_right_answers(made, project, command, tmp_path):
    """Nobody who has the code and the clips can tell them: no seed is left at a number that can be guessed."""
    assert command(project, "make", tmp_path / "again.html", "--each", 1)[0] == 0
    again = read_key(tmp_path / "again.key.json")
    assert again["study"] != made[1]["study"]
    kept = ("kind", "method", "kept_share", "answer", "clips")
    first, second = ([[one[name] for name in kept] for one in key["questions"].values()] for key in (made[1], again))
    assert first != second
    assert [one[3] for one in first] != [one[3] for one in second]


def test_a_study_that_is_there_is_not_overwritten_unasked(made, project, command):
    before = made[0].read_bytes()
    code, _, err = command(project, "make", made[0])
    assert (code, err.count("\n")) == (2, 1) and "exists already" in err
    assert made[0].read_bytes() == before
    assert command(project, "make", made[0], "--each", 1, "--force")[0] == 0


def test_real_people_are_asked_about_by_released_clips_alone(tmp_path, command):
    people = make_project(tmp_path / "people", kind="weizmann", persons=True)
    code, out, err = command(people, "make", "study.html")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "show real people; ask about released clips alone with --no-raw" in err
    assert not (people / "study.html").exists()
    code, _, err = command(people, "make", "study.html", "--no-raw", "--each", 1)
    assert code == 0 and "note: left out, since they can hold raw frames: blur" in err
    entries = read_key(people / "study.key.json")["questions"].values()
    assert {entry["kind"] for entry in entries} == {"action", "person"}
    assert "raw" not in {entry["method"] for entry in entries}


# ------------------------------------------------------------------------------------------------ the answers


def test_answers_are_counted_by_kind_and_release(made, tmp_path):
    _, key = made
    wrong = frozenset(name for name, entry in key["questions"].items() if entry["method"] == "blur" and entry["kind"] != "action")
    sheets = [write_answers(tmp_path / "a.csv", answer_lines(key, "p1")), write_answers(tmp_path / "b.csv", answer_lines(key, "p2", wrong))]
    rows = {(row.kind, row.release): row for row in accuracies(read_answers(sheets, key))}
    assert (rows["action", "blur"].right, rows["action", "blur"].asked) == (2, 2)
    assert (rows["hat", "blur"].right, rows["hat", "blur"].asked) == (1, 2)
    assert (rows["private (all)", "blur"].right, rows["private (all)", "blur"].asked) == (2, 4)
    assert rows["private (all)", "raw"].share == 1
    assert [release for kind, release in rows if kind == "action"] == [
        "raw", "blur", "stprivacy, kept share 0.5", "stprivacy, kept share 0.25",
    ]  # fmt: skip


@pytest.mark.parametrize(("right", "asked"), [(0, 4), (7, 20), (20, 20), (300, 400)])
def test_the_interval_is_wilson_s(right, asked):
    z, share = 1.959963984540054, right / asked
    middle = (share + z**2 / (2 * asked)) / (1 + z**2 / asked)
    half = z * sqrt(share * (1 - share) / asked + z**2 / (4 * asked**2)) / (1 + z**2 / asked)
    found = accuracy("action", "blur", None, right, asked)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    verdicts = {0: "worse than guessing", 7: "may be guessing", 20: "better than guessing", 300: "better than guessing"}
    assert found.verdict == verdicts[right]


def test_the_command_finds_the_key_and_prints_shares_with_intervals(made, command, tmp_path):
    _, key = made
    write_answers(tmp_path / "a.csv", answer_lines(key, "p1"))
    code, out, _ = command(tmp_path, "score", "a.csv", "--json", "figures.json")
    assert code == 0 and f"study {key['study']}: 1 participants, 12 answers" in out and "stprivacy, kept share 0.25" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {row["share"] for row in figures["accuracies"]} == {1.0}
    code, out, _ = command(tmp_path, "score", "a.csv", "--markdown")
    assert "| action | raw | 1 of 1 | 1.00 | 0.21 to 1.00 | may be guessing |" in out


def changed(lines, number, column, value, check_again=False):
    line = list(lines[number])
    line[column] = value
    if check_again:
        line[6] = line_check(line[:6])
    return [*lines[:number], line, *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: changed(lines, 2, 4, "2" if lines[2][4] == "1" else "1"), r"a\.csv: line 4: was changed after the page wrote it"),
        (lambda lines: changed(lines, 2, 5, "1.5"), r"line 4: was changed"),  # as a spreadsheet writes it
        (lambda lines: changed(lines, 0, 0, "0123456789ab", True), r"line 2: of study 0123456789ab, and the key is of"),
        (lambda lines: changed(lines, 0, 3, "q00000000", True), r"line 2: question q00000000 or its choice"),
        (lambda lines: changed(lines, 0, 4, "3", True), r"line 2: question .* or its choice 3"),
        (lambda lines: changed(lines, 0, 1, "p9", True), r"of 2 participants"),
        (lambda lines: lines[:-3], r"a\.csv: 3 of 12 questions are not answered; let the participant finish"),
        (lambda lines: [*lines, lines[0]], r"is answered twice"),
        (lambda lines: lines[::-1], r"its lines are not in order"),
        (lambda lines: [], r"has no answers"),
        (lambda lines: [*lines[:-1], lines[-1][:5]], r"line 13: not 7 fields"),
    ],
)  # fmt: skip
def test_a_sheet_that_is_not_whole_is_refused_with_the_reason(made, tmp_path, change, message):
    _, key = made
    sheet = write_answers(tmp_path / "a.csv", change(answer_lines(key, "p1")))
    with pytest.raises(UserError, match=message):
        read_answers([sheet], key)


def test_sheets_that_are_none_and_participants_who_come_twice_are_refused(made, tmp_path):
    _, key = made
    one = write_answers(tmp_path / "a.csv", answer_lines(key, "p1"))
    with pytest.raises(UserError, match=r"b\.csv: participant p1 is in .*a\.csv, too"):
        read_answers([one, write_answers(tmp_path / "b.csv", answer_lines(key, "p1"))], key)
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00")
    for name, message in (("c.csv", "not answers to a study"), ("d.csv", "not readable as CSV"), ("e.csv", "no such file")):
        with pytest.raises(UserError, match=message):
            read_answers([tmp_path / name], key)


def test_a_key_of_another_study_is_not_taken(made, project, command, tmp_path):
    _, key = made
    sheet = write_answers(tmp_path / "a.csv", answer_lines(key, "p1"))
    (tmp_path / "other").mkdir()
    assert command(project, "make", tmp_path / "other" / "study.html", "--each", 1)[0] == 0
    assert read_key(find_key([sheet])) == key
    code, _, err = command(tmp_path, "score", "a.csv", "--key", "other/study.key.json")
    assert (code, err.count("\n")) == (2, 1) and f"of study {key['study']}, and the key is of" in err
    moved = write_answers(tmp_path / "other" / "a.csv", answer_lines(key, "p1"))
    (tmp_path / "study.key.json").unlink()
    with pytest.raises(UserError, match=f"no key of study {key['study']}"):
        find_key([moved])
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(UserError, match="not the key of a study"):
        read_key(tmp_path / "none.json")
