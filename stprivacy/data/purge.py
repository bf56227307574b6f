"""What this project has made of a data set's videos, wherever it keeps it, and its removal.

Frames are in the clips, in the shards, in the cache (rendered videos, decoded frames, releases: raw ones among them), in DVC's cache, in
the storage and in this node's cache of it. A listing there (a tree, a `.dir` file of DVC's) names no data set, but its `dataset.json` does.
"""

import configparser
import json
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stprivacy.data.cache import NodeCache
from stprivacy.data.raw_videos import RAW, raw_key, source_folder
from stprivacy.data.storage import OBJECTS, RUNS, TREES, Entry, Storage, named_sha256, objects_of, read_tree, told, tree_key
from stprivacy.errors import UserError

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
CACHED = ("clips-*", "vp-synth-*", "evaluate", "trials/*.work")
"""Of .cache/stprivacy. They are named by hashes, so all of them go, those of other data sets, too: those are made again when needed."""
KEPT_RELEASES = re.compile(r"runs/(evaluate|.*/released)/.*")
"""Trees of releases that jobs have kept: those of the method `raw` are raw clips."""


@dataclass(frozen=True)
class Removal:
    """Something that goes: what a person calls its place, how much it is, and how it is removed."""

    place: str
    files: int
    bytes: int
    remove: Callable[[], None]


def removals(name: str, project: Path, storage: Storage | None, raw: bool = False) -> list[Removal]:
    """All that is there of the data set `name`. Nothing is removed until somebody calls `remove`.

    `raw`: the raw videos in the storage, too. For those that are here, `of_source`.
    Raises UserError for a name that no data set can have: it becomes a part of paths.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name}: no name of a data set (small letters, digits and -); dataset.name in params.yaml says it")
    folders = [project / kind / part for kind in ("data/clips", "data/shards") for part in (name, f".{name}.part")]
    cache = project / ".cache/stprivacy"
    folders += [path for pattern in CACHED for path in sorted(cache.glob(pattern))]
    found = [of_folder(folder) for folder in folders if folder.exists()]
    found += _of_dvc(name, project)
    if storage:
        found += _of_storage(name, storage, raw)
    return found


def of_folder(folder: Path) -> Removal:
    """A folder, and, where it is a link, what it leads to."""
    place, sizes = folder.resolve(), _sizes(folder.rglob("*"))

    def remove() -> None:
        with told(place):
            shutil.rmtree(place)
            if folder.is_symlink():
                folder.unlink()

    shown = str(folder) if place == folder.absolute() else f"{folder} → {place}"
    return Removal(shown, len(sizes), sum(sizes.values()), remove)


def of_source(source: str, name: str, project: Path, storage: Storage | None) -> list[Removal]:
    """The folder of a person's videos, and what a broken `get_folder` has left beside it; none where only the storage has the videos.

    Raises UserError when nobody has any, or the folder holds more than videos.
    """
    place = source_folder(source, project)
    folders = [project / source, *(place.with_name(f".{place.name}.{ending}") for ending in ("part", "old"))]
    found = [of_folder(folder) for folder in folders if folder.is_dir()]
    if not found and not (storage and storage.exists(tree_key(raw_key(name)))):
        raise UserError(f"dataset.source = {source}: no folder of videos, and none in the storage; leave --raw out")
    return found


def _sizes(paths: Iterable[Path]) -> dict[Path, int]:
    """Bytes of those that are files. Another process may remove one meanwhile: a node's cache that is full does."""
    sizes = {}
    for path in paths:
        with suppress(FileNotFoundError):
            if path.is_file():
                sizes[path] = path.stat().st_size
    return sizes


def _of_files(place: str, files: Iterable[Path]) -> list[Removal]:
    """Single files; no removal where there are none."""
    sizes = _sizes(files)

    def remove() -> None:
        with told(Path(place)):
            for path in sizes:
                path.unlink(missing_ok=True)

    return [Removal(place, len(sizes), sum(sizes.values()), remove)] if sizes else []


# ------------------------------------------------------------------------------------------------ DVC's cache


