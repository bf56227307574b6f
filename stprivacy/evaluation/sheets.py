"""Draws galleries: sheets of frames with words around them, as PNG, and side by side in motion, as mp4.

Pixels are enlarged by whole factors without smoothing, so that what is seen is what was released. n clips, T frames, S side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from stprivacy.data.video import write_mp4
from stprivacy.evaluation.gallery import RAW, Decisions, LabelledClips, Release

FRAME_SIDE = 96
"""Pixels that a frame is enlarged to, at least."""
GAP, MARGIN, LABEL_WIDTH = 4, 16, 148
PAPER, INK, QUIET, RULE = (255, 255, 255), (26, 31, 36), (86, 96, 107), (217, 222, 227)
OUTLINE = (255, 214, 10)
"""Of kept tubelets: seen on dark and on light frames, since a dark line runs beside it."""
NOT_ASKED = (226, 230, 234)
PLAYS, FRAMES_PER_SECOND = 4, 8
"""A video shows its clips so many times over; a clip is over in a second."""
HOLD = 3
"""Frames that the last one stays, so that the end is told from the beginning."""


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    family = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return ImageFont.truetype(font_manager.findfont(family), size)


def enlarged(frames: np.ndarray, side: int = FRAME_SIDE) -> np.ndarray:
    """uint8 (…, S, S, 3) → (…, f·S, f·S, 3), f the smallest whole factor that reaches `side`."""
    factor = max(1, -(-side // frames.shape[-2]))
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


@dataclass(frozen=True)
class Strip:
    """A row of a sheet: a label of a bold line and further ones, then pictures side by side, uint8 (k, H, W, 3)."""

    label: str
    note: str
    pictures: np.ndarray


class Sheet:
    """A page that grows downwards."""

    def __init__(self, width: int):
        self.width = width
        self._rows: list[Image.Image] = []

    def text(self, words: str, size: int = 13, bold: bool = False, colour: tuple[int, int, int] = INK, above: int = 4) -> None:
        """Words over the whole width, wrapped."""
        font = _font(size, bold)
        lines = wrapped(words, font, self.width - 2 * MARGIN)
        height = above + round(1.35 * size) * len(lines) + 2
        row = Image.new("RGB", (self.width, height), PAPER)
        draw = ImageDraw.Draw(row)
        for number, line in enumerate(lines):
            draw.text((MARGIN, above + round(1.35 * size) * number), line, font=font, fill=colour)
        self._rows.append(row)

    def rule(self) -> None:
        row = Image.new("RGB", (self.width, 13), PAPER)
        ImageDraw.Draw(row).line([(MARGIN, 8), (self.width - MARGIN, 8)], fill=RULE)
        self._rows.append(row)

    def heads(self, words: Sequence[str], picture_width: int) -> None:
        """A word above each column of pictures."""
        row = Image.new("RGB", (self.width, 18), PAPER)
        draw = ImageDraw.Draw(row)
        for number, word in enumerate(words):
            left = MARGIN + LABEL_WIDTH + number * (picture_width + GAP)
            draw.text((left + picture_width / 2, 3), word, font=_font(11), fill=QUIET, anchor="ma")
        self._rows.append(row)

    def strip(self, strip: Strip) -> None:
        _, height, picture_width, _ = strip.pictures.shape
        row = Image.new("RGB", (self.width, height + GAP), PAPER)
        draw = ImageDraw.Draw(row)
        lines = wrapped(strip.note, _font(11), LABEL_WIDTH - 12) if strip.note else []
        names = wrapped(strip.label, _font(13, True), LABEL_WIDTH - 12)
        top = (height - 17 * len(names) - 15 * len(lines)) / 2
        for number, line in enumerate(names):
            draw.text((MARGIN, top + 17 * number), line, font=_font(13, True), fill=INK)
        for number, line in enumerate(lines):
            draw.text((MARGIN, top + 17 * len(names) + 2 + 15 * number), line, font=_font(11), fill=QUIET)
        for number, picture in enumerate(strip.pictures):
            row.paste(Image.fromarray(picture), (MARGIN + LABEL_WIDTH + number * (picture_width + GAP), 0))
        self._rows.append(row)

    def picture(self, image: Image.Image) -> None:
        row = Image.new("RGB", (self.width, image.height + 2 * GAP), PAPER)
        row.paste(image, (MARGIN + LABEL_WIDTH, GAP))
        self._rows.append(row)

    def image(self) -> Image.Image:
        """All rows, with a margin around."""
        height = sum(row.height for row in self._rows) + 2 * MARGIN
        page = Image.new("RGB", (self.width, height), PAPER)
        top = MARGIN
        for row in self._rows:
            page.paste(row, (0, top))
            top += row.height
        return page


def sheet_width(num_pictures: int, picture_width: int) -> int:
    return 2 * MARGIN + LABEL_WIDTH + num_pictures * (picture_width + GAP) - GAP


def wrapped(words: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines that fit the width; a word that is longer has one to itself."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


# ------------------------------------------------------------------------------------------------ grid


def draw_grid(clips: LabelledClips, rows: Sequence[Release], path: Path, num_frames: int = 8) -> Path:
    """The same clips under every method and kept share, a row each, as a PNG."""
    shown = np.unique(np.linspace(0, clips.pixels.shape[1] - 1, num_frames).round().astype(int))
    side = enlarged(clips.pixels[0, :1]).shape[-2]
    sheet = Sheet(sheet_width(len(shown), side))
    sheet.text(f"{clips.dataset}: what each method releases", 19, bold=True, above=0)
    sheet.text(_grid_note(rows), 12, colour=QUIET, above=2)
    for index in range(len(clips.keys)):
        sheet.rule()
        sheet.text(f"Test clip {index + 1}: {clips.caption(index)}", 13)
        sheet.heads([f"frame {frame + 1}" for frame in shown], side)
        for row in rows:
            sheet.strip(Strip(*_label(row), enlarged(row.pixels[index][shown])))
    return _save(sheet.image(), path)


def _label(row: Release) -> tuple[str, str]:
    return ("raw video", "not released") if row.method == RAW else (row.method, row.note)


def _grid_note(rows: Sequence[Release]) -> str:
    raw = "The first row is the raw video; what stands above each clip is true of it. " if any(row.method == RAW for row in rows) else ""
    blank = ""
    if any(row.kept_share is not None for row in rows):
        blank = "Kept share: the share of tubelets (blocks of pixels over a few frames) that is released; dropped ones are blank."
    return f"{raw}Every other row is all that anybody gets to see of the same clip. {blank}" if raw else f"Each row is a release. {blank}"


# ------------------------------------------------------------------------------------------------ scores


def draw_scores(
    clips: LabelledClips, shown: Decisions, released: Release, path: Path, tubelet: tuple[int, int, int], show_raw: bool
) -> Path:
    """What was kept and why, a column a slice: kept tubelets outlined and keep probabilities, block by block; then the release."""
    slices = np.arange(shown.kept.shape[2])
    firsts = slices * tubelet[0]
    ground = clips.pixels if show_raw else released.pixels
    side = enlarged(ground[0, :1], 144).shape[-2]
    sheet = Sheet(max(700, sheet_width(len(slices), side)))
    sheet.text(f"{clips.dataset}: what the anonymizer keeps, and how sure it is ({released.note})", 17, bold=True, above=0)
    note = (
        f"A column is a slice of {tubelet[0]} frames, shown by its first; a square is a tubelet of {tubelet[1]} × {tubelet[2]} pixels. "
        f"Outlined: kept. Each of the {shown.kept.shape[1]} sparsification blocks scores what the one before it has kept, and the least "
        "probable are dropped. Colour: the scorer's keep probability; grey: dropped before, not asked any more."
    )
    sheet.text(note, 12, colour=QUIET, above=2)
    sheet.picture(_colour_bar())
    for index in range(len(clips.keys)):
        sheet.rule()
        sheet.text(f"Test clip {index + 1}: {clips.caption(index)}", 13)
        sheet.heads([f"frames {first + 1}–{first + tubelet[0]}" for first in firsts], side)
        frames = enlarged(ground[index][firsts], 144)
        if show_raw:
            sheet.strip(Strip("raw video", "not released", frames))
        for block in range(shown.kept.shape[1]):
            kept, scores = shown.kept[index, block], shown.probabilities[index, block]
            share = f"{kept.mean():.0%} of all tubelets"
            sheet.strip(Strip(f"block {block + 1} scores", "keep probability", _heat(scores, kept, side)))
            sheet.strip(Strip(f"block {block + 1} keeps", share, outlined(frames, kept)))
        sheet.strip(Strip("released", released.note, enlarged(released.pixels[index][firsts], 144)))
    return _save(sheet.image(), path)


def outlined(frames: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Frames uint8 (L, H, W, 3) with the kept tubelets, bool (L, rows, columns), outlined and the others darkened."""
    drawn = []
    for frame, keep in zip(frames, kept, strict=True):
        mask = keep.repeat(frame.shape[0] // keep.shape[0], 0).repeat(frame.shape[1] // keep.shape[1], 1)
        image = Image.fromarray(np.where(mask[..., None], frame, (frame * 0.3).astype(np.uint8)))
        draw = ImageDraw.Draw(image)
        for width, colour in ((4, (0, 0, 0)), (2, OUTLINE)):
            for line in _edges(keep, frame.shape[0] // keep.shape[0], frame.shape[1] // keep.shape[1]):
                draw.line(line, fill=colour, width=width)
        drawn.append(np.asarray(image))
    return np.stack(drawn)


def _edges(keep: np.ndarray, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Lines (x, y, x, y) around the kept squares of a grid, where a kept one meets a dropped one or the border."""
    framed = np.pad(keep, 1)
    lines = []
    for row, column in zip(*np.nonzero(keep), strict=True):
        top, left = int(row) * height, int(column) * width
        bottom, right = top + height - 1, left + width - 1
        if not framed[row, column + 1]:
            lines.append((left, top, right, top))
        if not framed[row + 2, column + 1]:
            lines.append((left, bottom, right, bottom))
        if not framed[row + 1, column]:
            lines.append((left, top, left, bottom))
        if not framed[row + 1, column + 2]:
            lines.append((right, top, right, bottom))
    return lines


def _heat(scores: np.ndarray, kept: np.ndarray, side: int) -> np.ndarray:
    """Keep probabilities (L, rows, columns), NaN where nobody asked, as pictures uint8 (L, side, side, 3); kept ones outlined."""
    colours = (matplotlib.colormaps["viridis"](np.nan_to_num(scores))[..., :3] * 255).astype(np.uint8)
    colours[np.isnan(scores)] = NOT_ASKED
    height, width = side // scores.shape[1], side // scores.shape[2]
    squares = colours.repeat(height, 1).repeat(width, 2)
    squares[:, ::height] = squares[:, :, ::width] = PAPER  # thin lines between tubelets
    drawn = []
    for square, keep in zip(squares, kept, strict=True):
        image = Image.fromarray(square)
        for line in _edges(keep, height, width):
            ImageDraw.Draw(image).line(line, fill=INK, width=2)
        drawn.append(np.asarray(image))
    full = np.full((len(drawn), side, side, 3), 255, np.uint8)
    full[:, : height * scores.shape[1], : width * scores.shape[2]] = np.stack(drawn)
    return full


def _colour_bar() -> Image.Image:
    ramp = (matplotlib.colormaps["viridis"](np.linspace(0, 1, 220))[None, :, :3] * 255).astype(np.uint8).repeat(14, 0)
    image = Image.new("RGB", (520, 18), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 1), "0", font=_font(12), fill=QUIET)
    image.paste(Image.fromarray(ramp), (14, 1))
    draw.text((240, 1), "1  keep probability", font=_font(12), fill=QUIET)
    draw.rectangle([400, 1, 414, 14], fill=NOT_ASKED)
    draw.text((420, 1), "not asked", font=_font(12), fill=QUIET)
    return image


def _save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG")
    return path


# ------------------------------------------------------------------------------------------------ in motion


def write_side_by_side(clips: LabelledClips, columns: Sequence[Release], path: Path) -> Path:
    """A video in which every clip is a row and every method and kept share a column, all in step, played a few times over."""
    side = enlarged(clips.pixels[0, :1], 128).shape[-2]
    head, caption = 62, 26
    width = 2 * MARGIN + len(columns) * (side + GAP) - GAP
    height = head + len(clips.keys) * (side + caption) + MARGIN
    page = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    draw = ImageDraw.Draw(page)
    for number, column in enumerate(columns):
        middle = MARGIN + number * (side + GAP) + side / 2
        label, note = _label(column)
        draw.text((middle, 16), label, font=_font(13, True), fill=INK, anchor="ma")
        draw.text((middle, 36), note or "everything kept", font=_font(11), fill=QUIET, anchor="ma")
    for index in range(len(clips.keys)):
        words = f"Test clip {index + 1}: {clips.caption(index)}"
        lines = wrapped(words, _font(12), width - 2 * MARGIN)
        draw.text((MARGIN, head + index * (side + caption) + 5), lines[0], font=_font(12), fill=INK)
    once = np.repeat(np.asarray(page)[None], clips.pixels.shape[1], axis=0)
    for index in range(len(clips.keys)):
        top = head + index * (side + caption) + caption
        for number, column in enumerate(columns):
            left = MARGIN + number * (side + GAP)
            once[:, top : top + side, left : left + side] = enlarged(column.pixels[index], 128)
    held = np.concatenate([once, once[-1:].repeat(HOLD, 0)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, np.concatenate([held] * PLAYS), FRAMES_PER_SECOND)
    return path
