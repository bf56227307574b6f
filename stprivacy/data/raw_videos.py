"""A person's own videos in the storage: the folder of `dataset.source`, whole, as the tree `raw/<data set>`.

Stages read the folder alone. Nothing goes to the storage, and nothing comes from it, unless a person says so (`stprivacy videos`).
"""

from pathlib import Path

from stprivacy.config import Dataset, SyntheticDataset
from stprivacy.data.annotations import videos_below
from stprivacy.data.storage import Entry, Storage, checked_key, file_sha256, get_folder, put_folder, read_tree, told, tree_key
from stprivacy.errors import UserError

RAW = "raw/"
"""Begins the keys of these trees."""


def raw_key(name: str) -> str:
    """The tree of a data set's raw videos."""
    return f"{RAW}{name}"


def source_folder(source: str, project: Path) -> Path:
    """Where the videos are or shall be, links followed. Raises UserError for a folder that holds more than videos."""
    place = (project / source).resolve()
    if place in (project.resolve(), *project.resolve().parents, Path.home().resolve(), *Path.home().resolve().parents):
        raise UserError(f"dataset.source = {source}: that is {place}, which holds more than videos; give them a folder of their own")
    return place


def put_videos(storage: Storage, dataset: Dataset, project: Path, replace: bool = False) -> int:
    """Send the files of the folder that the storage hasn't, with a bar; gives how many were new there.

    `replace`: leave out of the tree what isn't in the folder any more. Raises UserError for that otherwise, since the folder may be a
    part of what somebody else has sent; for a folder without videos; and for what wouldn't arrive as it is here.
    """
    folder, key = _checked(dataset, project), raw_key(dataset.name)
    videos_below(folder)
    files = set()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.is_file():
            raise UserError(f"{path}: leads to a folder, or to nothing, and would be left out; put there what it shall lead to")
        if path.is_file():
            files.add(checked_key(path.relative_to(folder).as_posix()))
    if not replace and storage.exists(tree_key(key)) and (gone := sorted(read_tree(storage, key).keys() - files)):
        raise UserError(
            f"{dataset.source}: lacks {len(gone)} files of {key} in {storage.url}, such as {gone[0]}; `stprivacy videos get` brings them, "
            "--replace leaves them out there, too"
        )
    with told(folder):
        return put_folder(storage, folder, key, progress=True)


def get_videos(storage: Storage, dataset: Dataset, project: Path) -> int:
    """Bring the tree to `dataset.source`, where it appears when it is whole; gives how many of its files weren't there.

    A folder that has a part of the tree's files gets the others. Raises UserError for one with anything else in it, and where the
    storage has no such tree.
    """
    folder, key = _checked(dataset, project), raw_key(dataset.name)
    if not storage.exists(tree_key(key)):
        raise UserError(f"{storage.url}: has no raw videos of {dataset.name}; `stprivacy videos put` sends them from where they are")
    tree = read_tree(storage, key)
    missing = tree.keys() - _already_there(folder, tree, dataset.source)
    if missing:
        get_folder(storage, key, folder)
    return len(missing)


def _checked(dataset: Dataset, project: Path) -> Path:
    if isinstance(dataset, SyntheticDataset):
        raise UserError(f"{dataset.name}: `dvc repro` renders its videos, there are none to keep; `stprivacy params use` names another set")
    return source_folder(dataset.source, project)


def _already_there(folder: Path, tree: dict[str, Entry], source: str) -> set[str]:
    """Names of the tree's files that the folder has. Raises UserError when there is anything else, a broken link or another file."""
    there = set()
    with told(folder):
        for path in [folder] if folder.exists() and not folder.is_dir() else sorted(folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            name = path.relative_to(folder).as_posix()
            entry = tree.get(name)
            if not (entry and path.is_file() and path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256):
                raise UserError(f"dataset.source = {source}: {path} isn't what the storage has; move it away, or name another folder")
            there.add(name)
    return there
