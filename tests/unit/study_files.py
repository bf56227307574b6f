"""Answers as the study's page saves them."""

from pathlib import Path
from typing import Any

from stprivacy.study.scoring import COLUMNS, line_check


def answer_lines(key: dict[str, Any], participant: str, wrong: frozenset[str] = frozenset()) -> list[list[str]]:
    """A line a question: right but for the questions `wrong`."""
    lines = []
    for number, (question, entry) in enumerate(key["questions"].items(), start=1):
        choice = 3 - entry["answer"] if question in wrong else entry["answer"]
        fields = [key["study"], participant, str(number), question, str(choice), "1.50"]
        lines.append([*fields, line_check(fields)])
    return lines


def write_answers(path: Path, lines: list[list[str]]) -> Path:
    path.write_text("".join(",".join(line) + "\n" for line in [COLUMNS, *lines]))
    return path
