"""Which videos a data set has and what is known of each: file, action, split, group, attributes.

One function a kind of data set, all giving `Catalogue`; what the labels and the folder do not agree on is counted in its report.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from stprivacy.config import VP_ATTRIBUTES, FolderDataset, WeizmannDataset
from stprivacy.errors import UserError

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"}


@dataclass(frozen=True)
class Video:
    """A labelled video. `key` names it in every later file: letters, digits, `_` and `-` only (a dot would split a tar member)."""

    key: str
    path: Path
    action: str
    split: Literal["train", "val", "test"]
    group: str
    """Videos of one group show the same scene or person; val takes whole groups."""
    attributes: tuple[float, ...]


@dataclass(frozen=True)
class Catalogue:
    """All usable videos of a data set."""

    videos: tuple[Video, ...]
    attributes: tuple[str, ...]
    report: dict[str, list[str]] = field(default_factory=dict)
    """What was left out or looks odd: a sentence → the names concerned."""

    @property
    def actions(self) -> tuple[str, ...]:
        """All actions, sorted; an action's number is its place."""
        return tuple(sorted({video.action for video in self.videos}))

    def of_split(self, split: str) -> list[Video]:
        return [video for video in self.videos if video.split == split]


def key_of(file: str) -> str:
    """A file's path below its data set's folder as a key: everything but letters, digits and `-` becomes `_`."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "_" for c in str(Path(file).with_suffix("")))


def videos_below(folder: Path) -> list[Path]:
    """All video files below a folder, sorted. Raises UserError when there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES) if folder.is_dir() else []
    if not found:
        raise UserError(f"{folder}: no videos there; put or link them there, or set dataset.source to their folder")
    return found


def from_table(root: Path, rows: Iterable[dict[str, object]]) -> Catalogue:
    """VP-Synth: the rows of `synthetic.plan`, files below `root`; every video is a group of its own."""
    videos = [
        Video(
            key=key_of(str(row["file"])),
            path=root / str(row["file"]),
            action=str(row["action"]),
            split="train" if row["split"] == "train" else "test",
            group=str(row["file"]),
            attributes=tuple(float(str(row[name])) for name in VP_ATTRIBUTES),
        )
        for row in rows
    ]
    return Catalogue(tuple(videos), VP_ATTRIBUTES)


def weizmann(dataset: WeizmannDataset) -> Catalogue:
    """`<person>_<action>.avi`: test holds the cells with (person + action) mod 5 = split, so that train has every person and action.

    The attributes are the identities, one against the rest.
    """
    files = {path: path.stem.split("_", 1) for path in videos_below(Path(dataset.source))}
    odd = [path.name for path, parts in files.items() if len(parts) != 2]
    if odd:
        raise UserError(f"{dataset.source}: {odd[0]} is not named <person>_<action>.avi; remove it or rename it")
    persons = sorted({person for person, _ in files.values()})
    actions = sorted({action for _, action in files.values()})
    videos = [
        Video(
            key=key_of(path.name),
            path=path,
            action=action,
            split="test" if (persons.index(person) + actions.index(action)) % 5 == dataset.split else "train",
            group=path.name,
            attributes=tuple(float(person == other) for other in persons),
        )
        for path, (person, action) in files.items()
    ]
    return Catalogue(tuple(videos), tuple(f"person_{person}" for person in persons))


def folder(dataset: FolderDataset) -> Catalogue:
    """Videos below `source` with a CSV: file, action, split, optionally group, then one 0/1 column an attribute."""
    labels, root = Path(dataset.labels), Path(dataset.source)
    if not labels.exists():
        raise UserError(f"{labels}: no such file; dataset.labels names the CSV with columns file, action, split and the attributes")
    with open(labels, newline="") as file:
        rows = list(csv.DictReader(file))
    fixed = ("file", "action", "split", "group")
    columns = list(rows[0]) if rows else []
    lacking = [name for name in fixed[:3] if name not in columns]
    attributes = tuple(name for name in columns if name not in fixed)
    if lacking or not attributes:
        raise UserError(f"{labels}: column {lacking[0] if lacking else 'of an attribute'} is missing; see params/folder.yaml")
    present = {path.relative_to(root).as_posix(): path for path in videos_below(root)}
    videos = [_folder_video(labels, number, row, attributes, present) for number, row in enumerate(rows, start=2)]
    named = {row["file"] for row in rows}
    report = {
        "labels without a file": sorted(named - present.keys()),
        "files without a label": sorted(present.keys() - named),
    }
    return Catalogue(tuple(video for video in videos if video), attributes, report)


def _folder_video(labels: Path, number: int, row: dict[str, str], attributes: tuple[str, ...], present: dict[str, Path]) -> Video | None:
    place = f"{labels}: line {number}"
    if row["split"] not in ("train", "val", "test"):
        raise UserError(f"{place}: split is {row['split']!r}; write train, val or test")
    wrong = next((name for name in attributes if row[name] not in ("0", "1")), None)
    if wrong:
        raise UserError(f"{place}: {wrong} is {row[wrong]!r}; write 0 or 1")
    if row["file"] not in present:
        return None
    values = tuple(float(row[name]) for name in attributes)
    split: Literal["train", "val", "test"] = row["split"]  # type: ignore[assignment]
    return Video(key_of(row["file"]), present[row["file"]], row["action"], split, row.get("group") or row["file"], values)


def checked(catalogue: Catalogue, place: str) -> Catalogue:
    """The catalogue with classes that are in one split alone reported. Raises UserError where nothing can be learned or judged."""
    train, test = ({video.action for video in catalogue.of_split(split)} for split in ("train", "test"))
    if not train or not test:
        raise UserError(f"{place}: {len(train)} actions in train and {len(test)} in test; at least one video is needed in each")
    duplicates = len(catalogue.videos) - len({video.key for video in catalogue.videos})
    if duplicates:
        raise UserError(f"{place}: {duplicates} videos have the same name but for punctuation; rename them")
    report = catalogue.report | {"actions in train only": sorted(train - test), "actions in test only": sorted(test - train)}
    return replace(catalogue, report=report)
