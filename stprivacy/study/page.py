"""The page that participants see: one file, no network, no right answers in it; those are in a key file beside it.

T frames, S side.
"""

import base64
import hashlib
import io
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from stprivacy.evaluation.gallery import LabelledClips, Releaser
from stprivacy.study.questions import Question, Seen

FRAMES_PER_SECOND = 8
LARGEST_LOSSLESS = 24_000_000
"""Bytes of all clips of a page; where they would be more, they are compressed with loss."""
LOSSY_QUALITY = 90
SECONDS_A_QUESTION = 6
"""For the page's guess of how long it takes."""
FORMAT = 1


@dataclass(frozen=True)
class Study:
    """A study as it is written."""

    page: Path
    key: Path
    id: str
    num_questions: int
    lossless: bool


def write_study(
    path: Path, title: str, clips: LabelledClips, gallery: LabelledClips | None, releasers: Sequence[Releaser],
    questions: Sequence[Question], about: dict[str, Any],
) -> Study:  # fmt: skip
    """Write `path` and, beside it, `<name>.key.json`. `about` is noted in the key."""
    pixels = _shown(clips, gallery, releasers, questions)
    seen = sorted(pixels, key=lambda _: secrets.randbits(32))  # their order says nothing
    number = {clip: place for place, clip in enumerate(seen)}
    pictures, lossless = _pictures([pixels[clip] for clip in seen])
    ids = _ids(len(questions))
    asked = [
        {"id": name, "prompt": q.prompt, "layout": q.layout, "clips": [number[clip] for clip in q.clips], "options": list(q.options)}
        for name, q in zip(ids, questions, strict=True)
    ]
    data = {"title": title, "questions": asked, "clips": pictures, "frames": clips.pixels.shape[1], "rate": FRAMES_PER_SECOND}
    study = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
    _write_page(path, title, data | {"id": study}, len(questions))
    key = key_path(path)
    entries = {name: _entry(q, clips, gallery, releasers) for name, q in zip(ids, questions, strict=True)}
    about = {"format": FORMAT, "study": study, "title": title, "dataset": clips.dataset} | about
    key.write_text(json.dumps(about | {"questions": entries}, indent=1) + "\n", encoding="utf-8")
    return Study(path, key, study, len(questions), lossless)


def key_path(page: Path) -> Path:
    """OUT.html → OUT.key.json."""
    return page.with_suffix(".key.json")


def _ids(count: int) -> list[str]:
    """Names that say nothing."""
    names: set[str] = set()
    while len(names) < count:
        names.add("q" + secrets.token_hex(4))
    return list(names)


def _shown(
    clips: LabelledClips, gallery: LabelledClips | None, releasers: Sequence[Releaser], questions: Sequence[Question]
) -> dict[Seen, np.ndarray]:
    """What the questions show, and nothing else released: clip → uint8 (T, S, S, 3)."""
    seen = {clip for question in questions for clip in question.clips}
    pixels: dict[Seen, np.ndarray] = {}
    for release, of_gallery in sorted({(clip.release, clip.gallery) for clip in seen}):
        source = gallery if of_gallery and gallery is not None else clips
        rows = sorted(clip.row for clip in seen if (clip.release, clip.gallery) == (release, of_gallery))
        boxes = None if source.boxes is None else source.boxes[rows]
        shown = source.pixels[rows] if release < 0 else releasers[release].show(source.pixels[rows], boxes).pixels
        pixels |= {Seen(release, row, of_gallery): frames for row, frames in zip(rows, shown, strict=True)}
    return pixels


def _entry(question: Question, clips: LabelledClips, gallery: LabelledClips | None, releasers: Sequence[Releaser]) -> dict[str, Any]:
    """A question in the key: choices count from 1, as participants see them."""
    release = releasers[question.release]
    keys = [(gallery if clip.gallery and gallery else clips).keys[clip.row] for clip in question.clips]
    about = {"kind": question.kind, "method": release.name, "kept_share": release.kept_share}
    return about | {"answer": question.answer + 1, "clips": keys}


def _pictures(pixels: Sequence[np.ndarray]) -> tuple[list[str], bool]:
    """Every clip as a strip of its frames, WebP in base64; and whether no pixel was changed."""
    strips = [Image.fromarray(np.concatenate(list(frames), axis=1)) for frames in pixels]
    encoded = [_webp(strip, lossless=True) for strip in strips]
    if sum(map(len, encoded)) <= LARGEST_LOSSLESS:
        return [base64.b64encode(one).decode() for one in encoded], True
    return [base64.b64encode(_webp(strip, lossless=False)).decode() for strip in strips], False


def _webp(image: Image.Image, lossless: bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=80 if lossless else LOSSY_QUALITY, method=4)
    return buffer.getvalue()


def _write_page(path: Path, title: str, data: dict[str, Any], num_questions: int) -> None:
    template = files("stprivacy.study") / "page_template"
    page = Template((template / "study.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        count=num_questions,
        minutes=max(1, round(num_questions * SECONDS_A_QUESTION / 60)),
        style=(template / "study.css").read_text(encoding="utf-8"),
        data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        script=(template / "study.js").read_text(encoding="utf-8"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
