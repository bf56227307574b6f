"""What participants' answers say: the share of right ones for each kind of question and each release, with Wilson intervals.

A file is taken as a whole or refused with the reason: it must be of the key's study, as the page wrote it, with every question
answered once. The check of a line finds slips (a spreadsheet that rewrote numbers, a cut), not forgery: it has no secret.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprivacy.errors import UserError
from stprivacy.study import ACTION

COLUMNS = ["study", "participant", "number", "question", "choice", "seconds", "check"]
CONFIDENCE = 0.95
PRIVATE = "private (all)"
"""Every kind but the action, together."""


@dataclass(frozen=True)
class Answer:
    participant: str
    kind: str
    method: str
    kept_share: float | None
    right: bool


@dataclass(frozen=True)
class Accuracy:
    """How often people were right about one kind of question on one release; ½ is a guess."""

    kind: str
    method: str
    kept_share: float | None
    right: int
    asked: int
    low: float
    high: float

    @property
    def release(self) -> str:
        return self.method if self.kept_share is None else f"{self.method}, kept share {self.kept_share:g}"

    @property
    def share(self) -> float:
        return self.right / self.asked

    @property
    def verdict(self) -> str:
        """Does the interval leave guessing out?"""
        return "better than guessing" if self.low > 0.5 else "worse than guessing" if self.high < 0.5 else "may be guessing"


def line_check(fields: Iterable[str]) -> str:
    """FNV-1a, 32 bits, of the fields before it, as the page computes it."""
    value = 0x811C9DC5
    for byte in ",".join(fields).encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"c{value:08x}"


def find_key(sheets: Sequence[Path]) -> Path:
    """The key of the first sheet's study, beside the sheets or in this folder. Raises UserError when it isn't there."""
    study = _lines(sheets[0])[0][1]["study"]
    places = dict.fromkeys([*(sheet.parent for sheet in sheets), Path()])
    for candidate in (path for place in places for path in sorted(place.glob("*.key.json"))):
        if read_key(candidate)["study"] == study:
            return candidate
    raise UserError(f"{sheets[0]}: no key of study {study} beside it or here; name it with --key OUT.key.json")


def read_key(path: Path) -> dict[str, Any]:
    """The key file of a study. Raises UserError when it is missing or none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; `stprivacy study make` writes it beside the page")
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        fits = key["format"] == 1 and bool(key["study"]) and all(entry["answer"] in (1, 2) for entry in key["questions"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise UserError(f"{path}: not the key of a study; take the .key.json that `stprivacy study make` wrote")
    return dict(key)


def read_answers(sheets: Sequence[Path], key: dict[str, Any]) -> list[Answer]:
    """All answers of all sheets. Raises UserError naming the first sheet that can't be taken, and why."""
    answers: list[Answer] = []
    seen: dict[str, Path] = {}
    for sheet in sheets:
        lines = _lines(sheet)
        for number, line in lines:
            _check_line(f"{sheet}: line {number}", line, key)
        participants = {line["participant"] for _, line in lines}
        if len(participants) > 1:
            raise UserError(f"{sheet}: of {len(participants)} participants; give every participant's file as the page saved it")
        _check_complete(sheet, [line for _, line in lines], key)
        participant = participants.pop()
        if participant in seen:
            raise UserError(f"{sheet}: participant {participant} is in {seen[participant]}, too; leave one out")
        seen[participant] = sheet
        for _, line in lines:
            entry = key["questions"][line["question"]]
            right = int(line["choice"]) == entry["answer"]
            answers.append(Answer(participant, entry["kind"], entry["method"], entry["kept_share"], right))
    return answers


def _lines(sheet: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, fields) of a sheet; at least one."""
    if not sheet.is_file():
        raise UserError(f"{sheet}: no such file; give the files that participants saved")
    try:
        with open(sheet, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines = [(reader.line_num, dict(row)) for row in reader]
            columns = list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{sheet}: not readable as CSV ({error}); take the file as the page saved it") from None
    if columns != COLUMNS:
        raise UserError(f"{sheet}: not answers to a study; its first line must be {','.join(COLUMNS)}, as the page saves it")
    for number, line in lines:
        if None in line or None in line.values():
            raise UserError(f"{sheet}: line {number}: not {len(COLUMNS)} fields; take the file as the page saved it")
    if not lines:
        raise UserError(f"{sheet}: has no answers; the participant has to finish the page and save again")
    return lines


def _check_line(place: str, line: dict[str, str], key: dict[str, Any]) -> None:
    if line["study"] != key["study"]:
        raise UserError(f"{place}: of study {line['study']}, and the key is of {key['study']}; give files and key of one study")
    if line["check"] != line_check(line[name] for name in COLUMNS[:-1]):
        raise UserError(f"{place}: was changed after the page wrote it (check); take the file as it was saved, opened by no spreadsheet")
    if line["question"] not in key["questions"] or line["choice"] not in ("1", "2"):
        raise UserError(f"{place}: question {line['question']} or its choice {line['choice']} isn't of this study; leave the file out")


def _check_complete(sheet: Path, lines: list[dict[str, str]], key: dict[str, Any]) -> None:
    given = [line["question"] for line in lines]
    repeated = next((name for place, name in enumerate(given) if name in given[:place]), None)
    if repeated:
        raise UserError(f"{sheet}: question {repeated} is answered twice; take the file as the page saved it")
    missing = len(key["questions"]) - len(given)
    if missing or [line["number"] for line in lines] != [str(number) for number in range(1, len(lines) + 1)]:
        what = f"{missing} of {len(key['questions'])} questions are not answered" if missing else "its lines are not in order"
        raise UserError(f"{sheet}: {what}; let the participant finish and save again, or leave the file out")


# ------------------------------------------------------------------------------------------------ accuracy


def accuracies(answers: Sequence[Answer]) -> list[Accuracy]:
    """For every kind of question, then all private ones together, and every release, in the order of their first answers by name."""
    kinds = sorted({answer.kind for answer in answers}, key=lambda kind: (kind != ACTION, kind))
    groups = [(kind, [answer for answer in answers if answer.kind == kind]) for kind in kinds]
    private = [answer for answer in answers if answer.kind != ACTION]
    if len(kinds) > 2:
        groups.insert(1, (PRIVATE, private))
    found = []
    for kind, given in groups:
        for method, share in sorted({(a.method, a.kept_share) for a in given}, key=_release_order):
            of_release = [answer.right for answer in given if (answer.method, answer.kept_share) == (method, share)]
            found.append(accuracy(kind, method, share, sum(of_release), len(of_release)))
    return found


def _release_order(release: tuple[str, float | None]) -> tuple[int, str, float]:
    method, share = release
    return {"raw": 0, "stprivacy": 2}.get(method, 1), method, -(share or 0)


def accuracy(kind: str, method: str, kept_share: float | None, right: int, asked: int) -> Accuracy:
    """With Wilson's interval (scipy)."""
    from scipy.stats import binomtest

    interval = binomtest(right, asked).proportion_ci(CONFIDENCE, method="wilson")
    return Accuracy(kind, method, kept_share, right, asked, float(interval.low), float(interval.high))
