"""Which videos a data set has and what is known of each: file, action, split, group, attributes.

One function a kind of data set, all giving `Catalogue`; what the labels and the folder do not agree on is counted in its
report. VP-HMDB51 and VP-UCF101 are in `annotations_vp.py`, PA-HMDB51 is in `annotations_pa.py`, CelebV-HQ in
`annotations_celebv.py`, P-HVU in `annotations_hvu.py`.
"""

import csv
import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from stprivacy.config import VP_ATTRIBUTES, FolderDataset, WeizmannDataset
from stprivacy.data.frame_labels import Spans
from stprivacy.errors import UserError

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"}
FOLDER_COLUMNS = ("file", "action", "split", "group")


@dataclass(frozen=True)
class Video:
    """A labelled video. `key` names it in every later file: letters, digits, `_` and `-` only (a dot would split a tar member)."""

    key: str
    path: Path
    action: str | tuple[str, ...]
    """Its one action; all of them, sorted, where the data set's videos have several."""
    split: Literal["train", "val", "test"]
    group: str
    """Videos of one group show the same scene or person; val takes whole groups."""
    attributes: tuple[float, ...]
    frame_labels: tuple[Spans, ...] = ()
    """Of each attribute, by the frames of the file; empty where labels are the whole video's."""

    @property
    def actions(self) -> tuple[str, ...]:
        """All that it shows, be it one."""
        return (self.action,) if isinstance(self.action, str) else self.action


@dataclass(frozen=True)
class Catalogue:
    """All usable videos of a data set."""

    root: Path
    """The folder that their paths begin with."""
    videos: tuple[Video, ...]
    attributes: tuple[str, ...]
    report: dict[str, list[str]] = field(default_factory=dict)
    """What was left out or looks odd: a sentence → the names concerned."""

    @property
    def actions(self) -> tuple[str, ...]:
        """All actions, sorted; an action's number is its place."""
        return tuple(sorted({action for video in self.videos for action in video.actions}))

    @property
    def several_actions(self) -> bool:
        """Are a video's actions a tuple, be it of one?"""
        return any(not isinstance(video.action, str) for video in self.videos)

    def of_split(self, split: str) -> list[Video]:
        return [video for video in self.videos if video.split == split]


def key_of(file: str) -> str:
    """A file's path below its data set's folder as a key: `/` and what is neither letter, digit nor `-` becomes `_`.

    A name that loses more than its slashes gets a digest, or all names in a non-Latin script would be one.
    """
    name = Path(file).with_suffix("").as_posix()
    key = "".join(c if c.isascii() and (c.isalnum() or c == "-") else "_" for c in name)
    return key if key == name.replace("/", "_") else f"{key}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"


