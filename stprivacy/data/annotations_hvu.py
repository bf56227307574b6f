"""P-HVU: the videos of HVU (Diba et al., ECCV 2020) that have an action, an object and a scene among their tags (SPAct; STPrivacy).

HVU publishes three tables (github.com/holistic-video-understanding/HVU-Dataset): videos with `Tags` (divided by `|`), `youtube_id`,
`time_start` and `time_end` for train and for val, which is the test split here; and a category for each tag. Its downloader names
files `<youtube id>_<start>_<end>.mp4`, seconds in six digits, and what it has cut `…_.mp4`.

Actions are several a video, and all count: recognizers answer each, and the action figure is a mean average precision, as in the paper.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stprivacy.config import PHVUDataset
from stprivacy.data.annotations import Catalogue, Video, key_of, named_files
from stprivacy.errors import UserError

FILES: dict[Literal["train", "test"], str] = {"train": "HVU_Train_V1.0.csv", "test": "HVU_Val_V1.0.csv"}
CATEGORIES = "HVU_Tags_Categories_V1.0.csv"
NEEDED = ("action", "object", "scene")
MEND = "download HVU's tables again"


@dataclass(frozen=True)
class _Row:
    """A video of a table, its tags by category."""

    name: str
    youtube_id: str
    split: Literal["train", "test"]
    tags: dict[str, frozenset[str]]


def phvu(dataset: PHVUDataset) -> Catalogue:
    """The videos below `source`: actions = all action tags, attributes = tags of the categories `hidden`, `<category>_<tag>`."""
    folder, root = Path(dataset.annotations), Path(dataset.source)
    category_of = _categories(folder / CATEGORIES)
    rows = [row for split, file in FILES.items() for row in _rows(folder / file, split, category_of)]
    whole = [row for row in rows if all(row.tags[category] for category in NEEDED)]
    if not whole:
        raise UserError(f"{folder}: no video has tags of an action, an object and a scene; {MEND}")
    counts = Counter(tag for row in whole if row.split == "train" for category in NEEDED for tag in row.tags[category])
    often = {tag for tag, count in counts.items() if count >= dataset.least_videos}
    actions = {row.name: tuple(sorted(shown)) for row in whole if (shown := row.tags["action"] & often)}
    private = [(category, tag) for category in dataset.hidden for tag in sorted(often) if category_of[tag] == category]
    if not private:
        what = f"no tag of {' or '.join(dataset.hidden)} has {dataset.least_videos} training videos"
        raise UserError(f"{folder}: {what}; lower dataset.least_videos")
    named = {row.name: row for row in whole if row.name in actions}
    found, report = named_files(root, [*named, *(f"{name}_" for name in named)], "<youtube id>_<start>_<end>.mp4, six digits each")
    files = {name: found.get(name) or found[f"{name}_"] for name in named if name in found or f"{name}_" in found}
    videos = [
        Video(
            key=key_of(f"{name}.mp4"), path=file, action=actions[name], split=named[name].split, group=named[name].youtube_id,
            attributes=tuple(float(tag in named[name].tags[category]) for category, tag in private),
        )
        for name, file in sorted(files.items())
    ]  # fmt: skip
    report |= {
        "labels without a file": sorted(named.keys() - files.keys()),
        "videos without an action, an object and a scene": sorted({row.name for row in rows} - {row.name for row in whole}),
        f"videos whose actions have fewer than {dataset.least_videos} training videos": sorted({row.name for row in whole} - named.keys()),
    }
    return Catalogue(root, tuple(videos), tuple(f"{category}_{tag}" for category, tag in private), report)


def _categories(path: Path) -> dict[str, str]:
    """Tag → category."""
    return {row["Tag"]: row["Category"] for _, row in _table(path, ("Tag", "Category"))}


def _rows(path: Path, split: Literal["train", "test"], category_of: dict[str, str]) -> Iterable[_Row]:
    """The videos of a table. Raises UserError naming the line of a tag without a category, of a repeated video and of other times."""
    seen: set[str] = set()
    for line, row in _table(path, ("Tags", "youtube_id", "time_start", "time_end")):
        tags = frozenset(tag for tag in row["Tags"].split("|") if tag)
        unknown = next((tag for tag in sorted(tags) if tag not in category_of), None)
        if unknown:
            raise UserError(f"{path}: line {line}: tag {unknown} is not in {CATEGORIES}; {MEND}")
        try:
            start, end = int(float(row["time_start"])), int(float(row["time_end"]))
        except ValueError:
            raise UserError(f"{path}: line {line}: {row['time_start']} to {row['time_end']} are not seconds; {MEND}") from None
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        if name in seen:
            continue  # HVU lists some videos twice
        seen.add(name)
        by_category = {category: frozenset(tag for tag in tags if category_of[tag] == category) for category in NEEDED}
        yield _Row(name, row["youtube_id"], split, by_category)


def _table(path: Path, columns: tuple[str, ...]) -> Iterable[tuple[int, dict[str, str]]]:
    """(line number, row) of a table with these columns at least."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; download HVU's tables and unpack them there, or set dataset.annotations to their folder")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in columns if name not in (reader.fieldnames or [])]
        if lacking:
            raise UserError(f"{path}: column {lacking[0]} is missing; {MEND}")
        for row in reader:
            if any(row[name] is None for name in columns):
                raise UserError(f"{path}: line {reader.line_num}: cut short; {MEND}")
            yield reader.line_num, row