def dvc_settings(project: Path) -> tuple[Path, list[str]]:
    """DVC's cache folder and the names of its remotes, as .dvc/config and config.local say them."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([project / ".dvc/config", project / ".dvc/config.local"])
    sections = [section.strip("'") for section in config.sections()]
    remotes = [section.removeprefix("remote ").strip('"') for section in sections if section.startswith("remote ")]
    return project / ".dvc" / config.get("cache", "dir", fallback="cache"), remotes


def _of_dvc(name: str, project: Path) -> list[Removal]:
    """Listings of this data set, of now and of earlier, and the objects that no other listing names."""
    objects = dvc_settings(project)[0] / "files/md5"
    listings = {path: _listed(path) for path in sorted(objects.glob("??/*.dir"))}
    ours = [path for path, listed in listings.items() if _is_ours(listed, name, lambda md5: _object(objects, md5).read_bytes())]
    others = {md5 for path, listed in listings.items() if path not in ours for md5 in listed.values()}
    gone = {md5 for path in ours for md5 in listings[path].values()} - others
    return _of_files(f"{objects} (DVC's cache)", [*ours, *(_object(objects, md5) for md5 in sorted(gone))])


def _listed(path: Path) -> dict[str, str]:
    """Path → MD5 of what a `.dir` file lists."""
    return {row["relpath"]: row["md5"] for row in json.loads(path.read_text())}


def _object(objects: Path, md5: str) -> Path:
    return objects / md5[:2] / md5[2:]


def _is_ours(listed: dict[str, str], name: str, read: Callable[[str], bytes]) -> bool:
    """Is it a listing of clips or shards of the data set? One whose `dataset.json` is lost could be anybody's, and stays."""
    if "dataset.json" not in listed or not {"index.jsonl", "manifest.jsonl"} & listed.keys():
        return False
    try:
        return bool(json.loads(read(listed["dataset.json"]))["name"] == name)
    except (FileNotFoundError, UserError, ValueError, KeyError):
        return False


# ------------------------------------------------------------------------------------------------ the storage


def _of_storage(name: str, storage: Storage, raw: bool) -> list[Removal]:
    """Trees of this data set and kept releases; every object that no other tree names; what this node has cached of them.

    `raw`: its raw videos as well, which are told apart from the rest. An upload that was broken off leaves objects without a tree, of
    which nobody knows whose they are: they go, too.
    """
    trees = _trees(storage)
    ours = [key for key, tree in trees.items() if KEPT_RELEASES.fullmatch(key) or _tree_is_ours(key, tree, name, storage)]
    videos = [key for key in trees if raw and key == raw_key(name)]
    others = {key: _objects(key, tree) for key, tree in trees.items() if key not in ours and key not in videos}
    named = {key for keys in others.values() for key in keys}
    there = storage.list(OBJECTS) | {key: size for key, size in storage.list(RUNS).items() if named_sha256(key)}
    objects = {key: size for key, size in there.items() if key not in named}
    of_videos = {object_ for key in videos for object_ in _objects(key, trees[key])}
    cached = NodeCache.of_this_node().folder
    shared = [key.removeprefix(f"{OBJECTS}/") for key in objects if key.startswith(f"{OBJECTS}/")]
    found = _of_files(f"{cached} (this node's cache)", [cached / name for name in shared])
    found += _of_trees(storage, storage.url, ours, {key: size for key, size in objects.items() if key not in of_videos})
    place = f"{storage.url} (raw videos)"
    if keepers := [key for key, keys in others.items() if keys & of_videos]:  # data sets may be made of the same videos
        place = f"{storage.url} (raw videos; {len(of_videos & named)} of them stay for {', '.join(keepers)})"
    return found + _of_trees(storage, place, videos, {key: size for key, size in objects.items() if key in of_videos})


def _of_trees(storage: Storage, place: str, trees: list[str], objects: dict[str, int]) -> list[Removal]:
    """Trees and objects; no removal where there are none."""

    def remove() -> None:
        for key in (*map(tree_key, trees), *objects):  # trees first: none may name what is gone
            storage.delete(key)

    return [Removal(place, len(trees) + len(objects), sum(objects.values()), remove)] if trees or objects else []


def _objects(key: str, tree: dict[str, Entry]) -> set[str]:
    return {f"{objects_of(key)}/{entry.sha256}" for entry in tree.values()}


def _trees(storage: Storage) -> dict[str, dict[str, Entry]]:
    keys = [key.removeprefix(f"{TREES}/").removesuffix(".json") for key in storage.list(TREES)]
    return {key: read_tree(storage, key) for key in keys}


def _tree_is_ours(key: str, tree: dict[str, Entry], name: str, storage: Storage) -> bool:
    """Is it of the data set's clips or shards? Raw videos never are, whatever else lies in their folder."""
    if key.startswith(RAW):
        return False
    sums = {path: entry.sha256 for path, entry in tree.items()}
    return _is_ours(sums, name, lambda sha256: storage.get_bytes(f"{objects_of(key)}/{sha256}"))