def videos_below(folder: Path) -> list[Path]:
    """All video files below a folder, links followed, sorted. Raises UserError when there is none."""
    found = sorted(Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise UserError(f"{folder}: no videos there; put or link them there, or set dataset.source to their folder")
    return videos


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
    return Catalogue(root, tuple(videos), VP_ATTRIBUTES)


def weizmann(dataset: WeizmannDataset) -> Catalogue:
    """`<person>_<action>.avi`: test holds the cells with (person + action) mod 5 = split, so that train has every person and action.

    The attributes are the identities, one against the rest. Where a person does an action twice (`run1`, `run2`), both
    clips are in one cell and one group; `wave1` and `wave2` are different actions.
    """
    root = Path(dataset.source)
    files = {path: path.stem.split("_", 1) for path in videos_below(root)}
    odd = [path.name for path, parts in files.items() if len(parts) != 2]
    if odd:
        raise UserError(f"{dataset.source}: {odd[0]} is not named <person>_<action>.avi; remove it or rename it")
    persons = sorted({person for person, _ in files.values()})
    written = {action for _, action in files.values()}
    action_of = {action: action[:-1] if action[-1:] in "12" and action[:-1] in written else action for action in written}
    actions = sorted(set(action_of.values()))
    videos = [
        Video(
            key=key_of(path.name),
            path=path,
            action=action_of[action],
            split="test" if (persons.index(person) + actions.index(action_of[action])) % 5 == dataset.split else "train",
            group=f"{person}_{action_of[action]}",
            attributes=tuple(float(person == other) for other in persons),
        )
        for path, (person, action) in files.items()
    ]
    return Catalogue(root, tuple(videos), tuple(f"person_{person}" for person in persons))


def folder(dataset: FolderDataset) -> Catalogue:
    """Videos below `source` with a CSV: file, action, split, optionally group, then one 0/1 column an attribute."""
    labels, root = Path(dataset.labels), Path(dataset.source)
    columns, rows = _read_csv(labels)
    attributes = tuple(name for name in columns if name not in FOLDER_COLUMNS)
    lacking = [name for name in FOLDER_COLUMNS[:3] if name not in columns]
    if lacking or not attributes:
        raise UserError(f"{labels}: column {lacking[0] if lacking else 'of an attribute'} is missing; the first line names the columns")
    present = {path.relative_to(root).as_posix(): path for path in videos_below(root)}
    videos: list[Video] = []
    absent, named = [], set()
    for line, row in rows:
        file = posixpath.normpath(row["file"])
        if file in named:
            raise UserError(f"{labels}: line {line}: {file} is listed a second time; remove one of its lines")
        named.add(file)
        checked_row = _checked_row(f"{labels}: line {line}", row, attributes)
        if file in present:
            videos.append(Video(key_of(file), present[file], row["action"], checked_row[0], row.get("group") or file, checked_row[1]))
        else:
            absent.append(file)
    report = {"labels without a file": sorted(absent), "files without a label": sorted(present.keys() - named)}
    return Catalogue(root, tuple(videos), attributes, report)


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Columns, and (line number, row) of a CSV file; a spreadsheet's byte order mark is dropped."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; dataset.labels names the CSV with columns file, action, split and the attributes")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as CSV in UTF-8 ({error}); save it as such") from None
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: column {repeated[0]!r} is there twice; rename one")
    for line, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{path}: line {line}: not {len(columns)} values as the first line has; mend the commas")
    return columns, rows


def _checked_row(place: str, row: dict[str, str], attributes: tuple[str, ...]) -> tuple[Literal["train", "val", "test"], tuple[float, ...]]:
    """Split and attributes of a row of the CSV."""
    splits: dict[str, Literal["train", "val", "test"]] = {"train": "train", "val": "val", "test": "test"}
    if row["split"] not in splits:
        raise UserError(f"{place}: split is {row['split']!r}; write train, val or test")
    if not row["action"]:
        raise UserError(f"{place}: action is empty; write the action's name")
    wrong = next((name for name in attributes if row[name] not in ("0", "1")), None)
    if wrong:
        raise UserError(f"{place}: {wrong} is {row[wrong]!r}; write 0 or 1")
    return splits[row["split"]], tuple(float(row[name]) for name in attributes)


def match_files(root: Path, labelled: Iterable[str]) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Files of labelled videos `<class>/<video>` (any suffix, letters of any case): name → path, and the report of what does not match.

    Case is ignored because UCF101 itself writes both HandstandPushups and HandStandPushups.
    Raises UserError when no labelled video is there, or one is there twice.
    """
    names = {name.casefold(): name for name in labelled}
    found: dict[str, Path] = {}
    unlabelled = []
    for path in videos_below(root):
        file = path.relative_to(root)
        name = names.get(file.with_suffix("").as_posix().casefold())
        if name is None:
            unlabelled.append(file.as_posix())
        elif name in found:
            raise UserError(f"{root}: {name} is there twice, {found[name].name} and {path.name}; remove one")
        else:
            found[name] = path
    if not found:
        example = next(iter(sorted(names.values())))
        raise UserError(f"{root}: none of the {len(names)} labelled videos is there; they are expected as {example}.avi or .mp4")
    return found, {"labels without a file": sorted(set(names.values()) - found.keys()), "files without a label": unlabelled}


def named_files(root: Path, labelled: Iterable[str], example: str) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Files anywhere below `root` that are called as labelled videos are, letter for letter: name → path, and what does not match.

    For YouTube's ids, in which capitals count. Raises UserError when no labelled video is there, or one is there twice.
    """
    names, found, unlabelled = set(labelled), dict[str, Path](), list[str]()
    for path in videos_below(root):
        if path.stem not in names:
            unlabelled.append(path.relative_to(root).as_posix())
        elif path.stem in found:
            raise UserError(f"{root}: {path.stem} is there twice, {found[path.stem]} and {path}; remove one")
        else:
            found[path.stem] = path
    if not found:
        raise UserError(f"{root}: none of the {len(names)} labelled videos is there; they are expected as {example}")
    return found, {"labels without a file": sorted(names - found.keys()), "files without a label": unlabelled}


def checked(catalogue: Catalogue, place: str) -> Catalogue:
    """The catalogue with classes that are in one split alone reported. Raises UserError where nothing can be learned or judged."""
    train, test = ({action for video in catalogue.of_split(split) for action in video.actions} for split in ("train", "test"))
    if not train or not test:
        raise UserError(f"{place}: {len(train)} actions in train and {len(test)} in test; at least one video is needed in each")
    counts = Counter(video.key for video in catalogue.videos)
    repeated = [str(video.path) for video in catalogue.videos if counts[video.key] > 1]
    if repeated:
        raise UserError(f"{place}: {repeated[0]} and {repeated[1]} have the same name but for `/`, `_` and suffix; rename one")
    report = catalogue.report | {"actions in train only": sorted(train - test), "actions in test only": sorted(test - train)}
    for split in ("train", "test"):
        values = zip(*(video.attributes for video in catalogue.of_split(split)), strict=True)
        report[f"attributes that are the same in all of {split}"] = [
            name for name, column in zip(catalogue.attributes, values, strict=True) if len(set(column)) == 1
        ]
    return replace(catalogue, report=report)
